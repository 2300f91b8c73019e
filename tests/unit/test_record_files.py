"""What stages write for a record, and what of a record refers to itself: each rule alone, at its bound."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest
from _record_cases import demo_record, record_of
from hypothesis import given
from hypothesis import strategies as st

from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.record import Record, load_record, read_record
from repro.record.document import Observations
from repro.record.measuring import LEAST_DURATION_S, LEAST_EXECUTIONS
from repro.record.stage_files import Manifest, MeasureFile, SustainedFile
from repro.run import record as making
from repro.run.record import sustained

DEMO = demo_record()
LATENCY = {"mean": 50.0, "median": 2.0, "min": 3.0, "max": 4.0, "p50": 5.0, "p90": 6.0, "p99": 7.0}


def manifest(size: int, count: int, **more) -> dict:
    entries = [
        {"id": f"u{n}", "batch": n // size, "row": n % size, "stacked_frames": 2 * n + 2, "output_frames": n + 1}
        for n in range(count)
    ]
    return {
        "batch_size": size, "split": "dev", "rows": 390, "columns": 243, "num_batches": count // size,
        "num_tail_batches": int(count % size > 0), "utterances": entries, "excluded": [], **more,
    }  # fmt: skip


def refused(document: dict) -> str:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(document, Manifest)
    return str(caught.value)


@given(st.integers(1, 6), st.integers(0, 20))
def test_a_manifest_numbers_its_utterances_batch_by_batch_and_names_their_files(size: int, count: int):
    found = msgspec.convert(manifest(size, count), Manifest)
    whole, rest = divmod(count, size)
    names = [found.output_name(batch) for batch in found.batches]
    tail = [f"tail/inputs_{whole}_0.npy"] if rest else []
    assert names == [f"result/inputs_{batch}_0.npy" for batch in range(whole)] + tail


@given(st.integers(1, 6), st.integers(1, 20), st.data())
def test_a_manifest_with_one_thing_out_of_place_is_refused_by_its_words(size: int, count: int, data):
    whole, tail = count // size, int(count % size > 0)
    for more in ({"num_batches": whole + 1}, {"num_tail_batches": 1 - tail}):
        told = {"num_batches": whole, "num_tail_batches": tail, **more}
        expected = f"{count} utterances do not fill {told['num_batches']} batches and {told['num_tail_batches']}"
        assert refused(manifest(size, count, **more)) == expected
    place = data.draw(st.integers(0, count - 1))
    wrong = manifest(size, count)
    wrong["utterances"][place]["id"] = "u\x1b"
    for name in ("batch", "row"):
        document = msgspec.json.decode(msgspec.json.encode(wrong))
        document["utterances"][place][name] += 1
        assert refused(document) == "utterance u\\x1b is not in the next place of the batches"
    wrong["utterances"][place]["stacked_frames"] += 1
    assert refused(wrong) == "utterance u\\x1b has not half as many output frames as rows"
    twice = manifest(size, count + 1)
    twice["utterances"][place]["id"] = twice["utterances"][count]["id"]
    assert refused(twice) == "an utterance stands there twice"


def test_the_figures_of_a_measurement_are_all_but_its_times():
    written = {**DEMO["results"][0]["measured"], "latency_ms": LATENCY, "times_ms": [1.0, 2.0]}
    assert msgspec.to_builtins(msgspec.convert(written, MeasureFile).figures()) == DEMO["results"][0]["measured"]


def all_loops(*speeds: float, loop: int = 100, mean: float = 50.0, whole: float = 20.0) -> SustainedFile:
    return msgspec.convert(
        {"batch_size": 8, "each": [{"loop": loop, "throughput_utterances_per_s": speed} for speed in speeds],
         "figures": {}, "formula": "f", "latency_ms": {**LATENCY, "mean": mean}, "least_seconds": 1.0, "loop": loop,
         "loops": max(1, len(speeds)), "throughput_utterances_per_s": whole, "times_ms": []},
        SustainedFile,
    )  # fmt: skip


def test_all_loops_are_summed_and_are_long_enough_from_exactly_both_bounds_on():
    found = sustained(all_loops(18.0, 20.0, 22.0))
    assert (found.executions, found.timed_s, found.throughput_utterances_per_s) == (300, 15.0, 20.0)
    assert found.spread_percent == 20.0 and len(found.loops) == 3 and found.latency_ms.mean == 50.0
    assert (
        sustained(all_loops(18.0)).spread_percent is None
        and sustained(all_loops(1.0, 2.0, whole=0.0)).spread_percent is None
    )
    exact = 1000.0 * LEAST_DURATION_S / LEAST_EXECUTIONS
    for loop, mean, enough in (
        (LEAST_EXECUTIONS, exact, True),
        (LEAST_EXECUTIONS - 1, 2 * exact, False),
        (LEAST_EXECUTIONS, exact * 0.999, False),
    ):
        assert sustained(all_loops(1.0, loop=loop, mean=mean)).long_enough is enough


def test_a_result_that_was_brought_without_observed_files_says_nothing_of_them(monkeypatch):
    for observations in ({}, {"files": {}}, {"files": {"other": "0"}}):
        done = SimpleNamespace(result=SimpleNamespace(observations=observations))
        assert making._sustained(done) is msgspec.UNSET and making._while_measuring(done, 100) is msgspec.UNSET
    read = []
    monkeypatch.setattr(making, "read_observed", lambda *given: read.append(given[1:]) or all_loops())
    monkeypatch.setattr(making, "while_measuring", lambda *given: given)
    done = SimpleNamespace(
        result=SimpleNamespace(observations={"files": {making.SUSTAINED: "0", making.HOST_WATCH: "0"}})
    )
    assert making._sustained(done) is msgspec.UNSET, "an older version kept no loops apart"
    assert making._while_measuring(done, 7)[1:] == (None, 7)
    done.result.observations["files"][making.LOAD] = "0"
    making._while_measuring(done, 7)
    assert read == [
        (making.SUSTAINED, SustainedFile), (making.HOST_WATCH, making.MachineFile),
        (making.HOST_WATCH, making.MachineFile),
        (making.LOAD, making.LoadFile),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["request"].update(batch_sizes=[8, 64, 8]), "the batch size 8 stands twice - at `$.request`"),
        (lambda d: d["request"].update(pinned=["export", "export"]), "the stage export stands twice - at `$.request`"),
        (lambda d: d["results"].append(d["results"][1]), "the batch size 64 stands twice"),
        (lambda d: d["stages"].append(d["stages"][1]), "the stage score@8 stands twice"),
        (lambda d: d["observations"].update(started_at="2026-11-30T24:00:00Z"),
         "time data '2026-11-30T24:00:00Z' does not match format '%Y-%m-%dT%H:%M:%SZ'"),
    ],
)  # fmt: skip
def test_what_stands_twice_or_never_was_is_refused_by_its_words(change, message):
    document = demo_record()
    document["request"]["pinned"] = ["export", "features"]
    assert record_of(document).request.pinned == ("export", "features")
    change(document)
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(document, Record)
    assert str(caught.value).startswith(message)


def test_a_record_finds_its_own_stages_results_and_start_and_says_what_is_the_demo_s():
    record = record_of(DEMO)
    assert record.stage("score@64") == record.stages[2] and record.stage("score@1") is None
    assert record.result(64) == record.results[1] and record.result(1) is None
    assert record.observations.started().isoformat() == "2026-11-22T18:00:00"
    assert msgspec.structs.replace(record.observations, started_at="2020-02-29T23:59:59Z").started().day == 29
    for data, checkpoint, demo in (("demo", "user", True), ("timit", "demo", True), ("user", "user", False)):
        changed = msgspec.structs.replace(
            record,
            data=msgspec.structs.replace(record.data, kind=data),
            checkpoint=msgspec.structs.replace(record.checkpoint, kind=checkpoint),
        )
        assert changed.is_demo is demo
    assert isinstance(record.observations, Observations)
    judged = record.judged(msgspec.structs.replace(record.verdict, source="another"))
    assert judged.verdict.source == "another" and msgspec.structs.replace(judged, verdict=record.verdict) == record


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (b'{"schema":"lstm-ctc-bundle/record","version":2}',
         "it: $.version: a record of version 2; this program reads version 1"),
        (b'{"schema":"lstm-ctc-bundle/record","version":true}', "it: $.version: Expected `int`, got `bool`"),
        (b'{"schema":"lstm-ctc-bundle/record","version":"2"}', "it: $.version: Expected `int`, got `str`"),
        (b'{"schema":"x","version":2}', "it: $.schema: Invalid enum value 'x'"),
        (b'{"version":2}', "it: $.version: Invalid enum value 2"),
    ],
)  # fmt: skip
def test_another_version_is_told_from_another_document(document, message):
    with pytest.raises(VerificationFailed) as caught:
        read_record(document, "it")
    assert caught.value.message == message or caught.value.message.startswith(f"{message} ")


def test_why_a_record_cannot_be_read_is_told_though_the_system_has_no_words(tmp_path, monkeypatch):
    def read_below(*_):
        raise OSError("odd")

    monkeypatch.setattr("repro.record.reading.read_below", read_below)
    with pytest.raises(CouldNotVerify, match=rf"^{tmp_path}/record\.json cannot be read: odd$"):
        load_record(tmp_path / "record.json")

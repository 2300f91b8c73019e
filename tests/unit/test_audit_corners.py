"""Corners of an audit: what is told where a file is missing, a figure is nothing, or a time cannot be."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from _audit_cases import (
    PATHS,
    SIZE,
    audit,
    document_of,
    make_readable_run,
    reopen,
    stage_of,
    stored,
    write_record,
)

from repro.audit import compare, judgement, parity, scoring, times
from repro.audit import rerun as rerun_module
from repro.audit.claims import IF_RERUN, Claim, Examination, Outcome
from repro.audit.compare import Sides, compare_runs
from repro.audit.explain import binary
from repro.audit.explain.command import explain
from repro.audit.explain.subjects import Part
from repro.audit.ledger import read_ledger
from repro.audit.statements import AuditDocument, statements_of
from repro.base.errors import CouldNotVerify, VerificationFailed
from repro.base.files import canonical_json, sha256_bytes
from repro.base.paths import Paths
from repro.graph.digests import FileDigest
from repro.packing.statements import envelope
from repro.record.identity import same_everywhere
from repro.record.stage_files import MeasureFile
from tests.planted_causes import zipped
from tests.unit import _bundle_cases as cases

KEY = cases.signer(21)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return make_readable_run(tmp_path_factory.mktemp("corners"))


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy")


def test_an_output_is_here_only_with_the_record_s_bytes(copied: Path):
    score = f"score@{SIZE}"
    evidence = reopen(copied)
    assert evidence.has(evidence.stage(score), "utterances.jsonl") and not evidence.has(evidence.stage(score), "none")
    place = stored(copied, score) / "out" / "utterances.jsonl"
    listed = evidence.stage(score).outputs.files["utterances.jsonl"]
    assert evidence.stored(evidence.stage(score)).outputs["utterances.jsonl"] == FileDigest(
        listed.sha256, listed.size_bytes
    )
    place.write_bytes(place.read_bytes() + b"\n")
    assert not (again := reopen(copied)).has(again.stage(score), "utterances.jsonl")
    shutil.rmtree(stored(copied, score))
    assert not (again := reopen(copied)).has(again.stage(score), "utterances.jsonl")


def test_stages_whose_outputs_are_not_here_are_told_and_not_compared(run: Path, copied: Path):
    document = document_of(reopen(copied))
    stage_of(document, "features")["outputs"]["digest"] = "0" * 64
    document["stages"].remove(stage_of(document, "export"))
    write_record(reopen(copied).run, document)
    shutil.rmtree(stored(copied, "features"))
    one, two = str(reopen(run).run), str(reopen(copied).run)
    parts = {part.name: part for part in explain(Paths(PATHS.root), one, two).parts}
    assert parts["output of stage features"] == Part(
        "output of stage features", (), ("the stored result of features is not here",)
    )
    assert parts["the stages"] == Part("the stages", (), ("only A has stage export",))
    assert "only B has stage export" in next(p.notes for p in explain(Paths(PATHS.root), two, one).parts if p.notes)


def test_hypotheses_that_differ_are_told_of_their_stage(run: Path, copied: Path):
    document = document_of(reopen(copied))
    stage_of(document, f"score@{SIZE}")["outputs"]["files"]["utterances.jsonl"]["sha256"] = "0" * 64
    write_record(reopen(copied).run, document)
    outcome = Outcome("compare", "A and B")
    compare_runs(outcome, Sides(reopen(run), reopen(copied)))
    (figures,) = [claim for claim in outcome.claims if claim.key == "figures"]
    assert figures.findings == (f"score@{SIZE}: the hypotheses differ (utterances.jsonl)",)
    assert figures.text == "A and B decoded the same symbols, and have the same error rates"


@pytest.mark.parametrize("names", [["a"], ["a", "b", "c"]])
def test_up_to_three_names_are_told_and_of_more_their_number(names: list[str]):
    assert compare._few(names) == ", ".join(names)
    assert compare._few([*"abcde"]) == "a, b, c and 2 more"


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [(2.0, 3.0, " (+50.0 %)"), (0.0, 3.0, ""), (4.0, 3.0, " (-25.0 %)")],
)
def test_speeds_stand_side_by_side_with_their_ratio(ours: float, theirs: float, said: str):
    def record(value: float):
        found = SimpleNamespace(batch_size=8, throughput_utterances_per_s=value)
        return SimpleNamespace(results=[found], result=lambda size: found if size == 8 else None)

    sides = SimpleNamespace(one=record(ours), two=record(theirs), here="A", there="B")
    assert compare._speeds(sides) == [f"batch size 8: A {ours:.4f}, B {theirs:.4f} utterances/s{said}"]


def test_a_crate_is_not_judged_without_the_reports_that_it_describes(copied: Path):
    evidence = reopen(copied)
    it = Examination()
    (evidence.run / "report.md").unlink()
    with pytest.raises(CouldNotVerify, match=r"^report\.md is not here, and the crate describes it$"):
        judgement._examine_crate(it, evidence)
    (evidence.run / "report.html").unlink()
    with pytest.raises(CouldNotVerify, match=r"^report\.md, report\.html is not here"):
        judgement._examine_crate(it, evidence)


def test_a_file_that_should_be_made_again_is_missing_another_or_the_same(tmp_path: Path):
    (tmp_path / "b").write_bytes(b"1")
    (tmp_path / "c").write_bytes(b"1")
    it = Examination()
    judgement._hold(it, SimpleNamespace(run=tmp_path), {"c": b"1", "b": b"2", "a": b"1"}, "it gives")
    assert (it.missing, it.wrong) == (["a is not here"], ["b is not what it gives"])
    assert it.evidence == [
        f"{name} made again: sha256 {sha256_bytes(data)}" for name, data in (("b", b"2"), ("c", b"1"))
    ]


def test_a_cosine_of_nothing_is_1_where_both_are_nothing():
    def pair(first: list[float], second: list[float]):
        sums = parity._Sums()
        sums.add(first, second)
        return sums.pair(1, 1, 2)

    assert [pair(*given).cosine for given in (([0.0, 0.0], [0.0, 0.0]), ([0.0, 0.0], [1.0, 0.0]))] == [1.0, 0.0]
    assert pair([1.0, 0.0], [0.0, 1.0]).cosine == 0.0 and pair([2.0, 0.0], [1.0, 0.0]).cosine == 1.0
    found = pair([2.0, 0.0], [1.0, 2.0])
    assert (found.max_abs, found.frames, found.scored_frames, found.utterances) == (2.0, parity.FRAMES, 1, 1)
    assert found.relative_euclidean == pytest.approx((5 / 4) ** 0.5)
    assert found.rmse == pytest.approx((5 / (parity.FRAMES * 2)) ** 0.5)


def latency(**changes):
    return {"mean": 4.0, "median": 4.0, "min": 3.0, "max": 6.0, "p50": 4.0, "p90": None, "p99": 5.0, **changes}


def statistics(**changes) -> MeasureFile:
    document = {"batch_size": 8, "formula": times._FORMULAS[1], "latency_ms": latency(), "loop": 100,
                "throughput_utterances_per_s": 2000.0, "times_ms": [], "provider": "CANN", "devices": 1,
                "simulator": False, **changes}  # fmt: skip
    return msgspec.convert({name: value for name, value in document.items() if value is not None}, MeasureFile)


def test_the_vendor_tool_s_figures_are_held_to_its_own_formula_and_order():
    def wrong(**changes) -> list[str]:
        it = Examination()
        times._examine_statistics(it, statistics(**changes))
        return it.wrong

    assert wrong() == [] and wrong(devices=2, throughput_utterances_per_s=4000.0) == []
    other = ["measure.json: throughput 1999.0 is not 1000 * batch size / mean = 2000.0"]
    assert wrong(throughput_utterances_per_s=1999.0) == other
    assert wrong(throughput_utterances_per_s=1999.0, devices=None) == other
    order = ["measure.json: minimum, median, mean, 99th percentile and maximum are not in order"]
    for changes in (
        {"min": 4.5},
        {"median": 5.5},
        {"p99": 6.5},
        {"max": 4.5},
        {"median": 2.0},
        {"min": 4.1, "median": 5},
    ):
        assert wrong(latency_ms=latency(**changes)) == order, changes
    same = latency(median=4.0, min=4.0, max=4.0, p99=4.0)
    assert wrong(latency_ms=same) == []
    with pytest.raises(VerificationFailed, match=r"^measure\.json: a mean of 0\.0 ms is no time of an execution$"):
        wrong(latency_ms=latency(mean=0.0))


def test_executions_that_take_longer_than_their_stage_are_told_of_it(run: Path):
    evidence = reopen(run)
    it = Examination()
    measured, inferred = (evidence.stage(f"{name}@{SIZE}").observations.wall_s for name in ("measure", "infer"))
    times._examine_walls(it, evidence, SIZE, 1000.0 * (measured + 0.005))
    assert it.wrong == []
    times._examine_walls(it, evidence, SIZE, 1000.0 * (measured + 1))
    key = f"measure@{SIZE}: its executions took {measured + 1:.3f} s, the whole stage {measured:.3f} s"
    assert it.wrong == [key]
    observed = {name: data for name in ("result_summary.json",) if (data := _observed(evidence, name))}
    if observed:
        it = Examination()
        long = SimpleNamespace(npu_compute_time_list=[1000.0 * (inferred + 2)], streams=1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(times.typed_json, "read", lambda *_, what: long)
            times._examine_walls(it, evidence, SIZE, 0.0)
        took = f"infer@{SIZE}: its executions took {inferred + 2:.3f} s, the whole stage {inferred:.3f} s"
        assert it.wrong and set(it.wrong) == {took}


def _observed(evidence, name: str):
    stage = evidence.stage(f"infer@{SIZE}")
    return evidence.observed(stage, name) if name in stage.observations.files else None


def test_an_entry_of_a_ledger_is_told_by_its_number(tmp_path: Path):
    line = envelope(
        {"_type": "https://in-toto.io/Statement/v1", "predicateType": "x", "subject": [], "predicate": {}}, KEY
    )
    (tmp_path / "ledger").write_bytes(line + b"\n")
    with pytest.raises(VerificationFailed) as error:
        read_ledger(tmp_path / "ledger", {KEY.fingerprint: b"x" * 32})
    assert "entry 1" in error.value.message
    (tmp_path / "ledger").write_bytes(line)
    with pytest.raises(VerificationFailed, match=r"entry 1.*it is cut off in its middle"):
        read_ledger(tmp_path / "ledger", {})


def document(*statuses: str) -> AuditDocument:
    outcome = Outcome(
        "verify", "a run", subjects={"b": "2" * 64, "a": "1" * 64}, looked_at={"z": "4" * 64, "y": "3" * 64}
    )
    for number, status in enumerate(statuses):
        outcome.claims.append(Claim(f"c{number}", "text", "recomputed from these bytes", status, (), ()))
    return msgspec.convert({**outcome.as_json(), "verifier": "5" * 64}, AuditDocument)


@pytest.mark.parametrize(
    ("statuses", "result", "levels"),
    [
        (("proven here",), "PASSED", ["RECOMPUTED_FROM_THESE_BYTES"]),
        (("proven here", "could not verify"), "WARNED", ["FAILED"]),
        (("could not verify", "refuted", "attested"), "FAILED", ["FAILED"]),
    ],
)
def test_the_two_statements_of_an_audit_are_these(statuses, result: str, levels: list[str]):
    source = {"name": "audit.json", "digest": {"sha256": "6" * 64}}
    (first, test_result), (second, summary) = statements_of(document(*statuses), source)
    assert (first, second) == (f"verify-{'6' * 12}.result", f"verify-{'6' * 12}.summary")
    subjects = [{"name": name, "digest": {"sha256": digit * 64}} for name, digit in (("a", "1"), ("b", "2"))]
    by = {word: [f"c{n}" for n, status in enumerate(statuses) if (status if status in ("refuted", "could not verify")
          else "holds") == of] for word, of in (("passed", "holds"), ("warned", "could not verify"),
                                                ("failed", "refuted"))}  # fmt: skip
    assert test_result == {
        "_type": "https://in-toto.io/Statement/v1", "predicateType": "https://in-toto.io/attestation/test-result/v0.1",
        "subject": subjects,
        "predicate": {
            "result": result, **{f"{word}Tests": keys for word, keys in by.items()},
            "configuration": [source, *({"name": name, "digest": {"sha256": digit * 64}}
                                        for name, digit in (("verifier's code", "5"), ("y", "3"), ("z", "4")))],
        },
    }  # fmt: skip
    assert summary["subject"] == subjects and summary["predicateType"] == "https://slsa.dev/verification_summary/v1"
    said = summary["predicate"]
    assert said["policy"]["digest"] == {"sha256": "5" * 64} and said["policy"]["uri"].startswith("urn:lstm-ctc-bundle:")
    assert said["verifier"]["version"] == {"lstm-ctc-bundle": f"sha256:{'5' * 64}"}
    assert said["resourceUri"] == f"urn:lstm-ctc-bundle:sha256:{'1' * 64}"
    assert said["inputAttestations"] == [
        {"uri": test_result["predicateType"], "digest": {"sha256": sha256_bytes(canonical_json(test_result))}}
    ]
    assert (said["verificationResult"], said["verifiedLevels"]) == (
        "PASSED" if result == "PASSED" else "FAILED",
        levels,
    )


@pytest.mark.parametrize("lacking", [{}, {"score": "an image is not here"}])
def test_a_rerun_asks_for_the_record_s_run_with_its_pinned_images_as_far_as_they_are_here(
    run: Path, monkeypatch, lacking
):
    asked: list = []
    monkeypatch.setattr(
        rerun_module, "reproduce", lambda options, fresh, console: asked.append((options, fresh, console))
    )
    monkeypatch.setattr(rerun_module, "lacking_for_pinned", lambda *_: lacking)
    monkeypatch.setattr(rerun_module, "open_run", lambda *_: (_ for _ in ()).throw(CouldNotVerify("enough is seen")))
    evidence = reopen(run)
    of_record = rerun_module.request_of
    monkeypatch.setattr(rerun_module, "request_of", lambda *a, **k: replace(of_record(*a, **k), pinned=("score",)))
    outcome, how = Outcome("rerun", "a run"), rerun_module.Rerun(engine="sandbox", fetch=False)
    rerun_module._run(
        outcome, evidence, PATHS, {"data": Path("/srv/TIMIT"), "checkpoint": Path("/srv/w")}, how, "console"
    )
    ((options, fresh, console),) = asked
    pinned = () if lacking else ("score",)
    assert (options.pinned, options.request.pinned, options.toolchain) == (pinned, pinned, "portable")
    assert (options.data_option, options.checkpoint_option, options.engine, options.fetch, options.on) == (
        "/srv/TIMIT", "/srv/w", "sandbox", False, "local",
    )  # fmt: skip
    assert (options.request.device, options.request.data, options.request.batch_sizes) == (
        "cpu", Path("/srv/TIMIT"), (SIZE,),
    )  # fmt: skip
    assert (fresh, console) == (PATHS, "console")
    assert [(claim.key, claim.text, claim.kind, claim.findings) for claim in outcome.claims] == [
        ("run", "every stage runs again on this machine", "run again here", ("enough is seen",))
    ]


@pytest.mark.parametrize(("on", "where"), [("local", ""), ("slurm", ", as jobs of slurm")])
@pytest.mark.parametrize("engine", ["sandbox", "docker"])
def test_what_ran_again_is_told_with_its_engine_and_what_that_leaves_open(run: Path, monkeypatch, on, where, engine):
    again = reopen(run)
    again.record = msgspec.structs.replace(
        again.record, engine=msgspec.structs.replace(again.record.engine, name=engine)
    )
    called: list = []
    monkeypatch.setattr(rerun_module, "reproduce", lambda *_: None)
    monkeypatch.setattr(rerun_module, "open_run", lambda place, paths: again)
    monkeypatch.setattr(rerun_module, "_hold_to", lambda outcome, sides, lacking: called.append((sides, lacking)))
    monkeypatch.setattr(rerun_module, "examine_speeds", lambda *given: called.append(given))
    monkeypatch.setattr(rerun_module, "Session", lambda *given: given)
    outcome, evidence, how = Outcome("rerun", "a run"), reopen(run), rerun_module.Rerun(rounds=12, on=on)
    rerun_module._run(outcome, evidence, PATHS, {"data": None, "checkpoint": Path("/srv/w")}, how, "console")
    (claim,) = outcome.claims
    count = len(again.record.stages)
    assert claim.evidence == (f"engine {engine}, {count} stages, none stored{where}",)
    assert claim.open_to == (() if engine == "sandbox" else (
        "what somebody changed in the image store of docker; with --engine sandbox every image is unpacked from layers "
        "that were hashed",
    ))  # fmt: skip
    ((sides, _), (_, options, session, rounds)) = called
    assert (sides.first, sides.second, sides.here, sides.there, sides.run_again) == (
        evidence, again, "the record", "this machine", True,
    )  # fmt: skip
    assert (options.data_option, options.on, session, rounds) == ("demo", on, (PATHS, "console", on), 12)


@pytest.mark.parametrize("changed", [False, True])
def test_an_exact_rerun_decides_the_stages_that_every_machine_gives_alike_and_leaves_the_others_open(
    run: Path, tmp_path: Path, monkeypatch, changed
):
    again = reopen(shutil.copytree(run, tmp_path / "again"))
    made = {stage.key: stage for stage in again.record.stages}
    asked: list = []

    def run_steps(options, session, steps):
        asked.append(steps)
        return SimpleNamespace(choice=None, done={key: made[key] for key in made if key in steps})

    if changed:
        key, name = f"batches@{SIZE}", "manifest.json"
        path = stored(tmp_path / "again", key) / "out" / name
        data = path.read_bytes().replace(b'"padded_', b'"Padded_').replace(b'"utterances"', b'"Utterances"')
        path.write_bytes(data)
        file = msgspec.structs.replace(made[key].outputs.files[name], sha256=sha256_bytes(data), size_bytes=len(data))
        outputs = msgspec.structs.replace(made[key].outputs, files={**made[key].outputs.files, name: file})
        made[key] = msgspec.structs.replace(made[key], outputs=outputs)
    monkeypatch.setattr(rerun_module, "run_steps", run_steps)
    monkeypatch.setattr(rerun_module, "stage_of", lambda stage: stage)
    monkeypatch.setattr(rerun_module, "engine_used", lambda *_: again.record.engine)
    paths = SimpleNamespace(runs=tmp_path / "runs", store=again.store)
    session = SimpleNamespace(paths=paths, host=lambda: msgspec.to_builtins(again.record.host))
    monkeypatch.setattr(rerun_module, "Session", lambda *_: session)
    outcome, evidence = audit(run), reopen(run)
    before = {claim.key for claim in outcome.of_status(IF_RERUN)}
    how = rerun_module.Rerun(exact=True)
    rerun_module._run(outcome, evidence, PATHS, {"data": None, "checkpoint": Path("/srv/w")}, how, None)
    exact = set(same_everywhere(evidence.record.stages))
    assert asked == [exact]
    left = {claim.key for claim in outcome.of_status(IF_RERUN)}
    assert before - left == {f"made:{key}" for key in exact} - {f"made:score@{SIZE}"}  # known from the bytes already
    assert {f"made:{name}@{SIZE}" for name in ("reference", "measure", "compare")} & before <= left
    assert "measure" in dict(outcome.facts)["not run again (--exact)"]
    found = {claim.key: claim for claim in outcome.claims if claim.key in before - left}
    refuted = [key for key, claim in found.items() if claim.status == "refuted"]
    assert refuted == ([f"made:batches@{SIZE}"] if changed else [])
    assert {claim.kind for claim in found.values()} == {"run again here"}
    assert ("first difference" in dict(outcome.facts)) == changed


def test_a_beam_notes_the_utterances_that_it_cannot_be_sure_of(monkeypatch):
    found = {"a": (True, False), "b": (False, True), "c": (False, False)}
    best, other = (1, 2), (1, 3)

    def search(frames, language, width):
        assert (language, width) == ("language", 7)
        empty, under = found[frames]
        return SimpleNamespace(empty_survived=empty, underflowed=under, best=best, contenders={best, other})

    monkeypatch.setattr(scoring.beam, "search", search)
    decoder = scoring.Beam("language", 7, {"a": best, "b": other, "c": (9,)})
    assert [decoder.symbols(name, name) for name in "abc"] == [best, other, best]
    assert (decoder.empty, decoder.underflowed, decoder.ties) == (["a"], ["b"], ["b"])


def test_a_gzip_file_is_read_in_pieces_of_64_kilobytes():
    class Counting(io.BytesIO):
        sizes: list[int | None] = []  # noqa: RUF012 - of this one test

        def read(self, size=-1):
            self.sizes.append(size)
            return super().read(size)

    stream = Counting(zipped(bytes(range(256)) * 1000, 1, 0))
    assert binary.inflated(stream) == bytes(range(256)) * 1000
    assert set(stream.sizes) == {2, 1 << 16}

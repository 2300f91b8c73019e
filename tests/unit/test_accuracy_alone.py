"""The second verdict: error rates alone held against the table, on whatever device they were made."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from _record_cases import PUBLISHED_RUN, _result, demo_record, document_of, published_record, record_of
from _speech_cases import CONF, run_stage
from _timit_shape import dev_references, write_corpus, write_outputs

from repro.guide.published import CER, WER, load_published
from repro.guide.verdict import verdict
from repro.record.stage_files import CorpusFile, ScoreFile
from repro.report.text import terminal_summary
from repro.report.writer import render_html, render_markdown
from repro.run.record import data_found
from stages import corpus, score

PUBLISHED = load_published(Path(__file__).parents[2] / "conf/published.toml")
SIZES = (1, 4, 8, 16, 32, 64)


def judged(document):
    found = record_of(document)
    return found.judged(verdict(found, PUBLISHED))


def on_a_cpu(document):
    """The same rates from a CPU and the portable toolchain."""
    document["request"].update(device="cpu", toolchain="portable")
    for name in ("soc_version", "precision_mode", "num_devices", "pinned"):
        document["request"].pop(name, None)
    return document


@pytest.fixture(scope="module")
def timit_shaped(tmp_path_factory):
    """The stage corpus on a corpus of TIMIT's counts: its folder."""
    folder = tmp_path_factory.mktemp("timit")
    data = write_corpus(folder / "data.zip", dev_references(PUBLISHED))
    return run_stage(corpus, folder, "--data", data, "--conf", CONF)


def scored(folder, corpus_out, size, more_edits):
    names = [line.split()[0] for line in (corpus_out / "dev/utterances").read_text().splitlines()]
    units = (corpus_out / "units").read_text().split()
    write_outputs(folder, dev_references(PUBLISHED, more_edits), names, units, size)
    words = ("--outputs", folder / "outputs", "--batches", folder / "batches", "--corpus", corpus_out, "--bs", size)
    return msgspec.json.decode((run_stage(score, folder, *words) / "score.json").read_bytes(), type=ScoreFile)


def cpu_run(tmp_path, corpus_out, more_edits, sizes=SIZES):
    """The record of a CPU run with a user's checkpoint on the corpus of TIMIT's shape."""
    document = demo_record()
    document["request"].update(batch_sizes=list(sizes), data="timit", checkpoint="user")
    document["checkpoint"].update(kind="user", trust="trusted on first use", note="")
    summary = msgspec.json.decode((corpus_out / "summary.json").read_bytes(), type=CorpusFile)
    assert summary.timit.matches
    document["data"] = document_of(data_found("timit", "5" * 64, summary))
    document["results"] = []
    for size in sizes:
        folder = tmp_path / str(size)
        folder.mkdir()
        result = _result(size, *PUBLISHED_RUN[8])
        result["published"] = document_of(scored(folder, corpus_out, size, more_edits).protocols.published)
        document["results"].append(result)
    return judged(document)


def test_a_cpu_run_on_timits_counts_with_the_published_edits_is_consistent_and_the_curve_fits(tmp_path, timit_shaped):
    record = cpu_run(tmp_path, timit_shaped, more_edits=0)
    accuracy = record.verdict.accuracy
    assert accuracy.outcome == "consistent", accuracy.reasons
    assert record.verdict.outcome == "not-comparable"
    assert all(check.found_edits == check.published_edits for check in accuracy.checks)
    assert [(fit.metric, fit.batch_sizes) for fit in accuracy.fits] == [(CER, SIZES), (WER, SIZES)]
    assert all(abs(value) <= 1e-4 for fit in accuracy.fits for value in (fit.offset, *fit.remainders))
    assert any("ran on the CPU" in text for text in accuracy.differs)


@pytest.mark.parametrize(("more_edits", "outcome"), [(14, "consistent"), (16, "inconsistent")])
def test_planted_edits_decide_at_the_tolerance(tmp_path, timit_shaped, more_edits, outcome):
    record = cpu_run(tmp_path, timit_shaped, more_edits, sizes=(8,))
    accuracy = record.verdict.accuracy
    wer = next(check for check in accuracy.checks if check.metric == WER)
    assert wer.found_edits == wer.published_edits + more_edits
    assert accuracy.outcome == wer.status == outcome
    assert record.verdict.outcome == "not-comparable"
    said = "\n".join(accuracy.reasons)
    assert ("0.1083 points above, tolerance 0.1000" in said) == (outcome == "inconsistent")


def test_a_run_as_published_is_consistent_too_and_nothing_differs():
    accuracy = judged(published_record()).verdict.accuracy
    assert (accuracy.outcome, accuracy.differs, accuracy.reasons) == ("consistent", (), ())


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [("data", "timit_counts_match", False), ("checkpoint", "kind", "demo"), ("request", "split", "test"),
     ("request", "device", "npu-simulator")],
)  # fmt: skip
def test_other_data_checkpoint_or_split_or_a_simulator_is_not_compared(part, name, value):
    document = on_a_cpu(published_record())
    document[part][name] = value
    accuracy = judged(document).verdict.accuracy
    assert accuracy.outcome == "not-compared" and accuracy.reasons and not accuracy.fits
    assert all(check.status == "not-compared" for check in accuracy.checks)


@pytest.mark.parametrize("change", [{"utterances": 391}, {"phones": 14767}])
def test_rates_of_other_utterances_are_not_compared_however_near_they_are(change):
    document = on_a_cpu(published_record(sizes=(8,)))
    document["results"][0]["published"].update(change)
    accuracy = judged(document).verdict.accuracy
    assert accuracy.outcome == "not-compared"


def test_a_batch_size_outside_the_table_does_not_keep_the_others_from_being_compared():
    document = on_a_cpu(published_record())
    document["results"][0]["batch_size"] = 2
    document["request"]["batch_sizes"] = [2, 8]
    accuracy = judged(document).verdict.accuracy
    assert accuracy.outcome == "consistent"
    assert accuracy.reasons == ("batch size 2 is not in the table",)


def test_a_curve_is_fitted_over_three_sizes_or_more_and_its_offset_is_the_mean_difference():
    document = on_a_cpu(published_record(sizes=(8,)))
    results = []
    for size, moved in ((8, 0.02), (16, 0.05), (32, 0.08)):
        result = json.loads(json.dumps(document["results"][0]))
        result["batch_size"], row = size, PUBLISHED.rows[size]
        found = result["published"]
        found.update(
            utterances=row.utterances, phones=14766 if size == 8 else 14460, wer_percent=float(row.printed[WER]) + moved
        )
        results.append(result)
    document.update(results=results)
    document["request"]["batch_sizes"] = [8, 16, 32]
    fits = judged(document).verdict.accuracy.fits
    (fit,) = [fit for fit in fits if fit.metric == WER]
    assert (fit.offset, fit.remainders) == (0.05, (-0.03, 0.0, 0.03))
    document["results"].pop()
    assert [fit.metric for fit in judged(document).verdict.accuracy.fits] == []


def test_every_report_says_the_second_verdict_with_what_differs():
    record = judged(on_a_cpu(published_record()))
    for text in (terminal_summary(record), render_markdown(record), render_html(record)):
        plain = text.replace("\\", "")
        assert "consistent with the published rates" in plain
        assert "device: ran on the CPU" in plain
    assert "VERDICT: Not comparable" in terminal_summary(record)
    assert "ERROR RATES ALONE" not in terminal_summary(judged(demo_record()))
    assert "not compared with the published rates" in render_markdown(judged(demo_record()))


def test_a_record_without_the_second_verdict_is_read_and_shown():
    from repro.record import read_record

    document = document_of(judged(published_record()))
    del document["verdict"]["accuracy"]
    record = read_record(json.dumps(document).encode())
    assert "Accuracy alone" not in render_markdown(record)
    assert terminal_summary(record)

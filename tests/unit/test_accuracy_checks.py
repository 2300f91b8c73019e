"""The error rates alone, figure by figure: each tolerance, each reason, the edits behind a rate, the fitted curve."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from _record_cases import published_record, record_of

from repro.guide.accuracy import accuracy_alone
from repro.guide.published import CER, WER, edits_allowed, load_published

PUBLISHED = load_published(Path(__file__).parents[2] / "conf/published.toml")


def judged(document):
    return accuracy_alone(record_of(document), PUBLISHED)


def cpu_run(*sizes):
    """A CPU's run with the table's own rates, and with reference lengths of which edits print so."""
    document = published_record(sizes=(8,))
    (model,) = document["results"]
    document["request"].update(device="cpu", toolchain="portable", batch_sizes=list(sizes))
    for name in ("soc_version", "precision_mode", "num_devices", "pinned"):
        document["request"].pop(name, None)
    document["results"] = []
    for size in sizes:
        row, result = PUBLISHED.rows[size], copy.deepcopy(model)
        result["batch_size"] = size
        lengths = [
            next(n for n in range(start, 10**6) if edits_allowed(row.printed[rate], n))
            for rate, start in ((WER, 14000), (CER, 38000))
        ]
        found = dict(zip(("phones", "characters"), lengths), utterances=row.utterances)
        result["published"].update(found, **{rate: float(row.printed[rate]) for rate in (CER, WER)})
        document["results"].append(result)
    return document


def test_each_rate_is_held_to_its_own_tolerance_and_the_reason_gives_the_figures():
    document = cpu_run(8, 16)
    wer, cer = PUBLISHED.rows[8].printed[WER], PUBLISHED.rows[16].printed[CER]
    document["results"][0]["published"][WER] = float(wer) + 0.2
    document["results"][1]["published"][CER] = float(cer) - 0.06
    found = judged(document)
    assert found.outcome == "inconsistent"
    assert found.reasons == (
        f"batch size 8: phone error rate {float(wer) + 0.2:.4f} %, published {wer} %: "
        "0.2000 points above, tolerance 0.1000",
        f"batch size 16: character error rate {float(cer) - 0.06:.4f} %, published {cer} %: "
        "0.0600 points below, tolerance 0.0500",
    )
    assert [(check.batch_size, check.metric, check.status) for check in found.checks] == [
        (8, CER, "consistent"), (8, WER, "inconsistent"), (16, CER, "inconsistent"), (16, WER, "consistent"),
    ]  # fmt: skip
    first, second, third, _ = found.checks
    assert second.reasons == (found.reasons[0],) and first.reasons == () == found.checks[3].reasons
    assert (second.published, second.tolerance, third.tolerance) == (float(wer), 0.1, 0.05)
    assert second.difference == pytest.approx(0.2) and third.difference == pytest.approx(-0.06)
    edits = document["results"][0]["published"]["edits"]
    assert (first.found_edits, second.found_edits) == (edits["cer"], edits["wer"])
    assert (first.found, second.found) == (document["results"][0]["published"][CER], float(wer) + 0.2)
    assert found.differs == tuple(dict.fromkeys(found.differs)) != ()
    assert any(reason.startswith("device: ran on the CPU") for reason in found.differs)


def test_the_one_number_of_edits_that_prints_as_published_is_named():
    document = cpu_run(8)
    counts = document["results"][0]["published"]
    first, second = judged(document).checks
    assert edits_allowed(PUBLISHED.rows[8].printed[CER], counts["characters"]) == (first.published_edits,)
    assert edits_allowed(PUBLISHED.rows[8].printed[WER], counts["phones"]) == (second.published_edits,)
    counts["phones"] += 1  # no number of edits prints so
    assert judged(document).checks[1].published_edits is None


def test_nothing_is_compared_where_a_rate_or_a_row_is_absent_or_a_simulator_ran():
    document = cpu_run(8)
    document["results"][0]["published"][CER] = None
    found = judged(document)
    assert [check.status for check in found.checks] == ["not-compared", "consistent"]
    assert (found.checks[0].difference, found.checks[0].found) == (None, None)
    assert found.outcome == "not-compared" and found.differs == ()
    document = cpu_run(8, 64)
    document["results"][1]["batch_size"] = 7
    found = judged(document)
    assert found.outcome == "consistent", "what the table does not have decides nothing"
    assert [check.published for check in found.checks[2:]] == [None, None]
    assert found.reasons == ("batch size 7 is not in the table",)
    document["request"]["device"] = "npu-simulator"
    found = judged(document)
    assert found.outcome == "not-compared" and found.reasons[0] == "device: a simulator of an NPU, made for tests"


def test_a_curve_is_fitted_over_three_sizes_or_more_of_what_was_compared():
    def moved(sizes, wer=(0.01, 0.02, 0.06)):
        document = cpu_run(*sizes)
        for result, more in zip(document["results"], wer):
            row = PUBLISHED.rows[result["batch_size"]]
            result["published"].update({WER: float(row.printed[WER]) + more, CER: float(row.printed[CER]) + 0.04})
        return judged(document).fits

    assert moved((8, 16)) == ()
    characters, phones = moved((8, 16, 32))
    assert (characters.metric, characters.batch_sizes, characters.offset) == (CER, (8, 16, 32), 0.04)
    assert characters.remainders == (0.0, 0.0, 0.0)
    assert (phones.metric, phones.offset, phones.remainders) == (WER, 0.03, (-0.02, -0.01, 0.03))

"""The published table, and records held against it."""

from fractions import Fraction
from pathlib import Path

import pytest
from _record_cases import demo_record, document_of, published_record, record_of
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.base.errors import UsageError
from repro.base.toml import read_toml
from repro.guide.published import CER, METRICS, THROUGHPUT, WER, edits_allowed, load_published
from repro.guide.verdict import verdict

CONF = Path(__file__).parents[2] / "conf/published.toml"
PUBLISHED = load_published(CONF)


def judge(record):
    return document_of(verdict(record_of(record), PUBLISHED))


def check_of(judged, metric, size=8):
    (check,) = [c for c in judged["checks"] if c["metric"] == metric and c["batch_size"] == size]
    return check


def test_run_like_for_like_and_within_tolerance_is_reproduced():
    judged = judge(published_record())
    assert judged["outcome"] == "reproduced"
    assert len(judged["checks"]) == 6
    assert all(c["status"] == "reproduced" and not c["reasons"] for c in judged["checks"])


@pytest.mark.parametrize(
    ("metric", "change", "outcome"),
    [
        (WER, 0.099, "reproduced"),
        (WER, -0.099, "reproduced"),
        (WER, 0.101, "not-reproduced"),
        (CER, 0.049, "reproduced"),
        (CER, 0.051, "not-reproduced"),
        (CER, -0.051, "not-reproduced"),
        (THROUGHPUT, 42.0914 * 0.049, "reproduced"),
        (THROUGHPUT, 42.0914 * 0.051, "not-reproduced"),
        (THROUGHPUT, -42.0914 * 0.051, "not-reproduced"),
    ],
)
def test_tolerance_decides_and_the_reason_names_figure_and_distance(metric, change, outcome):
    record = published_record(sizes=(8,))
    result = record["results"][0]
    where = result if metric == THROUGHPUT else result["published"]
    where[metric] = float(PUBLISHED.rows[8].printed[metric]) + change
    judged = judge(record)
    assert judged["outcome"] == check_of(judged, metric)["status"] == outcome
    if outcome == "not-reproduced":
        assert len(judged["reasons"]) == 1
        assert f"{abs(change):.4f} {'above' if change > 0 else 'below'}" in judged["reasons"][0]


def test_demo_on_a_cpu_is_not_comparable_and_every_reason_is_said():
    judged = judge(demo_record())
    assert judged["outcome"] == "not-comparable"
    said = "\n".join(judged["reasons"])
    for reason in (
        "device: ran on the CPU",
        "toolchain: portable",
        "chip: required Ascend310P3, absent",
        "data: the demo corpus",
        "checkpoint: the demo checkpoint",
        "dev has 64 utterances; TIMIT's has 400",
        "dev has 2171 phones; TIMIT's has 15057",
        "batch size 8: 56 utterances scored; the table's figure is of 392",
        "batch size 64: 0 utterances scored",
    ):
        assert reason in said
    assert len(judged["reasons"]) == len(set(judged["reasons"]))


def break_device(record):
    record["request"]["device"] = "cpu"


def break_toolchain(record):
    record["request"]["toolchain"] = "portable"


def break_component(record):
    record["toolchain"][0].update(found="1.13.1", status="deviates")


def break_chip(record):
    del record["toolchain"][1]


def break_data(record):
    record["data"]["kind"] = "user"


def break_counts(record):
    record["data"]["timit_counts_match"] = False


def break_checkpoint(record):
    record["checkpoint"]["kind"] = "demo"


def break_split(record):
    record["request"]["split"] = "test"


def break_decoder(record):
    record["request"]["decode"]["type"] = "Beam"


def break_phones(record):
    record["data"]["phones"]["dev"] = 15056


def break_utterances(record):
    record["results"][0]["published"]["utterances"] = 391


def break_scored_phones(record):
    record["results"][0]["published"]["phones"] += 1


def break_scored_characters(record):
    record["results"][0]["published"]["characters"] += 1


def break_loop(record):
    record["request"]["loop"] = 10


@pytest.mark.parametrize(
    ("break_it", "not_comparable", "reason"),
    [
        (break_device, METRICS, "device: ran on the CPU; the table is of the NPU Ascend310P3"),
        (break_toolchain, METRICS, "toolchain: portable; the table's is pinned"),
        (break_component, METRICS, "toolchain: PyTorch: required 1.8.0, found 1.13.1"),
        (break_chip, METRICS, "chip: Ascend310P3 was not identified"),
        (break_data, (CER, WER), "data: a corpus of the user's, not TIMIT"),
        (break_counts, (CER, WER), "the counts of speakers and utterances are not TIMIT's"),
        (break_checkpoint, (CER, WER), "checkpoint: the demo checkpoint"),
        (break_split, (CER, WER), "split: test"),
        (break_decoder, (CER, WER), "decoder: Beam"),
        (break_phones, (CER, WER), "dev has 15056 phones; TIMIT's has 15057"),
        (break_utterances, (CER, WER), "391 utterances scored; the table's figure is of 392"),
        (break_scored_phones, (WER,), "the references have 14767 phones, of which no whole number of edits"),
        (break_scored_characters, (CER,), "the references have 39215 characters"),
        (break_loop, (THROUGHPUT,), "throughput: averaged over 10 executions"),
    ],
)
def test_one_failing_precondition_is_enough(break_it, not_comparable, reason):
    record = published_record(sizes=(8,))
    break_it(record)
    judged = judge(record)
    assert judged["outcome"] == "not-comparable"
    for metric in METRICS:
        check = check_of(judged, metric)
        assert check["status"] == ("not-comparable" if metric in not_comparable else "reproduced")
        assert (reason in "\n".join(check["reasons"])) == (metric in not_comparable)


@pytest.mark.parametrize("break_it", [break_device, break_toolchain, break_data, break_checkpoint])
def test_published_values_do_not_make_a_run_of_something_else_a_reproduction(break_it):
    record = published_record()
    break_it(record)
    for result in record["results"]:
        row = PUBLISHED.rows[result["batch_size"]]
        result["published"].update({metric: float(row.printed[metric]) for metric in (CER, WER)})
    assert judge(record)["outcome"] == "not-comparable"


def test_batch_size_outside_the_table_is_not_comparable():
    record = published_record(sizes=(8,))
    record["results"][0]["batch_size"] = 7
    judged = judge(record)
    assert judged["outcome"] == "not-comparable"
    assert judged["reasons"] == ["batch size 7 is not in the table"]
    assert all(c["published"] is None and c["found"] is not None for c in judged["checks"])


def test_a_compared_figure_that_fails_outweighs_those_not_comparable():
    record = published_record(sizes=(8,))
    break_data(record)
    record["results"][0][THROUGHPUT] = 20.0
    judged = judge(record)
    assert judged["outcome"] == "not-reproduced"
    assert len(judged["reasons"]) == 1 and "throughput 20.0000" in judged["reasons"][0]


@pytest.mark.parametrize("found", ["23.0.RC1", "23.0.rc1"])
def test_driver_of_an_atlas_300i_duo_follows_the_cann_version_however_it_is_spelt(found):
    record = published_record()
    record["toolchain"].append(
        {"component": "firmware and driver", "required": "22.0.4", "found": found, "status": "deviates",
         "probe": "host:driver in this host", "purpose": "", "kind": "table"}
    )  # fmt: skip
    assert judge(record)["outcome"] == "not-comparable"
    record["host"]["card"] = "Atlas 300I Duo"
    assert judge(record)["outcome"] == "reproduced"


def test_trust_in_the_checkpoint_is_a_caveat_of_every_comparison():
    record = published_record()
    (caveat,) = judge(record)["caveats"]
    assert record["checkpoint"]["sha256"] in caveat and "trusted on first use" in caveat
    assert judge(demo_record())["caveats"] == []


def test_run_without_a_result_is_not_comparable():
    record = published_record()
    record["results"] = []
    assert judge(record)["outcome"] == "not-comparable"


def test_table_agrees_with_itself():
    conditions = PUBLISHED.preconditions
    assert sorted(PUBLISHED.rows) == [1, 4, 8, 16, 32, 64]
    for size, row in PUBLISHED.rows.items():
        assert row.utterances == (conditions.utterances - 1) // size * size
        dropped = conditions.utterances - row.utterances
        likely = range(conditions.phones - 60 * dropped, conditions.phones - 20 * dropped)
        assert any(edits_allowed(row.printed[WER], phones) for phones in likely)


def test_tolerances_are_no_narrower_than_the_publishers_own_spread():
    older = read_toml(CONF)["older"]
    for metric in (CER, WER):
        spread = abs(float(older[metric]) - float(older[f"sample_run_{metric}"]))
        assert spread <= PUBLISHED.tolerances[metric].points <= 1.5 * spread
    for size, printed in older[THROUGHPUT].items():
        published = float(PUBLISHED.rows[int(size)].printed[THROUGHPUT])
        assert abs(published / float(printed) - 1) <= 0.0085 < PUBLISHED.tolerances[THROUGHPUT].relative


def test_phone_counts_of_one_batch_are_those_known_from_the_table():
    possible = [n for n in range(15057 - 60, 15057) if edits_allowed("18.8003", n)]
    assert possible == [15021, 15037]
    assert edits_allowed("18.8003", 15021) == (2824,) and edits_allowed("18.8003", 15037) == (2827,)


@given(st.integers(1, 50000), st.data())
def test_what_a_score_prints_is_allowed(length, data):
    edits = data.draw(st.integers(0, length * 2))
    assert edits in edits_allowed(f"{100 * edits / length:.4f}", length)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"13.5491"', '"13.549"', "`$.row[0].cer_percent`"),
        ('"13.5491"', "13.5491", "Expected `str`, got `float` - at `$.row[0].cer_percent`"),
        ("batch_size = 4\n", "", "missing required field `batch_size` - at `$.row[1]`"),
        ("split =", "spilt =", "unknown field `spilt` - at `$.preconditions`"),
        ("[source]", "[sauce]", "unknown field `sauce`"),
        ("relative = 0.05", "relative = -0.05", "`$.tolerance.throughput_utterances_per_s.relative`"),
    ],
)
def test_damaged_table_is_refused_by_name(tmp_path, old, new, said):
    text = CONF.read_text()
    assert old in text
    (tmp_path / "published.toml").write_text(text.replace(old, new))
    with pytest.raises(UsageError) as caught:
        load_published(tmp_path / "published.toml")
    assert caught.value.message.startswith(f"{tmp_path}/published.toml is not a published table: ")
    assert said in caught.value.message
    assert caught.value.hint == "restore it from the repository"


def test_the_verdict_carries_the_table_as_numbers_in_order():
    found = load_published(CONF)
    table = verdict(record_of(published_record()), found).table
    assert [document_of(row) for row in table] == [
        {"batch_size": size, "utterances": row.utterances, **{metric: float(row.printed[metric]) for metric in METRICS}}
        for size, row in sorted(PUBLISHED.rows.items())
    ]
    assert found == PUBLISHED and set(found.tolerances) == set(METRICS)


def test_only_the_probe_of_the_chip_identifies_it():
    record = published_record()
    record["toolchain"][1].update(component="host", found="Ascend310P3")
    assert any("was not identified by a probe" in reason for reason in judge(record)["reasons"])
    record = published_record()
    record["toolchain"][1].update(found="Ascend910")
    assert any("was not identified by a probe" in reason for reason in judge(record)["reasons"])


def test_the_table_is_read_as_it_stands_in_the_file():
    assert PUBLISHED.title.endswith(", revision 6a2804a358a5b18e3dac1ab902f41f88e240b00f")
    row = PUBLISHED.rows[1]
    assert (row.batch_size, row.utterances) == (1, 399)
    assert row.printed == {CER: "13.5491", WER: "18.8003", THROUGHPUT: "5.3457"}
    assert {metric: PUBLISHED.tolerances[metric].absolute(50.0) for metric in METRICS} == {
        CER: 0.05, WER: 0.1, THROUGHPUT: 2.5
    }  # fmt: skip
    (card,) = PUBLISHED.card_exceptions
    assert (card.card, card.component) == ("Atlas 300I Duo", "firmware and driver")


def test_each_figure_carries_its_own_unit_and_tolerance():
    checks = judge(published_record(sizes=(8,)))["checks"]
    assert {check["metric"]: (check["unit"], check["tolerance_unit"], check["tolerance"]) for check in checks} == {
        CER: ("%", "percentage points", 0.05),
        WER: ("%", "percentage points", 0.1),
        THROUGHPUT: ("utterances/s", "utterances/s", 0.05 * 42.0914),
    }
    for check in checks:
        assert check["published"] == float(PUBLISHED.rows[8].printed[check["metric"]])
        assert check["difference"] == check["found"] - check["published"]
        assert check["tolerance_reason"] == PUBLISHED.tolerances[check["metric"]].reason


@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(0, 400_000))
def test_edits_allowed_are_all_whose_rate_rounds_to_what_is_printed(length, ten_thousandths):
    printed = f"{ten_thousandths // 10_000}.{ten_thousandths % 10_000:04d}"
    half = Fraction(1, 20_000)
    near = [
        edits
        for edits in range(length // 2 + 2)
        if length and abs(Fraction(100 * edits, length) - Fraction(ten_thousandths, 10_000)) <= half
    ]
    assert list(edits_allowed(printed, length)) == near


def test_a_rate_halfway_between_two_printed_ones_is_allowed_as_either():
    assert 1 in edits_allowed("0.0000", 2_000_000) and 1 in edits_allowed("0.0001", 2_000_000)
    assert edits_allowed("0.0000", 0) == ()


def test_another_number_format_is_never_compared_and_the_report_says_which():
    from repro.report.writer import render_markdown

    record = published_record()
    record["request"]["precision"] = "bf16"
    found = record_of(record)
    judged = found.judged(verdict(found, PUBLISHED))
    assert judged.verdict.outcome == "not-comparable"
    assert any("precision: bf16" in reason for reason in judged.verdict.reasons)
    assert "number format" in render_markdown(judged)

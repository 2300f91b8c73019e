"""The stage score on golden's posteriors: both protocols, counts, intervals, refusals."""

import collections
import json
import math
import re

import numpy as np
import pytest
from _score_cases import EXPECTED, GOLDEN, output_frames
from _stage_cases import progress_of
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from stages import score
from stages.scoring import edits as edit_distance
from stages.shared.stage import StageError

PHONES = ["aa", "sil", "k", "UNK"]


def make_inputs(folder, batch_size):
    """infer's and batches' folders for golden's ten dev utterances."""
    with np.load(GOLDEN / "score/posteriors.npz") as arrays:
        names, logprobs = [str(u) for u in arrays["utt"]], arrays["logprobs"]
    frames = output_frames()
    whole = len(names) // batch_size
    for at in range(0, len(names), batch_size):
        batch = np.zeros((195, batch_size, 41), np.float32)
        part = logprobs[at : at + batch_size]
        batch[:, : len(part)] = part.transpose(1, 0, 2)
        target = folder / "outputs" / ("result" if at // batch_size < whole else "tail")
        target.mkdir(parents=True, exist_ok=True)
        np.save(target / f"inputs_{at // batch_size}_0.npy", batch)
    manifest = {
        "batch_size": batch_size,
        "split": "dev",
        "rows": 390,
        "columns": 243,
        "num_batches": whole,
        "num_tail_batches": int(len(names) % batch_size > 0),
        "excluded": [],
        "utterances": [
            {
                "id": n,
                "batch": i // batch_size,
                "row": i % batch_size,
                "output_frames": frames[n],
                "stacked_frames": 2 * frames[n],
            }
            for i, n in enumerate(names)
        ],
    }
    (folder / "batches").mkdir()
    (folder / "batches/manifest.json").write_text(json.dumps(manifest))
    return manifest


def run_score(folder, batch_size, *more):
    out = folder / "out"
    out.mkdir(exist_ok=True)
    arguments = ["--outputs", folder / "outputs", "--batches", folder / "batches", "--corpus", GOLDEN / "data"]
    arguments += ["--bs", batch_size, "--out", out, "--obs", out, *more]
    score.main([str(a) for a in arguments])
    lines = (out / "utterances.jsonl").read_text().splitlines()
    return json.loads((out / "score.json").read_text()), [json.loads(line) for line in lines]


BEAM = ["--decode", "Beam", "--lm", GOLDEN / "score/lm_phone_bg.arpa"]


def interval_95(edits, lengths):
    return edit_distance.intervals_95([(edits, lengths)])[0]


@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.parametrize("decode", ["Greedy", "Beam"])
def test_published_protocol_prints_what_the_reference_prints(tmp_path, decode, batch_size):
    make_inputs(tmp_path, batch_size)
    result, utterances = run_score(tmp_path, batch_size, *(BEAM if decode == "Beam" else []))
    expected = EXPECTED[f"{decode}/bs{batch_size}"]
    published = result["protocols"]["published"]
    assert [published["cer_printed"]] == expected["cer"]
    assert [published["wer_printed"]] == expected["wer"]
    assert published["utterances"] == expected["utterances"]
    scored = [u for u in utterances if u["in_published"]]
    assert [u["published"]["hypothesis"] for u in scored] == expected["decoded"]
    assert [u["reference"] for u in scored] == expected["origin"]


def test_complete_protocol_scores_every_utterance_and_is_the_same_for_every_batch_size(tmp_path):
    results = []
    for batch_size in (1, 4, 8):
        folder = tmp_path / str(batch_size)
        folder.mkdir()
        make_inputs(folder, batch_size)
        results.append(run_score(folder, batch_size)[0]["protocols"]["complete"])
    assert results[0] == results[1] == results[2]
    assert results[0]["utterances"] == 10
    assert results[0]["phones"] == 452


def test_leading_space_costs_one_character_an_utterance_and_no_phone(tmp_path):
    make_inputs(tmp_path, 1)
    _, utterances = run_score(tmp_path, 1)
    for u in utterances:
        assert u["published"]["hypothesis"] == " " + u["complete"]["hypothesis"]
        assert u["published"]["wer_edits"] == u["complete"]["wer_edits"]
        assert 0 <= u["published"]["cer_edits"] - u["complete"]["cer_edits"] <= 1


def test_published_protocol_of_one_batch_scores_nothing_and_says_so(tmp_path):
    make_inputs(tmp_path, 10)
    published = run_score(tmp_path, 10)[0]["protocols"]["published"]
    assert published["utterances"] == 0
    assert published["cer_percent"] is None and published["interval_95"]["wer_percent"] is None


def test_counts_confusions_and_edits_agree(tmp_path):
    make_inputs(tmp_path, 4)
    result, utterances = run_score(tmp_path, 4)
    for protocol in result["protocols"].values():
        counts = protocol["wer_counts"]
        assert sum(counts.values()) == protocol["edits"]["wer"]
        assert sum(c["count"] for c in protocol["confusions"]) == counts["substitutions"]
        low, high = protocol["interval_95"]["wer_percent"]
        assert low < protocol["wer_percent"] < high
    assert sum(u["complete"]["wer_edits"] for u in utterances) == result["protocols"]["complete"]["edits"]["wer"]


def pooled(lines, protocol):
    """A protocol's entry of score.json, from lines of utterances.jsonl alone."""
    edits = {kind: [line[protocol][kind + "_edits"] for line in lines] for kind in ("cer", "wer")}
    lengths = {"cer": [len(line["reference"]) for line in lines], "wer": [line["phones"] for line in lines]}
    rates = {kind: 100 * sum(edits[kind]) / sum(lengths[kind]) for kind in edits}
    swaps = collections.Counter(
        (line["reference"].split()[left], line["complete"]["hypothesis"].split()[right])
        for line in lines
        for kind, left, right in Levenshtein.editops(
            line["reference"].split(), line["complete"]["hypothesis"].split()
        ).as_list()
        if kind == "replace"
    )
    return {
        "utterances": len(lines),
        "phones": sum(lengths["wer"]),
        "characters": sum(lengths["cer"]),
        **{f"{kind}_percent": rates[kind] for kind in rates},
        **{f"{kind}_printed": f"{rates[kind]:.4f}" for kind in rates},
        "edits": {kind: sum(values) for kind, values in edits.items()},
        "wer_counts": {
            kind: sum(line["wer_counts"][kind] for line in lines)
            for kind in ("substitutions", "insertions", "deletions")
        },
        "interval_95": {
            **{f"{kind}_percent": interval_95(edits[kind], lengths[kind]) for kind in edits},
            "method": "percentile bootstrap of the pooled rate: 10000 resamples of whole utterances with replacement, "
            "numpy RandomState seed 20261122, 2.5 % and 97.5 % by nearest rank",
        },
        "confusions": [
            {"reference": left, "hypothesis": right, "count": count}
            for (left, right), count in sorted(swaps.items(), key=lambda item: (-item[1], item[0]))
        ],
    }  # fmt: skip


@pytest.mark.parametrize("decode", ["Greedy", "Beam"])
def test_files_of_a_score_hold_the_strings_the_edits_and_nothing_that_does_not_follow_from_them(tmp_path, decode):
    manifest = make_inputs(tmp_path, 4)
    manifest["excluded"] = [{"utterance": "X", "reason": "y"}]
    (tmp_path / "batches/manifest.json").write_text(json.dumps(manifest))
    result, lines = run_score(tmp_path, 4, *(BEAM if decode == "Beam" else []))
    labels = dict(line.split(" ", 1) for line in (GOLDEN / "data/dev/phn_text").read_text().splitlines())
    for line, placed in zip(lines, manifest["utterances"]):
        reference = labels[placed["id"]].strip()
        assert (line["id"], line["reference"]) == (placed["id"], reference)
        assert line["phones"] == len(reference.split())
        for protocol in ("published", "complete"):
            hypothesis = line[protocol]["hypothesis"]
            assert line[protocol]["cer_edits"] == plain_distance(reference, hypothesis)
            assert line[protocol]["wer_edits"] == plain_distance(reference.split(), hypothesis.split())
            assert line[protocol]["wer_edits"] == sum(line["wer_counts"].values())
        assert set(line) == {"id", "reference", "phones", "wer_counts", "published", "complete", "in_published"}
    assert [line["in_published"] for line in lines] == [True] * 8 + [False] * 2, "(10 - 1) // 4 whole batches of 4"
    beam = {
        "type": "Beam",
        "beam_width": 10,
        "lm_alpha": 0.1,
        "reference_would_fail": {
            "empty_labelling_survived": {
                "utterances": [],
                "handled": "it ends with the model's probability of </s> after <s>, and counts as length 1",
            },
            "probability_underflowed_to_zero": {"utterances": [], "handled": "its logarithm is taken as -99999999"},
            "symbols_missing_in_language_model": {
                "symbols": [],
                "handled": "taken as <unk>, or as the rarest word of a model without <unk>",
            },
        },
    }
    assert result == {
        "batch_size": 4,
        "split": "dev",
        "decode": beam if decode == "Beam" else {"type": "Greedy"},
        "protocols": {"published": pooled(lines[:8], "published"), "complete": pooled(lines, "complete")},
        "excluded": manifest["excluded"],
    }


def test_progress_of_a_score_counts_utterances(tmp_path, monkeypatch):
    make_inputs(tmp_path, 4)
    told = progress_of(score, monkeypatch)
    run_score(tmp_path, 4)
    assert told == [("score dev", 10), 4, 4, 2]


@pytest.mark.parametrize(("width", "batches"), [(1, [10]), (320, [8, 2]), (640, [4, 4, 2]), (2561, [4, 4, 2])])
def test_a_beam_takes_as_many_batches_at_once_as_hold_2560_labellings(tmp_path, monkeypatch, width, batches):
    make_inputs(tmp_path, 4)
    found = []

    def beams(utterances, following, ending, kept):
        found.append(len(utterances))
        assert kept == width
        return [score.decoders.BeamResult([2], False, False)] * len(utterances)

    monkeypatch.setattr(score.decoders, "beams", beams)
    _, lines = run_score(tmp_path, 4, *BEAM, "--beam-width", width)
    assert (found, {line["complete"]["hypothesis"] for line in lines}) == (batches, {"sil"})


def test_two_runs_write_the_same_bytes(tmp_path):
    make_inputs(tmp_path, 4)
    written = []
    for _ in range(2):
        run_score(tmp_path, 4)
        written.append([(tmp_path / "out" / name).read_bytes() for name in ("score.json", "utterances.jsonl")])
    assert written[0] == written[1]


def test_beam_says_what_the_reference_could_not_have_decoded(tmp_path):
    make_inputs(tmp_path, 10)
    path = tmp_path / "outputs/result/inputs_0_0.npy"
    outputs = np.load(path)
    outputs[:, 0, 0], outputs[:, 0, 1:] = -0.01, -9
    outputs[:, 1, 7] = -1000
    np.save(path, outputs)
    failures = run_score(tmp_path, 10, *BEAM)[0]["decode"]["reference_would_fail"]
    assert failures["empty_labelling_survived"]["utterances"] == ["FADG0_SI1009"]
    assert failures["probability_underflowed_to_zero"]["utterances"] == ["FADG0_SI1457"]
    assert failures["symbols_missing_in_language_model"]["symbols"] == []


def test_outputs_with_nan_are_refused_by_utterance(tmp_path):
    make_inputs(tmp_path, 4)
    path = tmp_path / "outputs/tail/inputs_2_0.npy"
    outputs = np.load(path)
    outputs[3, 1, 5] = np.nan
    np.save(path, outputs)
    with pytest.raises(StageError, match=r"inputs_2_0\.npy: the outputs of FAKS0_SX355 hold NaN"):
        run_score(tmp_path, 4)


def test_padding_may_hold_anything(tmp_path):
    make_inputs(tmp_path, 4)
    before = run_score(tmp_path, 4)
    path = tmp_path / "outputs/tail/inputs_2_0.npy"
    outputs = np.load(path)
    outputs[:, 2:] = np.nan
    np.save(path, outputs)
    assert run_score(tmp_path, 4) == before


@pytest.mark.parametrize("shape", [(195, 4, 40), (195, 1, 41), (390, 4, 41)])
def test_outputs_of_another_model_or_batch_size_are_refused(tmp_path, shape):
    make_inputs(tmp_path, 4)
    np.save(tmp_path / "outputs/result/inputs_1_0.npy", np.zeros(shape, np.float32))
    told = f"{tmp_path}/outputs/result/inputs_1_0.npy holds float32 {shape}, not floating point (195, 4, 41)"
    with pytest.raises(StageError, match=re.escape(told)):
        run_score(tmp_path, 4)


def test_missing_outputs_are_refused_by_name(tmp_path):
    make_inputs(tmp_path, 4)
    (tmp_path / "outputs/result/inputs_0_0.npy").unlink()
    path = re.escape(f"{tmp_path}/outputs/result/inputs_0_0.npy")
    with pytest.raises(StageError, match=f"cannot read the outputs {path}: .*No such file"):
        run_score(tmp_path, 4)


def test_batches_of_another_size_are_refused(tmp_path):
    make_inputs(tmp_path, 4)
    with pytest.raises(StageError, match="was made for batches of 4, not 8"):
        run_score(tmp_path, 8)


def test_batches_without_an_utterance_are_refused(tmp_path):
    manifest = make_inputs(tmp_path, 4)
    (tmp_path / "batches/manifest.json").write_text(json.dumps({**manifest, "utterances": []}))
    with pytest.raises(StageError, match=re.escape(f"{tmp_path}/batches/manifest.json lists no utterance")):
        run_score(tmp_path, 4)


def test_utterance_without_label_is_refused(tmp_path):
    manifest = make_inputs(tmp_path, 4)
    manifest["utterances"][2]["id"] = "NOBODY_SX1"
    (tmp_path / "batches/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StageError, match="utterance NOBODY_SX1 has outputs but no line in phn_text"):
        run_score(tmp_path, 4)


def plain_distance(left, right):
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(row[-1] + 1, previous[j] + 1, previous[j - 1] + (a != b)))
    return row[-1]


@given(st.lists(st.sampled_from(PHONES), max_size=12), st.lists(st.sampled_from(PHONES), max_size=12))
def test_edits_equal_the_textbook_distance(reference, hypothesis):
    substitutions, insertions, deletions, confusions = edit_distance.alignment(reference, hypothesis)
    assert substitutions + insertions + deletions == plain_distance(reference, hypothesis)
    assert len(reference) - deletions + insertions == len(hypothesis)
    assert len(confusions) == substitutions
    assert all(a != b for a, b in confusions)
    left, right = " ".join(reference), " ".join(hypothesis)
    assert edit_distance.characters(left, right) == plain_distance(left, right)


def test_interval_matches_the_normal_approximation_of_a_large_sample():
    random = np.random.RandomState(1)
    lengths = random.randint(20, 60, 400)
    edits = random.binomial(lengths, 0.2)
    low, high = interval_95(list(edits), list(lengths))
    rate = edits.sum() / lengths.sum()
    spread = math.sqrt(np.mean((edits - rate * lengths) ** 2) / len(edits)) / lengths.mean()
    assert low == pytest.approx(100 * (rate - 1.96 * spread), abs=0.05)
    assert high == pytest.approx(100 * (rate + 1.96 * spread), abs=0.05)


def test_interval_bytes_are_those_of_the_first_day():
    lengths = [20 + 7 * i % 31 for i in range(60)]
    edits = [i * i % 11 for i in range(60)]
    assert interval_95(edits, lengths) == [9.307875894988067, 13.698630136986301]


def test_interval_is_the_same_however_it_is_drawn(monkeypatch):
    random = np.random.RandomState(3)
    lengths, edits = random.randint(20, 60, 97), random.randint(0, 20, 97)
    # All draws at once, as they were first defined.
    drawn = np.random.RandomState(edit_distance.SEED).randint(0, 97, size=(edit_distance.RESAMPLES, 97))
    rates = np.sort(100.0 * edits[drawn].sum(axis=1) / lengths[drawn].sum(axis=1))
    expected = [rates[249], rates[9750]]
    for pieces in (10, 97, 98, 1000, 1 << 22):
        monkeypatch.setattr(edit_distance, "_DRAWN_AT_ONCE", pieces)
        assert edit_distance.intervals_95([(edits, lengths), (lengths, edits)])[0] == expected


def test_interval_of_numbers_that_fit_no_common_word_is_the_same():
    lengths, edits = [3, 5, 8], [1, 0, 4]
    large = 1 << 40
    assert interval_95([e * large for e in edits], [n * large for n in lengths]) == interval_95(edits, lengths)


def test_outputs_out_of_their_rows_are_refused(tmp_path):
    manifest = make_inputs(tmp_path, 4)
    manifest["utterances"][1]["row"] = 2
    (tmp_path / "batches/manifest.json").write_text(json.dumps(manifest))
    place = re.escape(f"{tmp_path}/batches/manifest.json: batch 0 does not hold its utterances in rows")
    with pytest.raises(StageError, match=place):
        run_score(tmp_path, 4)


def changed_outputs(folder, change):
    """Make golden's inputs, and change the outputs of the first batch."""
    make_inputs(folder, 4)
    path = folder / "outputs/result/inputs_0_0.npy"
    np.save(path, change(np.load(path)))


def with_value(value):
    def change(outputs):
        outputs[0, 0, 5] = value
        return outputs

    return change


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinite_probability_are_refused(tmp_path, value):
    changed_outputs(tmp_path, with_value(value))
    with pytest.raises(StageError, match="hold NaN or infinity"):
        run_score(tmp_path, 4)


def test_probability_of_zero_is_no_fault(tmp_path):
    changed_outputs(tmp_path, with_value(-np.inf))
    assert run_score(tmp_path, 4)[0]["protocols"]["complete"]["utterances"] == 10


@pytest.mark.parametrize(
    "change",
    [
        lambda outputs: np.round(outputs).astype(np.int32),
        lambda outputs: outputs.astype(np.complex64),
        lambda outputs: outputs.transpose(1, 0, 2),
        lambda outputs: outputs[:, :3],
        lambda outputs: outputs[..., :40],
    ],
)
def test_outputs_of_another_kind_are_refused(tmp_path, change):
    changed_outputs(tmp_path, change)
    with pytest.raises(StageError, match="not floating point"):
        run_score(tmp_path, 4)


@pytest.mark.parametrize("words", [["--beam-width", "0"], ["--beam-width", "-1"]])
def test_a_beam_that_keeps_nothing_is_wrong_use(tmp_path, words, capsys):
    make_inputs(tmp_path, 4)
    with pytest.raises(SystemExit) as ended:
        run_score(tmp_path, 4, *BEAM, *words)
    assert ended.value.code == 2
    assert "--beam-width are 1 or more" in capsys.readouterr().err


def test_a_beam_of_one_labelling_is_a_beam(tmp_path):
    make_inputs(tmp_path, 4)
    assert run_score(tmp_path, 4, *BEAM, "--beam-width", "1")[0]["decode"]["beam_width"] == 1


@pytest.mark.parametrize("words", [["--decode", "Beam"], ["--bs", "0"]])
def test_a_beam_without_a_model_and_batches_of_nothing_are_wrong_use(tmp_path, words, capsys):
    make_inputs(tmp_path, 4)
    with pytest.raises(SystemExit) as ended:
        run_score(tmp_path, 4, *words)
    assert ended.value.code == 2
    assert ("needs --lm" in capsys.readouterr().err) == ("Beam" in words)


def test_a_language_model_may_be_a_file_or_the_folder_that_the_stage_lm_wrote(tmp_path):
    make_inputs(tmp_path, 4)
    of_file = run_score(tmp_path, 4, *BEAM)
    assert run_score(tmp_path, 4, "--decode", "Beam", "--lm", GOLDEN / "score") == of_file

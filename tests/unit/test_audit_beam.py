"""The audit's beam search: the reference's outputs, and the stage's on what no recording would give."""

from __future__ import annotations

import json
from array import array

import numpy as np
import pytest
from _audit_cases import SIZE, make_run, reopen
from _score_cases import EXPECTED, GOLDEN, UNITS, posteriors
from auditing import verify_run
from hypothesis import given, settings
from hypothesis import strategies as some

from repro.audit import beam, scoring
from repro.audit.claims import PROVEN, REFUTED
from repro.audit.evidence import Evidence
from repro.base.errors import VerificationFailed
from stages.formats import arpa
from stages.scoring import decode

ARPA = GOLDEN / "score/lm_phone_bg.arpa"
LANGUAGE = beam.read_language(ARPA.read_bytes(), UNITS, 0.1, "lm")
NAMES = scoring.class_names(UNITS)


def rows(logprobs) -> list[array[float]]:
    return [array("f", frame.astype("<f4").tobytes()) for frame in logprobs]


@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_it_decodes_as_the_reference(batch_size: int):
    for logprobs, text in zip(posteriors(), EXPECTED[f"Beam/bs{batch_size}"]["decoded"]):
        found = beam.search(rows(logprobs), LANGUAGE, 10)
        assert " ".join(NAMES[k] for k in found.best) == text
        assert found.contenders == (found.best,)


def test_the_bigram_is_the_stage_s_number_by_number():
    model = arpa.read(str(ARPA))
    for units in (UNITS, [*UNITS, "never-heard"]):
        language = beam.read_language(ARPA.read_bytes(), units, 0.3, "lm")
        following, ending = model.tables(units, 0.3)
        assert language.following == following.tolist()
        assert language.ending == ending.tolist()
        assert language.missing == model.missing(units)


def test_a_bigram_without_unknown_words_backs_off_as_the_stage_s(tmp_path):
    path = tmp_path / "small.arpa"
    arpa.write(str(path), arpa.Bigram({"<s>": (-99.0, -0.5), "a": (-0.7, -0.1), "</s>": (-0.9, 0.0)},
                                        {("a", "a"): -0.2}))  # fmt: skip
    following, ending = arpa.read(str(path)).tables(["a", "b"], 1.0)
    language = beam.read_language(path.read_bytes(), ["a", "b"], 1.0, "lm")
    assert (language.following, language.ending) == (following.tolist(), ending.tolist())
    assert language.missing == ["<unk>", "b"]


@settings(max_examples=150)
@given(some.integers(0, 2**32 - 1), some.integers(1, 25), some.integers(1, 12), some.sampled_from([0.5, 2.0, 6.0]))
def test_it_finds_what_the_stage_finds(seed: int, frames: int, width: int, sharpness: float):
    chance = np.random.RandomState(seed)
    scores = chance.randn(frames, 5) * sharpness
    scores[:, 0] += chance.choice([0.0, 3.0], frames)  # frames that are nearly all blank, and others
    scores[chance.rand(frames, 5) < 0.02] = -300.0  # a probability of 0 in float32
    logprobs = (scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)).astype(np.float32)
    following, ending = chance.randn(5, 5), chance.randn(5)
    expected = decode.beam(logprobs, following, ending, width)
    found = beam.search(rows(logprobs), beam.Language(following.tolist(), ending.tolist(), []), width)
    assert tuple(expected.labels) in found.contenders
    assert (found.empty_survived, found.underflowed) == (expected.empty_survived, expected.underflowed)


def test_a_tie_is_decided_as_claimed_and_anything_else_is_not():
    even = np.log(np.array([[0.2, 0.4, 0.4]], dtype=np.float32))
    language = beam.Language([[0.0] * 3] * 3, [0.0] * 3, [])
    assert beam.search(rows(even), language, 10).contenders == ((1,), (2,))
    claimed = {"tied": (2,), "worse": (1, 2), "first": (1,)}
    decoder = scoring.Beam(language, 10, claimed)
    assert [tuple(decoder.symbols(name, rows(even))) for name in (*claimed, "unclaimed")] == [(2,), (1,), (1,), (1,)]
    assert decoder.ties == ["tied"]


def test_what_is_no_probability_or_no_language_model_is_refused():
    for value in (1e4, float("nan")):
        with pytest.raises(VerificationFailed, match=r"logarithms|NaN"):
            beam.search(rows(np.array([[0.0, value]])), beam.Language([[0.0] * 2] * 2, [0.0] * 2, []), 3)
    data = ARPA.read_bytes()
    for damaged in (data[:-40], data.replace(b"-", b"x"), b"\xff" + data, b""):
        with pytest.raises(VerificationFailed, match="ARPA"):
            beam.read_language(damaged, UNITS, 0.1, "lm")


@pytest.fixture(scope="module")
def beam_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("beam")
    return folder, make_run(folder, "Beam")


def test_a_run_decoded_by_beam_is_proven_from_its_outputs(beam_run):
    folder, evidence = beam_run
    outcome = verify_run(evidence, folder / "TIMIT", folder / "weights.pth")
    assert outcome.of_status(REFUTED) == []
    proven = {claim.key: " ".join(claim.evidence) for claim in outcome.of_status(PROVEN)}
    assert "10 utterances of 3 batches decoded again by a beam search" in proven[f"symbols@{SIZE}"]
    assert f"score@{SIZE}" in proven


def test_hypotheses_that_beam_does_not_find_and_failures_kept_quiet_are_refuted(beam_run, monkeypatch):
    """A forger whose digests, rates and reports all fit: the network's outputs still decode to something else."""
    folder, _ = beam_run
    read = Evidence.file

    def forged(self, stage, name):
        data = read(self, stage, name)
        if (stage.key, name) == (f"score@{SIZE}", "utterances.jsonl"):
            lines = [json.loads(line) for line in data.splitlines()]
            lines[3]["complete"]["hypothesis"] = lines[3]["reference"]
            data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        if name == "score.json":
            document = json.loads(data)
            document["decode"]["beam_width"] = 100
            document["decode"]["reference_would_fail"]["empty_labelling_survived"]["utterances"] = ["FAKS0_SX1"]
            data = json.dumps(document).encode()
        return data

    monkeypatch.setattr(Evidence, "file", forged)
    outcome = verify_run(reopen(folder), folder / "TIMIT", folder / "weights.pth")
    said = {claim.key: " ".join(claim.findings) for claim in outcome.of_status(REFUTED)}[f"symbols@{SIZE}"]
    assert "FAKS0_SX3: utterances.jsonl has" in said
    assert "decode.beam_width is 100; recomputed: 10" in said
    assert "decode.empty_labelling_survived[0] is 'FAKS0_SX1'" in said

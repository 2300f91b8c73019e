"""What the bench of scoring measures with: outputs of many utterances."""

from __future__ import annotations

import json

import pytest
from _score_cases import GOLDEN
from hypothesis import given
from hypothesis import strategies as st

from repro.base.errors import VerificationFailed
from repro.bench import scoring
from repro.bench.many_outputs import check_lines, make_outputs
from stages import score
from stages.scoring import edits


@given(st.integers(0, 60), st.integers(0, 60))
def test_distances_are_exact_on_either_side_of_one_machine_word(kept, changed):
    left, right = "a" * kept + "b" * changed, "a" * kept + "c" * changed
    assert edits.characters(left, right) == changed


@pytest.mark.parametrize(("count", "batch_size"), [(1, 1), (21, 4), (100, 8), (64, 64)])
def test_many_utterances_decode_to_the_reference_s_strings(tmp_path, count, batch_size):
    material = make_outputs(GOLDEN, tmp_path, count, batch_size)
    out = tmp_path / "out"
    out.mkdir()
    words = ["--outputs", material.outputs, "--batches", material.batches, "--corpus", material.corpus]
    score.main([str(word) for word in [*words, "--bs", batch_size, "--out", out, "--obs", out]])
    check_lines(material, out / "utterances.jsonl")
    lines = (out / "utterances.jsonl").read_text().splitlines(keepends=True)
    damaged = lines[0].replace(" aa", " ae", 1) if " aa" in lines[0] else lines[0].replace(" sil", " s", 1)
    for content in ("".join([damaged, *lines[1:]]), "".join(lines[:-1])):
        (out / "utterances.jsonl").write_text(content)
        with pytest.raises(VerificationFailed):
            check_lines(material, out / "utterances.jsonl")


def test_pooled_rates_of_many_utterances_are_recomputed(tmp_path):
    material = make_outputs(GOLDEN, tmp_path, 30, 8)
    out = tmp_path / "out"
    out.mkdir()
    words = ["--outputs", material.outputs, "--batches", material.batches, "--corpus", material.corpus]
    score.main([str(word) for word in [*words, "--bs", 8, "--out", out, "--obs", out]])
    protocols = json.loads((out / "score.json").read_bytes())["protocols"]
    scoring._check_rates(material, protocols)
    protocols["complete"]["edits"]["wer"] += 1
    with pytest.raises(VerificationFailed, match="complete"):
        scoring._check_rates(material, protocols)

"""What is declared the same on every processor: its key names no processor, and everything else's does."""

from __future__ import annotations

from pathlib import Path

import pytest
from _graph_cases import MACHINE

from repro.graph.code import Codes
from repro.graph.digests import StatCache
from repro.graph.keys import Keys
from repro.graph.pipeline import EXACT, ISA_EXACT, STAGES, Request, build_graph
from repro.machine.facts import Machine

ROOT = Path(__file__).resolve().parents[2]
OTHER = Machine(instruction_set="arm64 asimd", identity=MACHINE.identity)
ON_THE_WAY_TO_A_SCORE = ("demo_corpus", "corpus", "features", "lm", "batches", "export", "convert", "infer", "score")


class _Any:
    """An image, or a stage's result, of any name."""

    config_digest = "sha256:0"
    output_digest = "0"

    def __getitem__(self, _):
        return self


def keys_on(machine: Machine, request: Request) -> dict[str, dict]:
    checkpoint = ROOT / "data" / "demo" / "checkpoint.pth"
    keys = Keys(Codes(ROOT, StatCache(None)), _Any(), machine, StatCache(None))
    nodes = build_graph(request, ROOT / "conf", checkpoint)
    return {name: keys.key(node, _Any()) for name, node in nodes.items()}


def depending_on_the_processor(request: Request) -> set[str]:
    here, there = keys_on(MACHINE, request), keys_on(OTHER, request)
    return {name for name in here if here[name] != there[name]}


def test_every_stage_on_the_way_to_a_score_is_exact():
    assert {STAGES[name].exactness for name in ON_THE_WAY_TO_A_SCORE} == {EXACT}
    assert {name for name, stage in STAGES.items() if stage.exactness == ISA_EXACT} == {
        "reference", "compare", "demo_train"
    }  # fmt: skip


@pytest.mark.parametrize("decode", ["Greedy", "Beam"])
def test_only_pytorch_s_run_its_comparison_and_times_are_keyed_by_the_processor(decode: str):
    found = depending_on_the_processor(Request((8,), decode=decode))
    assert found == {"reference@8", "compare@8", "measure@8"}


def test_kaldi_s_features_and_bfloat16_are_keyed_by_the_processor_too():
    assert "features" in depending_on_the_processor(Request((8,), pinned=("features", "export")))
    assert "export" not in depending_on_the_processor(Request((8,), pinned=("features", "export")))
    assert "infer@8" in depending_on_the_processor(Request((8,), precision="bf16"))

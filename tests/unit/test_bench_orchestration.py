"""The bench's peers and copies: each has the run's own graph, and is caught when it does not look after it."""

from __future__ import annotations

import itertools
import shutil
import time
from pathlib import Path

import pytest
from _record_cases import demo_record, record_of

from repro.base.errors import CouldNotVerify
from repro.bench import nothing
from repro.bench.floor import Make, Step, steps_of
from repro.bench.orchestration import cells_of_small_steps
from repro.graph.cache import StatCache
from repro.graph.store import Store
from repro.report.timeline import PHASE, STAGE, Span, covered_s
from repro.sweep.steps import one_graph_of


def stored(folder: Path, name: str, text: str) -> Path:
    out = folder / name / "out"
    out.mkdir(parents=True)
    (out / "result").write_text(text)
    return out


@pytest.fixture
def steps(tmp_path: Path) -> list[Step]:
    first = Step("first", (), stored(tmp_path / "store", "1", "one"))
    return [first, Step("second", ("first",), stored(tmp_path / "store", "2", "two"))]


def made(folder: Path, steps: list[Step]) -> Make:
    if shutil.which("make") is None:
        pytest.skip("make is not on this machine")
    make = Make(folder, steps)
    assert make.run()
    return make


def test_make_makes_the_run_s_files_and_then_has_nothing_to_do(tmp_path: Path, steps: list[Step]):
    make = made(tmp_path / "make", steps)
    assert (tmp_path / "make" / "work" / "second" / "result").read_text() == "two"
    make.idle()
    make.check()


def test_make_notices_a_changed_file_of_a_step_before(tmp_path: Path, steps: list[Step]):
    make = made(tmp_path / "make", steps)
    time.sleep(0.05)  # some ticks of the clock that files are stamped with
    (tmp_path / "make" / "work" / "first" / "result").write_text("changed")
    with pytest.raises(CouldNotVerify, match="nothing changed"):
        make.idle()


def test_a_make_that_never_does_anything_is_no_floor(tmp_path: Path, steps: list[Step]):
    make = made(tmp_path / "make", steps)
    (tmp_path / "make" / "Makefile").write_text("all: ;\n")
    with pytest.raises(CouldNotVerify, match="does not notice"):
        make.check()


def test_steps_are_the_record_s_stages_with_their_inputs_from_other_stages(tmp_path: Path):
    document = demo_record()
    document["stages"] = document["stages"][:2]
    document["stages"][0].update(fingerprint="ab" * 32, inputs={"conf": {"from": "conf/timit", "digest": "0" * 64}})
    document["stages"][1]["fingerprint"] = "cd" * 32
    found = steps_of(record_of(document), Store(tmp_path / "store", tmp_path / "tmp", StatCache(None)))
    assert [(step.name, step.inputs) for step in found] == [("corpus", ()), ("score_8", ("corpus",))]
    assert found[1].stored == tmp_path / "store" / "cd" / ("cd" * 32) / "out"


def test_the_copy_for_a_run_from_nothing_holds_nothing_made_and_nothing_of_the_user_s(tmp_path: Path):
    root = tmp_path / "checkout"
    for path in (
        "tasks.py", "repro/x.py", "repro/__pycache__/x.pyc", "conf/a.toml", "data/demo/checkpoint.pth",
        "data/data.zip", "data/user.lock.json", "artifacts/store/x", ".venv/x", ".git/x",
    ):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    copy = nothing._copy(root, tmp_path / "copy")
    found = sorted(str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file())
    assert found == ["conf/a.toml", "data/demo/checkpoint.pth", "repro/x.py", "tasks.py"]


def test_seconds_that_two_spans_share_count_once():
    spans = [
        Span(STAGE, "a", 0.0, 4.0),
        Span(STAGE, "b", 2.0, 4.0),
        Span(STAGE, "c", 8.0, 1.0),
        Span(PHASE, "p", 0, 99),
    ]
    assert covered_s(spans, STAGE) == 7.0


def test_the_cells_of_a_sweep_share_one_step_and_every_other_is_new():
    numbers = itertools.count()
    graphs = cells_of_small_steps(100, lambda: str(next(numbers)))
    nodes = one_graph_of(graphs).nodes
    assert (sum(map(len, graphs)), len(nodes)) == (600, 501)
    assert len({node.parameters["number"] for node in nodes.values()}) == 501

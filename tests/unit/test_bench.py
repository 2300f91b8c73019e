"""The bench's frame: figures and their bounds, interleaving, the history, the pages, areas that fail."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from repro.base.errors import BundleError, CouldNotRun, UsageError
from repro.base.paths import Paths
from repro.bench import history, page, run
from repro.bench.figure import AT_LEAST, AT_MOST, Figure, shown
from repro.bench.goals import GOALS
from repro.bench.workbench import Sample, Workbench


def figure(value=2.0, relation=AT_LEAST, bound=1.5, name="a figure"):
    return Figure("1 goal", name, value, "x", "this / that", relation, bound, (1.0, 3.0), 3, "outputs <equal>")


@pytest.mark.parametrize(
    ("value", "relation", "bound", "met"),
    [
        (2.0, AT_LEAST, 2.0, True),
        (1.999, AT_LEAST, 2.0, False),
        (2.0, AT_MOST, 2.0, True),
        (2.001, AT_MOST, 2.0, False),
        (2.0, "", None, None),
    ],
)
def test_a_bound_is_met_at_its_very_value(value, relation, bound, met):
    assert figure(value, relation, bound).met is met


@pytest.mark.parametrize(("relation", "bound"), [("", 1.0), (AT_LEAST, None), ("==", 1.0)])
def test_a_bound_without_its_relation_is_a_defect(relation, bound):
    with pytest.raises(BundleError, match="does not go with its bound"):
        figure(relation=relation, bound=bound)


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0"), (0.00123, "0.00123"), (12345.0, "12345"), (1e-5, "1.000e-05"), (2e7, "2.000e+07")]
)
def test_figures_are_shown_with_four_digits(value, text):
    assert shown(value) == text


def workbench(tmp_path):
    return Workbench(Paths(tmp_path), quick=True, scratch=tmp_path / "scratch", say=lambda _text: None)


def test_candidates_take_turns_and_every_second_round_goes_backwards(tmp_path):
    order = []
    times = workbench(tmp_path).interleaved(
        {"a": lambda: order.append("a"), "b": lambda: order.append("b") or 0.25}, rounds=3
    )
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert times["b"] == Sample((0.25, 0.25, 0.25))
    assert len(times["a"].times) == 3
    assert times["a"].low <= times["a"].median <= times["a"].high


def test_folders_of_the_scratch_folder_are_new_each_time(tmp_path):
    bench = workbench(tmp_path)
    assert bench.folder("x") != bench.folder("x")


def test_an_unknown_area_is_wrong_use():
    with pytest.raises(UsageError, match="no area 'speed'"):
        run.chosen_areas("features,speed", quick=True)


def test_quick_leaves_the_long_areas_out_unless_they_are_named():
    assert set(run.AREAS) - set(run.chosen_areas("", quick=True)) == set(run.FULL_ONLY)
    assert run.chosen_areas("scale,features", quick=True) == ("features", "scale")
    assert run.chosen_areas("", quick=False) == run.AREAS


@pytest.fixture
def areas(monkeypatch):
    def measure(bench):
        bench.say("a peer is absent")
        yield figure()
        yield figure(1.0, name="a worse | figure")

    def broken(_bench):
        yield figure(name="before it broke")
        raise CouldNotRun("the disk is full")

    found = {"features": measure, "scoring": broken}
    monkeypatch.setattr(run.importlib, "import_module",
                        lambda name: SimpleNamespace(measure=found[name.rpartition(".")[2]]))  # fmt: skip


def test_an_area_that_cannot_be_measured_is_told_and_stops_no_other(tmp_path, areas):
    said = []
    document, folder = run.run_bench(Paths(tmp_path), said.append, full=False, only="scoring,features")
    assert [item["name"] for item in document["figures"]] == ["a figure", "a worse | figure", "before it broke"]
    assert document["could_not"] == {"scoring": "the disk is full"}
    assert document["notes"] == ["a peer is absent"]
    assert json.loads((folder / "bench.json").read_text())["kind"] == "quick"
    assert "not measured: scoring: the disk is full" in page.summary(document)
    assert "bounds met: 2 of 3" in page.summary(document)
    assert list((tmp_path / "artifacts" / "tmp").iterdir()) == []


def test_the_pages_escape_what_they_show(tmp_path, areas):
    _, folder = run.run_bench(Paths(tmp_path), lambda _text: None, full=False, only="features")
    text = (folder / "bench.html").read_text()
    assert "outputs &lt;equal&gt;" in text
    assert "<equal>" not in text
    assert "a worse \\| figure" in (folder / "bench.md").read_text()


def test_a_second_run_shows_the_change_since_the_first(tmp_path, areas):
    for _ in range(2):
        _, folder = run.run_bench(Paths(tmp_path), lambda _text: None, full=False, only="features")
    assert "Beside earlier runs" in (folder / "bench.html").read_text()
    assert len(history.read(tmp_path / "artifacts" / "bench" / "history.jsonl")) == 2


def test_a_damaged_line_of_the_history_loses_no_other(tmp_path, areas):
    path = tmp_path / "artifacts" / "bench" / "history.jsonl"
    run.run_bench(Paths(tmp_path), lambda _text: None, full=False, only="features")
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2] + "\n[1]\n" + whole)
    runs = history.read(path)
    assert len(runs) == 1
    assert history.values_of(figure().as_json(), runs, runs[0]) == [2.0]
    assert history.values_of(figure().as_json(), runs, {"cpu": "another", "cores": 2}) == []


def test_history_that_is_not_there_is_empty(tmp_path):
    assert history.read(tmp_path / "none") == []


def test_every_area_says_which_decision_it_serves_and_nothing_is_measured_beside_them():
    folder = Path(run.__file__).parent
    measuring = {path.stem for path in folder.glob("*.py") if "\ndef measure(" in path.read_text(encoding="utf-8")}
    assert {each.area for each in GOALS} == measuring
    assert len({each.title for each in GOALS}) == len(GOALS)
    for each in GOALS:
        assert each.title == importlib.import_module(f"repro.bench.{each.area}").GOAL
        assert each.decision.startswith(("whether ", "how ", "what "))


KEPT = Path(__file__).parents[2] / "docs" / "performance" / "measured"


@pytest.mark.parametrize("folder", sorted(path.name for path in KEPT.iterdir()))
def test_a_kept_bench_is_shown_as_its_figures_are(folder):
    document = json.loads((KEPT / folder / "bench.json").read_bytes())
    found = (KEPT / folder / "bench.md").read_text("utf-8")
    assert found == page.markdown(document), (
        f"`invoke bench --full --to docs/performance/measured/{folder}` writes both"
    )
    assert f"measured/{folder}/bench.md" in (KEPT.parents[1] / "performance.md").read_text("utf-8")


def test_a_figure_with_a_bound_says_how_its_outputs_were_checked():
    with pytest.raises(BundleError, match="nothing says how its outputs were checked"):
        Figure("1 goal", "fast", 2.0, "x", "this / that", AT_LEAST, 1.5)
    assert Figure("1 goal", "seen", 2.0, "x", "this / that").met is None

"""A sweep's cells: a failing one is named and stops no other, equal work is kept, the page holds what was found."""

from __future__ import annotations

import json
from contextlib import nullcontext
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from _record_cases import demo_record, record_of

from repro.base.errors import CouldNotRun, StageFailed, UsageError, VerificationFailed
from repro.base.paths import Paths
from repro.display.console import Console
from repro.graph.making import Done
from repro.graph.store import Result
from repro.run.execute import Executed
from repro.sweep import command, running
from repro.sweep.command import Asked, outcome, sweep

ROOT = Path(__file__).parents[2]
TEXT = 'title = "<script>"\nrepeats = 2\n[matrix]\nbatch_sizes = [1, 8]\ndecoders = ["Greedy", "Beam"]\n'


class World:
    """A checkout in which stages are not run: what each step comes to is decided here."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.paths = Paths(root)
        self.fails: dict[str, BaseException] = {}
        self.wrong_records: set[int] = set()
        self.stored: set[str] = set()
        self.graphs: list[dict[str, object]] = []
        self.hosts = {"repeat 2": "b" * 32}
        self.said: list[str] = []
        self.outcome = "not-comparable"
        monkeypatch.setattr(running, "Session", lambda paths, console, on: SimpleNamespace(
            paths=Paths(ROOT), cache=None, store=SimpleNamespace(in_use=nullcontext)))  # fmt: skip
        monkeypatch.setattr(running, "aim", lambda options, session: SimpleNamespace())
        monkeypatch.setattr(running, "resolve", lambda options, paths, cache, target: (options.request, "weights"))
        monkeypatch.setattr(running, "execute", self.execute)
        monkeypatch.setattr(running, "record_of", self.record_of)
        monkeypatch.setattr(running, "write_run", self.write_run)

    def execute(self, session, options, target, nodes, *, go_on):
        assert go_on
        self.graphs.append(dict(nodes))
        failed = {}
        for key, node in nodes.items():  # as the runner does: what needs a failed step is given up
            needs = [source.node for source in node.inputs.values() if hasattr(source, "node")]
            lost = [failed[name] for name in needs if name in failed]
            if key in self.fails or lost:
                failed[key] = self.fails.get(key) or lost[0]
        done = {}
        for key, node in nodes.items():
            if key not in failed:
                result = Result(key, Path("none"), self.key(node), {}, key, {})
                done[key] = Done(node, result, key in self.stored, 0.0, 0.0)
        self.stored.update(done)
        return Executed(done, None, {}, [], failed)

    def key(self, node):
        return {"host": f"{self.hosts.get(node.sample, 'a' * 32)} cpu"} if node.stage.host_bound else {}

    def record_of(self, session, asked, executed, started_at):
        size = asked.request.batch_sizes[0]
        if size in self.wrong_records:
            raise VerificationFailed("score.json: $.wer: it is no number")
        document = demo_record()
        document["results"] = [result for result in document["results"] if result["batch_size"] == 8]
        document["results"][0]["batch_size"] = size
        document["request"]["batch_sizes"] = [size]
        document["results"][0]["throughput_utterances_per_s"] = 100.0 + len(asked.request.sample)
        document["verdict"]["outcome"] = self.outcome
        return record_of(document)

    def write_run(self, paths, record, *, latest):
        assert not latest
        number = len(list(self.paths.runs.glob("run-*"))) if self.paths.runs.exists() else 0
        folder = self.paths.runs / f"run-{number}"
        folder.mkdir(parents=True)
        (folder / "record.json").write_bytes(msgspec.json.encode(record))
        return folder

    def sweep(self, text: str = TEXT):
        (self.paths.root / "sizes.toml").write_text(text)
        return sweep(self.paths, Console(), Asked(str(self.paths.root / "sizes.toml")), self.said.append)

    def document(self):
        return json.loads((self.paths.results / "sweeps" / "sizes" / "sweep.json").read_text())


@pytest.fixture
def world(tmp_path, monkeypatch) -> World:
    made = World(tmp_path, monkeypatch)
    real = running._kept
    # The session's paths are the checkout's, whose conf the graphs are of; results go to the test's own folder.
    monkeypatch.setattr(running, "_kept", lambda paths, record, earlier: real(made.paths, record, earlier))
    return made


def test_every_cell_gets_a_record_and_equal_steps_run_once(world: World):
    swept = world.sweep()
    document = world.document()
    assert [cell["status"] for cell in document["cells"]] == ["done"] * 8
    assert len(list(world.paths.runs.iterdir())) == 8
    (graph,) = world.graphs
    assert len(graph) == swept.different < swept.asked == sum(cell["steps"]["asked"] for cell in document["cells"])
    assert document["steps"] == {"asked": swept.asked, "different": swept.different, "made": swept.different}


def test_the_same_command_again_makes_nothing_and_keeps_every_record(world: World):
    world.sweep()
    first = world.document()
    swept = world.sweep()
    again = world.document()
    assert swept.made == 0
    assert [cell["run"] for cell in again["cells"]] == [cell["run"] for cell in first["cells"]]
    assert [cell["record_sha256"] for cell in again["cells"]] == [cell["record_sha256"] for cell in first["cells"]]


def test_a_record_that_was_removed_or_changed_is_written_again(world: World):
    world.sweep()
    first = world.document()["cells"]
    (world.paths.runs / first[0]["run"] / "record.json").unlink()
    changed = world.paths.runs / first[1]["run"] / "record.json"
    changed.write_bytes(changed.read_bytes().replace(b"A processor", b"Another one"))
    world.sweep()
    again = world.document()["cells"]
    assert [one["run"] == other["run"] for one, other in zip(first, again)] == [False, False, *[True] * 6]


@pytest.mark.parametrize("place", ["../../outside", "/etc", "a/b", ".."])
def test_a_sweep_json_that_names_a_folder_elsewhere_is_not_read(world: World, place: str):
    world.sweep()
    path = world.paths.results / "sweeps" / "sizes" / "sweep.json"
    path.write_text(path.read_text().replace('"run-0"', json.dumps(place)))
    assert command._earlier(path.parent) == {}
    world.sweep()
    assert world.document()["cells"][0]["run"] != place


def test_a_failing_step_fails_the_cells_that_need_it_and_no_others(world: World):
    world.fails["infer@8"] = StageFailed("stage infer@8: out of memory")
    with pytest.raises(CouldNotRun) as caught:
        world.sweep()
    cells = world.document()["cells"]
    assert [(cell["batch_size"], cell["status"]) for cell in cells if cell["status"] == "failed"] == [(8, "failed")] * 4
    assert all(cell["reason"] == "stage infer@8: out of memory" for cell in cells if cell["status"] == "failed")
    assert caught.value.message.startswith(
        "4 of 8 cells failed; the first: as found, as found, cpu, fp32, Greedy, B = 8"
    )
    assert len(list(world.paths.runs.iterdir())) == 4
    world.fails.clear()
    assert len(world.sweep().cells) == 8
    assert all(cell["status"] == "done" for cell in world.document()["cells"])
    assert len(list(world.paths.runs.iterdir())) == 8


def test_bytes_that_are_wrong_end_the_sweep_with_their_own_exit_code(world: World):
    world.wrong_records.add(1)
    with pytest.raises(VerificationFailed) as caught:
        world.sweep()
    assert caught.value.exit_code == 3
    assert "score.json: $.wer" in caught.value.detail
    assert sum(cell["status"] == "done" for cell in world.document()["cells"]) == 4


def test_a_device_that_is_not_here_fails_its_cells_and_no_others(world: World, monkeypatch):
    def absent(options, session):
        if options.request.device == "npu":
            raise CouldNotRun("there is no NPU here")
        return SimpleNamespace()

    monkeypatch.setattr(running, "aim", absent)
    with pytest.raises(CouldNotRun):
        world.sweep(TEXT + 'devices = ["npu:0", "cpu"]\n')
    cells = world.document()["cells"]
    assert {(cell["device"], cell["status"]) for cell in cells} == {("npu", "failed"), ("cpu", "done")}
    assert {cell.get("reason") for cell in cells} == {None, "there is no NPU here"}


def test_what_no_run_can_have_is_wrong_use_and_nothing_runs(world: World, monkeypatch):
    def refuse(options, session):
        raise UsageError("no")

    monkeypatch.setattr(running, "aim", refuse)
    with pytest.raises(UsageError):
        world.sweep()
    assert world.graphs == [] and not world.paths.runs.exists()


def test_hosts_are_told_apart_in_the_spread(world: World):
    world.sweep()
    first = world.document()["configurations"][0]
    parts = {part["level"]: part for part in first["variance"]}
    assert (parts["host"]["groups"], parts["host"]["degrees_of_freedom"]) == (2, 1)
    assert parts["host"]["share"] == 1.0
    assert first["throughput_utterances_per_s"]["interval_over"] == "hosts"
    assert first["throughput_utterances_per_s"]["of_runs"] == [100.0, 108.0]
    assert first["runs"] == 2


def test_the_outcome_is_not_reproduced_where_any_cell_s_is(world: World):
    assert outcome(world.sweep()) == ""
    world.outcome = "not-reproduced"
    assert outcome(world.sweep()) == "not-reproduced"


class Page(HTMLParser):
    """What a page loads or runs, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data


def test_the_page_is_one_file_and_text_stays_text(world: World):
    world.fails["score@1"] = StageFailed("stage score@1: <img src=x onerror=alert(1)> \x1b[31m \u202e")
    with pytest.raises(CouldNotRun):
        world.sweep()
    folder = world.paths.results / "sweeps" / "sizes"
    html = (folder / "sweep.html").read_text()
    page = Page(html)
    assert "script" not in page.tags and "img" not in page.tags
    assert "default-src 'none'" in html and "<script>" in page.text and "onerror=alert(1)" in page.text
    assert "\x1b" not in html and "\u202e" not in html
    for words in (
        "Figures over the matrix",
        "What the spread of the throughput comes from",
        "Gower 1962",
        "of 8 cells",
    ):
        assert words in page.text, words
    assert html.count("<svg") == 3
    markdown = (folder / "sweep.md").read_text()
    assert "<script>" not in markdown and "\\<script\\>" in markdown


def test_what_is_asked_for_arrives(monkeypatch):
    from test_options import typed

    from repro.sweep import command as sweeping

    reached = []
    monkeypatch.setattr(sweeping, "plan", lambda paths, console, asked: reached.append(asked) or ["planned"])
    monkeypatch.setattr(
        sweeping, "sweep", lambda paths, console, asked, say: reached.append(asked) or SimpleNamespace(cells=())
    )
    typed("sweep", "a.toml", "--engine", "podman", "--offline", "--to", "t")
    typed("sweep", "a.toml", "--plan")
    assert reached == [
        Asked("a.toml", "t", running.How("podman", fetch=False)),
        Asked("a.toml", "", running.How("auto", fetch=True)),
    ]

"""A sweep's file: its cells, and what of it is refused; equal steps of its graphs stand once."""

from __future__ import annotations

from pathlib import Path

import pytest

from repro.base.errors import UsageError
from repro.graph.pipeline import build_graph
from repro.sweep.matrix import Cell, cells_of, read_sweep
from repro.sweep.steps import one_graph_of

ROOT = Path(__file__).parents[2]
SMALL = "[matrix]\nbatch_sizes = [1]\n"


def written(folder: Path, text: str) -> Path:
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


def cells(folder: Path, text: str) -> list[Cell]:
    path = written(folder, text)
    return cells_of(read_sweep(path), path.parent)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (SMALL + "colour = 1\n", "$.matrix"),
        ("colour = 1\n" + SMALL, "unknown field `colour`"),
        ("[matrix]\n", "batch_sizes"),
        ("[matrix]\nbatch_sizes = []\n", "$.matrix.batch_sizes"),
        ("[matrix]\nbatch_sizes = [0]\n", "$.matrix.batch_sizes[0]"),
        ("[matrix]\nbatch_sizes = [8, 8]\n", "8 stands twice"),
        ("[matrix]\nbatch_sizes = [1.5]\n", "$.matrix.batch_sizes[0]"),
        ("repeats = 0\n" + SMALL, "$.repeats"),
        ("repeats = 101\n" + SMALL, "$.repeats"),
        ("repeats = true\n" + SMALL, "$.repeats"),
        (SMALL + 'decoders = ["greedy"]\n', "$.matrix.decoders[0]"),
        (SMALL + 'decoders = [{ type = "Beam", beam_width = 0 }]\n', "beam_width"),
        (SMALL + 'decoders = [{ type = "Beam", width = 3 }]\n', "width"),
        (SMALL + 'devices = ["gpu"]\n', "$.matrix.devices[0]"),
        (SMALL + 'devices = ["npu:"]\n', "$.matrix.devices[0]"),
        (SMALL + 'precision = ["fp16"]\n', "$.matrix.precision[0]"),
        (SMALL + 'precision_modes = ["--help"]\n', "$.matrix.precision_modes[0]"),
        (SMALL + "[run]\nloop = 0\n", "$.run.loop"),
        (SMALL + '[run]\nsplit = "train"\n', "$.run.split"),
        (SMALL + 'checkpoints = [""]\n', "$.matrix.checkpoints[0]"),
        ("title = [1]\n" + SMALL, "$.title"),
        ("= 1", "is not TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, text: str, place: str):
    with pytest.raises(UsageError) as caught:
        cells(tmp_path, text)
    assert place in caught.value.message
    assert "sweep.toml" in caught.value.message


def test_a_file_that_a_path_names_must_be_there(tmp_path: Path):
    with pytest.raises(UsageError, match=r"gone\.pth: there is no such file"):
        cells(tmp_path, SMALL + 'checkpoints = ["demo", "gone.pth"]\n')


def test_too_many_cells_are_refused(tmp_path: Path):
    sizes = ", ".join(map(str, range(1, 101)))
    with pytest.raises(UsageError, match="3000 cells; the most is 2000"):
        cells(tmp_path, f"repeats = 30\n[matrix]\nbatch_sizes = [{sizes}]\n")


def test_the_cells_are_the_product_with_what_a_device_has(tmp_path: Path):
    (tmp_path / "a.pth").touch()
    found = cells(
        tmp_path,
        'repeats = 2\n[matrix]\nbatch_sizes = [1, 8]\ncheckpoints = ["demo", "a.pth"]\ndevices = ["cpu", "npu:0,1"]\n'
        'precision = ["fp32", "bf16"]\nprecision_modes = ["", "force_fp16"]\n'
        'decoders = ["Greedy", { type = "Beam", beam_width = 3 }]\n',
    )
    assert len(found) == 2 * 2 * 4 * 2 * 2
    assert len({cell.identity for cell in found}) == len({cell.name for cell in found}) == len(found)
    assert {(cell.device, cell.precision, cell.mode) for cell in found} == {
        ("cpu", "fp32", ""), ("cpu", "bf16", ""), ("npu:0,1", "", ""), ("npu:0,1", "", "force_fp16"),
    }  # fmt: skip
    assert {cell.checkpoint for cell in found} == {"demo", str(tmp_path / "a.pth")}
    assert {cell.checkpoint_label for cell in found} == {"demo", "a.pth"}


def test_a_cell_asks_for_its_own_run(tmp_path: Path):
    text = (
        'repeats = 2\n[matrix]\nbatch_sizes = [4]\ndevices = ["npu:1,0"]\nprecision_modes = ["force_fp16"]\n'
        'decoders = [{ type = "Beam", beam_width = 3, lm_alpha = 0.5 }]\n'
        '[run]\nsplit = "test"\nloop = 7\nskip_bad = true\ntoolchain = "portable"\ncann = "8.1.RC1"\n'
    )
    options = cells(tmp_path, text)[1].options("podman", fetch=False)
    request = options.request
    assert (request.batch_sizes, request.device, request.precision_mode) == ((4,), "npu", "force_fp16")
    assert (request.decode, request.beam_width, request.lm_alpha) == ("Beam", 3, 0.5)
    assert (request.split, request.loop, request.skip_bad) == ("test", 7, True)
    assert (options.engine, options.fetch, options.toolchain, options.cann) == ("podman", False, "portable", "8.1.RC1")
    assert (options.devices, request.sample) == ((1, 0), "device 1,0, repeat 2")


def test_a_plain_cell_measures_as_reproduce_does(tmp_path: Path):
    (cell,) = cells(tmp_path, SMALL)
    assert cell.options("auto", fetch=True).request.sample == ""


def test_labels_of_equal_names_are_told_apart_and_hold_no_path(tmp_path: Path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "best.pth").touch()
    found = cells(tmp_path, SMALL + 'checkpoints = ["one/best.pth", "two/best.pth"]\n')
    assert [cell.checkpoint_label for cell in found] == ["best.pth (1)", "best.pth (2)"]
    assert not any(str(tmp_path) in cell.name for cell in found)


def test_equal_steps_of_a_matrix_stand_once(tmp_path: Path):
    found = cells(tmp_path, 'repeats = 3\n[matrix]\nbatch_sizes = [1, 8]\ndecoders = ["Greedy", "Beam"]\n')
    graphs = [
        build_graph(cell.options("auto", fetch=True).request, ROOT / "conf", tmp_path / "demo.pth") for cell in found
    ]
    union = one_graph_of(graphs)
    stages = [node.stage.name for node in union.nodes.values()]
    once = {"demo_corpus": 1, "corpus": 1, "features": 1, "export": 1, "lm": 1, "batches": 2, "convert": 2, "infer": 2}
    assert {name: stages.count(name) for name in set(stages)} == {
        **once, "reference": 2, "compare": 2, "score": 4, "measure": 6,
    }  # fmt: skip
    assert union.asked == sum(map(len, graphs))
    for graph, names in zip(graphs, union.names):
        assert list(names) == list(graph)
        for key, node in graph.items():
            assert union.nodes[names[key]].argv() == node.argv()
    seen: set[str] = set()
    for key, node in union.nodes.items():  # each after its inputs
        assert {getattr(source, "node", None) for source in node.inputs.values()} - {None} <= seen
        seen.add(key)


def test_the_example_in_conf_is_a_sweep():
    path = ROOT / "conf" / "sweep.example.toml"
    assert len(cells_of(read_sweep(path), path.parent)) == 12

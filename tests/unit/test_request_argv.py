"""What a person asks for reaches the command line of the stage that it is for; spelt out, not computed by the graph."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest

from repro.graph.pipeline import NPU_STAGES, PINNED_IMAGES, Node, Output, Request, Source, build_graph

CONF, DEMO = Path("/checkout/conf"), Path("/checkout/data/demo/checkpoint.pth")
CPU = Request(batch_sizes=(8,))
NPU = Request(batch_sizes=(8,), device="npu", soc_version="Ascend310P3")
BEAM = Request(batch_sizes=(8,), decode="Beam")
END = "--out /run/out --obs /run/obs"


def graph(request: Request) -> dict[str, Node]:
    return build_graph(request, CONF, DEMO)


def line(request: Request, step: str) -> str:
    """The command line of a step, without the interpreter and its folders of output."""
    words = " ".join(graph(request)[step].argv())
    assert words.startswith("/usr/bin/python3 -m stages.") and words.endswith(END)
    return words[len("/usr/bin/python3 -m stages.") : -len(END) - 1]


LINES = {
    "demo_corpus": "demo_corpus",
    "corpus": "corpus --conf /run/in/conf --data /run/in/data",
    "export": "export --checkpoint /run/in/checkpoint",
    "features": "features --conf /run/in/conf --corpus /run/in/corpus --data /run/in/data",
    "batches@8": "batches --corpus /run/in/corpus --features /run/in/features --bs 8 --split dev",
    "convert@8": "convert --onnx /run/in/onnx --bs 8",
    "infer@8": "infer --batches /run/in/batches --model /run/in/model --bs 8",
    "score@8": "score --batches /run/in/batches --corpus /run/in/corpus --outputs /run/in/outputs --bs 8 "
    "--decode Greedy",
    "measure@8": "measure --model /run/in/model --bs 8 --loop 100",
    "reference@8": "reference --batches /run/in/batches --checkpoint /run/in/checkpoint",
    "compare@8": "compare --batches /run/in/batches --onnx /run/in/onnx --outputs /run/in/outputs "
    "--reference /run/in/reference --bs 8",
}


def test_the_plain_request_gives_these_command_lines():
    assert {step: line(CPU, step) for step in graph(CPU)} == LINES


CHANGES = {
    "loop": (CPU, {"loop": 7}, {"measure@8": "measure --model /run/in/model --bs 8 --loop 7"}),
    "split": (CPU, {"split": "test"}, {"batches@8": LINES["batches@8"].replace("--split dev", "--split test")}),
    "skip_bad": (
        CPU,
        {"skip_bad": True},
        {
            "corpus": "corpus --conf /run/in/conf --data /run/in/data --skip-bad",
            "batches@8": "batches --corpus /run/in/corpus --features /run/in/features --bs 8 --skip-bad --split dev",
        },
    ),
    "precision": (
        CPU,
        {"precision": "bf16"},
        {
            "infer@8": "infer --batches /run/in/batches --model /run/in/model --bs 8 --precision bf16",
            "measure@8": "measure --model /run/in/model --bs 8 --loop 100 --precision bf16",
        },
    ),
    "decode": (
        CPU,
        {"decode": "Beam"},
        {
            "lm": "lm --corpus /run/in/corpus",
            "score@8": "score --batches /run/in/batches --corpus /run/in/corpus --lm /run/in/lm --outputs "
            "/run/in/outputs --beam-width 10 --bs 8 --decode Beam --lm-alpha 0.1",
        },
    ),
    "beam_width": (
        BEAM,
        {"beam_width": 25},
        {"score@8": "score --batches /run/in/batches --corpus /run/in/corpus --lm /run/in/lm --outputs "
         "/run/in/outputs --beam-width 25 --bs 8 --decode Beam --lm-alpha 0.1"},
    ),
    "lm_alpha": (
        BEAM,
        {"lm_alpha": 0.25},
        {"score@8": "score --batches /run/in/batches --corpus /run/in/corpus --lm /run/in/lm --outputs "
         "/run/in/outputs --beam-width 10 --bs 8 --decode Beam --lm-alpha 0.25"},
    ),
    "pinned": (
        CPU,
        {"pinned": ("features", "export", "reference")},
        {"features": LINES["features"] + " --implementation kaldi"},
    ),
    "soc_version": (
        NPU,
        {"soc_version": "Ascend310P1"},
        {"convert@8": "convert_npu --onnx /run/in/onnx --bs 8 --soc-version Ascend310P1"},
    ),
    "precision_mode": (
        NPU,
        {"precision_mode": "force_fp32"},
        {"convert@8": "convert_npu --onnx /run/in/onnx --bs 8 --precision-mode force_fp32 --soc-version Ascend310P3"},
    ),
    "cann": (
        NPU,
        {"cann": "host 8.1.RC1 V100R001C21"},
        {
            "convert@8": "convert_npu --onnx /run/in/onnx --bs 8 --cann 8.1.RC1 V100R001C21 --soc-version Ascend310P3",
            "infer@8": "infer_npu --batches /run/in/batches --model /run/in/model --bs 8 --cann 8.1.RC1 V100R001C21",
            "measure@8": "measure_npu --model /run/in/model --bs 8 --cann 8.1.RC1 V100R001C21 --loop 100",
        },
    ),
    "num_devices": (
        NPU,
        {"num_devices": 2},
        {
            "infer@8": "infer_npu --batches /run/in/batches --model /run/in/model --bs 8 --num-devices 2",
            "measure@8": "measure_npu --model /run/in/model --bs 8 --loop 100 --num-devices 2",
        },
    ),
    "device": (
        CPU,
        {"device": "npu", "soc_version": "Ascend310P3"},
        {
            "convert@8": "convert_npu --onnx /run/in/onnx --bs 8 --soc-version Ascend310P3",
            "infer@8": "infer_npu --batches /run/in/batches --model /run/in/model --bs 8",
            "measure@8": "measure_npu --model /run/in/model --bs 8 --loop 100",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("option", CHANGES)
def test_an_option_changes_the_command_lines_of_its_stages_and_no_others(option: str):
    plain, change, expected = CHANGES[option]
    asked = replace(plain, **change)
    before = {step: line(plain, step) for step in graph(plain)}
    after = {step: line(asked, step) for step in graph(asked)}
    changed = {step: after[step] for step in after if after[step] != before.get(step)}
    assert changed == expected


def test_every_field_of_a_request_is_looked_at_here():
    elsewhere = {"batch_sizes", "data", "checkpoint", "sample"}
    assert {field.name for field in fields(Request)} == set(CHANGES) | elsewhere


def test_each_batch_size_has_its_steps_with_its_number():
    nodes = graph(replace(CPU, batch_sizes=(1, 64)))
    per_size = {step.partition("@")[0] for step in LINES if "@" in step}
    for size in (1, 64):
        assert {step.partition("@")[0] for step in nodes if step.endswith(f"@{size}")} | {"reference"} == per_size
        for stage in per_size - {"reference"}:
            assert f"--bs {size} " in line(replace(CPU, batch_sizes=(1, 64)), f"{stage}@{size}") + " "
    assert nodes["infer@64"].inputs["model"].node == "convert@64"
    assert nodes["score@64"].inputs["outputs"].node == "infer@64"


@pytest.mark.parametrize(("sizes", "once"), [((1, 4, 8, 64), 8), ((1, 64), 1), ((16,), 16)])
def test_pytorch_runs_once_and_every_batch_size_is_compared_with_that_run(sizes, once):
    nodes = graph(replace(CPU, batch_sizes=sizes))
    assert [step for step in nodes if step.startswith("reference@")] == [f"reference@{once}"]
    assert nodes[f"reference@{once}"].inputs["batches"] == Output(f"batches@{once}")
    for size in sizes:
        inputs = nodes[f"compare@{size}"].inputs
        assert inputs["reference"] == Output(f"reference@{once}")
        assert inputs["batches"] == Output(f"batches@{size}")
        assert inputs.get("reference-batches", inputs["batches"]) == Output(f"batches@{once}")
        exported = Output("export") if size == once else Output(f"compare@{once}", "onnx")
        assert inputs["onnx" if size == once else "onnx-outputs"] == exported
    assert list(nodes)[-len(sizes)] == f"compare@{once}"  # the others read what it wrote


def test_the_user_s_data_and_checkpoint_are_what_the_stages_read():
    nodes = graph(replace(CPU, data=Path("/data/TIMIT"), checkpoint=Path("/data/best.pth")))
    assert "demo_corpus" not in nodes
    assert nodes["corpus"].inputs["data"] == nodes["features"].inputs["data"] == Source("data", Path("/data/TIMIT"))
    for step in ("export", "reference@8"):
        assert nodes[step].inputs["checkpoint"] == Source("checkpoint", Path("/data/best.pth"))
    assert graph(CPU)["export"].inputs["checkpoint"] == Source("checkpoint", DEMO)


def test_stages_of_the_npu_get_the_npu_and_are_of_this_machine_where_they_measure():
    nodes = graph(NPU)
    for step, name in NPU_STAGES.items():
        assert nodes[f"{step}@8"].stage.name == name
    assert [nodes[f"{step}@8"].stage.accelerator for step in NPU_STAGES] == [False, True, True]
    assert nodes["measure@8"].stage.host_bound and graph(CPU)["measure@8"].stage.host_bound
    hosts = {step for step, node in graph(CPU).items() if node.stage.host_bound}
    assert hosts == {"measure@8"}


def test_pinned_stages_run_in_their_pinned_image_and_no_others():
    nodes = graph(replace(CPU, pinned=tuple(PINNED_IMAGES)))
    images = {step: node.stage.image for step, node in nodes.items()}
    assert (images["features"], images["export"], images["reference@8"]) == (
        "kaldi",
        "exporter-pinned",
        "exporter-pinned",
    )
    others = set(nodes) - {"features", "export", "reference@8"}
    assert all(images[step] == graph(CPU)[step].stage.image for step in others)


def test_only_what_is_measured_is_measured_again():
    once, again = graph(CPU), graph(replace(CPU, sample="repeat 2"))
    assert [step for step in once if once[step] != again[step]] == ["measure@8"]
    assert again["measure@8"].sample == "repeat 2"
    assert line(CPU, "measure@8") == line(replace(CPU, sample="repeat 2"), "measure@8")


def test_each_step_takes_what_it_needs_from_the_step_that_makes_it():
    nodes = graph(replace(BEAM, batch_sizes=(1, 8)))
    wired = {
        step: {name: s.node if isinstance(s, Output) else f"{s.name} {s.path}" for name, s in node.inputs.items()}
        for step, node in nodes.items()
        if not step.endswith("@1") or step == "compare@1"
    }
    assert wired == {
        "demo_corpus": {},
        "corpus": {"data": "demo_corpus", "conf": f"conf/timit {CONF}/timit"},
        "export": {"checkpoint": f"checkpoint {DEMO}"},
        "features": {"data": "demo_corpus", "corpus": "corpus", "conf": f"conf/features {CONF}/features"},
        "lm": {"corpus": "corpus"},
        "batches@8": {"corpus": "corpus", "features": "features"},
        "convert@8": {"onnx": "export"},
        "infer@8": {"model": "convert@8", "batches": "batches@8"},
        "score@8": {"outputs": "infer@8", "batches": "batches@8", "corpus": "corpus", "lm": "lm"},
        "measure@8": {"model": "convert@8"},
        "reference@8": {"checkpoint": f"checkpoint {DEMO}", "batches": "batches@8"},
        "compare@8": {"reference": "reference@8", "onnx": "export", "outputs": "infer@8", "batches": "batches@8"},
        "compare@1": {
            "reference": "reference@8", "onnx-outputs": "compare@8", "outputs": "infer@1", "batches": "batches@1",
            "reference-batches": "batches@8",
        },
    }  # fmt: skip
    below = {source for node in nodes.values() for source in node.inputs.values() if getattr(source, "below", "")}
    assert below == {Output("compare@8", "onnx")}

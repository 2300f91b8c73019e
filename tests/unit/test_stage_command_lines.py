"""Each stage's command line: which options it has, which it needs, what kind they take, and what stands in for them."""

import argparse
import importlib

import pytest

from stages.shared import runtime_arguments

# option -> (kind, default), and REQUIRED as the default of one that must be given.
REQUIRED = "required"
FOLDER = (None, REQUIRED)
SIZE = (runtime_arguments.positive, REQUIRED)
PRECISION = (("fp32", "bf16"), "fp32")
OPTIONS = {
    "batches": {
        "features": FOLDER, "corpus": FOLDER, "bs": SIZE, "split": (("train", "dev", "test"), "dev"),
        "skip_bad": (bool, False),
    },
    "compare": {
        "reference": FOLDER, "onnx": (None, None), "onnx_outputs": (None, None), "outputs": FOLDER, "batches": FOLDER,
        "reference_batches": (None, None), "bs": SIZE,
    },
    "convert": {"onnx": FOLDER, "bs": SIZE},
    "corpus": {"data": FOLDER, "conf": FOLDER, "skip_bad": (bool, False)},
    "infer": {"model": FOLDER, "batches": FOLDER, "bs": SIZE, "precision": PRECISION},
    "lm": {"corpus": FOLDER},
    "measure": {
        "model": FOLDER, "bs": SIZE, "precision": PRECISION, "loop": (runtime_arguments.positive, 100),
    },
    "score": {
        "outputs": FOLDER, "batches": FOLDER, "corpus": FOLDER, "lm": (None, None), "bs": (int, REQUIRED),
        "decode": (("Greedy", "Beam"), "Greedy"), "beam_width": (int, 10), "lm_alpha": (float, 0.1),
    },
}  # fmt: skip

ONE_OF = {"compare": [["onnx", "onnx_outputs"]]}  # of which exactly one must be given
NEEDED = dict.fromkeys(("compare", "convert", "infer", "measure"), ("onnx", "onnxruntime", "llvmlite"))


class Seen(Exception):
    """Thrown in place of parsing, so that no stage begins."""


def described(action):
    kind = bool if action.nargs == 0 else tuple(action.choices) if action.choices else action.type
    return kind, REQUIRED if action.required else action.default


@pytest.mark.parametrize("stage", OPTIONS)
def test_options_of_a_stage_are_these(stage, monkeypatch):
    for package in NEEDED.get(stage, ()):
        pytest.importorskip(package)
    main = importlib.import_module(f"stages.{stage}").main
    found, groups = {}, []

    def parse_args(parser, arguments):
        groups.extend([action.dest for action in group._group_actions] for group in parser._mutually_exclusive_groups)
        assert all(group.required for group in parser._mutually_exclusive_groups)
        found.update({action.dest: described(action) for action in parser._actions if action.dest != "help"})
        raise Seen(*arguments)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(Seen, match="the words given"):
        main(["the words given"])
    assert groups == ONE_OF.get(stage, [])
    assert found == {**OPTIONS[stage], "out": FOLDER, "obs": FOLDER}

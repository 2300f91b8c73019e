"""The commands `stage.NAME`: one stage with all that it needs."""

from __future__ import annotations

from repro.cli.options import Run
from repro.cli.tasking import Commands, Here, show
from repro.graph.pipeline import STAGES

_TITLES = {
    "batches": "Stack frames into the model's input files",
    "compare": "Compare PyTorch, ONNX and the converted model",
    "convert": "Make the graph for ONNX Runtime",
    "convert_npu": "Convert the graph with atc",
    "corpus": "List a corpus: utterances, labels, units, waves",
    "demo_corpus": "Make demo speech in TIMIT's layout",
    "export": "Check the checkpoint, export it to ONNX",
    "features": "Kaldi's filter banks, normalised",
    "infer": "Run the model over the batches",
    "infer_npu": "Run the batches on the NPU (ais_bench)",
    "lm": "Estimate the bigram that Beam uses",
    "measure": "Time pure inference",
    "measure_npu": "Time pure inference on the NPU",
    "reference": "Run the checkpoint in PyTorch",
    "score": "Decode and score by both protocols",
}


def add_stages(commands: Commands) -> None:
    """Add a command for each stage but the demo's training, which is `demo.train`."""
    for name in sorted(set(STAGES) - {"demo_train"}):
        _add(commands, name)


def _add(commands: Commands, name: str) -> None:
    def run_one(asked: Run, here: Here) -> None:
        from repro.run.one_stage import run_stages  # noqa: PLC0415 - clients of engines

        for folder in run_stages(asked.parsed(), name, here.paths, here.console):
            show(folder)

    run_one.__doc__ = (
        f"{_TITLES.get(name, 'Run stage ' + name)}.\n\nRuns stage {name} with all that it needs, as far as that is not "
        "stored; the last lines (one per batch size) are its result folders."
    )
    commands.command(f"stage.{name.replace('_', '-')}", Run)(run_one)

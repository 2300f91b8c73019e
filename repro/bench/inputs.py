"""What the areas that run the model are given: the demo's results, from the store or made before the clock runs.

A person who has run `reproduce` has most of them; the clock of no figure runs while one is made.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

from repro.bench.workbench import Workbench
from repro.display.console import Console
from repro.graph.pipeline import PRECISIONS, Request
from repro.run.inputs import DEMO, demo_checkpoint_path
from repro.run.one_stage import run_stages
from repro.run.options import Options

BATCH_SIZE = 8


@dataclass(frozen=True)
class Inputs:
    """The demo's dev set and model as folders of stages' results, for batches of BATCH_SIZE.

    Attributes:
        export: the plain ONNX graph of PyTorch's exporter.
        model: the converted graph.
        batches: the dev set's input files and manifest.
        reference: PyTorch's log-probabilities for every one of them.
    """

    checkpoint: Path
    export: Path
    model: Path
    batches: Path
    reference: Path


def demo_results(bench: Workbench, *stages: str, precision: str = PRECISIONS[0]) -> list[Path]:
    """The out/ of each of these stages on the demo; those that are not stored are made in the sandbox and stored."""
    request = Request(batch_sizes=(BATCH_SIZE,), precision=precision)
    options = Options(request, data_option=DEMO, checkpoint_option=DEMO, engine="sandbox")
    return [run_stages(options, stage, bench.paths, Console(io.StringIO()))[0] for stage in stages]


def demo_inputs(bench: Workbench) -> Inputs:
    """The results that the areas which run the model are given."""
    return Inputs(demo_checkpoint_path(bench.paths), *demo_results(bench, "export", "convert", "batches", "reference"))

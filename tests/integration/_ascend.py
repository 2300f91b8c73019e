"""A checkout of its own whose CANN image is made from the simulator's packages, and runs on a simulated host.

The images are the repository's own, except their Python: cann-python and cann-python311 stand on the runtime image
(Python 3.11 with ONNX Runtime, which the simulator computes by).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repro.base import user_lock
from repro.base.paths import Paths
from repro.display.console import Console
from repro.graph.pipeline import Request
from repro.record import record_bytes
from repro.run.options import Options
from repro.run.reproduce import reproduce
from tests.integration._runs import GOLDEN, ROOT
from tests.simulators.ascend.host import AscendHost
from tests.simulators.ascend.packages import VERSION, write_packages

_CANN_PYTHON = """description = "runtime, in place of Python 3.7.5: the simulator computes by ONNX Runtime"
extends = "runtime"
optional = "made for tests"
"""


def checkout(root: Path, ais_bench: Path | None = None, versions: Sequence[str] = (VERSION,)) -> Paths:
    """Conf, images, stages and demo of this checkout below `root`, with the simulator's packages in data/sources.

    Args:
        root: an empty folder.
        ais_bench: the vendor's wheel, in place of the stand-in.
        versions: of CANN, whose packages are put there.
    """
    for name in ("conf", "docker", "stages"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "site.toml"))
    for name in ("cann-python", "cann-python311"):
        (root / "docker" / name / "image.toml").write_text(_CANN_PYTHON)
    (root / "data").mkdir()
    (root / "data" / "demo").symlink_to(ROOT / "data" / "demo")
    for version in versions:
        write_packages(root / "data" / "sources", ais_bench=ais_bench, version=version)
    artifacts = root / "artifacts"
    (artifacts / "oci" / "blobs" / "sha256").mkdir(parents=True)
    for blob in (ROOT / "artifacts" / "oci" / "blobs" / "sha256").iterdir():
        if blob.name.isalnum():
            _link(blob, artifacts / "oci" / "blobs" / "sha256" / blob.name)
    others = shutil.ignore_patterns(".*")  # what a test beside this one is just building
    shutil.copytree(ROOT / "artifacts" / "layers", artifacts / "layers", ignore=others)
    (artifacts / "cache").symlink_to(ROOT / "artifacts" / "cache")
    paths = Paths(root)
    user_lock.accept(paths, "CANN")
    return paths


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)


def run(paths: Paths, host: AscendHost | None, engine: str, *sizes: int, **more: Any) -> dict[str, Any]:
    """A run on golden's corpus with the demo checkpoint: on the simulated NPU, or on the CPU where `host` is None.

    Args:
        more: fields of Options, or of Request.
    """
    of_options = {name: more.pop(name) for name in ("toolchain", "devices", "force", "cann") if name in more}
    request = Request(
        batch_sizes=sizes or (8,),
        device="cpu" if host is None else "npu",
        loop=more.pop("loop", 2),
        **more,
    )
    where = {} if host is None else {"ascend_host": host.make(paths.root / "ascend")}
    options = Options(
        request=request,
        data_option=str(GOLDEN / "TIMIT"),
        checkpoint_option="demo",
        engine=engine,
        **{"toolchain": "portable", **of_options},
        **where,
    )
    return json.loads(record_bytes(reproduce(options, paths, Console())))

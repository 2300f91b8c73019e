"""The unit tests that need torch, run where torch is: in the exporter image, on its Python 3.9 and PyTorch 1.8.0."""

from __future__ import annotations

import re
from pathlib import Path

from _runs import ROOT

from repro.base.paths import Paths
from repro.container.job import Job, Limits, Mount
from repro.display.console import Console
from repro.run.session import Session

_NEEDS_TORCH = re.compile(r"importorskip\(.torch.\)")


def test_tests_that_need_torch_pass_in_the_exporter_image(tmp_path: Path):
    wanted = sorted(p.name for p in (ROOT / "tests" / "unit").glob("test_*.py") if _NEEDS_TORCH.search(p.read_text()))
    assert wanted
    session = Session(Paths(ROOT, tmp_path), Console())
    image = session.images({"exporter-tests"}, fetch=True)["exporter-tests"]
    engine = session.engine("sandbox", fetch=True).engine
    engine.prepare(image)
    tests = [f"/run/in/repository/tests/unit/{name}" for name in wanted]
    job = Job(
        image,
        ("/usr/bin/python3", "-m", "pytest", "-q", "-c", "/dev/null", "-p", "no:cacheprovider", "-rs", *tests),
        mounts=(
            Mount(ROOT / "tests", "/run/in/repository/tests"),
            Mount(ROOT / "stages", "/run/in/repository/stages"),
            Mount(ROOT / "conf", "/run/in/repository/conf"),
            Mount(ROOT / "data" / "demo", "/run/in/repository/data/demo"),
        ),
        env={"PYTHONPATH": "/run/in/repository"},
        limits=Limits(timeout_s=1200),
        name="torch-tests",
    )
    lines: list[str] = []
    outcome = engine.run(job, lambda _, line: lines.append(line))
    text = "\n".join(lines)
    assert outcome.exit_code == 0, text
    counted = re.search(r"(\d+) passed", text)
    assert counted, text
    assert int(counted.group(1)) > len(wanted)
    assert "could not import 'torch'" not in text, text

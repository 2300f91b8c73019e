"""What integration tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repro.base.locking import locked
from tests.integration import _runs, _trial

HERE = Path(__file__).parent
# The files that take minutes, the longest first: what begins last should be short, so that no processor is idle.
LONGEST = (
    "test_quick_bench", "test_slurm", "test_reproduce", "test_bundle", "test_npu_path", "test_exact_everywhere",
    "test_hostile_campaign", "test_npu_audit", "test_images", "test_audit", "test_torch_in_image", "test_engines",
    "test_containment", "test_crashes", "test_fidelity", "test_rebuilders", "test_validators",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == HERE:
            item.add_marker(pytest.mark.integration)
    items.sort(key=_when)  # files stay together


def _when(item: pytest.Item) -> int:
    """The long files of integration, its others, then everything else."""
    if item.path.parent != HERE:
        return len(LONGEST) + 1
    return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Path:
    """Results of one quick run in the sandbox, made once for all processes of a session: take `_runs.copy_of` them."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    folder.mkdir(exist_ok=True)
    with locked(folder):
        if not (folder / "results" / "runs").exists():
            _runs.reproduce(folder / "results", "--engine", "sandbox")
    return folder / "results"


@pytest.fixture(scope="session")
def trial_image():
    """Made once, before threads ask for it."""
    return _trial.image()


@pytest.fixture(scope="module")
def browser():
    """Chromium for one module: Playwright's event loop must not be there when another module starts its own."""
    from tests.integration._pages import chromium

    with chromium() as started:
        yield started


@pytest.fixture(scope="session", autouse=True)
def _no_trial_left_behind():
    yield
    _trial.clean_up()

"""What integration tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import _trial


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.integration)


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

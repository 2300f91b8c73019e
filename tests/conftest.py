"""What all tests share. Some run in an image without `repro`, so this imports nothing of it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def _a_machine_of_its_own(tmp_path_factory):
    """Tests that measure wait for no other run on this machine, and none waits for them."""
    os.environ["BUNDLE_MACHINE_LOCK"] = str(tmp_path_factory.mktemp("machine") / "lock")

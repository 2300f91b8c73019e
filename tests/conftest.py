"""What all tests share."""

from __future__ import annotations

import os

import pytest

from repro.graph.alone import VARIABLE


@pytest.fixture(scope="session", autouse=True)
def _a_machine_of_its_own(tmp_path_factory):
    """Tests that measure wait for no other run on this machine, and none waits for them."""
    os.environ[VARIABLE] = str(tmp_path_factory.mktemp("machine") / "lock")

"""What all tests share. Some run in an image without `repro`, so this imports nothing of it."""

from __future__ import annotations

import contextlib
import gc
import os
import time

import pytest

from tests.open_descriptors import open_descriptors

with contextlib.suppress(ImportError):  # an image without `repro` has no hypothesis either
    from hypothesis import HealthCheck, settings

    # How long an example takes tells what else this machine does, and nothing about the code.
    settings.register_profile("any load", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any load")


@pytest.fixture(scope="session", autouse=True)
def _a_machine_of_its_own(tmp_path_factory):
    """Tests that measure wait for no other run on this machine, and none waits for them."""
    os.environ["BUNDLE_MACHINE_LOCK"] = str(tmp_path_factory.mktemp("machine") / "lock")


@pytest.fixture(autouse=True)
def _closes_what_it_opened(request):
    """A test leaves no descriptor open, or the thousandth fails in another test's name.

    What only its fixtures' values or a reference cycle hold is no fault: both end with it, here at once.
    """
    before = open_descriptors()
    yield
    if len(open_descriptors()) > len(before):
        request.node.funcargs.clear()
        gc.collect()
        give_up_s = time.monotonic() + 10
        while len(open_descriptors()) > len(before) and time.monotonic() < give_up_s:
            time.sleep(0.05)  # a thread may be about to close it
        left = sorted(name for number, name in open_descriptors().items() if number not in before)
        assert len(open_descriptors()) <= len(before), f"left open: {left}"

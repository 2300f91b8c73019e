"""Long tests have two forms: what CI has minutes for, and everything. `invoke test --full` asks for everything."""

from __future__ import annotations

import os

import pytest

FULL = os.environ.get("TESTS") == "full"
only_in_full = pytest.mark.skipif(not FULL, reason="long: runs with `invoke test --full`, or TESTS=full before pytest")

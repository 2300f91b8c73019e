"""How slow this machine is, where somebody says so: time limits are then so many times as long."""

from __future__ import annotations

import os

from repro.base.errors import UsageError

VARIABLE = "BUNDLE_TIME_FACTOR"
HINT = f"on a slow or emulated machine, {VARIABLE}=10 makes time limits ten times as long"
_MOST = 1000.0


def time_factor() -> float:
    """What time limits are multiplied with: BUNDLE_TIME_FACTOR, from 1 to 1000; 1 where it is not set.

    Raises:
        UsageError: it is no such number.
    """
    text = os.environ.get(VARIABLE, "")
    try:
        factor = float(text or 1)
    except ValueError:
        factor = 0.0
    if not 1 <= factor <= _MOST:
        raise UsageError(f"{VARIABLE}={text!r} is no number from 1 to {_MOST:.0f}", hint=HINT)
    return factor

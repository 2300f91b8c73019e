"""The short form of the campaign in tests/campaigns/crashes.py: kills, full disks, shims; its counts are printed."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.campaigns.crashes import ROOT, short


def test_nothing_is_lost_or_left_behind_by_kills_full_disks_and_missing_locks(trial_image):
    # below artifacts/, where hard links to the images can be made
    with tempfile.TemporaryDirectory(prefix="crashes-", dir=ROOT / "artifacts") as name:
        tally = short(Path(name))
    print(dict(tally.counts))
    assert tally.failures == []
    assert sum(tally.counts.values()) >= 7

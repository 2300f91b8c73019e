"""Slurm for real, from Debian's packages: the short form of tests/campaigns/cluster.py, on a cluster of its own."""

from __future__ import annotations

import pytest

from tests.campaigns import cluster
from tests.forms import FULL

pytestmark = pytest.mark.integration
PARTS = (*cluster.PARTS[:-1], *cluster.LONG, cluster.PARTS[-1]) if FULL else cluster.PARTS
KILLS = 20 if FULL else cluster.SHORT_KILLS


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, object]]:
    why = cluster.is_possible()
    if why:
        pytest.skip(f"no Slurm cluster can be started here: {why}")
    return cluster.run(kills=KILLS, parts=list(PARTS), timeout_s=3600 if FULL else 3000)


@pytest.mark.parametrize("part", PARTS)
def test_stages_are_jobs_whatever_happens_to_nodes_disks_and_submitters(found, part: str):
    """Each part says in its own words what it is about: see `Campaign`."""
    assert found[part]["wrong"] == [], getattr(cluster.Campaign, part).__doc__

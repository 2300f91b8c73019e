"""A campaign of hostile stages through the graph's own runner, in every engine that this machine has.

Each is contained, ends with a named error or leaves nothing but plain files, is cleared away, and the next stage works.
The short form is what CI runs: most acts in the sandbox, some in Docker and Podman. The full form runs every act in
every engine, at full size:

    TESTS=full python -m pytest -s -n 0 tests/integration/test_hostile_campaign.py
"""

from __future__ import annotations

import collections
import time
import uuid
from pathlib import Path

import pytest

from repro.base.confined import TreeLimits
from repro.base.errors import BundleError, StageFailed, VerificationFailed
from repro.graph.pipeline import Node, Source, StageDefinition
from tests.forms import FULL
from tests.integration import _trial
from tests.integration.hostile import stage as hostile
from tests.integration.test_containment import survivors
from tests.unit._graph_cases import Bench

pytestmark = [pytest.mark.timeout(7200 if FULL else 3600)]
LEAVES = TreeLimits(entries=1_000, depth=8, total_bytes=64 << 20)
TAKEN, REFUSED, FAILED = "taken", "refused", "failed"
EITHER = (TAKEN, REFUSED)
HANGING = ("stops_itself", "never_ends", "left_holding_the_output", "kills_all", "forks", "swallows_memory")
EVERY = {"docker": 9, "podman": 18}  # of which one runs there too; the host takes in what any engine leaves

EXPECTED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((name for name in hostile.ACTS if name.startswith(("link_", "fifo", "commands_"))), (REFUSED,)),
    **{f"{kind}_{name}": (REFUSED,) for kind in ("name", "folder") for name in hostile.NAMES},
    **dict.fromkeys(
        (
            "log_is_a_link",
            "log_is_a_file",
            "log_is_a_folder",
            "folder_behind_a_link",
            "unix_socket",
            "sparse_giant",
            "sparse_giants",
            "sparse_giant_in_obs",
            "real_giant",
            "many_files",
            "many_folders",
            "many_observations",
            "deep_tree",
            "deep_tree_in_obs",
            "paths_longer_than_the_kernel_takes",
            "deeper_than_declared",
            "set_user_id_far_down",
        ),
        (REFUSED,),
    ),
    **dict.fromkeys(
        (
            "error_with_escapes",
            "error_without_end",
            "stops_itself",
            "never_ends",
            "dies_by_a_fault",
            "ends_with_255",
            "swallows_memory",
        ),
        (FAILED,),
    ),
    "commands_is_a_folder": EITHER,  # no file of that name: an observation like any other
    **dict.fromkeys(hostile.FLOODS, (TAKEN, FAILED)),
    **dict.fromkeys(("many_files", "many_folders"), (REFUSED, FAILED) if FULL else (REFUSED,)),
    # A device may be made or not, another user's root may read what is closed or not, a race may be won or lost.
    **dict.fromkeys(
        (
            "device_zero",
            "device_disk",
            "device_whiteout",
            "closed_file",
            "closed_folder",
            "closed_output",
            "left_writing",
            "left_renaming",
            "left_linking",
        ),
        EITHER,
    ),
    # The init ends with what it holds, or with the stage; both are an end.
    **dict.fromkeys(
        ("left_holding_the_output", "kills_all", "forks", "fills_its_own_places"), (TAKEN, REFUSED, FAILED)
    ),
}


# What may fail may do so for this one reason: millions of lines take longer than the stage has, 100,000 entries more
# room than the disk has.
WHY_FAILED = {
    **dict.fromkeys(hostile.FLOODS, "ran longer than its limit"),
    **dict.fromkeys(("many_files", "many_folders"), "No space left"),
}


class Campaign:
    """One engine, one checkout, and a folder of the host that nothing may reach."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.engine = _trial.engine(name)
        self.bench = Bench(folder, lambda *_: 0)
        self.bench.images = {"base": _trial.image()}
        self.bench.engine = self.engine
        self.mark = uuid.uuid4().hex
        source = Path(hostile.__file__).read_text(encoding="utf-8")
        (self.bench.stages / "first.py").write_text(f"# {self.mark}\n{source}")
        self.host = folder / "host"
        self.host.mkdir()
        self.canary = self.host / "canary"
        self.canary.write_text("the host's own")
        self.untouched = self._host_state()
        self.number = 0
        self.counts: collections.Counter[str] = collections.Counter()

    def _host_state(self):
        paths = [self.host, self.canary, *self.host.iterdir()]
        return [(str(path), path.lstat().st_mode, path.lstat().st_mtime_ns, path.lstat().st_size) for path in paths]

    def run(self, act: str) -> str:
        """One act and what became of it; raises AssertionError where it was not contained."""
        ended, error = self._one(act)
        self.counts[ended] += 1
        assert ended in EXPECTED.get(act, (TAKEN,)), f"{act} was {ended}: {error}"
        if error is not None:
            text = error.diagnostics()
            assert ended != FAILED or WHY_FAILED.get(act, "") in text, f"{act}: {text}"
            assert "first" in error.message, text
            assert not any(ord(letter) < 32 and letter != "\n" for letter in text), repr(text)
            assert "\u202e" not in text
            assert len(text) < 20_000
        assert self._host_state() == self.untouched, f"{act} reached the host"
        assert self.canary.read_text() == "the host's own"
        assert sorted(path.name for path in (self.bench.root / "artifacts" / "tmp").glob("*")) == [], act
        assert survivors(self.mark) == [], act
        after, error = self._one("honest")
        assert after == TAKEN, f"after {act}: {error}"
        return ended

    def _one(self, act: str) -> tuple[str, BundleError | None]:
        self.number += 1
        timeout_s = 3.0 if act in HANGING else 120.0
        definition = StageDefinition("first", "base", timeout_s=timeout_s, memory_bytes=256 << 20, leaves=LEAVES)
        parameters = {
            "act": act,
            "size": "full" if FULL else "short",
            "canary": str(self.canary),
            "number": str(self.number),
        }
        node = Node("first", definition, {"data": Source("data", self.bench.data)}, parameters)
        try:
            self.bench.runner().run({"first": node})
        except StageFailed as error:
            return FAILED, error
        except VerificationFailed as error:
            return REFUSED, error
        return TAKEN, None


def acts_for(engine: str) -> list[str]:
    """In the short form every second of the acts that differ in their data alone; in Docker and Podman a few of all."""
    acts = [act for act in hostile.ACTS if act != "honest"]
    if FULL:
        return acts
    alike = [act for act in acts if act.startswith(("name_", "folder_", "commands_", "progress_", "output_"))]
    acts = [act for act in acts if act not in alike[::2]]
    return acts if engine == "sandbox" else acts[:: EVERY[engine]]


@pytest.mark.parametrize("name", sorted(_trial.MAKERS))
def test_every_hostile_stage_is_contained_named_and_cleared_and_the_next_one_works(
    name: str, tmp_path: Path, trial_image
):
    campaign = Campaign(name, tmp_path)
    chosen = acts_for(name)
    wrong, began_s = [], time.monotonic()
    for act in chosen:
        try:
            campaign.run(act)
        except AssertionError as error:
            wrong.append(f"{act}: {str(error).splitlines()[0]}")
    counts = ", ".join(f"{count} {ended}" for ended, count in sorted(campaign.counts.items()))
    took_s = time.monotonic() - began_s
    print(f"\n{name}: {len(chosen)} hostile stages in {took_s:.0f} s: {counts}; {len(wrong)} not contained")
    assert wrong == []
    if name == "sandbox":
        assert len(chosen) >= 60


def test_every_act_is_expected_to_end_in_a_way_that_is_known():
    assert set(EXPECTED) <= set(hostile.ACTS)
    assert len(hostile.ACTS) > 100

"""The user's checkpoint: no digest of it is published, so the first one seen is held to, and a run says so."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from repro.base import user_lock
from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.fetching.archives import fetch_source
from repro.graph.digests import StatCache
from repro.locks.archives import load_sources
from repro.run import inputs

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def paths(tmp_path) -> Paths:
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    (tmp_path / "data" / "sources").mkdir(parents=True)
    return Paths(tmp_path)


def found(paths: Paths, option: str = "") -> inputs.Checkpoint:
    return inputs.find_checkpoint(paths, option, StatCache(None))


@pytest.mark.parametrize("place", ["ctc_best_model.pth", "checkpoint/ctc_best_model.pth", "sources/ctc_best_model.pth"])
def test_the_first_checkpoint_is_recorded_and_another_of_its_name_refused(paths, place):
    path = paths.data / place
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"weights")
    first = found(paths)
    assert (first.path, first.kind, first.sha256) == (path, "user", sha256_bytes(b"weights"))
    assert first.trust == "trusted on first use: recorded now in data/user.lock.json"
    assert found(paths).trust == "trusted on first use: equal to the one in data/user.lock.json"
    path.write_bytes(b"other weights")
    with pytest.raises(VerificationFailed, match="the one seen first had") as caught:
        found(paths)
    assert "remove ctc_best_model.pth from data/user.lock.json" in caught.value.hint


def test_a_checkpoint_that_was_fetched_is_held_to_what_was_fetched(paths):
    source = load_sources(paths.conf)["checkpoint"]
    assert source.urls and source.first_use
    path = fetch_source(paths, source, lambda _: iter([b"weights"]))
    assert found(paths).trust == "trusted on first use: equal to the one in data/user.lock.json"
    path.write_bytes(b"replaced before the first run")
    with pytest.raises(VerificationFailed, match="seen first"):
        found(paths)


def test_a_lock_that_is_no_json_is_said_and_not_overwritten(paths):
    (paths.data / "ctc_best_model.pth").write_bytes(b"weights")
    (paths.data / "user.lock.json").write_text("{")
    with pytest.raises(UsageError, match=r"user\.lock\.json is not valid JSON"):
        found(paths)
    assert (paths.data / "user.lock.json").read_text() == "{"


def test_a_path_that_is_not_there_is_wrong_use_and_a_missing_demo_cannot_be_verified(paths):
    with pytest.raises(UsageError, match="there is no such file"):
        found(paths, "nowhere.pth")
    with pytest.raises(CouldNotVerify, match="missing from the checkout"):
        found(paths, "demo")
    assert user_lock.read(paths) == {}

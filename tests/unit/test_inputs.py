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
from repro.graph.cache import StatCache
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
    with pytest.raises(UsageError, match=r"user\.lock\.json is not a lock"):
        found(paths)
    assert (paths.data / "user.lock.json").read_text() == "{"


def test_a_path_that_is_not_there_is_wrong_use_and_a_missing_demo_cannot_be_verified(paths):
    with pytest.raises(UsageError, match="there is no such file"):
        found(paths, "nowhere.pth")
    with pytest.raises(CouldNotVerify, match="missing from the checkout"):
        found(paths, "demo")
    assert user_lock.read(paths) == {}


@pytest.mark.parametrize(
    "name",
    ["TIMIT.zip", "Timit", "timit.tar.gz", "timit.ZIP", "DATA.ZIP", "data.tar", "TIMIT_LDC93S1", "Train", "TEST"],
)
def test_what_was_surely_meant_as_data_is_named_and_the_demo_not_taken(paths, name):
    place = paths.data / name
    if "." in name:
        place.write_bytes(b"")
    else:
        place.mkdir()
    with pytest.raises(UsageError, match=f"data/{name}") as caught:
        inputs.find_data(paths, "")
    assert caught.value.hint
    assert inputs.find_data(paths, "demo") is None
    assert inputs.find_data(paths, str(place)) == place


def test_a_link_to_a_data_set_that_is_gone_is_named(paths):
    (paths.data / "TIMIT").symlink_to(paths.data / "nowhere")
    with pytest.raises(UsageError, match="data/TIMIT") as caught:
        inputs.find_data(paths, "")
    assert "leads nowhere" in caught.value.hint


@pytest.mark.parametrize("name", ["README.md", "user.lock.json", "demo", "notes.txt", "Database"])
def test_other_things_in_data_do_not_stop_the_demo(paths, name):
    (paths.data / name).write_bytes(b"")
    assert inputs.find_data(paths, "") is None


@pytest.mark.parametrize(
    ("name", "folder", "said"),
    [
        ("ctc_best_model.pth", True, "is a folder"),
        ("checkpoint/ctc_best_model.pth.tar", False, "not looked at"),
        ("CTC_best_model.pth", False, "not looked at"),
        ("my_model.pth", False, "not looked at"),
        ("sources/ctc_best_model (1).pth", False, "not looked at"),
    ],
)
def test_a_checkpoint_under_another_name_is_named_and_the_demos_not_taken(paths, name, folder, said):
    place = paths.data / name
    place.parent.mkdir(exist_ok=True)
    if folder:
        place.mkdir()
    else:
        place.write_bytes(b"weights")
    with pytest.raises(UsageError, match=said) as caught:
        found(paths)
    assert "--checkpoint" in caught.value.hint


def test_a_folder_in_place_of_a_checkpoint_is_said_to_be_one(paths):
    with pytest.raises(UsageError, match="this is a folder"):
        found(paths, str(paths.data))


def test_only_the_published_name_is_held_to_its_first_digest(paths, tmp_path):
    for experiment in ("exp1", "exp2"):
        (tmp_path / experiment).mkdir()
        (tmp_path / experiment / "best.pth").write_bytes(experiment.encode())
        checkpoint = found(paths, str(tmp_path / experiment / "best.pth"))
        assert checkpoint.sha256 == sha256_bytes(experiment.encode())
        assert checkpoint.trust == "the user's own: known by this digest alone"
    assert user_lock.read(paths) == {}
    published = tmp_path / "exp1" / "ctc_best_model.pth"
    published.write_bytes(b"first")
    assert "recorded now" in found(paths, str(published)).trust
    published.write_bytes(b"second")
    with pytest.raises(VerificationFailed, match="the one seen first"):
        found(paths, str(published))

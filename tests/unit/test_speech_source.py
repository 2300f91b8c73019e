"""Of the user's speech the host looks at what the corpus stage looks at, and at nothing else."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from repro.base.errors import CouldNotRun, UsageError
from repro.graph.cache import StatCache
from repro.graph.digests import digest_folder, digest_of_files
from repro.graph.sources import SPEECH, digest_source
from stages.formats.source import find_corpus, open_source

NO_CACHE = StatCache(None)


@pytest.fixture
def timit(tmp_path: Path) -> Path:
    root = tmp_path / "TIMIT"
    for path in ("TRAIN/DR1/FCJF0/SI1027.WAV", "TEST/DR4/FADG0/SX52.WAV", "TEST/DR4/FADG0/SX52.PHN"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return root


def digest(root: Path) -> str:
    return digest_source(root, NO_CACHE, SPEECH)


def test_a_clean_folder_has_the_digest_of_all_its_files(timit: Path):
    assert digest(timit) == digest_of_files(digest_folder(timit, NO_CACHE, "all"))


def _link(root: Path) -> None:
    (root / "x").symlink_to("/nonexistent")


def _alias(root: Path) -> None:
    (root / "timit").symlink_to("TRAIN")


def _lost_and_found(root: Path) -> None:
    (root / "lost+found").mkdir(mode=0)


def _hidden(root: Path) -> None:
    (root / "TRAIN" / ".cache").mkdir()
    (root / "TRAIN" / ".cache" / "x").symlink_to("/etc/hostname")
    (root / "TRAIN" / "DR1" / "._SX1.WAV").write_text("litter")
    (root / "__MACOSX").mkdir()


def _documents(root: Path) -> None:
    (root / "DOC").mkdir()
    (root / "DOC" / "README.DOC").write_text("about")
    os.mkfifo(root / "pipe")


@pytest.mark.parametrize("add", [_link, _alias, _lost_and_found, _hidden, _documents])
def test_what_lies_beside_train_and_test_or_is_hidden_counts_for_nothing(timit: Path, add):
    before = digest(timit)
    add(timit)
    assert digest(timit) == before
    assert find_corpus(open_source(str(timit))) == ("", "TRAIN", "TEST")  # the stage thinks so too


@pytest.mark.parametrize("add", [_link, _lost_and_found, _hidden, _documents])
def test_the_same_one_folder_further_down(tmp_path: Path, timit: Path, add):
    before = digest(tmp_path)
    add(tmp_path) if add is not _hidden else _hidden(timit)
    assert digest(tmp_path) == before
    assert find_corpus(open_source(str(tmp_path))) == ("TIMIT/", "TRAIN", "TEST")


@pytest.mark.parametrize("what", ["speaker", "file", "dangling", "fifo", "TRAIN"])
def test_a_link_where_speech_is_looked_for_is_wrong_use_with_advice(tmp_path: Path, timit: Path, what: str):
    shutil.move(str(timit / "TRAIN"), str(tmp_path / "real"))
    (timit / "TRAIN").mkdir()
    if what == "TRAIN":
        (timit / "TRAIN").rmdir()
        (timit / "TRAIN").symlink_to(tmp_path / "real")
    elif what == "speaker":
        (timit / "TRAIN" / "DR1").symlink_to(tmp_path / "real" / "DR1")
    elif what == "fifo":
        os.mkfifo(timit / "TRAIN" / "SX1.WAV")
    else:
        target = "/nonexistent" if what == "dangling" else tmp_path / "real" / "DR1" / "FCJF0" / "SI1027.WAV"
        (timit / "TRAIN" / "SX1.WAV").symlink_to(target)
    with pytest.raises(UsageError, match="FIFO" if what == "fifo" else "symbolic link") as caught:
        digest(timit)
    assert caught.value.exit_code == 2 and "--data" in caught.value.hint


def test_both_spellings_of_train_are_wrong_use(timit: Path):
    (timit / "train").symlink_to("TRAIN")
    with pytest.raises(UsageError, match="both TRAIN and train"):
        digest(timit)


def test_a_folder_without_speech_is_left_to_the_stage_to_refuse(tmp_path: Path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder" / "file").write_text("x")
    assert len(digest(tmp_path / "folder")) == 64


def test_a_change_of_a_wave_changes_the_digest_and_so_does_a_name(timit: Path):
    before = digest(timit)
    wave = timit / "TRAIN" / "DR1" / "FCJF0" / "SI1027.WAV"
    wave.write_text("TRAIN/DR1/FCJF0/SI1027.WAw")
    changed = digest(timit)
    wave.rename(wave.with_name("SI1028.WAV"))
    assert len({before, changed, digest(timit)}) == 3


def test_other_sources_are_read_whole_and_their_links_refused(tmp_path: Path):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "a").symlink_to("/etc/passwd")
    with pytest.raises(UsageError, match="symbolic link"):
        digest_source(tmp_path / "conf", NO_CACHE, "conf/timit")
    with pytest.raises(CouldNotRun, match="neither a file nor a folder"):
        digest_source(tmp_path / "none", NO_CACHE, "conf/timit")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CouldNotRun, match="neither a file nor a folder"):
        digest_source(tmp_path / "pipe", NO_CACHE, "checkpoint")

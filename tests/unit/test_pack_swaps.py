"""Check and use: what is swapped, changed, grown or cut short between two looks of ours is never what is trusted."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from repro.base.errors import CouldNotRun, CouldNotVerify, VerificationFailed
from repro.packing import verify_bundle
from repro.packing.installer import install
from repro.packing.installer.listing import Refused
from repro.packing.script import install_script
from repro.packing.writer import Item, write_bundle
from tests.unit import _bundle_cases as cases

KEY = cases.signer().fingerprint


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    cases.pack(tmp_path)
    return tmp_path


def installing_while(place: Path, monkeypatch, meddle) -> int:
    """Install, with something done to the file after it was verified and before anything is written."""
    look = install._check_room

    def meddled(folder, needed_bytes):
        meddle(place / "small.tar")
        look(folder, needed_bytes)

    monkeypatch.setattr(install, "_check_room", meddled)
    return install.run([str(place / "small.tar"), "--key", KEY, "--files-only"])


def test_a_file_put_in_the_bundles_place_after_the_check_is_not_what_is_installed(place, monkeypatch):
    evil = [Item.of_bytes("tree/bootstrap", b"EVIL\n", executable=True)]

    def replace(path):
        other = place / "other"
        other.mkdir()
        os.replace(cases.pack(other, [*cases.files()[:3], *evil]), path)

    assert installing_while(place, monkeypatch, replace) == 0
    assert (place / "small" / "bootstrap").read_bytes() == b"#!/bin/sh\nexit 0\n"


def test_bytes_changed_after_the_check_end_the_installation_and_leave_nothing(place, monkeypatch):
    def change(path):
        offset = next(start for name, start, _ in cases.layout(path) if name == "content of tree/bootstrap")
        with open(path, "r+b") as stream:
            stream.seek(offset)
            stream.write(b"EVIL")

    with pytest.raises(Refused, match="changed while it was being installed") as caught:
        installing_while(place, monkeypatch, change)
    assert caught.value.code == 3
    assert sorted(path.name for path in place.iterdir()) == ["config", "small.tar"]


def test_a_bundle_cut_short_after_the_check_ends_the_installation_and_leaves_nothing(place, monkeypatch):
    with pytest.raises(Refused):
        installing_while(place, monkeypatch, lambda path: os.truncate(path, 40_000))
    assert not (place / "small").exists()


def test_a_base_changed_after_the_check_ends_the_installation(place, monkeypatch):
    base = place / "base"
    base.mkdir()
    shutil.move(place / "small.tar", base / "small.tar")
    marked = [
        Item(i.path, i.source, i.size_bytes, i.executable, i.sha256, i.path.startswith("tree/")) for i in cases.files()
    ]
    cases.pack(place, marked, base=verify_bundle(base / "small.tar", [KEY]).list_sha256)
    look = install._check_room

    def meddled(folder, needed_bytes):
        data = (base / "small.tar").read_bytes()
        (base / "small.tar").write_bytes(data.replace(b"invoke==1", b"invoke==2"))
        look(folder, needed_bytes)

    monkeypatch.setattr(install, "_check_room", meddled)
    with pytest.raises(Refused, match=r"requirements/host\.txt changed") as caught:
        install.run([str(place / "small.tar"), "--key", KEY, "--files-only", "--base", str(base / "small.tar")])
    assert caught.value.code == 3 and not (place / "small").exists()


class Meddling(cases.Silent):
    """Progress that does something when the packing begins to read."""

    def __init__(self, meddle) -> None:
        self._meddle = meddle

    def begin(self, files_total, bytes_total):
        self._meddle()


@pytest.mark.parametrize(
    ("meddle", "kind", "said"),
    [
        (lambda path: path.write_bytes(b"x" * 200_000), CouldNotRun, "grew"),
        (lambda path: os.truncate(path, 10), CouldNotRun, "shrank"),
        (lambda path: path.write_bytes(b"y" * 100_000), VerificationFailed, "should have"),
    ],
)
def test_a_file_that_changes_while_it_is_packed_is_not_packed(place, meddle, kind, said):
    path = place / "layer"
    path.write_bytes(b"x" * 100_000)
    item = Item.of_file("tree/layer", path, cases.hashlib.sha256(b"x" * 100_000).hexdigest())
    target = place / "out" / "x.tar"
    with pytest.raises(kind, match=said):
        write_bundle(target, [item], cases.about(), None, Meddling(lambda: meddle(path)))
    assert list(target.parent.iterdir()) == []


def test_a_file_without_a_digest_that_changes_is_listed_as_it_was_written(place):
    path = place / "notes"
    path.write_bytes(b"before")
    item = Item.of_file("tree/notes", path)
    target = write_bundle(
        place / "out" / "x.tar", [item], cases.about(), None, Meddling(lambda: path.write_bytes(b"behind"))
    )[0]
    report = verify_bundle(target)
    assert report.failures == () and report.entries["tree/notes"].sha256 == cases.hashlib.sha256(b"behind").hexdigest()


# --- files and parts that are not plain


def test_a_fifo_in_a_parts_place_blocks_nobody(place):
    cases.pack(place, part_size_bytes=40_000)
    os.remove(place / "small.tar.002")
    os.mkfifo(place / "small.tar.002")
    (place / "install.py").write_bytes(install_script())
    done = subprocess.run(
        [sys.executable, "-I", "install.py", "small.tar.001", "--key", KEY], cwd=place, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 4 and "small.tar.002 is not a plain file" in done.stderr


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_named_as_the_bundle_must_be_a_file(place, make):
    make(place / "x.tar")
    with pytest.raises(CouldNotVerify):
        verify_bundle(place / "x.tar", [KEY])


def test_descriptors_are_given_back_when_a_bundle_is_refused(place):
    (place / "small.tar").write_bytes(bytes(4096))
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(VerificationFailed):
            verify_bundle(place / "small.tar", [KEY])
    assert len(os.listdir("/proc/self/fd")) == before


# --- parts


@pytest.fixture
def parts(place):
    items = [*cases.files(), Item.of_bytes("tree/wide", cases.noise(130_000, "wide"))]
    (place / "small.tar").unlink()
    cases.pack(place, items, part_size_bytes=50_000)
    return sorted(place.glob("small.tar.*"))


def test_a_changed_byte_of_a_file_over_several_parts_names_all_of_them(place, parts):
    data = bytearray(parts[-2].read_bytes())
    data[25_000] ^= 1
    parts[-2].write_bytes(bytes(data))
    (said,) = verify_bundle(parts[0], [KEY]).failures
    assert said.startswith("tree/wide (in ") and f" to {parts[-1].name}: one of these" in said


def test_a_changed_byte_of_a_file_in_one_part_names_that_part(place, parts):
    path = next(part for part in parts if b"invoke==1" in part.read_bytes())
    path.write_bytes(path.read_bytes().replace(b"invoke==1", b"invoke==2"))
    (said,) = verify_bundle(parts[0], [KEY]).failures
    assert said.startswith(f"tree/requirements/host.txt (in {path.name}): its content")


@pytest.mark.parametrize(
    "spelling",
    [
        lambda number: f"SMALL.TAR.{number:03d}",
        lambda number: f"SMALL.TAR.{number:03d};1",
        lambda number: f"small.tar.{number}",
        lambda number: f"small.tar.{number:02d}",
        lambda number: f"{'SMALL' if number % 2 else 'small'}.tar.{number:03d}",
    ],
)
def test_parts_are_found_however_another_file_system_spells_them(place, parts, spelling):
    there = [path.rename(place / spelling(number)) for number, path in enumerate(parts, 1)]
    assert verify_bundle(there[0], [KEY]).verified
    folder = place / "folder"
    folder.mkdir()
    for path in there:
        path.rename(folder / path.name)
    assert verify_bundle(folder, [KEY]).verified


def test_two_files_for_one_part_are_named(place, parts):
    shutil.copy(parts[1], place / "SMALL.TAR.2")
    with pytest.raises(CouldNotVerify, match=r"SMALL\.TAR\.2 and small\.tar\.002 are both part 2"):
        verify_bundle(parts[0], [KEY])


def test_a_part_that_is_too_long_is_named(place, parts):
    with open(parts[1], "ab") as stream:
        stream.write(b"x")
    assert f"{parts[1].name} is too long" in "\n".join(verify_bundle(parts[0], [KEY]).failures)


def test_one_of_its_threads_reads_while_another_is_refused(place):
    """Reading by position: no two threads share a place in the file."""
    from repro.packing.installer.archive import Archive

    archive = Archive(place / "small.tar")
    wanted = {entry.path: entry for entry in archive.listing.entries}["tree/data/demo/checkpoint.pth"]
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(archive.read(wanted.content, wanted.size_bytes))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    archive.close()
    assert set(found) == {io.BytesIO(cases.noise(5000, "weights")).getvalue()}

"""The recipe of docs/guide-airgap.md without our code, as it stands there, on sound, damaged and hostile bundles."""

from __future__ import annotations

import base64
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from repro.packing.installer.listing import BLOCK_BYTES, padding_bytes
from tests.guides.blocks import blocks_of, missing_line
from tests.unit import _bundle_cases as cases

KEY = cases.signer().fingerprint
BLOCKS = [block for block in blocks_of("docs/guide-airgap.md") if "list.json" in block.commands]

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("openssl", "jq", "sha256sum", "tar"))), reason="a tool of the recipe is missing"
)


def follow(place: Path, key: str = KEY) -> str:
    """Do what the guide says with small.tar, and stop where a reader has to; returns what is wrong, '' for nothing."""
    folder = "."
    for block in BLOCKS:
        script = f"set -e\ncd {folder}\n" + block.commands.replace("NAME", "small")
        done = subprocess.run(
            ["sh", "-c", script], cwd=place, env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"}, capture_output=True,
            text=True, check=False, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        if done.returncode:
            return done.stderr + done.stdout or f"code {done.returncode}"
        missing = missing_line(tuple(line.replace("FINGERPRINT", key) for line in block.prints), done.stdout)
        if missing:
            return f"{missing!r} is not printed"
        folder = "check"
    return ""


def test_it_is_the_guides_and_has_two_steps():
    assert [block.prints != () for block in BLOCKS] == [True, True]
    assert "openssl pkeyutl -verify" in BLOCKS[0].commands and "tar -xf" not in BLOCKS[0].commands


def test_a_sound_bundle_passes_and_its_files_are_there(tmp_path):
    cases.pack(tmp_path)
    assert follow(tmp_path) == ""
    for item in cases.files():
        assert (tmp_path / "check" / "files" / item.path).read_bytes() == item.source


def test_a_difference_passes_with_the_files_that_it_carries(tmp_path):
    items = [
        cases.Item(i.path, i.source, i.size_bytes, i.executable, i.sha256, i.path == "tree/empty")
        for i in cases.files()
    ]
    cases.pack(tmp_path, items, base="a" * 64)
    assert follow(tmp_path) == ""


def test_another_key_stops_at_its_digest(tmp_path):
    cases.pack(tmp_path)
    assert "FINGERPRINT" not in follow(tmp_path, cases.signer(2).fingerprint)
    assert follow_again(tmp_path, cases.signer(2).fingerprint) == f"'{cases.signer(2).fingerprint}  -' is not printed"
    assert not (tmp_path / "check" / "files").exists()


def follow_again(place: Path, key: str) -> str:
    shutil.rmtree(place / "check")
    return follow(place, key)


@pytest.mark.parametrize(
    "what", ["content of tree/data/demo/checkpoint.pth", "content of install.py", "header of tree/bootstrap", "list"]
)
def test_a_changed_byte_stops_it(tmp_path, what):
    path = cases.pack(tmp_path)
    offset = next(start for name, start, _ in cases.layout(path) if name == what)
    data = bytearray(path.read_bytes())
    data[offset + (20 if what == "list" else 0)] ^= 1
    path.write_bytes(data)
    assert follow(tmp_path)


def hostile_extra_and_itself(genuine: Path, target: Path) -> None:
    """Every file of a sound bundle, a program that ./bootstrap would start, and the sound bundle under NAME.tar."""
    with tarfile.open(genuine) as source, tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as made:
        for member in source:
            made.addfile(member, source.extractfile(member))
        for name, data in (("tree/.venv/bin/python", b"#!/bin/sh\necho EVIL\n"), ("small.tar", genuine.read_bytes())):
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o755
            made.addfile(info, io.BytesIO(data))


def test_a_bundle_that_replaces_itself_while_it_is_unpacked_is_found(tmp_path):
    """Its members pass each sum; the archive that the last check would read is the sound one."""
    genuine = cases.pack(tmp_path)
    sound = genuine.read_bytes()
    hostile_extra_and_itself(genuine, tmp_path / "hostile.tar")
    (tmp_path / "hostile.tar").replace(genuine)
    assert follow(tmp_path)
    assert genuine.read_bytes() != sound
    assert not list(tmp_path.glob("check/files*")) and not list(tmp_path.glob("**/python"))


@pytest.mark.parametrize("name", ["list.json", "list.dsse.json", "key.pem", "signed", "names", "sums", "../victim"])
@pytest.mark.parametrize("first", [True, False])
def test_a_link_in_a_bundle_is_not_written_through(tmp_path, name, first):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    data = json.dumps({"payload": base64.b64encode(b"echo owned\n").decode()}).encode()
    listed = tarfile.TarInfo("list.dsse.json")
    listed.size = len(data)
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, str(victim)
    with tarfile.open(tmp_path / "small.tar", "w") as made:
        for info, content in sorted([(link, b""), (listed, data)], key=lambda pair: (pair[0] is link) != first):
            made.addfile(info, io.BytesIO(content))
    assert follow(tmp_path)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_member_that_is_no_plain_file_is_found_before_it_is_written(tmp_path, kind):
    path = cases.pack(tmp_path)
    with tarfile.open(path) as source:
        members = [(member, source.extractfile(member).read()) for member in source]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as made:
        for info, data in members:
            if info.name == "tree/empty":
                info.type, info.linkname = kind, "install.py"
            made.addfile(info, io.BytesIO(data))
    assert follow(tmp_path)
    assert not (tmp_path / "check" / "files").exists()


def test_two_names_in_one_are_found(tmp_path):
    """A name with a line end in it could stand for two listed files."""
    path = cases.pack(tmp_path)
    with tarfile.open(path) as source:
        members = [(member, source.extractfile(member).read()) for member in source]
    names = [info.name for info, _ in members]
    place = names.index("README.txt")
    info = members[place][0]
    info.name = "\n".join(names[place : place + 2])
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as made:
        for each, content in [*members[: place + 1], *members[place + 2 :]]:
            made.addfile(each, io.BytesIO(content))
    assert follow(tmp_path)
    assert not (tmp_path / "check" / "files").exists()


def test_what_follows_the_archive_is_not_unpacked(tmp_path):
    path = cases.pack(tmp_path)
    info = tarfile.TarInfo("tree/evil")
    info.size = 4
    path.write_bytes(path.read_bytes() + info.tobuf() + b"EVIL" + bytes(padding_bytes(4) + 2 * BLOCK_BYTES))
    follow(tmp_path)
    assert not list(tmp_path.glob("**/evil"))

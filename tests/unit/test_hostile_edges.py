"""Small edges that hostile text or a broken machine reaches: each ends with its own error, never as a defect."""

from __future__ import annotations

import base64
import errno
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from repro.audit.labels import files_of_user
from repro.base import user_lock
from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.files import sha256_bytes
from repro.base.paths import Paths
from repro.base.system_errors import can_be_mended
from repro.base.toml import read_toml
from repro.engines.endpoint import docker_endpoint
from repro.fetching.apt_client import apt_client
from repro.images.definition import load_definition
from repro.images.in_use import published_images
from repro.images.layer_index import image_of
from repro.images.oci import publish
from repro.images.pins import PINS, load_pins
from repro.packing.repository import head
from repro.record import read_record
from repro.run.model_signature import public_keys

ROOT = Path(__file__).resolve().parents[2]


def test_a_name_in_a_record_that_looks_like_a_place_is_no_defect():
    with pytest.raises(VerificationFailed, match=r"record\.json"):
        read_record('{"x` - at `$.²": 1}'.encode(), what="record.json")


@pytest.mark.parametrize("text", ["[]", "[" * 100_000, '{"sources": []}', "{"])
def test_a_lock_of_the_user_that_is_none_is_wrong_use(tmp_path: Path, text: str):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "user.lock.json").write_text(text)
    with pytest.raises(UsageError, match=r"user\.lock\.json"):
        user_lock.read(Paths(tmp_path))


@pytest.mark.parametrize("text", ["a = " + "[" * 100_000, "a = " + "{b=" * 100_000, "[", "\x00"], ids=range(4))
def test_a_users_toml_that_is_none_is_wrong_use(tmp_path: Path, text: str):
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(UsageError, match=r"site\.toml is not TOML"):
        read_toml(tmp_path / "site.toml")


def test_no_program_is_taken_from_the_current_folder(tmp_path: Path, monkeypatch):
    (tmp_path / "apt-config").write_text("#!/bin/sh\n: >started\n")
    (tmp_path / "apt-config").chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep)
    apt_client()
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize("name", ["EFBIG", "EBUSY", "ENOTCONN", "ETIMEDOUT", "ENETUNREACH", "EILSEQ"])
def test_what_a_disk_or_a_mount_refuses_is_no_defect_of_the_program(name: str):
    assert can_be_mended(OSError(getattr(errno, name), "x"))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_a_text_for_a_full_stderr_never_ends_with_the_code_of_not_reproduced():
    code = "import sys; from repro.cli import ending; sys.exit(ending.run(lambda: sys.exit('text')))"
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=full, check=False)
    assert done.returncode == 4


def test_an_error_follows_what_was_printed_before_in_one_piece(tmp_path: Path):
    """Where both streams are one file, and in one write: another program's line may come at any moment."""
    code = """
import io, sys
from repro.base.errors import UsageError
from repro.cli import ending

written = []

class Raw(io.FileIO):
    def write(self, data):
        written.append(bytes(data))
        return super().write(data)

def action():
    print("found before")
    raise UsageError("wrong", hint="do it right")

sys.stderr = io.TextIOWrapper(io.BufferedWriter(Raw(2, "w", closefd=False)), line_buffering=True)
code = ending.run(action)
sys.exit(code if len(written) == 1 else 99)
"""
    with open(tmp_path / "both", "wb") as both:
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=both, stderr=both, check=False)
    assert (tmp_path / "both").read_text() == "found before\nerror: wrong\n-> do it right\n"
    assert done.returncode == 2


@pytest.mark.parametrize(
    "text", ["", "[]", '{"manifests": 3}', '{"manifests": [{"digest": "sha256:x", "annotations": {}}]}']
)
def test_a_damaged_index_of_images_is_named_with_what_to_do(tmp_path: Path, text: str):
    paths = Paths(tmp_path)
    paths.oci.mkdir(parents=True)
    (paths.oci / "index.json").write_text(text)
    image = image_of(load_definition(ROOT / "docker", "base"), "amd64", [])
    for use in (lambda: published_images(paths), lambda: publish(paths, image)):
        with pytest.raises(VerificationFailed, match=r"index\.json") as caught:
            use()
        assert "images.build" in caught.value.hint


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"layers": {}, "images": {"amd64": {"base": 3}}}'])
def test_damaged_pins_are_named_with_what_to_do(tmp_path: Path, text: str):
    (tmp_path / PINS).parent.mkdir(parents=True)
    (tmp_path / PINS).write_text(text)
    with pytest.raises(VerificationFailed, match=r"images\.json") as caught:
        load_pins(Paths(tmp_path))
    assert "git checkout" in caught.value.hint


@pytest.mark.parametrize("meta", ["[]", '{"Endpoints": []}', '{"Endpoints": {"docker": "x"}}', "[" * 100_000])
def test_a_context_of_docker_s_that_is_none_leads_to_the_usual_socket(tmp_path: Path, meta: str):
    place = tmp_path / ".docker" / "contexts" / "meta" / sha256_bytes(b"mine") / "meta.json"
    place.parent.mkdir(parents=True)
    place.write_text(meta)
    assert docker_endpoint({"DOCKER_CONTEXT": "mine"}, tmp_path) == docker_endpoint({}, tmp_path / "none")


def test_a_public_key_of_an_unknown_kind_is_wrong_use(tmp_path: Path):
    der = bytes.fromhex("300d 3006 06042a030405 0303 006162")
    pem = f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(der).decode()}\n-----END PUBLIC KEY-----\n"
    (tmp_path / "keys.pem").write_text(pem)
    with pytest.raises(UsageError, match="not a file of public keys"):
        public_keys(tmp_path / "keys.pem")


def test_a_git_that_cannot_be_started_counts_as_missing(tmp_path: Path, monkeypatch):
    (tmp_path / "git").write_text("no program\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CouldNotRun, match="git is missing"):
        head(tmp_path)


def _zip(path: Path, kind: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("TRAIN/DR1/FABC0/SX1.TXT", b"0 1 " + bytes(range(33, 126)) * 9)
    data = bytearray(path.read_bytes())
    listed = data.find(b"PK\x01\x02")
    if kind == "damaged":
        data[56:76] = b"\xff" * 20
    elif kind == "encrypted":
        data[6] |= 1
        data[listed + 8] |= 1
    elif kind == "packed in another way":
        data[8] = data[listed + 10] = 97
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["damaged", "encrypted", "packed in another way"])
def test_a_zip_whose_members_cannot_be_read_is_a_failed_verification(tmp_path: Path, kind: str):
    files = dict(files_of_user(_zip(tmp_path / "data.zip", kind)))
    with pytest.raises(VerificationFailed, match=r"data\.zip is not a zip file that can be read"):
        [read() for read in files.values()]

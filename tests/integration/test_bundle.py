"""Bundles as a whole: a campaign of changed bytes, and an installation on a machine that has never been online."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from repro.base.paths import Paths
from repro.packing import verify_bundle
from repro.packing.installer import install as installer
from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import Refused
from repro.packing.page import verify_page
from repro.packing.script import install_script
from repro.report.crate import METADATA
from tests.forms import only_in_full
from tests.integration._runs import QUICK, ROOT, output_digests, store_of
from tests.unit import _bundle_cases as cases

CHANGES = 1000
NOBODY = 54321  # a user that has no name, no home and no group anywhere
QUICK_THERE = ("--bs", "8", "--data", "tests/golden/TIMIT", "--checkpoint", "demo", "--loop", "2")


def _kind(region: str) -> str:
    """Regions by what they are: each kind of file's header, content and padding, the list's, the end."""
    what, _, path = region.partition(" of ")
    path = path.partition("tree/")[2] or path
    return f"{what} of {'/'.join(path.split('/')[:2])}" if path else what


def test_a_thousand_changed_bytes_are_detected_and_named_and_install_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    path = cases.pack(tmp_path)
    sound = path.read_bytes()
    key = cases.signer().fingerprint
    names = {item.path for item in cases.files()}
    counts: dict[str, int] = {}
    for what, position, value in list(cases.changes(path, CHANGES)):
        damaged = bytearray(sound)
        damaged[position] ^= value
        path.write_bytes(damaged)
        said = io.StringIO()
        with contextlib.redirect_stdout(said), pytest.raises(Refused) as caught:
            installer.run([str(path), "--key", key, "--files-only", "--to", str(tmp_path / "target")])
        text = "\n".join([caught.value.message, *caught.value.failures])
        assert caught.value.code == 3, (what, position, text)
        named = what.partition(" of ")[2]
        assert named not in names or named in text, (what, position, text)
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["small.tar"], (what, position)
        counts[_kind(what)] = counts.get(_kind(what), 0) + 1
    path.write_bytes(sound)
    assert verify_bundle(path, [key]).verified
    with capsys.disabled():
        print(f"\n{sum(counts.values())} single-byte changes, all detected and named, nothing installed:")
        for kind, count in sorted(counts.items()):
            print(f"  {count:4} {kind}")
    assert sum(counts.values()) == CHANGES


# --- from one file, on a machine without a network


def _clone(folder: Path) -> Path:
    """A clean checkout of the same commit that shares what was fetched and built, by hard links where it can."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
    shared = Paths(ROOT)
    for source in (shared.oci, shared.layer_index, shared.artifacts / "cache"):
        if source.exists():
            others = shutil.ignore_patterns(".*", "parts")  # what a test beside this one is just fetching or building
            shutil.copytree(source, folder / "artifacts" / source.name, copy_function=_link, ignore=others)
    (folder / "artifacts" / shared.rootfs.name).symlink_to(shared.rootfs)
    return folder


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@dataclass(frozen=True)
class Packed:
    """A real bundle of this checkout's commit with a run in it, and where it was packed.

    Attributes:
        bundle: the file.
        fingerprint: of the key that signed it.
        checkout: the clone that it was packed in.
        environment: of the packing.
        record: of the run that it carries.
    """

    bundle: Path
    fingerprint: str
    checkout: Path
    environment: dict[str, str]
    record: dict[str, Any]

    def task(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        settings = {"env": self.environment, "capture_output": True, "text": True, "check": False, **options}
        return subprocess.run([sys.executable, "tasks.py", *words], cwd=self.checkout, **settings)

    def pack(self, target: Path, **options: Any) -> None:
        done = self.task("bundle.pack", "--run", "latest", "--run-detail", "full", "--to", str(target), **options)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def packed(finished: Path) -> Iterator[Packed]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # who installs may be another user
        checkout = _clone(folder / "checkout")
        found = Packed(folder / "real.tar", "", checkout, {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}, {})
        made = found.task("bundle.keys.make", check=True)
        fingerprint = next(line.split()[1] for line in made.stdout.splitlines() if line.startswith("fingerprint"))
        store_of(finished, checkout / "artifacts")
        done = found.task("reproduce", *QUICK, "--engine", "sandbox")
        assert done.returncode == 0, done.stdout + done.stderr
        document = json.loads((checkout / "artifacts" / "runs" / "latest" / "record.json").read_bytes())
        found.pack(found.bundle)
        yield replace(found, fingerprint=fingerprint, record=document)


@pytest.mark.slow
def test_packing_twice_gives_the_same_bytes(packed: Packed, tmp_path: Path):
    again = tmp_path / "real.tar"
    elsewhere = {**packed.environment, "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    packed.pack(again, env=elsewhere, preexec_fn=lambda: os.umask(0o077) and None)
    assert subprocess.run(["cmp", str(packed.bundle), str(again)], check=False).returncode == 0
    archive = Archive(again)
    assert archive.content("verify.html") == verify_page()
    archive.close()


@pytest.mark.slow
def test_a_changed_byte_of_every_kind_of_file_in_a_real_bundle(packed: Packed):
    chance = random.Random(20221101)
    kinds: dict[str, list[tuple[str, int, int]]] = {}
    for region in cases.layout(packed.bundle):
        kinds.setdefault(_kind(region[0]), []).append(region)
    chosen = [chance.choice(kinds[kind]) for kind in sorted(kinds)]
    changed = []
    with open(packed.bundle, "r+b") as stream:
        for what, offset, length in chosen:
            if not what.startswith(("list", "padding of the list")):
                changed.append((what, *_change(stream, offset + chance.randrange(length))))
        stream.flush()
        said = "\n".join(verify_bundle(packed.bundle, [packed.fingerprint]).failures)
        for _, position, before in changed:
            stream.seek(position)
            stream.write(before)
    assert len(changed) > 20
    for what, _, _ in changed:
        assert (what.partition(" of ")[2] or "the archive's end") in said, what
    assert verify_bundle(packed.bundle, [packed.fingerprint]).verified


def _change(stream: Any, position: int) -> tuple[int, bytes]:
    stream.seek(position)
    before = stream.read(1)
    stream.seek(position)
    stream.write(bytes([before[0] ^ 0x20]))
    return position, before


@dataclass(frozen=True)
class Elsewhere:
    """A machine without a network, and a home that has never been used.

    Attributes:
        engine: that it has.
        place: a folder of the user there.
        python: the Python there.
        as_whom: words before a command that make it another user's; none where that is not possible.
    """

    engine: str
    place: Path
    python: str
    as_whom: tuple[str, ...]
    environment: dict[str, str]

    def run(self, *words: str, cwd: str = ".") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "-n", *self.as_whom, *words],
            cwd=self.place / cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(params=["sandbox", pytest.param("docker", marks=only_in_full)])
def elsewhere(request) -> Iterator[Elsewhere]:
    """With the sandbox a machine without any engine and, where the tests run as root, a user without a name.

    Docker, which is given the same images by test_reproduce, is tried in the full form only.
    """
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a network namespace")
    if request.param == "docker" and subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker Engine here")
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        (place / "home").mkdir()
        (place / "install.py").write_bytes(install_script())
        environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(place / "home")}
        here = Elsewhere(request.param, place, sys.executable, (), environment)
        if request.param == "sandbox":
            environment.update(DOCKER_HOST="unix:///nowhere", CONTAINER_HOST="unix:///nowhere")
            user = ("setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups")
            other = replace(here, as_whom=user, python="python3", environment={**environment, "PATH": os.defpath})
            place.chmod(0o755)
            if os.geteuid() == 0 and not other.run("python3", "-c", "import ensurepip, venv").returncode:
                here = other
                for path in (place, *place.iterdir()):
                    os.chown(path, NOBODY, NOBODY)
        yield here


@pytest.mark.slow
def test_from_the_file_alone_without_network_the_results_are_the_same(packed: Packed, elsewhere: Elsewhere):
    done = elsewhere.run(
        elsewhere.python, "-I", "install.py", str(packed.bundle), "--key", packed.fingerprint, "--to", "site"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = elsewhere.place / "site"

    done = elsewhere.run("./bootstrap", "reproduce", *QUICK_THERE, "--engine", elsewhere.engine, cwd="site")
    assert done.returncode == 0, done.stdout + done.stderr
    there = json.loads((site / "artifacts" / "runs" / "latest" / "record.json").read_bytes())
    assert output_digests(there) == output_digests(packed.record)
    assert there["identity"] == packed.record["identity"] and there["images"] == packed.record["images"]

    (carried,) = (site / "artifacts" / "received").iterdir()
    assert (carried / METADATA).is_file()
    words = ("--data", "tests/golden/TIMIT", "--engine", elsewhere.engine, "--rounds", "10", "--to", "../rerun")
    done = elsewhere.run("./bootstrap", "audit.rerun", f"artifacts/received/{carried.name}", *words, cwd="site")
    claims = _claims(elsewhere.place / "rerun")
    assert set(claims.values()) <= {"proven here", "attested", "could not verify"}, done.stderr
    for stage in packed.record["stages"]:
        assert claims[f"stage:{stage['key']}"] == claims[f"made:{stage['key']}"] == "proven here", stage["key"]
    for key in ("same-environment", "figures", "timed-is-scored@8", "verdict", "toolchain"):
        assert claims[key] == "proven here", key
    assert list((site / "artifacts" / "tmp").glob("*rerun*")) == []
    # Two executions are no figure, and a busy machine leaves the speed checks undecided.
    unsure = {key for key, status in claims.items() if status == "could not verify"}
    assert unsure <= {"speed-valid@8", "own-speed-valid@8", "no-caching@8", "no-shortcut@8"}

    words = ("--data", "tests/golden/TIMIT", "--key", packed.fingerprint, "--to", "../verify")
    done = elsewhere.run("./bootstrap", "audit.verify", ".", *words, cwd="site")
    claims = _claims(elsewhere.place / "verify")
    unsure = {key: status for key, status in claims.items() if status not in ("proven here", "attested")}
    keys = {stage["key"] for stage in packed.record["stages"] if not stage["key"].startswith("probe:")}
    others = keys - {"score@8"}  # scored here, from the bytes
    made = {f"{carried.name}: made:{key}": "true if rerun" for key in others}
    assert unsure == {**made, f"{carried.name}: speed-valid@8": "could not verify"}, done.stderr
    assert claims[f"{carried.name}: crate"] == claims["bundle-signature"] == "proven here"


def _claims(folder: Path) -> dict[str, str]:
    return {claim["key"]: claim["status"] for claim in json.loads((folder / "audit.json").read_bytes())["claims"]}

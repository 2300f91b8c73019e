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
from pathlib import Path
from typing import Any

import pytest

from bundle.installer import install as installer
from bundle.installer.listing import Refused
from bundle.packing import verify_bundle
from bundle.packing.script import install_script
from bundle.paths import Paths
from tests.integration._runs import QUICK, ROOT, output_digests, reproduce
from tests.unit import _bundle_cases as cases

CHANGES = 1000


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
    regions = cases.layout(path)
    names = {item.path for item in cases.files()}
    chance = random.Random(20221101)
    counts: dict[str, int] = {}
    for number in range(CHANGES):
        what, offset, length = regions[number % len(regions)] if number < len(regions) else chance.choice(regions)
        position, value = offset + chance.randrange(length), chance.randrange(1, 256)
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
            shutil.copytree(source, folder / "artifacts" / source.name, copy_function=_link)
    return folder


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A real bundle of this checkout's commit, signed, and the key's fingerprint."""
    folder = tmp_path_factory.mktemp("packed")
    checkout = _clone(folder / "checkout")
    environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "config")}
    command = [sys.executable, "tasks.py"]
    made = subprocess.run([*command, "bundle.keys.make"], cwd=checkout, env=environment, capture_output=True, text=True,
                          check=True)  # fmt: skip
    fingerprint = next(line.split()[1] for line in made.stdout.splitlines() if line.startswith("fingerprint"))
    target = folder / "real.tar"
    done = subprocess.run([*command, "bundle.pack", "--to", str(target)], cwd=checkout, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return target, fingerprint, checkout, environment


@pytest.mark.integration
@pytest.mark.slow
def test_packing_twice_gives_the_same_bytes(packed, tmp_path):
    target, _, checkout, environment = packed
    again = tmp_path / "real.tar"
    done = subprocess.run(
        [sys.executable, "tasks.py", "bundle.pack", "--to", str(again)], cwd=checkout,
        env={**environment, "TZ": "Asia/Tokyo", "LC_ALL": "C"}, preexec_fn=lambda: os.umask(0o077) and None,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert subprocess.run(["cmp", str(target), str(again)], check=False).returncode == 0


@pytest.mark.integration
@pytest.mark.slow
def test_a_changed_byte_of_every_kind_of_file_in_a_real_bundle(packed):
    target, fingerprint, _, _ = packed
    chance = random.Random(20221101)
    kinds: dict[str, list[tuple[str, int, int]]] = {}
    for region in cases.layout(target):
        kinds.setdefault(_kind(region[0]), []).append(region)
    chosen = [chance.choice(kinds[kind]) for kind in sorted(kinds)]
    changed = []
    with open(target, "r+b") as stream:
        for what, offset, length in chosen:
            if not what.startswith(("list", "padding of the list")):
                changed.append((what, *_change(stream, offset + chance.randrange(length))))
        stream.flush()
        said = "\n".join(verify_bundle(target, [fingerprint]).failures)
        for _, position, before in changed:
            stream.seek(position)
            stream.write(before)
    assert len(changed) > 20
    for what, _, _ in changed:
        assert (what.partition(" of ")[2] or "the archive's end") in said, what
    assert verify_bundle(target, [fingerprint]).verified


def _change(stream: Any, position: int) -> tuple[int, bytes]:
    stream.seek(position)
    before = stream.read(1)
    stream.seek(position)
    stream.write(bytes([before[0] ^ 0x20]))
    return position, before


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize("engine", ["sandbox", "docker"])
def test_from_the_file_alone_without_network_the_results_are_the_same(packed, tmp_path, engine):
    target, fingerprint, _, _ = packed
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode:
        pytest.skip("this user may not make a network namespace")
    if engine == "docker" and subprocess.run(["docker", "version"], capture_output=True, check=False).returncode:
        pytest.skip("no Docker Engine here")
    (tmp_path / "install.py").write_bytes(install_script())
    (tmp_path / "home").mkdir()
    environment = {"HOME": str(tmp_path / "home"), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    if engine == "sandbox":  # as on a machine without any engine
        environment.update(DOCKER_HOST="unix:///nowhere", CONTAINER_HOST="unix:///nowhere")

    def offline(*words: str, cwd: Path = tmp_path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "-n", *words], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    done = offline(sys.executable, "-I", "install.py", str(target), "--key", fingerprint, "--to", "site")
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    done = offline("./bootstrap", "reproduce", *QUICK, "--engine", engine, cwd=site)
    assert done.returncode == 0, done.stdout + done.stderr
    there = json.loads((site / "artifacts" / "runs" / "latest" / "record.json").read_bytes())
    here = reproduce(tmp_path / "here", "--engine", engine)
    assert output_digests(there) == output_digests(here)
    assert there["identity"] == here["identity"] and there["images"] == here["images"]

"""Installed: what a bundle takes from the file to the first report, on a machine without network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from repro.base.errors import CouldNotVerify
from repro.base.paths import Paths
from repro.bench.figure import AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.workbench import Workbench
from repro.packing.script import install_script
from repro.record import load_record
from repro.record.reading import FILE

GOAL = goal("installed").title
# Also where this checkout was given more: Kaldi's own features take five times as long as ours.
_EMBEDDED = ("--toolchain", "portable", "--data", "demo", "--checkpoint", "demo")
_REPRODUCE = ("reproduce", "--bs", "8", "--engine", "sandbox", *_EMBEDDED)


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area: a bundle of this checkout's commit, installed and run beside it."""
    folder = bench.folder("installed")
    environment = {name: value for name, value in os.environ.items() if name != "BUNDLE_RESULTS"}
    environment["XDG_CONFIG_HOME"] = str(folder / "config")  # a key of its own
    # install.py makes images ready for the first engine that it finds: here the one that the run asks for.
    environment.update(DOCKER_HOST="unix:///nowhere", CONTAINER_HOST="unix:///nowhere")
    bundle, fingerprint = _packed(bench.paths, folder, environment)
    (folder / "install.py").write_bytes(install_script())
    install = [sys.executable, "-I", "install.py", bundle.name, "--key", fingerprint, "--to", "site"]
    alone = _without_network()
    install_s = _timed([*alone, *install], folder, environment)
    run_s = _timed([*alone, "./bootstrap", *_REPRODUCE], folder / "site", environment)
    record = load_record(Paths(folder / "site").runs / "latest" / FILE)
    taken = [stage.key for stage in record.stages if stage.cached]
    if taken:
        raise CouldNotVerify(f"the run of the installed bundle took {taken} from a store")
    yield Figure(
        GOAL, "from the bundle's file to the first report", install_s + run_s, "s",
        "wall time of install.py + of `./bootstrap reproduce --bs 8` in what it installed", AT_MOST, 90.0,
        checked="the bundle's signature and every file, by install.py; no stage came from a store",
        note=f"{install_s:.1f} s and {run_s:.1f} s, {'without' if alone else 'WITH'} a network at hand",
    )  # fmt: skip
    bench.remove(folder)


def _packed(paths: Paths, folder: Path, environment: Mapping[str, str]) -> tuple[Path, str]:
    """A bundle of this checkout's commit, packed in a clone that shares what was fetched and built; and its key."""
    checkout = folder / "checkout"
    if not (paths.root / ".git").exists():
        raise CouldNotVerify("a bundle holds the files of a commit, and this is not a git checkout")
    _run(["git", "clone", "-q", str(paths.root), str(checkout)], folder, environment)
    for source in (paths.oci, paths.layer_index, paths.artifacts / "cache"):
        shutil.copytree(source, checkout / "artifacts" / source.name, copy_function=_link)
    (checkout / "artifacts" / paths.rootfs.name).symlink_to(paths.rootfs)
    task = [sys.executable, "tasks.py"]
    made = _run([*task, "bundle.keys.make"], checkout, environment)
    fingerprint = next(line.split()[1] for line in made.splitlines() if line.startswith("fingerprint"))
    _run([*task, "bundle.pack", "--to", str(folder / "packed.tar")], checkout, environment)
    shutil.rmtree(checkout)
    return folder / "packed.tar", fingerprint


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(source, target)


def _without_network() -> list[str]:
    """The words before a command that take its network away, where this user may."""
    words = ["unshare", "--net"]
    done = subprocess.run([*words, "true"], capture_output=True, check=False)
    return words if done.returncode == 0 else []


def _timed(words: list[str], folder: Path, environment: Mapping[str, str]) -> float:
    began_s = time.perf_counter()
    _run(words, folder, environment)
    return time.perf_counter() - began_s


def _run(words: list[str], folder: Path, environment: Mapping[str, str]) -> str:
    done = subprocess.run(
        words, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        command = " ".join(words[:4])
        raise CouldNotVerify(f"`{command} …` failed in the bench", detail=(done.stderr or done.stdout)[-2000:])
    return done.stdout

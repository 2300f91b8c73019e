"""Crashes, full disks and commands at once, over the commands that write: nothing lost, half trusted or left behind.

    .venv/bin/python -m tests.campaigns.crashes            200 kills, 12 disks, 12 shims, 21 pairs: an hour or two
    .venv/bin/python -m tests.campaigns.crashes --short    what CI runs: tests/integration/test_crashes.py

It works in a copy of the checkout, whose images must be built; it prints each failure, and its counts at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.graph.alone import VARIABLE

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = str(ROOT / "tests" / "golden" / "TIMIT")
MARK = "CAMPAIGN_MARK"
_TIMEOUT_S = 600.0
_SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>
static long left = -1;
static int below(int f) {
    char link[64], path[4096];
    const char *top = getenv("SHIM_BELOW");
    if (!top) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", f);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) return 0;
    path[n] = 0;
    return strncmp(path, top, strlen(top)) == 0;
}
static int due(int f) {
    if (!below(f)) return 0;
    if (left < 0) left = getenv("SHIM_AFTER") ? atol(getenv("SHIM_AFTER")) : 0;
    return left-- == 0;
}
int flock(int f, int o) {
    if (getenv("SHIM_FLOCK")) { errno = ENOLCK; return -1; }
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(f, o);
}
ssize_t write(int f, const void *b, size_t n) {
    if (getenv("SHIM_WRITE") && due(f)) { errno = EIO; return -1; }
    return ((ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write"))(f, b, n);
}
int fsync(int f) {
    if (getenv("SHIM_FSYNC") && due(f)) { errno = EIO; return -1; }
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(f);
}
"""


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        words: as typed after `invoke`.
        usual_s: about how long it takes from nothing; kills fall within that.
        from_nothing: folders of artifacts/ that are removed before it, so that it has its work to do.
        needs_run: it is about a finished run.
        paired: it is tried beside each other one; those that take minutes are not.
    """

    name: str
    words: tuple[str, ...]
    usual_s: float
    from_nothing: tuple[str, ...] = ("store", "code")
    needs_run: bool = False
    paired: bool = True


_RUN = ("--data", GOLDEN, "--engine", "sandbox", "--offline")
COMMANDS = (
    Command("stage.batches", ("stage.batches", "--bs", "8", *_RUN), 8.0),
    Command("stage.batches --force", ("stage.batches", "--bs", "8", "--force", *_RUN), 8.0, ()),
    Command("images.build", ("images.build",), 25.0, ("layers", "oci", "rootfs"), paired=False),
    Command("stage.corpus, image unpacked", ("stage.corpus", *_RUN), 12.0, ("store", "rootfs"), paired=False),
    Command("store.gc", ("store.gc",), 2.0, ()),
    Command(
        "reproduce --force", ("reproduce", "--loop", "2", "--force", *_RUN), 60.0, (), needs_run=True, paired=False
    ),
    Command("audit.verify", ("audit.verify", "latest", "--data", GOLDEN), 8.0, (), needs_run=True),
    Command("audit.compare", ("audit.compare", "latest", "latest"), 3.0, (), needs_run=True),
    Command("bundle.pack", ("bundle.pack", "--unsigned", "--offline"), 20.0, (), needs_run=True, paired=False),
)
PARTS = ("kills", "runs", "disks", "shims", "pairs")
_KNOWN = {
    "audits", "bench", "bundles", "cache", "code", "digests.sqlite", "digests.sqlite-shm", "digests.sqlite-wal",
    "layers", "logs", "oci", "rootfs", "runs", "store", "tmp",
}  # fmt: skip
_SHORT = ("stage.batches", "store.gc")


@dataclass
class Tally:
    """What was done, and what went wrong."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def fail(self, text: str) -> None:
        self.failures.append(text)
        print(f"FAILED: {text}", flush=True)


class Checkout:
    """What the commands work on.

    Args:
        folder: an empty one, on the file system of artifacts/.
        own: a copy of the checkout, with hard links to fetched files and images; else only results of its own.
    """

    def __init__(self, folder: Path, *, own: bool) -> None:
        self.root = folder / "checkout" if own else ROOT
        self.artifacts = self.root / "artifacts" if own else folder / "results"
        self.mark = uuid.uuid4().hex
        self._results = {} if own else {"BUNDLE_RESULTS": str(self.artifacts)}
        self._env = {**self._results, VARIABLE: str(folder / "machine.lock")}
        if own:
            self._copy()

    def _copy(self) -> None:
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in files.decode().split("\0")[:-1]:
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        (self.root / ".venv").symlink_to((ROOT / ".venv").resolve())
        self.artifacts.mkdir()
        for name in ("cache", "layers", "oci", "rootfs"):
            subprocess.run(["cp", "-al", str(ROOT / "artifacts" / name), str(self.artifacts / name)], check=True)

    def start(self, words: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            [str(self.root / ".venv" / "bin" / "python"), str(self.root / "tasks.py"), *words],
            cwd=self.root,
            env={**os.environ, MARK: self.mark, **self._env, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, words: Sequence[str], env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command to its end; its exit code and what it printed."""
        process = self.start(words, env)
        try:
            said, _ = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return -1, process.communicate()[0]
        return process.returncode, said

    def reset(self, names: Sequence[str]) -> None:
        for name in names:
            shutil.rmtree(self.artifacts / name, ignore_errors=True)

    def left_over(self) -> list[str]:
        """Temporary things, locks and what has no name of ours; none of it may be there once a command has ended."""
        found = []
        for parent, folders, names in os.walk(self.artifacts.parent if self._results else self.root):
            for name in (*folders, *names):
                a_lock = name.endswith(".lock") and Path(parent).name == "locks" and "conf" not in Path(parent).parts
                if a_lock or name.startswith((".tmp.", ".lock.")):
                    found.append(os.path.relpath(os.path.join(parent, name), self.artifacts))
        found += [path.name for path in self.artifacts.glob("*") if path.name not in _KNOWN]
        inside = [path for name in ("tmp", "store/conflicts") for path in (self.artifacts / name).glob("*")]
        found += [str(path) for path in inside if path.name != "engines"]  # of the containers' files
        return found

    def survivors(self) -> list[str]:
        """Processes of this campaign that are still there; given a moment to go."""
        for _ in range(100):
            found = []
            for entry in Path("/proc").glob("[0-9]*"):
                with contextlib.suppress(OSError):
                    if self.mark.encode() in (entry / "environ").read_bytes():
                        found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace"))
            if not found:
                return []
            time.sleep(0.1)
        return found


def identity(checkout: Checkout) -> str:
    """The identity of the newest run."""
    record = json.loads((checkout.artifacts / "runs" / "latest" / "record.json").read_bytes())
    return str(record["identity"]["sha256"])


def check_ended(checkout: Checkout, tally: Tally, what: str, code: int, said: str, allowed: set[int]) -> None:
    """A command that ended by itself: as documented, with a message, and nothing of it left."""
    if code not in allowed or "Traceback" in said:
        tally.fail(f"{what}: exit code {code}: {said[-1500:]}")
    elif code and "-> " not in said:
        tally.fail(f"{what}: no advice: {said[-500:]}")


def after(checkout: Checkout, tally: Tally, what: str) -> None:
    """The next command of any kind: it works, and clears away what the killed one left."""
    if left := checkout.survivors():
        tally.fail(f"{what}: processes left: {left}")
    code, said = checkout.run(("images.list",))
    check_ended(checkout, tally, f"the command after {what}", code, said, {0})
    if found := checkout.left_over():
        tally.fail(f"{what}: left behind: {found[:5]}")


def kills(checkout: Checkout, tally: Tally, commands: Sequence[Command], number: int, chance: random.Random) -> None:
    """kill -9 at random moments; then the next command; at the end each command once undisturbed."""
    for turn in range(number):
        command = commands[turn % len(commands)]
        checkout.reset(command.from_nothing)
        process = checkout.start(command.words)
        moment_s = chance.uniform(0.1, command.usual_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment_s)
        over = process.poll() is not None
        process.send_signal(signal.SIGKILL)  # no harm where it has ended
        said = process.communicate()[0]
        what = f"{command.name} killed after {moment_s:.1f} s"
        if over:
            check_ended(checkout, tally, command.name, process.returncode, said, {0})
        tally.counts["ended before the kill" if over else f"kills of {command.name}"] += 1
        after(checkout, tally, what)
    for command in commands:
        code, said = checkout.run(command.words)
        check_ended(checkout, tally, f"{command.name} after all kills", code, said, {0})


@contextlib.contextmanager
def small_disk() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="disk-") as name:
        yield Path(name)


def disks(checkout: Checkout, tally: Tally, number: int, chance: random.Random) -> None:
    """Results on a file system that is too small, in bytes or in files; then on one that is large enough."""
    words = " ".join((f"'{checkout.root}/.venv/bin/python'", f"'{checkout.root}/tasks.py'", "stage.batches", *_RUN))
    for turn in range(number):
        size = (
            f"size={chance.choice((100, 300, 700, 1500, 4000))}k" if turn % 2 else f"nr_inodes={chance.randint(4, 90)}"
        )
        with small_disk() as disk:
            script = (
                f"mount -t tmpfs -o {size} tmpfs '{disk}' || exit 99; BUNDLE_RESULTS='{disk}' {words}; code=$?; "
                f"echo; ls -A '{disk}'/tmp 2>/dev/null | grep -q . && echo LEFT; "
                f"mount -o remount,size=1G,nr_inodes=1000000 '{disk}' || exit 99; "
                f"BUNDLE_RESULTS='{disk}' {words} > /dev/null || echo SECOND $?; exit $code"
            )
            done = subprocess.run(
                ["unshare", "-m", "sh", "-c", script], cwd=checkout.root, capture_output=True, text=True, check=False
            )
        if done.returncode in (1, 99) and "mount" in done.stderr and "denied" in done.stderr:
            tally.counts["full disks: no mount namespace here"] += 1
            return
        said = done.stdout + done.stderr
        check_ended(checkout, tally, f"disk of {size}", done.returncode, said, {0, 4})
        if "LEFT" in done.stdout or "SECOND" in done.stdout:
            tally.fail(f"disk of {size}: not right afterwards: {said[-800:]}")
        tally.counts[f"full disks ({'bytes' if turn % 2 else 'inodes'})"] += 1


def shims(checkout: Checkout, tally: Tally, number: int, chance: random.Random, folder: Path) -> None:
    """No locks, or an error of the disk at the Nth write or fsync below the results."""
    if shutil.which("gcc") is None:
        tally.counts["shims: no gcc here"] += 1
        return
    (folder / "shim.c").write_text(_SHIM)
    shim = folder / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(shim), str(folder / "shim.c"), "-ldl"], check=True)
    for turn in range(number):
        kind = ("SHIM_FLOCK", "SHIM_WRITE", "SHIM_FSYNC")[turn % 3]
        results = folder / f"shim-{turn}"
        env = {
            "LD_PRELOAD": str(shim), kind: "1", "SHIM_BELOW": str(results), "BUNDLE_RESULTS": str(results),
            "SHIM_AFTER": str(chance.randint(0, 40)),
        }  # fmt: skip
        words = ("stage.batches", *_RUN)
        code, said = checkout.run(words, env)
        check_ended(checkout, tally, f"{kind} after {env['SHIM_AFTER']}", code, said, {4} if turn % 3 == 0 else {0, 4})
        code, said = checkout.run(words, {"BUNDLE_RESULTS": str(results)})
        check_ended(checkout, tally, f"the same after {kind}", code, said, {0})
        shutil.rmtree(results, ignore_errors=True)
        tally.counts[f"shims {kind}"] += 1


def pairs(checkout: Checkout, tally: Tally, commands: Sequence[Command]) -> None:
    """Two of any two commands at once, from the same beginning."""
    for number, first in enumerate(commands):
        for second in commands[number:]:
            both = [checkout.start(command.words) for command in (first, second)]
            for command, process in zip((first, second), both):
                said = process.communicate(timeout=_TIMEOUT_S)[0]
                what = f"{command.name} beside {first.name} and {second.name}"
                check_ended(checkout, tally, what, process.returncode, said, {0})
            tally.counts["pairs at once"] += 1
            after(checkout, tally, f"{first.name} and {second.name} at once")


def named(names: Sequence[str]) -> list[Command]:
    return [command for command in COMMANDS if command.name in names]


def short(folder: Path, seed: int = 1) -> Tally:
    """A few of each kind, on results of its own in `folder`."""
    tally, chance = Tally(), random.Random(seed)
    checkout = Checkout(folder, own=False)
    kills(checkout, tally, named(_SHORT), 4, chance)
    disks(checkout, tally, 2, chance)
    shims(checkout, tally, 3, chance, folder)
    return tally


def full(folder: Path, parts: Sequence[str], commands: Sequence[Command], number: int, seed: int) -> Tally:
    """The parts and commands asked for, in a copy of the checkout in `folder`; what needs a run has one made first."""
    tally, chance = Tally(), random.Random(seed)
    checkout = Checkout(folder, own=True)
    before = ""
    if {"runs", "pairs"} & set(parts) and any(command.needs_run for command in commands):
        code, said = checkout.run(("reproduce", "--loop", "2", *_RUN))
        check_ended(checkout, tally, "the undisturbed run", code, said, {0})
        before = identity(checkout)
    if "runs" in parts:
        kills(checkout, tally, [command for command in commands if command.needs_run], number, chance)
    if "kills" in parts:
        kills(checkout, tally, [command for command in commands if not command.needs_run], number, chance)
    if "disks" in parts:
        disks(checkout, tally, max(1, number // 8), chance)
    if "shims" in parts:
        shims(checkout, tally, max(3, number // 8), chance, folder)
    if "pairs" in parts:
        pairs(checkout, tally, [command for command in commands if command.paired])
    if before and identity(checkout) != before:
        tally.fail("a run after all that has another identity than the undisturbed one")
    return tally


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="what CI runs")
    parser.add_argument("--parts", default=",".join(PARTS), help="of the full form: %(default)s")
    parser.add_argument("--number", type=int, default=100, help="of kills per part; an eighth of it of disks and shims")
    parser.add_argument("--commands", default="", help="only these (images take gigabytes of disk)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and sizes")
    options = parser.parse_args()
    chosen = named(options.commands.split(",")) if options.commands else list(COMMANDS)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crashes-", dir=ROOT / "artifacts") as name:
        tally = (
            short(Path(name), options.seed)
            if options.short
            else full(Path(name), options.parts.split(","), chosen, options.number, options.seed)
        )
    for what, count in sorted(tally.counts.items()):
        print(f"{count:5d}  {what}")
    print(f"{len(tally.failures):5d}  failures, in {time.monotonic() - began_s:.0f} s, seed {options.seed}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())

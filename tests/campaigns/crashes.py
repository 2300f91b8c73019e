"""Crashes, full disks and commands at once, over the commands that write: nothing lost, half trusted or left behind.

    .venv/bin/python -m tests.campaigns.crashes            200 kills, 24 disks, 24 shims, all pairs: some hours
    .venv/bin/python -m tests.campaigns.crashes --short    what CI runs: tests/integration/test_crashes.py

It works in a copy of the checkout, whose images must be built; it prints each failure, and its counts at the end.
`--keep FILE` writes the counts; tests/campaigns/crashes.json is the last full result. `fetch` needs the network: where
there is none, leave it out by --commands.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from repro.base.files import pretty_json, write_atomic
from repro.graph.alone import VARIABLE
from repro.packing.script import install_script

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = str(ROOT / "tests" / "golden" / "TIMIT")
MARK = "CAMPAIGN_MARK"
_TIMEOUT_S = 1800.0  # of one command, on a machine that others use
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
        thinned: a folder of artifacts/ of whose files every fourth is removed before it.
        installs: it is install.py, on a bundle of this checkout, and not a command of tasks.py.
        on_disk: the folder of artifacts/ that is put on a small disk; '' for all results; None: it is not tried there.
        codes: the exit codes that it ends with undisturbed.
    """

    name: str
    words: tuple[str, ...]
    usual_s: float
    from_nothing: tuple[str, ...] = ("store", "code")
    needs_run: bool = False
    paired: bool = True
    thinned: str = ""
    installs: bool = False
    on_disk: str | None = None
    codes: frozenset[int] = frozenset({0})


_LATEST = "artifacts/runs/latest"
# Two executions are no figure, the indexes of locks are not fetched, and other commands remove the bytes of the run:
# then an audit leaves claims open.
_OPEN = frozenset({0, 4})
_RUN = ("--data", GOLDEN, "--engine", "sandbox", "--offline")
_BUNDLE, _SCRIPT, _THERE = "campaign.tar", "install.py", "there"  # beside the copy of the checkout
COMMANDS = (
    Command("stage.batches", ("stage.batches", "--bs", "8", *_RUN), 8.0, on_disk=""),
    Command("stage.batches --force", ("stage.batches", "--bs", "8", "--force", *_RUN), 8.0, ()),
    Command("fetch", ("fetch",), 25.0, ("layers", "oci", "rootfs"), paired=False, thinned="cache"),
    Command("images.build", ("images.build",), 25.0, ("layers", "oci", "rootfs"), paired=False, on_disk="oci"),
    Command(
        "stage.corpus, image unpacked",
        ("stage.corpus", *_RUN),
        12.0,
        ("store", "rootfs"),
        paired=False,
        on_disk="rootfs",
    ),
    Command("store.gc", ("store.gc",), 2.0, ()),
    Command(
        "reproduce --force", ("reproduce", "--loop", "2", "--force", *_RUN), 60.0, (), needs_run=True, paired=False
    ),
    Command(
        "audit.verify", ("audit.verify", "latest", "--data", GOLDEN),
        8.0, (), needs_run=True, on_disk="audits", codes=_OPEN,
    ),
    Command(
        "audit.compare", ("audit.compare", _LATEST, _LATEST), 3.0, (),
        needs_run=True, on_disk="audits", codes=_OPEN,
    ),
    Command("audit.explain", ("audit.explain", _LATEST, _LATEST), 3.0, (), needs_run=True),
    Command(
        "audit.rerun",
        ("audit.rerun", "latest", "--rounds", "10", *_RUN),
        60.0, (), needs_run=True, paired=False, on_disk="audits", codes=_OPEN,
    ),
    Command(
        "audit.challenge", ("audit.challenge", "--images", "base", "--offline"),
        15.0, (), paired=False, codes=_OPEN,
    ),
    Command(
        "bundle.pack",
        ("bundle.pack", "--unsigned", "--offline"),
        20.0,
        (),
        needs_run=True,
        paired=False,
        on_disk="bundles",
    ),
    Command(
        "install.py",
        (_BUNDLE, "--allow-unsigned", "--files-only", "--to", f"{_THERE}/site"),
        10.0, (), installs=True, on_disk=_THERE,
    ),
)  # fmt: skip
PARTS = ("kills", "runs", "disks", "shims", "pairs")
_KNOWN = {
    "audits", "bench", "bundles", "cache", "code", "digests.sqlite", "digests.sqlite-shm", "digests.sqlite-wal",
    "layers", "logs", "oci", "rootfs", "runs", "store", "tmp",
}  # fmt: skip
_SHORT = ("stage.batches", "store.gc")
_ROOM_KIB = (100, 300, 700, 1500, 4000, 16_000, 64_000)


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
        self.folder = folder
        self.root = folder / "checkout" if own else ROOT
        self.artifacts = self.root / "artifacts" if own else folder / "results"
        self.mark = uuid.uuid4().hex
        self._results = {} if own else {"BUNDLE_RESULTS": str(self.artifacts)}
        settings = {"XDG_CONFIG_HOME": str(folder / "settings")} if own else {}
        self.environment = {**self._results, **settings, VARIABLE: str(folder / "machine.lock")}
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

    def line(self, command: Command) -> list[str]:
        """What is run for a command, in `place(command)`."""
        python = str(self.root / ".venv" / "bin" / "python")
        first = [python, "-I", _SCRIPT] if command.installs else [python, str(self.root / "tasks.py")]
        return [*first, *command.words]

    def place(self, command: Command) -> Path:
        return self.folder if command.installs else self.root

    def start(self, command: Command, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command."""
        return subprocess.Popen(
            self.line(command),
            cwd=self.place(command),
            env={**os.environ, MARK: self.mark, **self.environment, **(env or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, command: Command, env: Mapping[str, str] | None = None) -> tuple[int, str]:
        """Run a command to its end; its exit code and what it printed."""
        process = self.start(command, env)
        try:
            said, _ = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return -1, process.communicate()[0]
        return process.returncode, said

    def prepare(self, command: Command) -> None:
        """Take away what it makes, so that it has its work to do."""
        for name in command.from_nothing:
            shutil.rmtree(self.artifacts / name, ignore_errors=True)
        if command.installs:
            shutil.rmtree(self.folder / _THERE, ignore_errors=True)
            (self.folder / _THERE).mkdir()
        if command.thinned:
            files = sorted(path for path in (self.artifacts / command.thinned).rglob("*") if path.is_file())
            for path in files[::4]:
                path.unlink()  # the checkout's own has a name of its own

    def fill(self, name: str) -> None:
        """Give a thinned folder back what no command asks for: files of other images, of bundles."""
        for path in (ROOT / "artifacts" / name).rglob("*"):
            place = self.artifacts / name / path.relative_to(ROOT / "artifacts" / name)
            if path.is_file() and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, place)

    def make_bundle(self) -> tuple[int, str]:
        """What install.py is tried with."""
        code, said = self.run(
            Command("bundle.pack", ("bundle.pack", "--unsigned", "--offline", "--to", str(self.folder / _BUNDLE)), 0)
        )
        (self.folder / _SCRIPT).write_bytes(install_script())
        (self.folder / _THERE).mkdir()
        return code, said

    def left_over(self) -> list[str]:
        """Temporary things, locks and what has no name of ours; none of it may be there once a command has ended."""
        found = []
        for parent, folders, names in os.walk(self.artifacts.parent if self._results else self.root):
            for name in (*folders, *names):
                a_lock = name.endswith(".lock") and Path(parent).name == "locks" and "conf" not in Path(parent).parts
                if a_lock or name.startswith((".tmp.", ".lock.")):
                    found.append(os.path.relpath(os.path.join(parent, name), self.artifacts))
        found += [path.name for path in (self.folder / _THERE).glob(".*")]
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


def check_ended(checkout: Checkout, tally: Tally, what: str, code: int, said: str, allowed: Collection[int]) -> None:
    """A command that ended by itself: as documented, with a message, and nothing of it left."""
    if code not in allowed or "Traceback" in said:
        tally.fail(f"{what}: exit code {code}: {said[-1500:]}")
    elif code and "-> " not in said:
        tally.fail(f"{what}: no advice: {said[-500:]}")


def after(checkout: Checkout, tally: Tally, what: str, command: Command | None = None) -> None:
    """The next command works, and clears away what the killed one left. Another one would not bring what install.py
    and fetch bring, so these follow themselves."""
    if left := checkout.survivors():
        tally.fail(f"{what}: processes left: {left}")
    itself = command is not None and (command.installs or command.thinned)
    following = command if command is not None and itself else Command("images.list", ("images.list",), 0)
    code, said = checkout.run(following)
    check_ended(checkout, tally, f"the command after {what}", code, said, {0})
    if found := checkout.left_over():
        tally.fail(f"{what}: left behind: {found[:5]}")
    if command is not None and command.thinned:
        checkout.fill(command.thinned)


def kills(checkout: Checkout, tally: Tally, commands: Sequence[Command], number: int, chance: random.Random) -> None:
    """kill -9 at random moments; then the next command; at the end each command once undisturbed."""
    for turn in range(number):
        command = commands[turn % len(commands)]
        checkout.prepare(command)
        process = checkout.start(command)
        moment_s = chance.uniform(0.1, command.usual_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment_s)
        over = process.poll() is not None
        process.send_signal(signal.SIGKILL)  # no harm where it has ended
        said = process.communicate()[0]
        what = f"{command.name} killed after {moment_s:.1f} s"
        if over:
            check_ended(checkout, tally, command.name, process.returncode, said, command.codes)
        tally.counts["ended before the kill" if over else f"kills of {command.name}"] += 1
        after(checkout, tally, what, command)
    for command in commands:
        code, said = checkout.run(command)
        check_ended(checkout, tally, f"{command.name} after all kills", code, said, command.codes)


@contextlib.contextmanager
def small_disk(checkout: Checkout, command: Command) -> Iterator[tuple[Path, str]]:
    """Where the disk is mounted, and the environment that leads results to it; the place is as it was afterwards."""
    if not command.on_disk:
        with tempfile.TemporaryDirectory(prefix="disk-") as name:
            yield Path(name), f"BUNDLE_RESULTS='{name}'"
        return
    place = (checkout.folder if command.installs else checkout.artifacts) / command.on_disk
    made = not place.exists()
    place.mkdir(exist_ok=True)
    yield place, ""
    if made:
        place.rmdir()


def disks(checkout: Checkout, tally: Tally, commands: Sequence[Command], number: int, chance: random.Random) -> None:
    """What commands write lies on a file system that is too small, in bytes or in files; then on one large enough."""
    for turn in range(number):
        command = commands[turn // 2 % len(commands)]
        size = f"size={chance.choice(_ROOM_KIB)}k" if turn % 2 else f"nr_inodes={chance.randint(4, 90)}"
        checkout.prepare(command)
        words = " ".join(f"'{word}'" for word in checkout.line(command))
        with small_disk(checkout, command) as (disk, env):
            script = (
                f"mount -t tmpfs -o {size} tmpfs '{disk}' || exit 99; {env} {words}; code=$?; "
                f"echo; find '{disk}' -name '.tmp.*' 2>/dev/null | grep -q . && echo LEFT; "
                f"mount -o remount,size=6G,nr_inodes=1000000 '{disk}' || exit 99; "
                f"{env} {words} > /dev/null; echo SECOND $?; exit $code"
            )
            done = subprocess.run(
                ["unshare", "-m", "sh", "-c", script],
                cwd=checkout.place(command), capture_output=True, text=True, check=False,
                env={**os.environ, **checkout.environment},
            )  # fmt: skip
        if done.returncode in (1, 99) and "mount" in done.stderr and "denied" in done.stderr:
            tally.counts["full disks: no mount namespace here"] += 1
            return
        said = done.stdout + done.stderr
        what = f"{command.name} on a disk of {size}"
        check_ended(checkout, tally, what, done.returncode, said, {0, 4})
        second = int(done.stdout.rpartition("SECOND ")[2] or -1)
        if "LEFT" in done.stdout or second not in command.codes:
            tally.fail(f"{what}: not right afterwards: {said[-800:]}")
        tally.counts[f"full disks ({'bytes' if turn % 2 else 'inodes'}) of {command.name}"] += 1


def shims(checkout: Checkout, tally: Tally, commands: Sequence[Command], number: int, chance: random.Random) -> None:
    """No locks, or an error of the disk at the Nth write or fsync below what the command makes."""
    if shutil.which("gcc") is None:
        tally.counts["shims: no gcc here"] += 1
        return
    (checkout.folder / "shim.c").write_text(_SHIM)
    shim = checkout.folder / "shim.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(shim), str(checkout.folder / "shim.c"), "-ldl"], check=True)
    for turn in range(number):
        kind, command = ("SHIM_FLOCK", "SHIM_WRITE", "SHIM_FSYNC")[turn % 3], commands[turn // 3 % len(commands)]
        checkout.prepare(command)
        results = checkout.folder / f"shim-{turn}"
        where = {} if command.on_disk else {"BUNDLE_RESULTS": str(results)}
        below = results if where else (checkout.folder / _THERE if command.installs else checkout.artifacts)
        number_of = str(chance.randint(0, 40))
        env = {"LD_PRELOAD": str(shim), kind: "1", "SHIM_BELOW": str(below), "SHIM_AFTER": number_of, **where}
        what = f"{command.name}, {kind} after {number_of}"
        code, said = checkout.run(command, env)
        locks = turn % 3 == 0 and not command.on_disk
        check_ended(checkout, tally, what, code, said, {4} if locks else {0, 4})
        code, said = checkout.run(command, where)
        check_ended(checkout, tally, f"the same after {what}", code, said, command.codes)
        shutil.rmtree(results, ignore_errors=True)
        tally.counts[f"{kind} in {command.name}"] += 1


def pairs(checkout: Checkout, tally: Tally, commands: Sequence[Command]) -> None:
    """Two of any two commands at once, from the same beginning."""
    for number, first in enumerate(commands):
        for second in commands[number:]:
            for command in (first, second):
                checkout.prepare(command)
            both = [checkout.start(command) for command in (first, second)]
            for command, process in zip((first, second), both):
                said = process.communicate(timeout=_TIMEOUT_S)[0]
                what = f"{command.name} beside {first.name} and {second.name}"
                # two installations into one folder: the second is told that it is there
                allowed = {0, 4} if command.installs else command.codes
                check_ended(checkout, tally, what, process.returncode, said, allowed)
            tally.counts["pairs at once"] += 1
            after(checkout, tally, f"{first.name} and {second.name} at once")


def named(names: Sequence[str]) -> list[Command]:
    return [command for command in COMMANDS if command.name in names]


def short(folder: Path, seed: int = 1) -> Tally:
    """A few of each kind, on results of its own in `folder`."""
    tally, chance = Tally(), random.Random(seed)
    checkout = Checkout(folder, own=False)
    kills(checkout, tally, named(_SHORT), 4, chance)
    disks(checkout, tally, named(_SHORT[:1]), 2, chance)
    shims(checkout, tally, named(_SHORT[:1]), 3, chance)
    return tally


def full(folder: Path, parts: Sequence[str], commands: Sequence[Command], number: int, seed: int) -> Tally:
    """The parts and commands asked for, in a copy of the checkout in `folder`; what needs a run has one made first."""
    tally, chance = Tally(), random.Random(seed)
    checkout = Checkout(folder, own=True)
    before = ""
    if any(command.needs_run for command in commands):
        code, said = checkout.run(Command("reproduce", ("reproduce", "--loop", "2", *_RUN), 0))
        check_ended(checkout, tally, "the undisturbed run", code, said, {0})
        if code:
            return tally  # there is nothing to compare with
        before = identity(checkout)
    if any(command.installs for command in commands):
        code, said = checkout.make_bundle()
        check_ended(checkout, tally, "the undisturbed bundle", code, said, {0})
    tried_on_disks = [command for command in commands if command.on_disk is not None]
    many = max(3, number // 4)
    if "runs" in parts and before:
        kills(checkout, tally, [command for command in commands if command.needs_run], number, chance)
    if "kills" in parts:
        kills(checkout, tally, [command for command in commands if not command.needs_run], number, chance)
    if "disks" in parts and tried_on_disks:
        disks(checkout, tally, tried_on_disks, many, chance)
    if "shims" in parts and tried_on_disks:
        shims(checkout, tally, tried_on_disks, many, chance)
    if "pairs" in parts:
        pairs(checkout, tally, [command for command in commands if command.paired])
    if before and identity(checkout) != before:
        tally.fail("a run after all that has another identity than the undisturbed one")
    return tally


def keep(path: Path, tally: Tally, options: argparse.Namespace, took_s: float) -> None:
    """Write what was done beside what is known of other parts."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True,
                            text=True, check=True).stdout.strip()  # fmt: skip
    known = json.loads(path.read_bytes()) if path.exists() else {}
    known[options.parts] = {
        "commit": commit, "date": datetime.now(timezone.utc).date().isoformat(), "machine": platform.machine(),
        "seed": options.seed, "seconds": round(took_s),
        "commands": options.commands.split(",") if options.commands else [command.name for command in COMMANDS],
        "counts": dict(sorted(tally.counts.items())), "failures": tally.failures,
    }  # fmt: skip
    write_atomic(path, pretty_json(known))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="what CI runs")
    parser.add_argument("--parts", default=",".join(PARTS), help="of the full form: %(default)s")
    parser.add_argument("--number", type=int, default=100, help="of kills per part; a quarter of it of disks and shims")
    parser.add_argument("--commands", default="", help="only these (images take gigabytes of disk)")
    parser.add_argument("--seed", type=int, default=1, help="of the moments and sizes")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write what was done and found, as JSON")
    options = parser.parse_args()
    chosen = named(options.commands.split(",")) if options.commands else list(COMMANDS)
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="crashes-", dir=ROOT / "artifacts") as name:
        tally = (
            short(Path(name), options.seed)
            if options.short
            else full(Path(name), options.parts.split(","), chosen, options.number, options.seed)
        )
    took_s = time.monotonic() - began_s
    if options.keep:
        keep(options.keep, tally, options, took_s)
    for what, count in sorted(tally.counts.items()):
        print(f"{count:5d}  {what}")
    print(f"{len(tally.failures):5d}  failures, in {took_s:.0f} s, seed {options.seed}")
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())

"""Slurm's own commands, and what they print, as values. Debian's Slurm 22.05 and later.

Nothing here decides anything: which jobs there are to be is the executor's matter.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from repro.base.errors import CouldNotRun
from repro.base.foreign import shown
from repro.base.programs import find, search_path

_TIMEOUT_S = 60.0
_CONTACT_S = 300.0  # how long a controller may be away: it is restarted within minutes
_RETRY_S = 2.0
_AWAY = re.compile("Unable to contact slurm controller|Socket timed out|Connection refused|Transport endpoint|standby")
_ENDED = ("COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED", "BOOT_FAIL", "DEADLINE")
_DOWN = re.compile("down|drain|fail|maint|powering_down|powered_down|reboot|unk|\\*", re.IGNORECASE)


@dataclass(frozen=True)
class Node:
    """A node of the cluster as Slurm knows it; `state` is Slurm's word, such as 'idle' or 'down*'."""

    name: str
    cores: int
    memory_bytes: int
    gres: str
    state: str
    limit_s: float | None

    @property
    def up(self) -> bool:
        """Whether jobs start on it."""
        return not _DOWN.search(self.state)


@dataclass(frozen=True)
class JobState:
    """A job as the queue shows it: Slurm's word for its state, where it runs, why it waits."""

    state: str
    node: str = ""
    reason: str = ""

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it. A job that is queued again after its node failed has not ended."""
        return self.state.startswith(_ENDED)


class Slurm:
    """Runs Slurm's commands. Thread-safe.

    Args:
        say: is told, once, that the controller does not answer; it is then asked again for some minutes.
    """

    def __init__(self, say: Callable[[str], None] = lambda _: None, contact_s: float = _CONTACT_S) -> None:
        self._say = say
        self._contact_s = contact_s
        self._programs: dict[str, str] = {}

    def program(self, name: str) -> str:
        """Where a command of Slurm's lies.

        Raises:
            CouldNotRun: it is not installed.
        """
        if name not in self._programs:
            path = find(name, search_path())
            if path is None:
                raise CouldNotRun(
                    f"--on slurm needs Slurm's command {name}, which is not here",
                    hint="start it on a host that submits jobs, or install slurm-client and the site's slurm.conf",
                )
            self._programs[name] = str(path)
        return self._programs[name]

    def version(self) -> str:
        """Slurm's version, such as '22.05.8'."""
        return self._ask("sinfo", ["--version"]).split()[-1]

    def nodes(self, partition: str) -> list[Node]:
        """The nodes of a partition ('' for all that jobs may use by default), by name."""
        chosen = ["--partition", partition] if partition else []
        text = self._ask("sinfo", ["-h", "-N", "-o", "%N|%c|%m|%G|%T|%l|%P", *chosen])
        rows = [line.split("|") for line in text.splitlines() if line.count("|") == 6]
        if not partition and any(row[6].endswith("*") for row in rows):
            rows = [row for row in rows if row[6].endswith("*")]
        found = {
            name: Node(name, int(cores.rstrip("+")), int(mib.rstrip("+")) << 20, gres, state, seconds(limit))
            for name, cores, mib, gres, state, limit, _ in rows
        }
        return [found[name] for name in sorted(found, key=_natural)]

    def node_facts(self, name: str) -> Mapping[str, str]:
        """What `scontrol show node` says, by its own names."""
        return dict(re.findall(r"(\w+)=(\S*)", self._ask("scontrol", ["show", "node", name])))

    def submit(self, script: str, options: Sequence[str]) -> str:
        """Submit a batch script; the job's number.

        Raises:
            CouldNotRun: Slurm refuses it; its words are in the message.
        """
        told = self._ask("sbatch", ["--parsable", *options], script)
        return told.strip().partition(";")[0]

    def jobs(self, user_id: int) -> dict[str, JobState]:
        """This user's jobs that the controller still knows, by number ('12', or '12_3' in an array)."""
        text = self._ask("squeue", ["-h", "-r", "-t", "all", "-u", str(user_id), "-o", "%i|%T|%N|%r"])
        rows = (line.split("|", 3) for line in text.splitlines() if line.count("|") >= 3)
        return {
            number: JobState(state, node, "" if reason == "None" else reason) for number, state, node, reason in rows
        }

    def exit_code(self, number: str) -> int:
        """The exit code of a job that has ended; 0 where the controller knows it no more."""
        try:
            found = re.search(r"ExitCode=(\d+):", self._ask("scontrol", ["show", "job", number]))
        except CouldNotRun:
            return 0
        return int(found[1]) if found else 0

    def cancel(self, numbers: Sequence[str]) -> None:
        """End jobs, waiting and running ones."""
        if numbers:
            self._ask("scancel", list(numbers))

    def srun(self, options: Sequence[str], command: Sequence[str], given: bytes = b"") -> bytes:
        """Run one command as a job of its own, to its end; what it printed. It reads `given` from its standard input.

        Raises:
            CouldNotRun: it could not start, or ended badly.
        """
        done = subprocess.run([self.program("srun"), *options, *command], input=given, capture_output=True, check=False)
        if done.returncode != 0:
            raise self._refusal("srun", done.stderr.decode("utf-8", "replace"))
        return done.stdout

    def _ask(self, name: str, arguments: Sequence[str], given: str | None = None) -> str:
        """Run a command, again and again while the controller does not answer."""
        until_s = time.monotonic() + self._contact_s
        told = False
        while True:
            done = subprocess.run(
                [self.program(name), *arguments], input=given, stdin=None if given else subprocess.DEVNULL,
                capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_S + self._contact_s, check=False,
            )  # fmt: skip
            if done.returncode == 0:
                return done.stdout
            if not _AWAY.search(done.stderr) or time.monotonic() > until_s:
                raise self._refusal(name, done.stderr)
            if not told:
                self._say("Slurm's controller does not answer; asking again. Jobs that run go on meanwhile")
                told = True
            time.sleep(_RETRY_S)

    @staticmethod
    def _refusal(name: str, said: str) -> CouldNotRun:
        lines = [line for line in said.splitlines() if line.strip()]
        return CouldNotRun(
            f"{name}: {shown(lines[-1]) if lines else 'it failed, and said nothing'}",
            detail="\n".join(lines[:-1][-10:]),
            hint="`invoke doctor --on slurm` shows what this cluster has; [slurm] in conf/site.toml sets partition, "
            "account and limits",
        )


def seconds(text: str) -> float | None:
    """A time as Slurm prints it ('30:00', '2-00:00:00'), in seconds; None for none ('infinite', 'n/a')."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text.strip())
    if found is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + rest)


def _natural(name: str) -> list[object]:
    """node2 before node10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]

"""A layer that is compiled: the tree that a recipe writes, without network, in an image that holds the compilers."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.container.image import Image
from repro.container.job import Engine, Job, Limits, Mount
from repro.images.layers.tree import Entry, Tree

_PER_JOB_BYTES = 1_500_000_000  # the largest compiler process of Kaldi takes 1.1 GB
_MEMORY_BYTES = 8 * 1024**3
_TIMEOUT_S = 6 * 3600.0  # a slow machine, under emulation
_PIDS = 512
_TAIL_LINES = 40


class Recipe(Protocol):
    """What of a built layer's lock is run: names for messages, and the content of build.sh."""

    @property
    def name(self) -> str: ...

    @property
    def architecture(self) -> str: ...

    @property
    def script(self) -> bytes: ...


def parallel_jobs(cores: int, memory_bytes: int) -> int:
    """How many compilers may run at once: one a core, as far as each has its memory."""
    return max(1, min(cores, memory_bytes // _PER_JOB_BYTES))


def available_memory_bytes(meminfo: str) -> int:
    """What /proc/meminfo says can be taken without swapping; 0 where it does not say."""
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def jobs_here() -> int:
    """How many compilers run at once on this machine, as it is now."""
    memory = min(_MEMORY_BYTES, available_memory_bytes(Path("/proc/meminfo").read_text()) or _MEMORY_BYTES)
    return parallel_jobs(len(os.sched_getaffinity(0)), memory)


def run_recipe(
    engine: Engine, toolchain: Image, lock: Recipe, archives: Mapping[str, Path], out: Path, log: Path
) -> None:
    """Run build.sh in the toolchain image; `out` receives the tree.

    Args:
        engine: runs the container, closed as a stage's is.
        toolchain: the image with the compilers.
        lock: names and script.
        archives: verified files by source name; the recipe sees each as /run/in/sources/NAME.
        out: an empty folder, the recipe's /run/out.
        log: gets all output.

    Raises:
        CouldNotRun: the recipe ended with an error, or ran out of time.
    """
    recipe = out.parent / "build.sh"
    recipe.write_bytes(lock.script)
    job = Job(
        image=toolchain,
        argv=("/bin/sh", "/run/in/build.sh"),
        mounts=(
            Mount(recipe, "/run/in/build.sh"),
            *(Mount(path, f"/run/in/sources/{name}") for name, path in sorted(archives.items())),
            Mount(out, "/run/out", writable=True),
        ),
        # The number of jobs cannot change the result, and is all of this machine that the recipe is told.
        env={"JOBS": str(jobs_here()), "SOURCE_DATE_EPOCH": "1667260800"},
        limits=Limits(timeout_s=_TIMEOUT_S, memory_bytes=_MEMORY_BYTES, pids=_PIDS),
        name=f"build-{lock.name}",
    )
    tail: list[str] = []
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "w", encoding="utf-8") as stream:

        def on_line(_: str, line: str) -> None:
            stream.write(line + "\n")
            stream.flush()
            tail.append(line)
            del tail[:-_TAIL_LINES]

        outcome = engine.run(job, on_line)
    if outcome.exit_code == 0 and not outcome.timed_out:
        return
    why = f"ended with exit code {outcome.exit_code}"
    if outcome.timed_out:
        why = f"ran longer than {_TIMEOUT_S:.0f} s"
    elif outcome.out_of_memory:
        why = f"needed more than {_MEMORY_BYTES / 1e9:.1f} GB of memory"
    raise CouldNotRun(
        f"building layer built:{lock.name} ({lock.architecture}) {why}",
        detail="\n".join([*tail, f"the whole log: {log}"]),
        hint="a full disk or too little memory is the usual cause; if it is neither, please report it with the log",
    )


def add_built(tree: Tree, folder: Path) -> None:
    """Add what a recipe wrote to the layer to be: content, links and the execute bit; nothing else of the files.

    Raises:
        VerificationFailed: the recipe wrote nothing, or something that is neither file, folder nor symbolic link.
    """
    for parent, folders, names in os.walk(folder):
        for name in sorted([*folders, *names]):
            path = Path(parent, name)
            relative = path.relative_to(folder).as_posix()
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                tree.symlink(relative, os.readlink(path))
            elif stat.S_ISDIR(mode):
                tree.folder(relative)
            elif stat.S_ISREG(mode):
                with open(path, "rb") as stream:
                    content = tree.add(stream)
                tree.entries[relative] = Entry("file", 0o755 if mode & stat.S_IXUSR else 0o644, content)
            else:
                raise VerificationFailed(f"the recipe wrote {relative}, which is neither file, folder nor link")
    if not any(entry.kind == "file" for entry in tree.entries.values()):
        raise VerificationFailed("the recipe wrote no file into /run/out")

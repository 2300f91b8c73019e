"""Packing: how fast verification streams beside SHA-256 alone, whether packing keeps the cores busy, and memory.

Each piece of work runs in a process of its own, so that its processor time and its largest resident set are the
kernel's account of it and of nothing else. The bundle is made of a few large files and many small ones, as a real one
is, of bytes that nothing compresses or shares.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import remove_tree, sha256_file
from repro.bench.figure import AT_LEAST, AT_MOST, Figure
from repro.bench.goals import goal
from repro.bench.workbench import Workbench

GOAL = goal("packing").title
MB = 1_000_000
VERIFY_BOUND = 0.7  # of SHA-256's own speed over the same bytes, whatever the processor has for it
BUSY_BOUND = 0.7  # of the cores that can be used; docs/performance/packing.md says why not 1
LARGEST = 0.5  # of all bytes: one file, as an image's largest layer is
MEMORY_BOUND = 300.0  # MB, whatever the size of the bundle
_LEAST_MEMORY_FREE = 4  # times the bundle's size, for a folder in memory to be used
_CHUNK_BYTES = 1 << 20
_SEED = b"packing"


def measure(bench: Workbench) -> Iterator[Figure]:
    """Figures of `invoke bench --only packing`."""
    rounds = 5 if bench.quick else 9
    with _fast_folder(bench, 700 * MB if bench.quick else 2100 * MB) as folder:
        source, target = folder / "source", folder / "real.tar"
        _make_files(source, 320 * MB if bench.quick else 1000 * MB, small=700 if bench.quick else 2300)
        packings = [_child("pack", source, target) for _ in range(2 if bench.quick else 3)]
        if len({found["sha256"] for found in packings}) != 1:
            raise VerificationFailed("packing the same files twice gave other bytes")
        yield _busy(packings, "memory" if folder.is_relative_to("/dev/shm") else "a disk")  # noqa: S108 - or it is not
        yield from _verifying(target, rounds)
        peaks = {
            "bundle.pack": max(found["peak_mb"] for found in packings),
            "bundle.verify": _child("verify", target, target)["peak_mb"],
            "install.py": _child("install", target, folder / "site")["peak_mb"],
        }
        _check_installed(source, folder / "site")
        size_mb = target.stat().st_size / MB
        for name, peak in peaks.items():
            yield Figure(
                GOAL, f"{name}: peak memory, bundle of {size_mb:.0f} MB", peak, "MB",
                "largest resident set of the process and its children, as the kernel counted it",
                AT_MOST, MEMORY_BOUND, samples=1,
                checked="every installed file was read again and has the digest of the file that was packed",
            )  # fmt: skip
        _change_a_byte(target)
        if _child("verify", target, target, sound=False)["failures"] != 1:
            raise VerificationFailed("one changed byte was not found by the verification that was timed")


@contextmanager
def _fast_folder(bench: Workbench, needed_bytes: int) -> Iterator[Path]:
    """A folder in memory where there is room: a disk's pace is not this project's. Else the bench's own."""
    shared = Path("/dev/shm")  # noqa: S108 - a folder of its own is made in it
    room = shared.is_dir() and shutil.disk_usage(shared).free > _LEAST_MEMORY_FREE * needed_bytes
    folder = shared / f"bundle-bench-packing-{os.getpid()}" if room else bench.folder("packing")
    if not room:
        bench.say("packing: /dev/shm has no room, so a disk's pace is in the figures")
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    finally:
        remove_tree(folder)


def _make_files(folder: Path, total_bytes: int, *, small: int) -> None:
    """One file of half the bytes, four of a tenth each, and many small ones."""
    folder.mkdir()
    sizes = [int(total_bytes * LARGEST)] + [total_bytes // 10] * 4 + [total_bytes // 10 // small] * small
    block = hashlib.shake_256(_SEED).digest(_CHUNK_BYTES)
    for number, size in enumerate(sizes):
        with open(folder / f"{number:05d}", "wb") as stream:
            while size > 0:
                head = number.to_bytes(4, "big") + stream.tell().to_bytes(8, "big")
                size -= stream.write((head + block[12:])[:size])


def _busy(packings: Sequence[dict[str, float]], where: str) -> Figure:
    shares = [found["cpu_s"] / found["wall_s"] / found["cores"] for found in packings]
    speeds = [found["bytes"] / found["wall_s"] / MB for found in packings]
    cores = packings[0]["cores"]
    usable = min(1.0, 1.0 / LARGEST / cores)  # one file is hashed by one core, and the largest is half of all bytes
    return Figure(
        GOAL, "bundle.pack: share of all cores' time in use", statistics.median(shares), "ratio",
        "processor time of the packing process / wall time / cores, from the first byte read to the last one written",
        AT_LEAST, BUSY_BOUND * usable, (min(shares), max(shares)), len(shares),
        checked="every packing gave the same bytes; what was packed is installed and held to its sources below",
        note=f"{int(cores)} cores, {statistics.median(speeds):.0f} MB/s in all, to {where}",
    )  # fmt: skip


def _verifying(target: Path, rounds: int) -> Iterator[Figure]:
    """Verification and SHA-256 alone over the same bytes, in turn, each on one core."""
    speeds: dict[str, list[float]] = {"verify": [], "sha256": []}
    for number in range(rounds):
        for name in sorted(speeds, reverse=bool(number % 2)):
            found = _child(name, target, target, one_core=True)
            speeds[name].append(found["bytes"] / found["wall_s"] / MB)
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    checked = "no failure in the sound bundle; one changed byte is found by the same code in this run"
    yield Figure(
        GOAL, "bundle.verify: speed on one core", middle["verify"], "MB/s",
        "bytes of the bundle / time to verify list, signature, and every header, content and padding, on one core",
        spread=(min(speeds["verify"]), max(speeds["verify"])), samples=rounds,
        checked=checked,
        note=f"SHA-256 alone over the same bytes, in turn: {middle['sha256']:.0f} MB/s",
    )  # fmt: skip
    yield Figure(
        GOAL, "bundle.verify: speed beside SHA-256 alone", middle["verify"] / middle["sha256"], "times",
        "median speed of verification / median speed of hashlib.sha256 over the same file in pieces of 1 MiB",
        AT_LEAST, VERIFY_BOUND, samples=rounds, checked=checked,
    )  # fmt: skip


def _check_installed(source: Path, site: Path) -> None:
    names = sorted(path.name for path in source.iterdir())
    if sorted(path.name for path in (site / "files").iterdir()) != names:
        raise VerificationFailed("the installation holds other files than were packed")
    for name in names:
        if sha256_file(site / "files" / name) != sha256_file(source / name):
            raise VerificationFailed(f"{name} was installed with other bytes than were packed")


def _change_a_byte(target: Path) -> None:
    with open(target, "r+b") as stream:
        stream.seek(target.stat().st_size // 2)
        value = stream.read(1)
        stream.seek(-1, os.SEEK_CUR)
        stream.write(bytes([value[0] ^ 1]))


def _child(work: str, first: Path, second: Path, *, one_core: bool = False, sound: bool = True) -> dict[str, float]:
    """Run one piece of work in a process of its own; returns what it and the kernel say of it."""
    cores = sorted(os.sched_getaffinity(0))[:1] if one_core else []
    words = [sys.executable, "-m", "repro.bench.packing", work, str(first), str(second), json.dumps(cores)]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CouldNotRun(f"{work} ended with code {done.returncode} in the bench", detail=done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if sound and found.get("failures"):
        raise VerificationFailed(f"{work}: a sound bundle was found wrong")
    return found


# What each needs is imported in it: their memory is measured, process by process.


def _pack(source: Path, target: Path) -> dict[str, float | str]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - memory

    from repro.display.console import Console  # noqa: PLC0415 - memory
    from repro.packing.signing import signer_of  # noqa: PLC0415 - memory
    from repro.packing.writer import Item, write_bundle  # noqa: PLC0415 - memory

    signer = signer_of(Ed25519PrivateKey.from_private_bytes(hashlib.sha256(_SEED).digest()))
    items = [Item.of_file(f"tree/files/{path.name}", path) for path in sorted(source.iterdir())]
    about = {"format": 1, "name": "bench", "commit": "0" * 40, "part_size_bytes": 0, "unpacked_bytes": 0, "base": "",
             "public_key": signer.public_pem, "contents": {"licence_notes": {}}}  # fmt: skip
    began_s, used_s = time.perf_counter(), time.process_time()
    with Console().transfer("pack") as progress:
        write_bundle(target, items, about, signer, progress)
    wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - used_s
    return {"wall_s": wall_s, "cpu_s": cpu_s, "bytes": target.stat().st_size, "sha256": sha256_file(target)}


def _verify(target: Path) -> dict[str, float | str]:
    from repro.packing.verify import verify_bundle  # noqa: PLC0415 - memory

    key = _fingerprint(target)
    began_s = time.perf_counter()
    report = verify_bundle(target, [key])
    return {"wall_s": time.perf_counter() - began_s, "bytes": target.stat().st_size, "failures": len(report.failures)}


def _fingerprint(target: Path) -> str:
    from repro.packing.installer.archive import Archive  # noqa: PLC0415 - memory

    archive = Archive(target)
    archive.close()
    return archive.listing.fingerprint


def _sha256(target: Path) -> dict[str, float | str]:
    began_s = time.perf_counter()
    digest, buffer = hashlib.sha256(), bytearray(_CHUNK_BYTES)
    with open(target, "rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return {"wall_s": time.perf_counter() - began_s, "bytes": target.stat().st_size, "sha256": digest.hexdigest()}


def _install(target: Path, site: Path) -> dict[str, float | str]:
    """install.py itself, as a process: its memory is counted as a child's."""
    from repro.packing.script import install_script  # noqa: PLC0415 - memory

    script = site.with_name("install.py")
    script.write_bytes(install_script())
    words = [sys.executable, "-I", str(script), str(target), "--key", _fingerprint(target), "--files-only",
             "--to", str(site)]  # fmt: skip
    subprocess.run(words, check=True, stdout=sys.stderr)
    return {}


def _peak_bytes() -> int:
    """The largest resident set of this process since it began, or of a child that it waited for.

    Not getrusage of this process: that counts what its parent held before the program was loaded.
    """
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    own_kib = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return 1024 * max(own_kib, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)


def main() -> None:
    """One piece of work, for `_child`."""
    work, first, second, cores = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), json.loads(sys.argv[4])
    if cores:
        os.sched_setaffinity(0, cores)
    does: dict[str, Callable[[], dict[str, float | str]]] = {
        "pack": lambda: _pack(first, second),
        "verify": lambda: _verify(first),
        "sha256": lambda: _sha256(first),
        "install": lambda: _install(first, second),
    }
    found = does[work]()
    found.update(cores=len(os.sched_getaffinity(0)), peak_mb=_peak_bytes() / MB)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()

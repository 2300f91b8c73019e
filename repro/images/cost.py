"""What building layers costs in time and disk, printed before it is spent."""

from __future__ import annotations

from dataclasses import dataclass

from repro.images.layers.built import jobs_here
from repro.machine.emulation import emulation

# Processor time of Kaldi for arm64 on x86_64 under QEMU 7.2 (333 and 361 s) by that of Kaldi for x86_64 (32 and 37 s).
EMULATED_FACTOR = 10.0
# A layer's size by its packages': 2.2 for PyTorch, 3.6 for NumPy and its kin, measured.
UNPACKED_FACTOR = 3.5


@dataclass(frozen=True)
class Work:
    """What is still to be done for some layers.

    Attributes:
        compile_s: expected seconds of processor time, by the name of each layer that is to be compiled; 0 where no
            run of its recipe was ever measured.
        package_bytes: of the locked files that the other layers are made from.
    """

    architecture: str
    compile_s: dict[str, float]
    package_bytes: int

    @property
    def disk_bytes(self) -> int:
        """What the layers made from packages take."""
        return int(self.package_bytes * UNPACKED_FACTOR)


def expected(cpu_seconds: float, architecture: str) -> str:
    """How long compiling takes here, for a person: on an idle machine, with as many compilers as would run at once."""
    if not cpu_seconds:
        return "how long was never measured"
    how, jobs = emulation(architecture), jobs_here()
    slower = 1.0 if how.native else EMULATED_FACTOR
    minutes = max(1, round(cpu_seconds * slower / jobs / 60))
    emulated = "" if how.native else f", under emulation: {how.how}"
    return f"about {minutes} minute{'s' * (minutes != 1)} with {jobs} at once{emulated}"


def sentence(work: Work) -> str:
    """For a person, before anything is spent; '' where nothing is to be compiled."""
    if not work.compile_s:
        return ""
    measured = sorted(name for name, seconds in work.compile_s.items() if seconds)
    others = sorted(set(work.compile_s) - set(measured))
    parts = []
    if measured:
        parts.append(f"{', '.join(measured)}: {expected(sum(work.compile_s.values()), work.architecture)}")
    if others:
        parts.append(f"{', '.join(others)}: {expected(0, work.architecture)}")
    if work.disk_bytes:
        parts.append(f"{work.disk_bytes / 1e9:.1f} GB of disk for the compilers and what else is missing")
    return f"to compile for {work.architecture}: " + "; ".join(parts)

"""The two architectures that images are made for, and the name of each in every vocabulary that we speak."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from repro.base.errors import UsageError


@dataclass(frozen=True)
class Architecture:
    """One architecture.

    Attributes:
        name: Docker's, Debian's and ours: 'amd64'.
        machine: the kernel's, as `uname -m` says it, which wheels use as well: 'x86_64'.
        triplet: of the folder that Debian keeps its libraries in: 'x86_64-linux-gnu'.
        loader: file name of the dynamic loader in that folder.
        qemu: name of QEMU's user mode for it, and of its entry in binfmt_misc.
        elf_machine: e_machine in an ELF header.
        audit: AUDIT_ARCH of <linux/audit.h>: what a seccomp filter sees.
        variant: OCI's platform variant, '' for none.
    """

    name: str
    machine: str
    triplet: str
    loader: str
    qemu: str
    elf_machine: int
    audit: int
    variant: str = ""

    @property
    def other(self) -> Architecture:
        """The one that this is not."""
        return ARM64 if self is AMD64 else AMD64

    @property
    def oci_platform(self) -> dict[str, str]:
        """The platform object of an OCI descriptor or config."""
        variant = {"variant": self.variant} if self.variant else {}
        return {"architecture": self.name, "os": "linux", **variant}


AMD64 = Architecture(
    "amd64", "x86_64", "x86_64-linux-gnu", "ld-linux-x86-64.so.2", "qemu-x86_64", elf_machine=62, audit=0xC000003E
)
ARM64 = Architecture(
    "arm64", "aarch64", "aarch64-linux-gnu", "ld-linux-aarch64.so.1", "qemu-aarch64", 183, 0xC00000B7, variant="v8"
)
ARCHITECTURES = {each.name: each for each in (AMD64, ARM64)}
_BY_MACHINE = {each.machine: each for each in ARCHITECTURES.values()}


def by_name(name: str) -> Architecture:
    """The architecture called 'amd64' or 'arm64'.

    Raises:
        UsageError: there are no images for it.
    """
    if name not in ARCHITECTURES:
        raise UsageError(
            f"there are no images for the architecture {name!r}", hint=f"known are {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]


def of_machine(machine: str) -> Architecture | None:
    """The architecture by the kernel's name for it, or Docker's own; None for one that is neither of the two."""
    return _BY_MACHINE.get(machine) or ARCHITECTURES.get(machine)


def here() -> Architecture:
    """This machine's.

    Raises:
        UsageError: this machine is neither.
    """
    machine = platform.machine()
    if machine not in _BY_MACHINE:
        raise UsageError(
            f"this machine is {machine}; the images are made for x86_64 and aarch64", hint="use one of those"
        )
    return _BY_MACHINE[machine]

"""Facts about this machine: what the record keeps, what results may depend on, what doctor looks at."""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from repro.base.architecture import here
from repro.machine import cgroups
from repro.machine.processors import processor_name

# What NumPy, OpenBLAS and ONNX Runtime choose their kernels by.
_X86_FLAGS = ("sse4_2", "avx", "fma", "avx2", "avx512f", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16",
              "amx_tile", "amx_bf16", "amx_int8", "avx_vnni")  # fmt: skip
_ARM_FLAGS = ("asimd", "asimdhp", "asimddp", "sve", "sve2", "i8mm", "bf16")


@dataclass(frozen=True)
class Machine:
    """What of this machine a result may depend on.

    Attributes:
        instruction_set: of the processor, for results that are exact only within it.
        identity: of this host and device, for speeds.
        accelerator: chip, driver and firmware of the NPU that is used; '' on the CPU.
    """

    instruction_set: str
    identity: str
    accelerator: str = ""


@dataclass(frozen=True)
class Given:
    """What stages may use of this machine together."""

    cores: int
    memory_bytes: int


def architecture() -> str:
    """'amd64' or 'arm64'.

    Raises:
        UsageError: this machine is neither.
    """
    return here().name


def _cpuinfo() -> dict[str, str]:
    facts: dict[str, str] = {}
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return facts
    for line in text.splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    return facts


def core_cache_bytes() -> int:
    """The second-level cache of the first processor, in bytes; 0 where the kernel does not say."""
    try:
        text = Path("/sys/devices/system/cpu/cpu0/cache/index2/size").read_text(encoding="ascii").strip()
        return int(text[:-1]) * {"K": 1 << 10, "M": 1 << 20}[text[-1]]
    except (OSError, ValueError, KeyError, IndexError):
        return 0


def instruction_set() -> str:
    """The processor's relevant extensions, in one line: results of one such line are equal byte for byte."""
    facts = _cpuinfo()
    present = set((facts.get("flags") or facts.get("Features") or "").split())
    known = _X86_FLAGS if architecture() == "amd64" else _ARM_FLAGS
    vendor = facts.get("vendor_id") or facts.get("CPU implementer") or "unknown"
    return " ".join([architecture(), vendor, *(flag for flag in known if flag in present)])


def multiplies_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 faster than float32: in AMX's matrix unit, or by AVX512-BF16."""
    return not {"amx_bf16", "avx512_bf16"}.isdisjoint(instruction_set().split())


def cpu_model() -> str:
    """The processor's name: the kernel's, or for arm64, whose kernels give numbers, ours with the numbers beside it."""
    facts = _cpuinfo()
    named = processor_name(facts.get("CPU implementer", "unknown"), facts.get("CPU part", "unknown"))
    return facts.get("model name") or named


def _cpu_code() -> str:
    """What of the processor enters a machine's identity: no name of ours, which may be found later."""
    facts = _cpuinfo()
    part = "{} part {}".format(facts.get("CPU implementer", "unknown"), facts.get("CPU part", "unknown"))
    return facts.get("model name") or part


def _os_release() -> str:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        try:
            for line in Path(path).read_text(encoding="utf-8").splitlines():
                if line.startswith("PRETTY_NAME="):
                    return line.partition("=")[2].strip().strip('"')
        except OSError:
            continue
    return "unknown"


def _selinux() -> str:
    try:
        return (
            "enforcing" if Path("/sys/fs/selinux/enforce").read_text(encoding="ascii").strip() == "1" else "permissive"
        )
    except OSError:
        return "absent"


def facts() -> dict[str, str | int]:
    """What the record keeps about the host. No name, address or serial number of it."""
    pages = os.sysconf("SC_PHYS_PAGES")
    return {
        "os": _os_release(),
        "kernel": platform.release(),
        "architecture": architecture(),
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "instruction_set": instruction_set(),
        "memory_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "page_size_bytes": os.sysconf("SC_PAGE_SIZE"),
        "python": platform.python_version(),
        "selinux": _selinux(),
    }


def given() -> Given:
    """The cores that this process may use, and nine tenths of the memory: of the machine's, or of its control group's.

    The rest is the kernel's, for file pages, and this process's.
    """
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit_bytes = cgroups.memory_given()
    if limit_bytes is not None:
        memory_bytes = min(memory_bytes, limit_bytes)
    return Given(cores=len(os.sched_getaffinity(0)), memory_bytes=memory_bytes * 9 // 10)


def machine(accelerator: str = "") -> Machine:
    """What results and speeds are keyed by on this machine.

    Args:
        accelerator: chip, driver and firmware of the NPU that is used; '' on the CPU.
    """
    cores = len(os.sched_getaffinity(0))
    try:
        host_id = Path("/etc/machine-id").read_text(encoding="ascii").strip()
    except OSError:
        host_id = platform.node()
    # Hashed: it tells this machine from another and says nothing else about it.
    identity = hashlib.sha256(f"lstm-ctc-bundle {host_id} {_cpu_code()} {cores} cores".encode()).hexdigest()[:32]
    device = accelerator or "cpu"
    return Machine(instruction_set=instruction_set(), identity=f"{identity} {device}", accelerator=accelerator)

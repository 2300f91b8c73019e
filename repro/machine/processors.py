"""Names of arm64 processors, whose kernels show two numbers: the implementer's and its part's (MIDR_EL1)."""

from __future__ import annotations

_NAMES: dict[int, dict[int, str]] = {
    0x41: {  # Arm
        0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
        0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse N1", 0xD0D: "Cortex-A77",
        0xD40: "Neoverse V1", 0xD41: "Cortex-A78", 0xD49: "Neoverse N2", 0xD4A: "Neoverse E1", 0xD4F: "Neoverse V2",
        0xD84: "Neoverse V3", 0xD8E: "Neoverse N3",
    },
    0x42: {0x516: "ThunderX2"},  # Broadcom
    0x43: {0x0A1: "ThunderX", 0x0AF: "ThunderX2"},  # Cavium
    0x46: {0x001: "A64FX"},  # Fujitsu
    0x48: {0xD01: "Kunpeng 920", 0xD02: "TaiShan v120"},  # HiSilicon
    0x4E: {0x003: "Denver 2", 0x004: "Carmel"},  # NVIDIA
    0x51: {0x001: "Oryon", 0xC00: "Falkor"},  # Qualcomm
    0x70: {  # Phytium
        0x660: "FTC660", 0x661: "FTC661", 0x662: "FTC662", 0x663: "FTC663", 0x664: "FTC664", 0x862: "FTC862",
    },
    0xC0: {0xAC3: "AmpereOne", 0xAC4: "AmpereOne A"},  # Ampere
}  # fmt: skip


def processor_name(implementer: str, part: str) -> str:
    """The processor's name with its numbers beside it; the numbers alone where the name is not known.

    Args:
        implementer: as /proc/cpuinfo shows it: '0x41'.
        part: likewise: '0xd0c'.
    """
    numbers = f"{implementer} part {part}"
    try:
        name = _NAMES[int(implementer, 16)][int(part, 16)]
    except (ValueError, KeyError):
        return numbers
    return f"{name} ({numbers})"

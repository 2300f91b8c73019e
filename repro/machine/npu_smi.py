"""What npu-smi prints, read: the table of `npu-smi info`, lists of fields, and why no chip of it can serve.

Tables differ between releases and cards: columns are wider, Device is absent or called Phy-ID, memory stands under
HBM-Usage, and every figure may be `NA`. So a row is told by its cells: a bus address marks a chip's row.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from repro.base.foreign import shown

SOC_PREFIX = "Ascend"
SERVING = "310P"
"""The kind of chip that the published model is converted for, in npu-smi's spelling."""
UNKNOWN_DEVICE = -1
_VERSION = re.compile(r"\|\s*npu-smi\s+(\S+)\s+Version:\s*(\S+)\s*\|")
_VIRTUAL = re.compile(r"vir\d", re.IGNORECASE)
_USAGE = re.compile(r"(\d+|NA|-)\s*/\s*(\d+|NA|-)(?!\S)")


@dataclass(frozen=True)
class Chip:
    """One chip, as two lines of `npu-smi info` show it.

    Attributes:
        card: npu-smi's NPU id; it need not start at 0, nor be a device number.
        number: of the chip on its card.
        device: N of /dev/davinciN; UNKNOWN_DEVICE where the table has no such column.
        name: as npu-smi spells it, such as '310P3'.
        health: 'OK', 'Warning', 'Alarm', 'Critical' or 'UNKNOWN'.
        power_w, temperature_c, aicore_percent: None where npu-smi says NA.
        memory_used_mb, memory_mb: 0 where npu-smi says NA.
        processes: names of those that hold the chip.
    """

    card: int
    number: int
    device: int
    name: str
    health: str
    bus_id: str
    power_w: float | None
    temperature_c: float | None
    aicore_percent: float | None
    memory_used_mb: int
    memory_mb: int
    processes: tuple[str, ...] = ()

    @property
    def soc_version(self) -> str:
        """What atc calls it, such as 'Ascend310P3'."""
        return self.name if self.name.startswith(SOC_PREFIX) else SOC_PREFIX + self.name

    @property
    def serves(self) -> bool:
        """Whether it is a whole chip of the kind that the model can be converted for."""
        return self.soc_version.startswith(SOC_PREFIX + SERVING) and not self.virtual

    @property
    def virtual(self) -> bool:
        """Whether it is a vNPU, a part of a chip: npu-smi then shows a template's name, such as '310P3vir02'."""
        return _VIRTUAL.search(self.name) is not None

    @property
    def busy(self) -> bool:
        """Whether something runs on it: a speed measured beside it would be wrong."""
        return bool(self.processes) or bool(self.aicore_percent)


@dataclass(frozen=True)
class SmiTable:
    """What `npu-smi info` printed: the tool's version, the driver's, every chip."""

    tool_version: str
    driver_version: str
    chips: tuple[Chip, ...]


def parse_smi(text: str) -> SmiTable:
    """Read `npu-smi info`.

    Args:
        text: all that it printed.

    Returns:
        Chips in the order printed; none where the text holds no table.
    """
    version = _VERSION.search(text)
    processes: dict[tuple[int, int], list[str]] = {}
    chips: list[Chip] = []
    card: list[str] | None = None
    among_processes = False
    for line in text.splitlines():
        cells = _cells(line)
        among_processes = among_processes or (len(cells) > 1 and cells[1].startswith("Process id"))
        place = re.match(r"(\d+)\s+(\d+)$", cells[0]) if cells else None
        if place and (among_processes or len(cells) > 3):
            processes.setdefault((int(place[1]), int(place[2])), []).append(_holder(cells))
        elif len(cells) == 3 and re.match(r"\d+\s+\S", cells[0]) and not _is_chip(cells, card):
            card = cells
        elif len(cells) == 3 and card is not None and re.match(r"\d+(\s+(\d+|NA))?$", cells[0]):
            chips.append(_chip(card, cells))
            card = None
    held = tuple(replace(chip, processes=tuple(processes.get((chip.card, chip.number), ()))) for chip in chips)
    return SmiTable(version[1] if version else "", version[2] if version else "", held)


def _cells(line: str) -> list[str]:
    """The cells of a row of a table; none for another line."""
    stripped = line.strip()
    if len(stripped) < 2 or not stripped.startswith("|") or not stripped.endswith("|"):
        return []
    return [cell.strip() for cell in stripped[1:-1].split("|")]


def _is_chip(cells: Sequence[str], card: Sequence[str] | None) -> bool:
    """Whether a row is a chip's: it has a bus address, or NA in its place below a card's row."""
    return ":" in cells[1] or (card is not None and cells[1] == "NA")


def _holder(cells: Sequence[str]) -> str:
    """Who holds a chip. npu-smi leaves out what it may not see of another user's or container's process."""
    number, name = (cells[1] if len(cells) > 1 else ""), (cells[2] if len(cells) > 2 else "")
    return f"{name or 'a process without a name'} (pid {number or 'unknown'})"


def _chip(card: Sequence[str], chip: Sequence[str]) -> Chip:
    number, *device = chip[0].split()
    card_number, name = card[0].split(None, 1)
    power, temperature, *_ = [*card[2].split(), "", ""]
    used, total = _memory(chip[2])
    return Chip(
        card=int(card_number),
        number=int(number),
        device=int(device[0]) if device and device[0].isdigit() else UNKNOWN_DEVICE,
        name=name,
        health=card[1],
        bus_id=chip[1],
        power_w=_number(power),
        temperature_c=_number(temperature),
        aicore_percent=_number(next(iter(chip[2].split()), "")),
        memory_used_mb=used,
        memory_mb=total,
    )


def _memory(cell: str) -> tuple[int, int]:
    """(used, whole) in MB; of HBM, the last column, where a chip has such memory."""
    pairs = [(_whole(used), _whole(total)) for used, total in _USAGE.findall(cell)]
    return next((pair for pair in reversed(pairs) if pair[1]), (0, 0))


def _whole(text: str) -> int:
    return int(text) if text.isdigit() else 0


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None  # NA, or a dash for the second chip of a card


def parse_mapping(text: str) -> dict[tuple[int, int], int]:
    """`npu-smi info -m`: (NPU id, chip) to the chip's logic id, which is its device number; none in other forms."""
    mapping: dict[tuple[int, int], int] = {}
    known = False
    for line in text.splitlines():
        known = known or re.match(r"\s*NPU ID\s+Chip ID\s+Chip Logic ID\s", line) is not None
        row = re.match(r"\s*(\d+)\s+(\d+)\s+(\d+)\s", line)
        if known and row:
            mapping[int(row[1]), int(row[2])] = int(row[3])
    return mapping


def with_devices(table: SmiTable, mapping: Mapping[tuple[int, int], int]) -> SmiTable:
    """The table with the device numbers that it does not tell, as far as `npu-smi info -m` does."""
    chips = tuple(
        replace(chip, device=mapping.get((chip.card, chip.number), UNKNOWN_DEVICE))
        if chip.device == UNKNOWN_DEVICE
        else chip
        for chip in table.chips
    )
    return replace(table, chips=chips)


def parse_fields(text: str) -> dict[str, str]:
    """`NAME : VALUE` lines (npu-smi info -t board) or `NAME=VALUE` lines (version.info); NA and empty ones left out."""
    fields = {}
    for line in text.splitlines():
        separator = min((sign for sign in "=:" if sign in line), key=line.index, default="")
        name, _, value = line.partition(separator or "=")
        if separator and value.strip() not in ("", "NA"):
            fields[name.strip()] = value.strip()
    return fields


def explain_smi(code: int, text: str, table: SmiTable) -> tuple[str, str]:
    """Why no chip of `npu-smi info` can serve: (what it is, what to do), both '' when one can.

    The numbers are dcmi's: -8005 where the driver does not answer (not loaded, restart pending, no permission on the
    device nodes, held by another container), -8020 where another container or virtual machine holds the device.
    """
    last = shown(next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it printed nothing"))
    if "-8020" in text:
        return (
            f"npu-smi: dcmi says -8020, the device is in use by another container or virtual machine ({last})",
            "stop the container that holds it: `docker ps` and `npu-smi info` on the host show it",
        )
    if "-8005" in text or "dcmi" in text:
        return (
            f"npu-smi: dcmi cannot be initialised, so the driver does not answer ({last})",
            "stop another container that holds the device (`docker ps` on the host); restart the host if driver or "
            "firmware were just installed; as another user than root, be in the group HwHiAiUser; in a container, "
            "/dev/davinci_manager and the driver must be mounted",
        )
    if code != 0:
        return f"npu-smi info ended with exit code {code} ({last})", "see the driver's log in /var/log/npu"
    if not table.chips:
        return f"npu-smi info shows no chip ({last})", "see `dmesg | grep -i devdrv` and the seating of the card"
    return _unfit(table.chips)


def _unfit(chips: Sequence[Chip]) -> tuple[str, str]:
    if any(chip.serves for chip in chips):
        return "", ""
    kinds = sorted({chip.soc_version for chip in chips})
    if any(chip.virtual for chip in chips):
        return (
            f"npu-smi shows a vNPU ({shown(', '.join(kinds))}): a part of an Ascend {SERVING}, whose speed is not a "
            "chip's",
            "use a whole chip: `npu-smi set -t destroy-vnpu` on the host gives it back",
        )
    count = f"{len(chips)} chip{'s' if len(chips) > 1 else ''}"
    return (
        f"npu-smi shows {count} of the kind {shown(', '.join(kinds))}; the model is converted for an Ascend {SERVING}",
        f"use a host with an Ascend {SERVING}3 (Atlas 300I Pro, Atlas 300V Pro, Atlas 300I Duo), or --device cpu",
    )

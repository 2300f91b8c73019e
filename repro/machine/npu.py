"""The Ascend NPU of this host: npu-smi found and read, driver and firmware, device nodes, and which chip a run takes.

Nothing here opens a device. `repro.machine.npu_smi` reads what npu-smi prints.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from repro.base import programs, versions
from repro.base.errors import CouldNotRun
from repro.machine import vendor_lists
from repro.machine.npu_smi import SERVING as SERVING
from repro.machine.npu_smi import UNKNOWN_DEVICE as UNKNOWN_DEVICE
from repro.machine.npu_smi import Chip as Chip
from repro.machine.npu_smi import SmiTable as SmiTable
from repro.machine.npu_smi import explain_smi, parse_fields, parse_mapping, with_devices
from repro.machine.npu_smi import parse_smi as parse_smi

HEALTHY = "OK"
DUO = "Atlas 300I Duo"
CONTROL_NODES = ("davinci_manager", "devmm_svm", "hisi_hdc")
SIMULATOR = "simulator"
_TIMEOUT_S = 60.0
_FOLDERS = ("usr/local/sbin", "usr/local/bin", "usr/sbin", "usr/bin")

Run = Callable[[Sequence[str]], "tuple[int, str]"]
"""Runs a command and gives (exit code, stdout and stderr together)."""


@dataclass(frozen=True)
class Npu:
    """The NPU side of a host. `problem` says, for a person, why it cannot be used; '' when it can.

    Attributes:
        tool: npu-smi's path, '' where there is none.
        driver, firmware: package versions; '' where the file is not there or does not say.
        product: the card's name as its board tells it, or as its chips show it.
        driver_info, firmware_info: the fields of their version.info; none where there is no such file.
        simulator: the driver says that it is a stand-in made for tests.
    """

    tool: str = ""
    tool_version: str = ""
    driver: str = ""
    firmware: str = ""
    driver_info: Mapping[str, str] = field(default_factory=dict)
    firmware_info: Mapping[str, str] = field(default_factory=dict)
    product: str = ""
    chips: tuple[Chip, ...] = ()
    nodes: tuple[str, ...] = ()
    simulator: bool = False
    problem: str = ""
    hint: str = ""

    @property
    def present(self) -> bool:
        """Whether this is an Ascend host at all, usable or not."""
        return bool(self.tool or self.nodes)

    @property
    def release(self) -> str:
        """Firmware and driver as the compatibility table has them: one version where both are the same.

        A firmware that does not tell its release is not held against a driver; a driver that does not is named so.
        """
        if self.firmware and not versions.same(self.firmware, self.driver):
            return f"driver {self.driver or 'unknown'}, firmware {self.firmware}"
        return self.driver


@dataclass(frozen=True)
class Host:
    """Where to look; `root` is / but in tests. `run` starts a command of the host."""

    root: Path = Path("/")
    search: tuple[str, ...] = field(default_factory=programs.search_path)
    run: Run = field(default=lambda argv: _run(argv))

    def path(self, name: str) -> Path:
        """A path of the host, given without its leading slash."""
        return self.root / name


def _run(argv: Sequence[str]) -> tuple[int, str]:
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        return 124, f"it gave no answer within {_TIMEOUT_S:.0f} s"
    except OSError as error:
        return 126, str(error)
    return done.returncode, done.stdout.decode("utf-8", "replace")


def find_tool(host: Host) -> str:
    """npu-smi in PATH or where drivers put it; '' where it is not."""
    found = programs.find("npu-smi", [*host.search, *(str(host.path(name)) for name in _FOLDERS)])
    return str(found or "")


def version_info(host: Host, name: str) -> dict[str, str]:
    """The fields of one of the vendor's files; none where it cannot be read."""
    try:
        return parse_fields(host.path(name).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return {}


def _package_version(fields: Mapping[str, str]) -> str:
    """The release, not the component's own number: a firmware 22.0.4 calls itself 1.8x inside."""
    return fields.get("package_version", "")


def examine(host: Host | None = None) -> Npu:
    """Look at this host's NPU; never raises."""
    host = host or Host()
    nodes = tuple(sorted((p.name for p in host.path("dev").glob("davinci[0-9]*")), key=lambda n: (len(n), n)))
    tool = find_tool(host)
    driver_info, firmware_info = (version_info(host, name) for name in (vendor_lists.DRIVER, vendor_lists.FIRMWARE))
    driver = _package_version(driver_info) or driver_info.get("Version", "")
    common = {
        "tool": tool,
        "nodes": nodes,
        "firmware": _package_version(firmware_info),
        "driver_info": driver_info,
        "firmware_info": firmware_info,
        "simulator": SIMULATOR in driver_info,
    }
    if not tool:
        problem = "npu-smi is in neither PATH nor /usr/local/sbin" if nodes else "no npu-smi and no /dev/davinci*"
        hint = "install the NPU's driver package" if nodes else "use a host with an Ascend 310P3, or --device cpu"
        return Npu(driver=driver, problem=problem, hint=hint, **common)  # type: ignore[arg-type]
    code, text = host.run([tool, "info"])
    table = parse_smi(text)
    if any(chip.serves and chip.device == UNKNOWN_DEVICE for chip in table.chips):
        table = with_devices(table, parse_mapping(host.run([tool, "info", "-m"])[1]))
    problem, hint = explain_smi(code, text, table)
    first = next((chip for chip in table.chips if chip.serves), None)
    product = product_of(host, tool, table.chips, first.card) if first and not problem else ""
    if not problem:
        problem, hint = _missing_nodes(host, nodes)
    return Npu(
        tool_version=table.tool_version,
        driver=driver or table.driver_version,
        product=product,
        chips=table.chips,
        problem=problem,
        hint=hint,
        **common,  # type: ignore[arg-type]
    )


def _missing_nodes(host: Host, nodes: Sequence[str]) -> tuple[str, str]:
    absent = [f"/dev/{name}" for name in CONTROL_NODES if not host.path(f"dev/{name}").exists()]
    virtual = sorted(path.name for path in host.path("dev").glob("vdavinci[0-9]*"))
    if not nodes and virtual:
        return (
            f"npu-smi shows a chip, but its nodes are those of vNPUs alone: /dev/{', /dev/'.join(virtual)}",
            "use a whole chip: `npu-smi set -t destroy-vnpu` gives it back",
        )
    if not nodes:
        absent.insert(0, "/dev/davinci*")
    if not absent:
        return "", ""
    return (
        f"npu-smi shows a chip, but {', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not there",
        "the driver is half there: install it again, then start the machine anew; in a container, pass the nodes on",
    )


def product_of(host: Host, tool: str, chips: Sequence[Chip], card: int) -> str:
    """A card's name: its board's or its product's, else what the number of chips on it tells."""
    for kind, field_name in (("board", "Product Name"), ("product", "Product Type")):
        code, text = host.run([tool, "info", "-t", kind, "-i", str(card)])
        said = parse_fields(text).get(field_name, "") if code == 0 else ""
        if said.startswith("Atlas"):
            return said
    on_card = [chip for chip in chips if chip.card == card]
    if len(on_card) == 2 and on_card[0].soc_version == "Ascend310P3":
        return DUO
    return f"a card with {len(on_card)} chip{'s' if len(on_card) > 1 else ''} {on_card[0].name}"


def choose_chips(npu: Npu, devices: Sequence[int] = ()) -> tuple[Chip, ...]:
    """The chips that a run takes: those asked for by device number, else the first that is healthy and idle.

    Raises:
        CouldNotRun: there is none, or one asked for is absent, unhealthy or busy; says what to do.
    """
    if npu.problem:
        raise CouldNotRun(f"the NPU cannot be used: {npu.problem}", hint=npu.hint)
    by_device = {chip.device: chip for chip in npu.chips if chip.serves and chip.device != UNKNOWN_DEVICE}
    if not devices:
        return (_first_idle(npu),)
    for device in devices:
        if device not in by_device:
            known = ", ".join(str(number) for number in sorted(by_device))
            raise CouldNotRun(
                f"there is no NPU device {device} of the kind {SERVING} here",
                hint=f"npu-smi info shows devices {known or 'of other kinds alone'}",
            )
        _require_usable(by_device[device])
    if len({by_device[device].name for device in devices}) > 1:
        raise CouldNotRun("--devices names chips of different kinds", hint="a model is converted for one kind of chip")
    for device in devices:
        _require_node(npu, by_device[device])
    return tuple(by_device[device] for device in devices)


def _first_idle(npu: Npu) -> Chip:
    serving = [chip for chip in npu.chips if chip.serves]
    healthy = [chip for chip in serving if chip.health == HEALTHY]
    if not healthy:
        _require_usable(serving[0])
    idle = [chip for chip in healthy if not chip.busy]
    if not idle:
        raise CouldNotRun(
            "every healthy NPU chip is busy: " + "; ".join(_what_holds(chip) for chip in healthy),
            hint="wait until one is idle: a speed measured beside other work would be wrong (`npu-smi info` shows it)",
        )
    _require_node(npu, idle[0])
    return idle[0]


def _what_holds(chip: Chip) -> str:
    held = ", ".join(chip.processes) or f"AI cores at {chip.aicore_percent:.0f} %"
    return f"device {chip.device} by {held}"


def _require_usable(chip: Chip) -> None:
    if chip.health != HEALTHY:
        raise CouldNotRun(
            f"NPU device {chip.device} ({chip.name}, card {chip.card}, chip {chip.number}) is not healthy: "
            f"{chip.health}",
            hint=f"`npu-smi info -t health -i {chip.card} -c {chip.number}` says why; take another with --devices, or "
            "restart the machine",
        )
    if chip.busy:
        raise CouldNotRun(f"NPU is busy: {_what_holds(chip)}", hint="wait until it is idle, or take another")


def _require_node(npu: Npu, chip: Chip) -> None:
    if chip.device == UNKNOWN_DEVICE:
        raise CouldNotRun(
            f"npu-smi does not tell which device chip {chip.number} of NPU {chip.card} is",
            hint="`npu-smi info -m` should show its Chip Logic ID: please report what both commands print",
        )
    if f"davinci{chip.device}" not in npu.nodes:
        raise CouldNotRun(
            f"npu-smi shows device {chip.device}, but /dev/davinci{chip.device} is not there",
            hint=f"nodes here: {', '.join(npu.nodes)}; a vNPU or a container's own numbering cannot be used",
        )


def deviation(npu: Npu, required: str, for_duo: Sequence[str]) -> str:
    """What is wrong with firmware and driver for this card, in a sentence; '' when nothing is.

    Args:
        npu: as examined.
        required: the table's version, '22.0.4'.
        for_duo: what the table's footnote accepts on an Atlas 300I Duo instead.
    """
    duo = DUO in npu.product
    accepted = list(for_duo) if duo else [required]
    found = {"driver": npu.driver, "firmware": npu.firmware}
    wrong = [
        f"{name} {version}"
        for name, version in found.items()
        if version and not any(versions.same(version, other) for other in accepted)
    ]
    if not npu.driver:
        wrong.insert(0, "a driver of unknown version")
    if not wrong:
        return ""
    why = " (its footnote: this card takes them by the CANN version)" if duo else ""
    card, required_here = npu.product or "the card", " or ".join(accepted)
    return f"{card} has {' and '.join(wrong)}; the compatibility table requires {required_here}{why}"


def facts(npu: Npu, chips: Sequence[Chip] = ()) -> dict[str, str]:
    """What the record and the compatibility table take: only what was found. No serial number of a card."""
    chosen = chips or [chip for chip in npu.chips if chip.serves] or npu.chips
    found = {
        "driver": npu.release,
        "chip": chosen[0].soc_version if chosen else "",
        "card": npu.product,
        "npu_smi": npu.tool_version,
        "npu_chips": "; ".join(
            f"device {c.device}: card {c.card} chip {c.number} {c.name}, {c.health}, {c.memory_mb or 'unknown'} MB"
            for c in npu.chips
        ),
        "npu_devices_used": ", ".join(str(chip.device) for chip in chips),
        "npu_simulator": "yes: nothing here was measured on an NPU" if npu.simulator else "",
    }
    return {name: value for name, value in found.items() if value}

"""The compatibility table held against what probes found: component by component, required / found / status."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repro.base import versions
from repro.base.errors import UsageError
from repro.base.foreign import shown
from repro.base.toml import read_toml
from repro.graph.cann_images import CANN_IMAGE, is_cann
from repro.graph.pipeline import PINNED_IMAGES, STAGES
from repro.record.document import ToolchainRow
from repro.record.stage_files import ProbeFile

SAME: Literal["same"] = "same"
DEVIATES: Literal["deviates"] = "deviates"
ABSENT: Literal["absent"] = "absent"
PORTABLE: Literal["portable"] = "portable"
PINNED: Literal["pinned"] = "pinned"
PINNED_DEVIATING: Literal["pinned-deviating"] = "pinned-deviating"
_UNPINNED = "not pinned by the guide"
_PINNED_ROLES = {STAGES[stage].image: image for stage, image in PINNED_IMAGES.items()}
_HOST = "host"


@dataclass(frozen=True)
class Component:
    """One row of conf/compatibility.toml.

    Attributes:
        source: where the component itself would be found.
        substitute, substitute_source: what stands in for it where it is not, and where that is found.
        kind: 'table' for the compatibility table, 'requirement' for the pins of the guide's requirements.txt.
    """

    name: str
    required: str
    image: str
    source: str
    purpose: str
    substitute: str = ""
    substitute_source: str = ""
    kind: Literal["table", "requirement"] = "table"


def load_components(conf: Path) -> tuple[Component, ...]:
    """The rows of conf/compatibility.toml.

    Raises:
        UsageError: the file is not valid.
    """
    try:
        return tuple(Component(**row) for row in read_toml(conf / "compatibility.toml")["component"])
    except (KeyError, TypeError) as error:
        raise UsageError(f"conf/compatibility.toml is not a list of components: {error}") from error


def compare(
    components: tuple[Component, ...], probes: Mapping[str, ProbeFile], host: Mapping[str, str]
) -> tuple[ToolchainRow, ...]:
    """Hold every component against what was found.

    Args:
        components: the rows required.
        probes: by image, what stage `probe` wrote there; an image that was not used has none. A component is looked
            for in the pinned image of its role, where that was used.
        host: facts such as 'driver' and 'chip', only those found.
    """
    return tuple(_row(component, probes, host) for component in components)


def _row(component: Component, probes: Mapping[str, ProbeFile], host: Mapping[str, str]) -> ToolchainRow:
    pinned = _PINNED_ROLES.get(component.image, "")
    image = pinned if pinned in probes else component.image
    if image == CANN_IMAGE:
        image = next((name for name in sorted(probes) if is_cann(name)), image)

    def look_up(source: str) -> str:
        if image == _HOST:
            return host.get(source.partition(":")[2], "")
        return _in_probe(source, probes[image]) if image in probes else ""

    source, substitute = component.source, ""
    version = look_up(source)
    if not version and component.substitute_source:
        source, substitute = component.substitute_source, f"{component.substitute} "
        version = look_up(source)
    plain = version.split("+")[0]  # a wheel's local label, as in 1.8.0+cpu, is not another version
    same = not substitute and _as_required(component, plain)
    return ToolchainRow(
        component=component.name,
        required=component.required,
        found=f"{substitute}{version}" if version else "",
        status=ABSENT if not version else SAME if same else DEVIATES,
        probe=f"{source} in " + ("this host" if image == _HOST else f"image {image}"),
        purpose=component.purpose,
        kind=component.kind,
    )


def _as_required(component: Component, found: str) -> bool:
    """The vendor spells one version in several ways; a wheel's or a package's has one."""
    if component.source.partition(":")[0] in ("host", "found"):
        return component.required == _UNPINNED or versions.same(component.required, found)
    return component.required in (_UNPINNED, found)


def _in_probe(source: str, probe: ProbeFile) -> str:
    kind, _, name = source.partition(":")
    if kind == "python":
        return probe.python
    tables = {"wheel": probe.wheels, "deb": probe.debs, "found": probe.found}
    return tables[kind].get(name, "")


def deviations(rows: Iterable[ToolchainRow], accepted: Callable[[ToolchainRow], bool]) -> list[str]:
    """What of the compatibility table is not as required, in words; of the requirements nothing: they are shown.

    Args:
        rows: as `compare` gives them.
        accepted: says of a row whether an exception of the table covers it.
    """
    return [
        f"{row.component}: required {row.required}, found {row.found or 'nothing'}"
        for row in rows
        if row.kind == "table" and row.status != SAME and not accepted(row)
    ]


def name_of(
    pinned: Sequence[str], cann: str, rows: Iterable[ToolchainRow], accepted: Callable[[ToolchainRow], bool]
) -> Literal["portable", "pinned", "pinned-deviating"]:
    """What a run may call its toolchain: pinned only where every row of the table is as required, or excepted.

    Args:
        pinned: the stages that ran in their pinned image.
        cann: which CANN was asked for beside the table's; '' for none.
        rows: as `compare` gives them.
        accepted: as `deviations` takes it.
    """
    if not pinned:
        return PORTABLE
    return PINNED_DEVIATING if cann or deviations(rows, accepted) else PINNED


def describe(rows: Sequence[ToolchainRow]) -> str:
    """The table for a terminal: required, found, status and probe of each component."""
    columns = ("component", "required", "found", "status", "probe")
    lines = []
    for kind, title in (("table", "The compatibility table"), ("requirement", "The guide's requirements.txt")):
        chosen = [[shown(getattr(row, name)) or "-" for name in columns] for row in rows if row.kind == kind]
        widths = [max(len(line[i]) for line in [list(columns), *chosen]) for i in range(len(columns))]
        lines += [title] + ["  ".join(word.ljust(w) for word, w in zip(line, widths)).rstrip()
                            for line in [list(columns), *chosen]] + [""]  # fmt: skip
    return "\n".join(lines)

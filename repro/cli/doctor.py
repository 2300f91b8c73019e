"""`invoke doctor`: what this machine has and lacks for a run, line by line, and what to do; it fetches nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from repro.base import user_lock
from repro.base.architecture import by_name
from repro.base.errors import BundleError, UsageError
from repro.base.foreign import shown
from repro.base.paths import Paths
from repro.base.programs import search_path
from repro.base.user_lock import LICENCES
from repro.cli.ending import ending_of
from repro.container.job import Availability
from repro.fetching.cache import Cache
from repro.graph.cache import StatCache
from repro.images import cost
from repro.images.build import files_needed, work_for
from repro.images.commands import obtainable
from repro.images.definition import load_definition
from repro.images.layer_index import known_images
from repro.images.rootfs import SANDBOX_IMAGE
from repro.images.runnable import HINT, why_image_cannot_run
from repro.locks.archives import find_source, how_to_get, load_sources
from repro.machine import cann, facts, npu
from repro.machine.emulation import foreign
from repro.machine.vendor_lists import Fit
from repro.run import host_fits, inputs
from repro.run.engine_choice import AUTO, NAMES, probe_all

OK = "ok"
MISSING = "missing"
DEVIATES = "deviates"
_LINE_LIMIT = 1_000
_MIN_MEMORY_BYTES = 4 * 1000**3
_RESULTS_BYTES = 1 * 1000**3  # of a run of the demo with one batch size, twice over
_UNPACKED_FACTOR = 3.5  # a layer's size by its packages': 2.2 for PyTorch, 3.6 for NumPy and its kin, measured


@dataclass(frozen=True)
class Line:
    """One thing looked at: its status, what was found, and what to do about it (may be empty).

    `blocks` is set where a run cannot start before that is done.
    """

    status: str
    what: str
    found: str
    advice: str = ""
    blocks: bool = False

    def text(self) -> str:
        """For a terminal: one line, the advice below it."""
        lines = [f"{self.status:<9} {self.what:<22} {shown(self.found, _LINE_LIMIT)}"]
        lines += [f"{'':<10}-> {shown(line, _LINE_LIMIT)}" for line in self.advice.splitlines()]
        return "\n".join(lines)


@dataclass(frozen=True)
class System:
    """What doctor looks at outside the checkout; `root` is / except in tests."""

    root: Path = Path("/")
    architecture: Callable[[], str] = facts.architecture
    facts: Callable[[], Mapping[str, str | int]] = facts.facts
    free_bytes: Callable[[Path], int] = field(default=lambda path: shutil.disk_usage(path).free)
    search: tuple[str, ...] = field(default_factory=search_path)


Look = Callable[[], list[Line]]
NO_MORE: Mapping[str, Look] = {}


def examine(paths: Paths, engine: str = "auto", more: Mapping[str, Look] = NO_MORE) -> str:
    """Look at everything.

    Args:
        paths: the checkout.
        engine: the engine that a run would be asked for.
        more: to look at beside this machine, by what it is called.

    Returns:
        The report, one line per thing, and a last line that says whether a run can start.

    Raises:
        UsageError: there is no engine of that name.
    """
    if engine not in (AUTO, *NAMES):
        raise UsageError(f"there is no engine {engine!r}", hint="engines: " + ", ".join((AUTO, *NAMES)))
    system = System()
    looks: dict[str, Look] = {
        "machine": lambda: machine_lines(system),
        "engines": lambda: engine_lines(probe_all(paths), engine, to_come=sandbox_to_come(paths, system)),
        "NPU": lambda: npu_lines(system, paths.conf),
        "data": lambda: [_data_line(paths)],
        "checkpoint": lambda: [_checkpoint_line(paths)],
        "data/sources": lambda: source_lines(paths, system.architecture()),
        "images": lambda: image_lines(paths, system),
        **more,
    }
    lines = [line for what, look in looks.items() for line in looked(what, look)]
    return "\n".join([*(line.text() for line in lines), "", conclusion(lines)])


def looked(what: str, look: Look) -> list[Line]:
    """What a look found; one that fails is a line like any other, so that the others are still made."""
    try:
        return look()
    except BundleError as error:
        return [Line(DEVIATES, what, error.message, error.hint, blocks=True)]
    except Exception as error:  # noqa: BLE001 - doctor is asked when something is wrong: it has to end with its table
        ending = ending_of(error)
        message, _, advice = ending.text.partition("\n")
        advice = "\n".join(line.strip().removeprefix("-> ") for line in advice.splitlines())
        return [Line(DEVIATES, what, message.removeprefix("error: "), advice, blocks=True)]


def conclusion(lines: list[Line]) -> str:
    """The last line: whether `invoke reproduce` can start here."""
    blocking = [line.what for line in lines if line.blocks]
    if blocking:
        return f"`invoke reproduce` cannot run here yet: see {', '.join(blocking)} above"
    others = sum(line.status != OK for line in lines)
    return "`invoke reproduce` can run here" + (
        f"; {others} lines above say what is absent or different" if others else ""
    )


def machine_lines(system: System) -> list[Line]:
    """Operating system, architecture, processor, memory, page size, emulation of the other architecture."""
    try:
        architecture = system.architecture()
    except BundleError as error:
        return [Line(DEVIATES, "architecture", error.message, error.hint, blocks=True)]
    facts = system.facts()
    memory, page = int(facts["memory_bytes"]), int(facts["page_size_bytes"])
    enough = memory >= _MIN_MEMORY_BYTES
    lines = [
        Line(OK, "operating system", f"{facts['os']}, kernel {facts['kernel']}"),
        Line(OK, "architecture", architecture),
        Line(OK, "processor", f"{facts['cpu']}, {facts['cores']} cores for this process"),
        Line(
            OK if enough else DEVIATES,
            "memory",
            f"{memory / 1e9:.1f} GB",
            ""
            if enough
            else f"{_MIN_MEMORY_BYTES / 1e9:.0f} GB are what a run needs: leave out --bs all, close others",
        ),
        Line(
            OK if page == 4096 else DEVIATES,
            "page size",
            f"{page} bytes",
            "" if page == 4096 else "an image that cannot run with pages of this size has a line of its own below",
        ),
        Line(OK, "Python", str(facts["python"])),
        Line(OK, "SELinux", str(facts.get("selinux", "unknown"))),
    ]
    return [*lines, _emulation_line(system, architecture)]


def _emulation_line(system: System, architecture: str) -> Line:
    other = by_name(architecture).other.name
    found = foreign(other, system.root / "proc/sys/fs/binfmt_misc", system.search)
    if found.works:
        where = "in every engine" if found.everywhere else "in the sandbox"
        return Line(OK, "emulation", f"{other} programs run {where}, slowly: {found.how}")
    advice = f"only needed to compile a layer for {other} here, or to run its images: {found.hint}"
    return Line(MISSING, "emulation", found.how, advice)


def sandbox_to_come(paths: Paths, system: System) -> bool:
    """Whether the embedded sandbox cannot be probed just because a run would first fetch what it is made of."""
    needed = files_needed(paths, [SANDBOX_IMAGE], [system.architecture()])
    return any(Cache(paths.root).path(sha256) is None for sha256 in needed)


def engine_lines(found: list[Availability], asked: str, *, to_come: bool = False) -> list[Line]:
    """Every engine's own probe, then which one a run takes; `to_come` as `sandbox_to_come` says."""
    lines = []
    for item in found:
        if item.usable:
            lines.append(Line(OK, f"engine {item.name}", item.facts.get("version", "")))
        elif item.name == "sandbox" and to_come:
            lines.append(Line(MISSING, "engine sandbox", "not fetched yet, so not tried", "any run fetches it (3 MB)"))
        else:
            lines.append(Line(MISSING, f"engine {item.name}", item.reason, item.hint))
    return [*lines, _taken_line(found, asked, to_come=to_come)]


def _taken_line(found: list[Availability], asked: str, *, to_come: bool) -> Line:
    taken = next((item.name for item in found if item.usable and asked in ("auto", item.name)), "")
    if taken:
        return Line(OK, "engine taken", f"{taken} (--engine {asked})")
    if to_come and asked in ("auto", "sandbox"):
        return Line(MISSING, "engine taken", "the sandbox, if this kernel lets it run: the first run shows")
    advice = "do what stands below one of the engines above" if asked == "auto" else "leave out --engine"
    return Line(MISSING, "engine taken", f"none for --engine {asked}", advice, blocks=True)


def npu_lines(system: System, conf: Path) -> list[Line]:
    """NPU tools, device nodes, chips, firmware and driver, held against the compatibility table."""
    host = npu.Host(system.root, system.search)
    found = npu.examine(host)
    if not found.present:
        advice = "not needed on the CPU, which `invoke reproduce` takes unless told --device npu"
        return [Line(MISSING, "NPU", found.problem, advice)]
    lines = [
        Line(OK, "npu-smi", f"{found.tool} ({found.tool_version or 'version unknown'})")
        if found.tool
        else Line(MISSING, "npu-smi", "in neither PATH nor /usr/local/sbin", "install the NPU's driver package")
    ]
    lines.append(_nodes_line(system, found))
    if found.problem and found.tool and "is not there" not in found.problem and "are not there" not in found.problem:
        lines.append(Line(MISSING, "NPU chips", found.problem, found.hint))
    lines += [_chip_line(chip) for chip in found.chips]
    lines.append(_driver_line(found, conf))
    if found.driver_info:
        table = host_fits.table_cann(conf)
        lines.append(_fit_line("driver and firmware", host_fits.firmware_fit(found)))
        lines.append(_fit_line(f"driver and CANN {table}", host_fits.cann_fit(found, conf, table)))
    installed = cann.find(host)
    if installed is not None:
        fit = host_fits.cann_fit(found, conf, installed.version, installed.told)
        lines.append(
            Line(OK, "host's CANN", f"{installed.version} in /{cann.ASCEND}/{installed.toolkit}: `--cann host`")
        )
        lines.append(_fit_line("driver and host's CANN", fit))
    return lines


def _fit_line(what: str, fit: Fit) -> Line:
    """Whether two of driver, firmware and CANN fit each other, with the line of the vendor's file that says so."""
    status = {"yes": OK, "no": DEVIATES}.get(fit.answer, MISSING)
    advice = {"yes": "", "no": "the vendor's own lists exclude this pair: expect failures when the NPU is opened"}
    return Line(status, what, str(fit), advice.get(fit.answer, "no file here says; a run tries it, and records this"))


def _nodes_line(system: System, found: npu.Npu) -> Line:
    absent = [f"/dev/{name}" for name in npu.CONTROL_NODES if not (system.root / "dev" / name).exists()]
    if not found.nodes:
        return Line(MISSING, "NPU devices", "no /dev/davinci*", "see `npu-smi info` and the kernel's log")
    if absent:
        return Line(DEVIATES, "NPU devices", f"{', '.join(found.nodes)}, but no {', '.join(absent)}",
                    "the driver is half there: install it again, then start the machine anew")  # fmt: skip
    return Line(OK, "NPU devices", ", ".join(found.nodes))


def _chip_line(chip: npu.Chip) -> Line:
    name = f"NPU device {'?' if chip.device == npu.UNKNOWN_DEVICE else chip.device}"
    memory = f"{chip.memory_mb} MB" if chip.memory_mb else "memory unknown"
    what = f"{chip.soc_version}, card {chip.card} chip {chip.number}, {chip.health}, {memory}"
    if chip.health != npu.HEALTHY:
        advice = f"`npu-smi info -t health -i {chip.card} -c {chip.number}` says why"
        return Line(DEVIATES, name, what, advice)
    if not chip.serves:
        return Line(DEVIATES, name, what, f"the model is converted for an Ascend {npu.SERVING}: not for this chip")
    if chip.busy:
        return Line(DEVIATES, name, f"{what}, busy", "a run takes an idle one, or waits for you")
    return Line(OK, name, what)


def _driver_line(found: npu.Npu, conf: Path) -> Line:
    versions = f"driver {found.driver or 'unknown'}, firmware {found.firmware or 'unknown'}, {found.product}"
    wrong = host_fits.firmware_deviation(found, conf)
    if not wrong:
        return Line(OK, "NPU driver", versions)
    advice = f"{wrong}; an {npu.DUO} takes the version of its CANN instead"
    return Line(DEVIATES, "NPU driver", versions, advice)


def _data_line(paths: Paths) -> Line:
    try:
        data = inputs.find_data(paths, "")
    except BundleError as error:
        return Line(DEVIATES, "data", error.message, error.hint, blocks=True)
    if data is None:
        return Line(
            MISSING,
            "data",
            "no TIMIT: the demo corpus stands in, and the report says so",
            "put TIMIT into data/TIMIT (or data/data.zip), or give --data: see data/README.md",
        )
    return Line(OK, "data", f"data/{data.name}", "its counts are held against TIMIT's in every run")


def _checkpoint_line(paths: Paths) -> Line:
    try:
        user = inputs.users_checkpoint(paths)
    except BundleError as error:
        return Line(DEVIATES, "checkpoint", error.message, error.hint, blocks=True)
    if user is not None:
        return Line(OK, "checkpoint", str(user.relative_to(paths.root)))
    try:
        inputs.find_checkpoint(paths, inputs.DEMO, StatCache(None))
    except BundleError as error:
        present = inputs.demo_checkpoint_path(paths).is_file()
        return Line(DEVIATES if present else MISSING, "checkpoint", error.message, error.hint, blocks=True)
    published = load_sources(paths.conf)["checkpoint"]
    return Line(
        MISSING,
        "checkpoint",
        "no ctc_best_model.pth: the demo's stands in, and the report says so",
        f"`invoke fetch --sources checkpoint` where the network lets it, or {how_to_get(published)}; "
        "or give --checkpoint: see data/README.md",
    )


def source_lines(paths: Paths, architecture: str) -> list[Line]:
    """What the pinned toolchain and the NPU take from data/sources, by name; and the vendor's licence."""
    other = f"-{by_name(architecture).other.name}"
    everything = load_sources(paths.conf).values()  # the checkpoint has a line of its own
    known = [
        source
        for source in everything
        if not (source.versioned or source.name.endswith(other) or source.name == "checkpoint")
    ]
    lines = []
    for source in known:
        path = find_source(paths, source)
        if path is not None:
            lines.append(Line(OK, "data/sources", f"{source.title}: {path.name}"))
        else:
            advice = f"only for --toolchain pinned or --device npu: {how_to_get(source)}"
            lines.append(Line(MISSING, "data/sources", source.title, advice))
    for licence in sorted({source.accept for source in known} - {""}):
        if user_lock.accepted(paths, licence):
            lines.append(Line(OK, "licence", f"{licence}: accepted by you, in data/user.lock.json"))
        else:
            advice = f"only for --device npu: `invoke accept-cann-licence` records that you accept {LICENCES[licence]}"
            lines.append(Line(MISSING, "licence", f"{licence}: not accepted", advice))
    return lines


def image_lines(paths: Paths, system: System) -> list[Line]:
    """Locked files fetched, images built, and the disk space that the rest needs."""
    try:
        architecture = system.architecture()
        names = obtainable(paths, architecture, lambda _: None)
        built = known_images(paths, names, architecture)
        needed = files_needed(paths, names, [architecture])
        compiling = cost.sentence(work_for(paths, names, architecture))
    except BundleError as error:
        return [Line(DEVIATES, "images", error.message, error.hint, blocks=True)]
    cache = Cache(paths.root)
    absent = [file for file in needed.values() if cache.path(file.sha256) is None]
    lines = [
        Line(DEVIATES, f"image {name}", why, HINT, blocks=True)
        for name, why in _cannot_run(paths, system, names, architecture)
    ]
    if absent:
        size = sum(file.size_bytes for file in absent)
        lines.append(Line(MISSING, "locked files", f"{len(absent)} to fetch, {size / 1e6:.0f} MB",
                          "`invoke fetch` brings them; `invoke reproduce` does it by itself"))  # fmt: skip
    else:
        lines.append(Line(OK, "locked files", "all that is needed is here"))
    unbuilt = [name for name in names if name not in built]
    if unbuilt:
        lines.append(Line(MISSING, "images", f"not built: {', '.join(unbuilt)}",
                          "\n".join(["`invoke images.build` builds them; `invoke reproduce` does it by itself",
                                     *filter(None, [compiling])])))  # fmt: skip
    else:
        lines.append(Line(OK, "images", f"{len(names)} built for {architecture}"))
    to_fetch = sum(file.size_bytes for file in absent)
    to_build = sum(file.size_bytes for file in needed.values()) * _UNPACKED_FACTOR
    return [*lines, _disk_line(paths, system, int(to_fetch + to_build) + _RESULTS_BYTES)]


def _cannot_run(paths: Paths, system: System, names: list[str], architecture: str) -> list[tuple[str, str]]:
    """Images that no engine can run on this machine, and why."""
    facts = {**system.facts(), "architecture": architecture}
    found = [(name, why_image_cannot_run(load_definition(paths.docker, name), facts)) for name in names]
    return [(name, why) for name, why in found if why]


def _disk_line(paths: Paths, system: System, needed_bytes: int) -> Line:
    """`needed_bytes`: downloads, layers, and results."""
    place = paths.artifacts if paths.artifacts.exists() else paths.root
    free = system.free_bytes(place)
    found = f"{free / 1e9:.1f} GB free, about {needed_bytes / 1e9:.1f} GB needed"
    if free >= needed_bytes:
        return Line(OK, "disk space", found)
    advice = f"free some, or make {paths.artifacts} a link to a larger disk"
    return Line(DEVIATES, "disk space", found, advice, blocks=True)

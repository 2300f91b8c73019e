"""What a run is made on: which toolchain, which CANN, and which chips of this host's NPU."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from repro.base.errors import CouldNotRun, UsageError
from repro.base.paths import Paths
from repro.container.job import Mount
from repro.graph.pipeline import PINNED_IMAGES
from repro.images.archives import sources_of
from repro.images.compile import why_left_out
from repro.images.definition import load_definition
from repro.images.layer_index import known_images
from repro.locks.archives import find_source
from repro.machine import npu as ascend
from repro.machine.cann import ASCEND
from repro.run.cann_choice import Cann, choose_cann
from repro.run.host_fits import cann_fit, firmware_deviation, firmware_fit, table_cann
from repro.run.options import Options

AUTO, PORTABLE, PINNED = "auto", "portable", "pinned"
CPU, NPU = "cpu", "npu"
_DEVICES_LIMIT = 255  # ais_bench's
_UNPACKED_FACTOR = 8  # packages are compressed about fourfold; the tree and its layer are both on disk for a while


@dataclass(frozen=True)
class Target:
    """Where a run goes.

    Attributes:
        pinned: the stages that run in their pinned image.
        chips: of the NPU; none on the CPU.
        cann: which CANN, as a request has it: '' for the table's.
        mounts: what the host lends to containers, by image.
        said: what a person should know of how this was decided.
    """

    pinned: tuple[str, ...]
    npu: ascend.Npu
    chips: tuple[ascend.Chip, ...] = ()
    cann: str = ""
    mounts: Mapping[str, tuple[Mount, ...]] = field(default_factory=dict)
    said: tuple[str, ...] = ()

    @property
    def soc_version(self) -> str:
        """The chip as atc calls it; '' on the CPU."""
        return self.chips[0].soc_version if self.chips else ""

    @property
    def accelerator(self) -> str:
        """What of the NPU a result depends on: chip, driver, firmware, and that it is none at all."""
        if not self.chips:
            return ""
        kind = "simulator of " if self.npu.simulator else ""
        return f"{kind}{self.soc_version}, driver {self.npu.driver}, firmware {self.npu.firmware or 'unknown'}"


def parse_devices(text: str) -> tuple[int, ...]:
    """'0,1' as device numbers; none for '' (the first idle chip).

    Raises:
        UsageError: anything else.
    """
    if not text:
        return ()
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0 or max(numbers) > _DEVICES_LIMIT or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"--devices {text!r} is not a list of NPU device numbers", hint="such as 0 or 0,1: `npu-smi info`, Device"
        )
    return tuple(numbers)


def settle(paths: Paths, architecture: str, options: Options) -> Target:
    """Decide toolchain, CANN and chips.

    Args:
        paths: of the checkout.
        architecture: of this machine.
        options: of the run. --toolchain auto takes each pinned image that can be made here, pinned all or none.

    Raises:
        UsageError: an option's value is not known.
        CouldNotRun: pinned, a CANN or the NPU was asked for, and something of it is not there or not as it must be.
    """
    device, host = options.request.device, options.ascend_host
    _check(options)
    npu = ascend.examine(host)
    chips = ascend.choose_chips(npu, options.devices) if device == NPU else ()
    if chips:  # the card's name is that of the chips taken, where a host has cards of several kinds
        npu = replace(npu, product=ascend.product_of(host, npu.tool, npu.chips, chips[0].card))
    said, cann = [], Cann()
    if device == NPU:
        cann = choose_cann(paths, options.cann, host)
        _require_image(paths, architecture, cann.image)
        said += [_sentence(npu, chips), *_cost(paths, architecture, cann.image), *_misfits(npu, paths, cann)]
    wrong = firmware_deviation(npu, paths.conf) if npu.present else ""
    if options.toolchain == PINNED and device == NPU and (wrong or cann.request):
        raise CouldNotRun(f"this is not the pinned toolchain: {wrong or f'--cann {options.cann}'}",
                          hint="install that firmware and driver, or say --toolchain auto: the report then lists "
                          "the deviation, and nothing is compared")  # fmt: skip
    if wrong:
        said.append(f"deviates: {wrong}")
    pinned, told = _pinned_stages(paths, architecture, options, on_ascend=npu.present)
    mounts = {cann.image: (Mount(cann.folder, f"/{ASCEND}"),)} if cann.folder is not None else {}
    return Target(pinned, npu, chips, cann.request, mounts, (*said, *told))


def _check(options: Options) -> None:
    device = options.request.device
    if options.toolchain not in (AUTO, PORTABLE, PINNED):
        raise UsageError(f"--toolchain {options.toolchain} is not known", hint="auto, portable or pinned")
    if device not in (CPU, NPU):
        raise UsageError(f"--device {device} is not available in this version", hint="cpu or npu")
    for name, given in (("--devices", options.devices), ("--cann", options.cann)):
        if given and device != NPU:
            raise UsageError(f"{name} is for --device npu", hint="leave it out on the CPU")


def _misfits(npu: ascend.Npu, paths: Paths, cann: Cann) -> list[str]:
    """Which of driver, firmware and CANN do not fit each other, or are not known to, before anything is fetched."""
    version = cann.version or table_cann(paths.conf)
    fits = {"firmware": firmware_fit(npu), f"CANN {version}": cann_fit(npu, paths.conf, version, cann.told)}
    return [f"driver and {what} fit each other: {fit}" for what, fit in fits.items() if fit.answer != "yes"]


def _pinned_stages(
    paths: Paths, architecture: str, options: Options, *, on_ascend: bool
) -> tuple[tuple[str, ...], list[str]]:
    """The stages that run in their pinned image, and what a person should know of the choice."""
    if options.toolchain == PORTABLE and options.pinned is None:
        return (), []
    wanted = tuple(PINNED_IMAGES) if options.pinned is None else options.pinned
    lacking = lacking_for_pinned(paths, architecture, wanted)
    if options.toolchain == PINNED or options.pinned is not None:
        if lacking:
            raise CouldNotRun("the pinned toolchain is not complete here", detail="\n".join(lacking.values()),
                              hint="put what is named into data/sources, or use --toolchain auto")  # fmt: skip
        return wanted, []
    taken = tuple(stage for stage in wanted if PINNED_IMAGES[stage] not in lacking)
    said = [f"pinned: {stage} runs in image {PINNED_IMAGES[stage]}" for stage in taken]
    if lacking and (taken or on_ascend):
        said.append("the pinned toolchain is not complete: " + "; ".join(lacking.values()))
    return taken, said


def lacking_for_pinned(paths: Paths, architecture: str, stages: Sequence[str] = tuple(PINNED_IMAGES)) -> dict[str, str]:
    """What keeps the pinned images of stages from being here, by image; nothing when all can be made."""
    return _lacking(paths, architecture, sorted({PINNED_IMAGES[stage] for stage in stages}))


def _lacking(paths: Paths, architecture: str, names: Sequence[str]) -> dict[str, str]:
    lines = {}
    for name in names:
        why = why_left_out(paths, load_definition(paths.docker, name), architecture)
        if why and not known_images(paths, [name], architecture):
            lines[name] = f"image {name}: {why}"
    return lines


def _require_image(paths: Paths, architecture: str, image: str) -> None:
    lacking = _lacking(paths, architecture, [image])
    if lacking:
        raise CouldNotRun(
            "--device npu needs CANN, which is not here",
            detail="\n".join(lacking.values()),
            hint="docs/guide-lab.md says what to put where; `invoke doctor` says what is missing",
        )


def _cost(paths: Paths, architecture: str, image: str) -> list[str]:
    """What building the CANN image will take, told before it is spent; nothing where it is built.

    Raises:
        CouldNotRun: the disk has not that much.
    """
    if known_images(paths, [image], architecture):
        return []
    found = [find_source(paths, source) for source in sources_of(paths, [image], architecture)]
    needed = _UNPACKED_FACTOR * sum(path.stat().st_size for path in found if path is not None)
    free = shutil.disk_usage(paths.root).free
    if free < needed:
        raise CouldNotRun(
            f"building the CANN image takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free",
            hint="free some, or make artifacts/ a link to a larger disk",
        )
    return [f"the CANN image is built first: about {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free, and some minutes"]


def _sentence(npu: ascend.Npu, chips: Sequence[ascend.Chip]) -> str:
    where = ", ".join(f"device {chip.device} ({chip.name}, card {chip.card}, chip {chip.number})" for chip in chips)
    return f"NPU: {where}, {npu.product}, driver {npu.driver}" + (" - a SIMULATOR" if npu.simulator else "")

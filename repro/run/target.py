"""What a run is made on: which toolchain, and which chips of this host's NPU."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace

from repro.base.errors import CouldNotRun, UsageError
from repro.base.paths import Paths
from repro.graph.pipeline import CANN_IMAGE, PINNED_IMAGES
from repro.images.archives import sources_of
from repro.images.compile import why_left_out
from repro.images.definition import load_definition
from repro.images.layer_index import known_images
from repro.locks.archives import find_source
from repro.machine import npu as ascend
from repro.run.host_fits import cann_fit, firmware_deviation, firmware_fit, table_cann

AUTO, PORTABLE, PINNED = "auto", "portable", "pinned"
CPU, NPU = "cpu", "npu"
_DEVICES_LIMIT = 255  # ais_bench's
_UNPACKED_FACTOR = 8  # packages are compressed about fourfold; the tree and its layer are both on disk for a while


@dataclass(frozen=True)
class Target:
    """Where a run goes.

    Attributes:
        toolchain: 'pinned' or 'portable', whatever was asked for.
        chips: of the NPU; none on the CPU.
        said: what a person should know of how this was decided.
    """

    toolchain: str
    npu: ascend.Npu
    chips: tuple[ascend.Chip, ...] = ()
    said: tuple[str, ...] = ()

    @property
    def pinned(self) -> tuple[str, ...]:
        """The stages that run in their pinned image."""
        return tuple(PINNED_IMAGES) if self.toolchain == PINNED else ()

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


def settle(
    paths: Paths, architecture: str, asked: str, device: str, devices: Sequence[int], host: ascend.Host | None = None
) -> Target:
    """Decide toolchain and chips.

    Args:
        paths: of the checkout.
        architecture: of this machine.
        asked: 'auto', 'pinned' or 'portable'. auto: pinned on an Ascend host that has its sources, else portable.
        device: 'cpu' or 'npu'.
        devices: NPU devices asked for; none for the first idle chip.
        host: where to look.

    Raises:
        UsageError: an option's value is not known.
        CouldNotRun: pinned or the NPU was asked for, and something of it is not there or not as it must be.
    """
    if asked not in (AUTO, PORTABLE, PINNED):
        raise UsageError(f"--toolchain {asked} is not known", hint="auto, portable or pinned")
    if device not in (CPU, NPU):
        raise UsageError(f"--device {device} is not available in this version", hint="cpu or npu")
    if devices and device != NPU:
        raise UsageError("--devices is for --device npu", hint="leave it out on the CPU")
    npu = ascend.examine(host)
    chips = ascend.choose_chips(npu, devices) if device == NPU else ()
    if chips:  # the card's name is that of the chips taken, where a host has cards of several kinds
        product = ascend.product_of(host or ascend.Host(), npu.tool, npu.chips, chips[0].card)
        npu = replace(npu, product=product)
    said = []
    if device == NPU:
        _require_image(paths, architecture)
        said += [_sentence(npu, chips), *_cost(paths, architecture)]
    wrong = firmware_deviation(npu, paths.conf) if npu.present else ""
    if device == NPU:
        fits = {"firmware": firmware_fit(npu), "CANN": cann_fit(npu, paths.conf, table_cann(paths.conf))}
        said += [f"driver and {what} fit each other: {fit}" for what, fit in fits.items() if fit.answer != "yes"]
    lacking = lacking_for_pinned(paths, architecture) if asked == PINNED or (asked == AUTO and npu.present) else []
    if asked == PINNED:
        if lacking:
            raise CouldNotRun("the pinned toolchain is not complete here", detail="\n".join(lacking),
                              hint="put what is named into data/sources, or use --toolchain portable")  # fmt: skip
        if wrong and device == NPU:
            raise CouldNotRun(f"this is not the pinned toolchain: {wrong}",
                              hint="install that firmware and driver, or say --toolchain auto: the report then lists "
                              "the deviation, and nothing is compared")  # fmt: skip
    elif wrong:
        said.append(f"deviates: {wrong}")
    pinned = asked == PINNED or (asked == AUTO and npu.present and not lacking)
    if lacking and not pinned:
        said.append("this is an Ascend host, but the pinned toolchain is not complete: " + "; ".join(lacking))
    return Target(PINNED if pinned else PORTABLE, npu, chips, tuple(said))


def lacking_for_pinned(paths: Paths, architecture: str) -> list[str]:
    """What keeps the pinned images from being here, a line an image; nothing when all can be made."""
    return _lacking(paths, architecture, sorted(set(PINNED_IMAGES.values())))


def _lacking(paths: Paths, architecture: str, names: Sequence[str]) -> list[str]:
    lines = []
    for name in names:
        why = why_left_out(paths, load_definition(paths.docker, name), architecture)
        if why and not known_images(paths, [name], architecture):
            lines.append(f"image {name}: {why}")
    return lines


def _require_image(paths: Paths, architecture: str) -> None:
    lacking = _lacking(paths, architecture, [CANN_IMAGE])
    if lacking:
        raise CouldNotRun(
            "--device npu needs CANN, which is not here",
            detail="\n".join(lacking),
            hint="docs/guide-lab.md says what to put where; `invoke doctor` says what is missing",
        )


def _cost(paths: Paths, architecture: str) -> list[str]:
    """What building the CANN image will take, told before it is spent; nothing where it is built.

    Raises:
        CouldNotRun: the disk has not that much.
    """
    if known_images(paths, [CANN_IMAGE], architecture):
        return []
    found = [find_source(paths, source) for source in sources_of(paths, [CANN_IMAGE], architecture)]
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

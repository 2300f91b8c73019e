"""A sweep's file, read strictly: the axes of its matrix, and the cells that they make."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union

from msgspec import Meta

from repro.base import typed_json
from repro.base.errors import UsageError, VerificationFailed
from repro.base.files import canonical_json, sha256_bytes
from repro.base.toml import read_toml
from repro.base.values import Real, Strict
from repro.graph.pipeline import PRECISIONS, Request
from repro.run.inputs import DEMO
from repro.run.options import Options
from repro.run.target import NPU, parse_devices

_MOST_CELLS = 2_000  # a page of more is not read, and its file was not meant
_MOST_VALUES = 100
_CPU = "cpu"

Place = Annotated[str, Meta(min_length=1, max_length=4096)]
Text = Annotated[str, Meta(max_length=200)]
Axis = Meta(min_length=1, max_length=_MOST_VALUES)


class Decoder(Strict, frozen=True):
    """A decoder and its settings; width and weight count for Beam alone."""

    type: Literal["Greedy", "Beam"]
    beam_width: Annotated[int, Meta(ge=1, le=10_000)] = 10
    lm_alpha: Real = 0.1

    @property
    def label(self) -> str:
        """For a person."""
        return f"Beam {self.beam_width}, LM {self.lm_alpha:g}" if self.type == "Beam" else self.type


class Matrix(Strict, frozen=True):
    """The axes. A path is relative to the sweep's file; an axis that is left out has the value of `invoke reproduce`.

    `precision` is multiplied with the CPU alone, `precision_modes` with NPUs alone.
    """

    batch_sizes: Annotated[tuple[Annotated[int, Meta(ge=1, le=1024)], ...], Axis]
    checkpoints: Annotated[tuple[Place, ...], Axis] = ()
    data: Annotated[tuple[Place, ...], Axis] = ()
    decoders: Annotated[tuple[Union[Literal["Greedy", "Beam"], Decoder], ...], Axis] = ("Greedy",)
    devices: Annotated[tuple[Annotated[str, Meta(pattern=r"^(cpu|npu(:[0-9]{1,3}(,[0-9]{1,3})*)?)$")], ...], Axis] = (
        _CPU,
    )
    precision: Annotated[tuple[Annotated[str, Meta(pattern=f"^({'|'.join(PRECISIONS)})$")], ...], Axis] = (
        PRECISIONS[0],
    )
    precision_modes: Annotated[tuple[Annotated[str, Meta(pattern="^[a-z0-9_]{0,40}$")], ...], Axis] = ("",)

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            twice = [value for value, count in Counter(getattr(self, name)).items() if count > 1]
            if twice:
                raise ValueError(f"{name}: {twice[0]!r} stands twice")


class Settings(Strict, frozen=True):
    """What every cell is run with; as the options of `invoke reproduce`."""

    split: Literal["dev", "test"] = "dev"
    loop: Annotated[int, Meta(ge=1, le=100_000)] = 100
    skip_bad: bool = False
    toolchain: Literal["auto", "portable", "pinned"] = "auto"
    cann: Text = ""


class Sweep(Strict, frozen=True):
    """A sweep's file. `repeats` is how often each speed is measured: everything else of a repeat is stored."""

    matrix: Matrix
    title: Text = ""
    repeats: Annotated[int, Meta(ge=1, le=100)] = 1
    run: Settings = Settings()


@dataclass(frozen=True)
class Cell:
    """One combination of the matrix's values, and the number of its repeat.

    Attributes:
        checkpoint, data: as options of a run: '' as `invoke reproduce` finds it, 'demo', or an absolute path.
        checkpoint_label, data_label: for a person; no path.
        device: 'cpu', 'npu', or 'npu:0,1'.
        precision: of the CPU; '' on an NPU.
        mode: atc's precision mode; '' for the vendor's default, and on the CPU.
    """

    checkpoint: str
    data: str
    checkpoint_label: str
    data_label: str
    device: str
    precision: str
    mode: str
    decoder: Decoder
    batch_size: int
    repeat: int
    run: Settings

    @property
    def kind(self) -> str:
        """The device without the numbers of chips: cells that differ in these alone measure the same thing."""
        return self.device.partition(":")[0]

    @property
    def configuration(self) -> tuple[str, ...]:
        """What is measured, in the order of the page's columns; its repeats share it, and chips that were named."""
        number_format = self.precision or self.mode or "vendor's default"
        return (
            self.checkpoint_label, self.data_label, self.kind, number_format, self.decoder.label, str(self.batch_size)
        )  # fmt: skip

    @property
    def name(self) -> str:
        """For a person, unique in the sweep."""
        checkpoint, data, _, number_format, decoder, size = self.configuration
        return f"{checkpoint}, {data}, {self.device}, {number_format}, {decoder}, B = {size}, repeat {self.repeat}"

    @property
    def identity(self) -> str:
        """Names the cell from run to run: a sha256, in hex."""
        return sha256_bytes(canonical_json([self.name, self.checkpoint, self.data, *map(str, _values(self.run))]))

    @property
    def sample(self) -> str:
        """Which of several measurements this is, see `Request.sample`; '' for the one of a plain run."""
        chips = self.device.partition(":")[2]
        words = [f"device {chips}"] if chips else []
        return ", ".join(words + ([f"repeat {self.repeat}"] if self.repeat > 1 else []))

    def options(self, engine: str, *, fetch: bool) -> Options:
        """The run of this cell."""
        request = Request(
            batch_sizes=(self.batch_size,), device=self.kind, decode=self.decoder.type,
            beam_width=self.decoder.beam_width, lm_alpha=self.decoder.lm_alpha, split=self.run.split,
            loop=self.run.loop, skip_bad=self.run.skip_bad, sample=self.sample,
            precision=self.precision or PRECISIONS[0], precision_mode=self.mode,
        )  # fmt: skip
        return Options(
            request=request, data_option=self.data, checkpoint_option=self.checkpoint, engine=engine,
            toolchain=self.run.toolchain, devices=parse_devices(self.device.partition(":")[2]),
            cann=self.run.cann if self.kind == NPU else "", fetch=fetch,
        )  # fmt: skip


def _values(settings: Settings) -> list[object]:
    return [getattr(settings, name) for name in settings.__struct_fields__]


def read_sweep(path: Path) -> Sweep:
    """The sweep in a file.

    Raises:
        UsageError: it cannot be read, or holds an unknown key or a value out of bounds; the message names the place.
    """
    try:
        return typed_json.convert(read_toml(path), Sweep, what=str(path))
    except VerificationFailed as error:
        raise UsageError(error.message, hint="docs/guide-sweep.md lists every key and its bounds") from error


def cells_of(sweep: Sweep, folder: Path) -> list[Cell]:
    """Every cell, in the order of the axes with repeats last; `folder` is where relative paths begin.

    Raises:
        UsageError: there are too many, or a path is not there.
    """
    matrix = sweep.matrix
    checkpoints, data = _labelled(matrix.checkpoints, folder), _labelled(matrix.data, folder)
    decoders = [Decoder(type=one) if isinstance(one, str) else one for one in matrix.decoders]
    formats = [
        (device, *number_format)
        for device in matrix.devices
        for number_format in (
            [(precision, "") for precision in matrix.precision] if device == _CPU
            else [("", mode) for mode in matrix.precision_modes]
        )
    ]  # fmt: skip
    repeats = range(1, sweep.repeats + 1)
    axes: tuple[Sequence[Any], ...] = (checkpoints, data, formats, decoders, matrix.batch_sizes, repeats)
    count = math.prod(map(len, axes))
    if count > _MOST_CELLS:
        raise UsageError(f"the matrix has {count} cells; the most is {_MOST_CELLS}", hint="make several sweeps of it")
    return [
        Cell(weights, corpus, weights_label, corpus_label, device, precision, mode, decoder, size, repeat, sweep.run)
        for (weights, weights_label), (corpus, corpus_label), (device, precision, mode), decoder, size, repeat
        in itertools.product(*axes)
    ]  # fmt: skip


def _labelled(places: tuple[str, ...], folder: Path) -> list[tuple[str, str]]:
    """(option, label) of each place: a label is a file's name, told apart where two are equal, and never a path."""
    if not places:
        return [("", "as found")]
    options = [place if place == DEMO else str((folder / Path(place).expanduser()).absolute()) for place in places]
    for place, option in zip(places, options):
        if option != DEMO and not Path(option).exists():
            raise UsageError(f"{place}: there is no such file or folder", hint=f"paths begin at {folder}")
    names = [Path(option).name for option in options]
    return [
        (option, name if names.count(name) == 1 else f"{name} ({number})")
        for number, (option, name) in enumerate(zip(options, names), start=1)
    ]

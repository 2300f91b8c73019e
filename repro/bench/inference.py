"""Inference: the model in float32 beside the processor's matrix peak, ONNX Runtime, OpenVINO and PyTorch."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repro.base.errors import VerificationFailed
from repro.bench.figure import AT_LEAST, AT_MOST, Figure, shown
from repro.bench.goals import goal
from repro.bench.inputs import Inputs, demo_inputs
from repro.bench.workbench import Workbench
from repro.machine import facts

GOAL = goal("inference").title
OURS = "ours"
SIDE_BY_SIDE, ONE_AT_A_TIME = "side by side", "one at a time"
TOLERANCE = 5e-5
SIZES, QUICK_SIZES = (1, 4, 8, 16, 32, 64), (1, 8)
_HALF_A_DIRECTION_BYTES = 384 * 4 * 384 * 4 // 2  # float32 weights of half of a direction's hidden units
_ENOUGH_S = 90.0  # of rounds at one batch size: a slow processor takes fewer of them
_FAR_FROM_THE_PEAK = 0.8  # a peer below this share of the peak is to be left behind by more


@dataclass(frozen=True)
class Run:
    """A candidate in one of its ways at one batch size: utterances a second, round by round."""

    name: str
    way: str
    rates: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


@dataclass(frozen=True)
class Size:
    """What was measured at one batch size.

    Attributes:
        libraries: FLOP/s of the whole processor in a large product, round by round, by each library of products.
        flop: of one utterance.
    """

    batch_size: int
    libraries: Mapping[str, tuple[float, ...]]
    flop: int
    runs: tuple[Run, ...]

    @property
    def peak(self) -> tuple[float, ...]:
        """The matrix peak: FLOP/s by the library whose median is the highest, whoever's it is."""
        return max(self.libraries.values(), key=statistics.median)

    def run(self, name: str, way: str) -> Run:
        return next(run for run in self.runs if (run.name, run.way) == (name, way))

    def library_share(self, run: Run) -> float:
        """As `share`, of the best product of others' libraries alone."""
        theirs = [rates for name, rates in self.libraries.items() if name != OURS]
        return statistics.median(self._shares(run, max(theirs, key=statistics.median)))

    def shares(self, run: Run) -> list[float]:
        """Of the matrix peak, round by round: what the run's products would take at the peak / what the run took."""
        return self._shares(run, self.peak)

    def share(self, run: Run) -> float:
        """The median of `shares`: what changes the processor's clock meets both sides of a round."""
        return statistics.median(self.shares(run))

    def _shares(self, run: Run, peak: Sequence[float]) -> list[float]:
        return [rate * self.flop / rate_of_peak for rate, rate_of_peak in zip(run.rates, peak)]

    def best_peer(self) -> Run:
        """The quickest of the peers that runs graphs, in its better way; PyTorch is held to a bound of its own."""
        return max((run for run in self.runs if run.name != OURS), key=lambda run: run.median)


def sizes_of(times: Mapping[str, Any]) -> list[Size]:
    """The program's times, a `Size` for each batch size."""
    sizes = []
    for batch_size, measured in times["sizes"].items():
        rates = {
            library: tuple(times["product_flop"] * entry["products"] / seconds for seconds in entry["seconds"])
            for library, entry in measured["peak"].items()
        }
        runs = tuple(
            Run(name, way, _rates(entry)) for name, ways in measured["runs"].items() for way, entry in ways.items()
        )
        sizes.append(Size(int(batch_size), rates, times["flop_an_utterance"], runs))
    return sorted(sizes, key=lambda size: size.batch_size)


def _rates(entry: Mapping[str, Any]) -> tuple[float, ...]:
    return tuple(entry["utterances"] / seconds for seconds in entry["seconds"])


def bound_of_share(batch_size: int, cache_bytes: int) -> float | None:
    """The share of the peak that is asked for at a batch size, where each core has so much cache of its own (L2).

    At 1 the recurrence waits for weights: each of two threads takes half of a direction's again and again. Where these
    do not fit its own cache, part of them comes from the shared one in every step.
    """
    if batch_size == 1:
        return 0.55 if cache_bytes >= _HALF_A_DIRECTION_BYTES else 0.50
    return 0.90 if batch_size >= 8 else None


def figures_of(size: Size, torch_rates: Sequence[float], checked: str) -> Iterator[Figure]:
    """The figures of one batch size."""
    name = f"batches of {size.batch_size}"
    ours, alone, peer = size.run(OURS, SIDE_BY_SIDE), size.run(OURS, ONE_AT_A_TIME), size.best_peer()
    bound = bound_of_share(size.batch_size, facts.core_cache_bytes())
    products = sorted(((statistics.median(rates) / 1e9, name) for name, rates in size.libraries.items()), reverse=True)
    peak_said = "the peak is the highest of " + ", ".join(f"{name} {rate:.0f}" for rate, name in products) + " GFLOP/s"
    share_formula = "utterances/s x the model's operations per utterance / the matrix peak of the same round, all cores"
    for run, way, asked in ((ours, "", bound), (alone, ", one at a time on all cores", None)):
        shares = size.shares(run)
        yield Figure(
            GOAL, f"{name}{way}, share of the matrix peak", size.share(run), "times", share_formula,
            AT_LEAST if asked else "", asked, (min(shares), max(shares)), len(shares), checked,
            f"{shown(run.median)} utterances/s; {size.library_share(run):.2f} of the best library's; {peak_said}",
        )  # fmt: skip
    ratios = [mine / theirs for mine, theirs in zip(ours.rates, peer.rates)]
    peer_share = size.share(peer)
    yield Figure(
        GOAL, f"{name}, times the best of ONNX Runtime and OpenVINO", statistics.median(ratios), "times",
        "utterances/s, ours / the quickest peer's in its better way, of the same round",
        AT_LEAST, 1.15 if peer_share < _FAR_FROM_THE_PEAK else 1.0, (min(ratios), max(ratios)), len(ratios), checked,
        f"{peer.name}, {peer.way}: {shown(peer.median)} utterances/s, {peer_share:.2f} of the peak",
    )  # fmt: skip
    ratios = [mine / statistics.median(torch_rates) for mine in ours.rates]
    yield Figure(
        GOAL, f"{name}, times PyTorch eager", ours.median / statistics.median(torch_rates), "times",
        "utterances/s, ours / PyTorch's, which runs before them, and in full after them too",
        AT_LEAST, 2.0, (min(ratios), max(ratios)), len(ratios), checked,
        f"PyTorch: {shown(statistics.median(torch_rates))} utterances/s",
    )  # fmt: skip


def check(checks: Mapping[str, Any], torch_largest: float) -> str:
    """What was checked, in words.

    Raises:
        VerificationFailed: an output of a timed run is not what it has to be.
    """
    others = {key: count for key, count in checks["utterances_with_other_symbols"].items() if count}
    if others:
        raise VerificationFailed(f"the model's symbols are not those of {', '.join(sorted(others))}: {others}")
    if checks["timed_not_the_untimed_bytes"]:
        raise VerificationFailed(f"{checks['timed_not_the_untimed_bytes']} outputs of timed runs have other bytes")
    apart = {**checks["timed_largest_from_torch"], "PyTorch": torch_largest}
    far = {name: value for name, value in apart.items() if value > TOLERANCE}
    if far:
        raise VerificationFailed(f"timed outputs differ from PyTorch's by more than {TOLERANCE}: {far}")
    return (
        f"all {checks['timed_utterances'][OURS]} timed outputs of ours are the untimed run's bytes; of "
        f"{checks['utterances']} dev utterances all symbols are PyTorch's and the plain graph's; every timed peer is "
        "within 5e-5 of PyTorch"
    )


def measure(bench: Workbench) -> Iterator[Figure]:
    """The figures of this area."""
    inputs = demo_inputs(bench)
    sizes = QUICK_SIZES if bench.quick else SIZES
    before, apart = _torch(bench, inputs, sizes, 2)
    folders = {"onnx": inputs.export, "model": inputs.model, "batches": inputs.batches, "reference": inputs.reference}
    # A round of small batches is short, so that more of them are taken: the machine's moods weigh the more on each.
    rounds = [3 if bench.quick else max(7, min(21, 168 // size)) for size in sizes]
    words = ["--sizes", _listed(sizes), "--rounds", _listed(rounds), "--seconds", str(_ENOUGH_S)]
    run = bench.stage("bench", "bench.inference", words, folders)
    after, apart_after = ({}, 0.0) if bench.quick else _torch(bench, inputs, sizes, 2)
    checks = _read(run.out / "checks.json")
    checked = check(checks, max(apart, apart_after))
    for other, key in (("PyTorch's", "largest_from_torch"), ("the plain graph's", "largest_from_plain_graph")):
        yield Figure(
            GOAL, f"largest difference from {other} outputs", checks[key], "", "max |log-probability - theirs|",
            AT_MOST, TOLERANCE, samples=checks["utterances"], checked=checked,
        )  # fmt: skip
    measured = sizes_of(_read(run.obs / "times.json"))
    if not any(run.name == "OpenVINO" for size in measured for run in size.runs):
        bench.say("OpenVINO is not in the image for this architecture: ONNX Runtime is the only peer that runs graphs")
    for size in measured:
        yield from figures_of(size, before[size.batch_size] + after.get(size.batch_size, ()), checked)


def _listed(numbers: Sequence[int]) -> str:
    return ",".join(str(number) for number in numbers)


def _torch(
    bench: Workbench, inputs: Inputs, sizes: Sequence[int], rounds: int
) -> tuple[dict[int, tuple[float, ...]], float]:
    """PyTorch's utterances/s by batch size, and how far its outputs are from the stage reference's."""
    run = bench.stage(
        "exporter", "bench.torch", ["--sizes", _listed(sizes), "--rounds", str(rounds)],
        {"checkpoint": inputs.checkpoint, "batches": inputs.batches, "reference": inputs.reference},
    )  # fmt: skip
    times, checks = _read(run.obs / "times.json"), _read(run.out / "checks.json")
    return {int(size): _rates(entry) for size, entry in times["sizes"].items()}, checks["largest_from_reference"]


def _read(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document

"""What part of a figure's variance is the driver's, the host's, the chip's, the run's, and that of loops in one run.

A nested random-effects model: y = mean + driver + host(driver) + chip(host) + run(chip) + loop(run), each term with a
variance of its own. The variances are estimated by the analysis of variance for nested designs with unequal numbers
(Gower 1962, Biometrics 18:537-542; Searle, Casella and McCulloch 1992, Variance Components, chapter 5): the sum of
squares between the groups of each level is set equal to its expectation, from the innermost level outwards.

For a level a with groups g of n_g values, let T(a) = sum over g of n_g * mean_g^2. Then SS(a) = T(a) - T(a - 1), and
E[SS(a)] = sum over levels j of (K(a, j) - K(a - 1, j)) * variance(j), where K(a, j) = sum over g and over the groups u
of level j within g of n_gu^2 / n_g, for j inside a; and the number of all values otherwise.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = ("driver", "host", "chip", "run", "loop")
FEW = 5  # degrees of freedom: an estimate from fewer may be wrong by several times
Path = tuple[str, ...]  # of a value: the names of its groups, outermost first


@dataclass(frozen=True)
class Component:
    """One level's part.

    Attributes:
        groups: how many groups of this level there are.
        freedom: degrees of freedom of the level: its groups, less the groups of the level above.
        variance: the estimate, in the figure's unit squared; None where nothing tells it; negative estimates count as
            0 in `share`, and stand here as they came out.
        share: of the sum of all that are told, 0 to 1.
        note: how far the estimate is to be trusted, or why there is none.
    """

    level: str
    groups: int
    freedom: int
    variance: float | None
    share: float | None
    note: str

    @property
    def deviation(self) -> float | None:
        """The standard deviation, in the figure's unit."""
        return None if self.variance is None else math.sqrt(max(0.0, self.variance))


def components(values: Sequence[tuple[Path, float]], levels: Sequence[str] = LEVELS) -> list[Component]:
    """The parts of the variance, outermost level first.

    Args:
        values: each with the names of its groups, one per level except the innermost, which is the value's own.
    """
    paths = [(*path, str(number)) for number, (path, _) in enumerate(values)]
    figures = [value for _, value in values]
    groups = [_grouped(paths, depth) for depth in range(len(levels) + 1)]  # depth 0: all values together
    freedom = [len(groups[depth]) - len(groups[depth - 1]) for depth in range(1, len(levels) + 1)]
    mean = sum(figures) / len(figures) if figures else 0.0
    totals = [
        sum(sum(figures[i] - mean for i in group) ** 2 / len(group) for group in level.values()) for level in groups
    ]
    estimates: dict[int, float] = {}
    for depth in range(len(levels), 0, -1):
        if freedom[depth - 1] > 0:
            inner = sum(
                (_inside(groups, depth, other) - _inside(groups, depth - 1, other)) * estimate
                for other, estimate in estimates.items()
            )
            own = len(figures) - _inside(groups, depth - 1, depth)
            estimates[depth] = (totals[depth] - totals[depth - 1] - inner) / own
    whole = sum(max(0.0, estimate) for estimate in estimates.values())
    return [
        Component(
            level, len(groups[depth]), freedom[depth - 1], estimates.get(depth),
            (max(0.0, estimates[depth]) / whole if whole else 0.0) if depth in estimates else None,
            _note(levels, depth, freedom, estimates.get(depth)),
        )
        for depth, level in enumerate(levels, start=1)
    ]  # fmt: skip


def _grouped(paths: Sequence[Path], depth: int) -> dict[Path, list[int]]:
    """The places of the values by the first `depth` names of their paths."""
    found: dict[Path, list[int]] = defaultdict(list)
    for place, path in enumerate(paths):
        found[path[:depth]].append(place)
    return found


def _inside(groups: Sequence[dict[Path, list[int]]], outer: int, inner: int) -> float:
    """K(outer, inner) of this module's head, for inner levels."""
    if inner <= outer:
        return float(sum(len(group) for group in groups[outer].values()))
    return sum(len(group) ** 2 / len(groups[outer][path[:outer]]) for path, group in groups[inner].items())


def _note(levels: Sequence[str], depth: int, freedom: Sequence[int], estimate: float | None) -> str:
    level = levels[depth - 1]
    if estimate is None:
        inside = next((levels[d - 1] for d in range(depth + 1, len(levels) + 1) if freedom[d - 1] > 0), "")
        outside = next((levels[d - 1] for d in range(depth - 1, 0, -1) if freedom[d - 1] > 0), "")
        if outside:
            return f"not told apart: one {level} per {levels[depth - 2]}; its part is in that of the {outside}"
        return f"not told: one {level} only" + ("" if inside else ", and one value")
    notes = ["the estimate came out below 0, and counts as 0"] if estimate < 0 else []
    if freedom[depth - 1] < FEW:
        notes.append(f"few groups (d.f. {freedom[depth - 1]}): no more than an order of magnitude")
    return "; ".join(notes)


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """The 95 % interval of the mean of independent values, by Student's t; None for fewer than two."""
    count = len(values)
    if count < 2:
        return None
    mean = math.fsum(values) / count
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    reach = _t_quantile(count - 1) * deviation / math.sqrt(count)
    return mean - reach, mean + reach


def _t_quantile(freedom: int, probability: float = 0.95) -> float:
    """t such that |T| <= t has this probability, by halving; the distribution is Abramowitz and Stegun's 26.7.3 and 4.

    For whole degrees of freedom the distribution is a finite sum.
    """
    low, high = 0.0, 1e3
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def _t_within(t: float, freedom: int) -> float:
    angle = math.atan(t / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    term = total = cosine if freedom % 2 else 1.0
    for k in range(3 if freedom % 2 else 2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    if freedom % 2 == 0:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if freedom > 1 else 0.0))

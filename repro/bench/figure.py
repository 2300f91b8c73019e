"""One measured figure: its formula, the bound that it is held to, and how its outputs were checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from repro.base.errors import BundleError

AT_LEAST = ">="
AT_MOST = "<="


@dataclass(frozen=True)
class Figure:
    """A number that this run measured on this machine.

    Attributes:
        goal: the area it belongs to, such as '4 features'; figures are shown grouped by it.
        name: what was measured, unique within its goal: '8 utterances a batch, share of the matrix peak'.
        unit: 's', 'utterances/s', 'x' for a ratio of two things measured in this run, '%' …
        formula: how `value` comes from what was timed.
        relation: AT_LEAST, AT_MOST, or '' for a figure that nothing is asked of.
        spread: the lowest and highest of the single samples' values, where there are several.
        checked: how the outputs of the very path that was timed were checked in this run.
    """

    goal: str
    name: str
    value: float
    unit: str
    formula: str
    relation: str = ""
    bound: float | None = None
    spread: tuple[float, float] | None = None
    samples: int = 1
    checked: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if (self.relation == "") != (self.bound is None) or self.relation not in ("", AT_LEAST, AT_MOST):
            raise BundleError(f"figure {self.name!r}: the relation {self.relation!r} does not go with its bound")
        if self.bound is not None and not self.checked:
            raise BundleError(f"figure {self.name!r} has a bound, and nothing says how its outputs were checked")

    @property
    def met(self) -> bool | None:
        """Whether the bound is met; None where there is none."""
        if self.bound is None:
            return None
        return self.value >= self.bound if self.relation == AT_LEAST else self.value <= self.bound

    def as_json(self) -> dict[str, Any]:
        """The figure as the JSON file holds it."""
        return {
            "goal": self.goal,
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "formula": self.formula,
            "relation": self.relation,
            "bound": self.bound,
            "met": self.met,
            "spread": list(self.spread) if self.spread else None,
            "samples": self.samples,
            "checked": self.checked,
            "note": self.note,
        }


def shown(value: float) -> str:
    """A figure for a person: four significant digits, without an exponent where that is readable."""
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = f"{value:.4g}"
        return f"{value:.0f}" if "e" in digits else digits
    return f"{value:.3e}"

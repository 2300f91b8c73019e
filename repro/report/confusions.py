"""The confusion matrix as a heat map: which phone was recognised as which, phones of one kind side by side."""

from __future__ import annotations

import math
from collections import Counter

from markupsafe import Markup

from repro.record import Record
from repro.report.canvas import WIDTH, Canvas
from repro.report.parts import mark

_MOST = 26  # phones on an axis
_LEFT, _TOP, _LABEL = 62, 44, 6
_STEPS = 4  # shades of a cell
_KINDS = (
    "iy ih eh ae aa ah uh uw er",
    "ey ay oy aw ow",
    "l r w y hh",
    "m n ng",
    "b d g p t k dx jh ch",
    "z s sh v f dh th",
    "sil",
)
_ORDER = {phone: number for number, phone in enumerate(" ".join(_KINDS).split())}


def heat_map(record: Record) -> Markup:
    """The complete protocol's substitutions at the first batch size; empty where there is none."""
    counts = {
        (entry.reference, entry.hypothesis): entry.count
        for entry in (record.results[0].complete.confusions if record.results else ())
    }
    if not counts:
        return Markup("")
    weights: Counter[str] = Counter()
    for (reference, hypothesis), count in counts.items():
        weights[reference] += count
        weights[hypothesis] += count
    chosen = sorted(weights, key=lambda phone: (-weights[phone], phone))[:_MOST]
    phones = sorted(chosen, key=lambda phone: (_ORDER.get(phone, len(_ORDER)), phone))
    side = min(30.0, (WIDTH - _LEFT - 8) / len(phones))
    canvas = Canvas(
        "Heat map of confused phones: a row is the phone that was said, a column what was recognised",
        _TOP + side * len(phones) + 8,
    )
    most = max(counts.values())
    canvas.text(2, 14, f"recognised as → (said ↓){mark(record)}", "axis")
    far = side * len(phones)
    canvas.bar(_LEFT, _TOP, far, far, "empty", "")
    for index, phone in enumerate(phones):
        at = side * index
        canvas.text(_LEFT + at + side / 2, _TOP - 6, _short(phone), "tick", "middle")
        canvas.text(_LEFT - 8, _TOP + at + side / 2 + 4, _short(phone), "tick", "end")
        canvas.line(_LEFT, _TOP + at, _LEFT + far, _TOP + at, "grid")
        canvas.line(_LEFT + at, _TOP, _LEFT + at, _TOP + far, "grid")
        canvas.bar(
            _LEFT + at + 1, _TOP + at + 1, side - 2, side - 2, "same", f"{phone}, rightly recognised: not counted"
        )
    places = {phone: index * side for index, phone in enumerate(phones)}
    for (reference, hypothesis), count in counts.items():
        if reference in places and hypothesis in places:
            x, y = _LEFT + places[hypothesis], _TOP + places[reference]
            shade = f"heat{math.ceil(_STEPS * count / most)}"
            label = f"{reference} recognised as {hypothesis}: {count}{mark(record)}"
            canvas.bar(x + 1, y + 1, side - 2, side - 2, shade, label)
            canvas.text(x + side / 2, y + side / 2 + 4, _count(count), f"count {shade}", "middle")
    return canvas.done()


def _count(count: int) -> str:
    return str(count) if count < 1000 else f"{count / 1000:.0f}k"


def _short(text: str) -> str:
    return text if len(text) <= _LABEL else text[: _LABEL - 1] + "…"

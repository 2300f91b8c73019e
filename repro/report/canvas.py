"""A small SVG canvas for the plots of our pages: no script, no file beside it, colours from the page's style."""

from __future__ import annotations

import math

from markupsafe import Markup

from repro.base.foreign import shown

WIDTH = 720


class Canvas:
    """Collects SVG elements; every text is escaped here. A `style` is a class of the page's."""

    def __init__(self, title: str, height: float, width: int = WIDTH) -> None:
        self._height, self._width = height, width
        self._title = title
        self._parts: list[Markup] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, style: str) -> None:
        """A straight line."""
        self._parts.append(
            Markup('<line x1="{}" y1="{}" x2="{}" y2="{}" class="{}"/>').format(
                _px(x1), _px(y1), _px(x2), _px(y2), style
            )
        )

    def dot(self, x: float, y: float, style: str, label: str) -> None:
        """A round mark, whose label shows under the pointer."""
        self._parts.append(
            Markup('<circle cx="{}" cy="{}" r="4.5" class="{}"><title>{}</title></circle>').format(
                _px(x), _px(y), style, shown(label)
            )
        )

    def square(self, x: float, y: float, style: str, label: str) -> None:
        """A square mark around (x, y)."""
        self.bar(x - 4, y - 4, 8, 8, style, label)

    def bar(self, x: float, y: float, width: float, height: float, style: str, label: str) -> None:
        """A bar from its upper left corner, at least one unit wide and high; its label shows under the pointer."""
        self._parts.append(
            Markup('<rect x="{}" y="{}" width="{}" height="{}" rx="2" class="{}"><title>{}</title></rect>').format(
                _px(x), _px(y), _px(max(width, 1)), _px(max(height, 1)), style, shown(label)
            )
        )

    def text(self, x: float, y: float, words: str, style: str = "", anchor: str = "start") -> None:
        """Words at (x, y); `anchor` is 'start', 'middle' or 'end'."""
        self._parts.append(
            Markup('<text x="{}" y="{}" text-anchor="{}" class="{}">{}</text>').format(
                _px(x), _px(y), anchor, style, shown(words)
            )
        )

    def done(self) -> Markup:
        """The drawing as one `<svg>` element."""
        head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(
            self._width, _px(self._height), shown(self._title)
        )
        return head + Markup("").join(self._parts) + Markup("</svg>")


def _px(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def round_values(low: float, high: float) -> list[float]:
    """Four to eight round values that cover low..high."""
    rough = max(high - low, 1e-9) / 5
    magnitude = 10 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 5, 10) if factor * magnitude >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [index * step for index in range(first, last + 1)]

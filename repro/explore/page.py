"""Writing the explorer: all utterances in one page, with their details in it or, of a large run, in pages beside it."""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from repro.audit.arithmetic import distance
from repro.base.errors import VerificationFailed
from repro.base.files import write_atomic
from repro.base.foreign import shown
from repro.base.templates import html_templates, policy_hash
from repro.explore.utterances import Detail, Utterance

_TEMPLATES = Path(__file__).parent / "templates"
_ONE_FILE, _PER_PART = 400, 100  # utterances with details in one page, and in each page of a large run
PAGE = "explore.html"
# A phone is one letter in the page's data; none that JSON or HTML would have to escape.
_LETTERS = [chr(code) for code in (*range(0x21, 0x7F), *range(0x100, 0x3000)) if chr(code) not in "\"\\<>&'"]
_LETTERS = [letter for letter in _LETTERS if letter.isprintable()]


@dataclass(frozen=True)
class Explored:
    """A run, or two side by side, as the pages show it.

    Attributes:
        notice: what must be known before a page is passed on; '' where nothing.
        facts: of the run, or with a column per run: name, and a value for each.
        names: of the runs, one or two.
        changes: what differs between the two, in words.
        classes: names of the network's classes.
        greedy: whether the decoded path is the likeliest class of each frame.
    """

    title: str
    notice: str
    names: Sequence[str]
    facts: Sequence[tuple[str, Sequence[str]]]
    changes: Sequence[str]
    classes: Sequence[str]
    greedy: bool
    utterances: Sequence[Utterance]

    @property
    def differing(self) -> list[tuple[str, Sequence[str]]]:
        """The facts in which the runs differ."""
        return [(name, values) for name, values in self.facts if len(set(values)) > 1]

    @property
    def equal(self) -> list[tuple[str, Sequence[str]]]:
        """The facts that the runs share."""
        return [(name, values) for name, values in self.facts if len(set(values)) == 1]


def write_pages(explored: Explored, details: Iterable[Detail], folder: Path) -> Path:
    """Write explore.html into a folder, and for a large run the pages with its details beside it.

    Args:
        explored: what is shown.
        details: one for each utterance, in their order; read one page at a time.
        folder: is made where it is not there.

    Returns:
        The page to open.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target, count = folder / PAGE, len(explored.utterances)
    if count <= _ONE_FILE:
        write_atomic(target, _page(explored, explored.utterances, list(details)).encode())
        return target
    rest = iter(details)
    for number, first in enumerate(range(0, count, _PER_PART)):
        some = list(itertools.islice(rest, _PER_PART))
        page = _page(explored, explored.utterances[first : first + _PER_PART], some, back=PAGE)
        write_atomic(folder / _part(number), page.encode())
    write_atomic(target, _page(explored, explored.utterances, [], part=_part).encode())
    return target


def _part(number: int) -> str:
    return f"explore-{number + 1:04d}.html"


def _page(
    explored: Explored,
    utterances: Sequence[Utterance],
    details: Sequence[Detail],
    *,
    back: str = "",
    part: Callable[[int], str] | None = None,
) -> str:
    phones = sorted({phone for one in utterances for phone in (*one.reference, *one.hypothesis, *(one.other or ()))})
    if len(phones) > len(_LETTERS):
        raise VerificationFailed(f"the run tells {len(phones)} different phones apart; the most is {len(_LETTERS)}")
    letters = dict(zip(phones, _LETTERS))
    speakers, dialects = (sorted({getattr(one, name) for one in utterances}) for name in ("speaker", "dialect"))
    data: dict[str, Any] = {
        "names": [shown(name) for name in explored.names],
        "phones": [shown(phone) for phone in phones],
        "letters": "".join(letters.values()),
        "classes": [shown(name) for name in explored.classes],
        "speakers": [shown(name) for name in speakers],
        "dialects": [shown(name) for name in dialects],
        "greedy": explored.greedy,
        "parts": [part(number) for number in range(-(-len(utterances) // _PER_PART))] if part else [],
        "perPart": _PER_PART,
        "utterances": [_row(one, letters, speakers, dialects) for one in utterances],
    }
    script, style = ((_TEMPLATES / name).read_text("utf-8") for name in ("explore.js", "explore.css"))
    return html_templates(_TEMPLATES).get_template("explore.html.j2").render(
        explored=explored,
        back=back,
        style=Markup(style),  # noqa: S704 - a file of this package
        style_hash=policy_hash(style),
        script=Markup(script),  # noqa: S704 - a file of this package
        script_hash=policy_hash(script),
        data=_json(data),
        details=[Markup(_packed(detail)) for detail in details],  # noqa: S704 - numbers and base64
    )  # fmt: skip


def _row(one: Utterance, letters: Mapping[str, str], speakers: Sequence[str], dialects: Sequence[str]) -> list[Any]:
    def spelt(phones: Sequence[str]) -> str:
        return "".join(letters[phone] for phone in phones)

    row: list[Any] = [shown(one.name), speakers.index(one.speaker), dialects.index(one.dialect),
                      spelt(one.reference), spelt(one.hypothesis), shown(one.words),
                      distance(one.reference, one.hypothesis)]  # fmt: skip
    return row if one.other is None else [*row, spelt(one.other), distance(one.reference, one.other)]


def _json(data: Mapping[str, Any]) -> Markup:
    """JSON that can stand in a script element: nothing in it ends that or begins another."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return Markup(text)  # noqa: S704 - no letter that HTML knows is left


def _packed(detail: Detail) -> str:
    """Frames, and each part as base64 of its zlib stream, or '-'."""
    parts = (detail.posteriors, detail.spectrogram, detail.sound)
    return " ".join(
        [str(detail.frames), *(base64.b64encode(zlib.compress(part, 9)).decode() if part else "-" for part in parts)]
    )

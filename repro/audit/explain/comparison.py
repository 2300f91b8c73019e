"""Two sides held against each other: every path that differs, with cause, place and what follows from it."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from repro.audit.explain import causes
from repro.audit.explain.files import UNCOMPILED, Looking, difference
from repro.audit.explain.sides import FILE, Member, Side
from repro.audit.explain.text import causes_of_line
from repro.audit.places import Utterances
from repro.base.foreign import shown

IRREPRODUCIBLE = "irreproducible"
SUBSTITUTED = "substituted"
OPEN = "open"
MEANING = {
    IRREPRODUCIBLE: "builds vary this by themselves; a forger can imitate it",
    SUBSTITUTED: "the locked source of this file decides: one side does not hold its bytes",
    OPEN: "nothing that is at hand tells whether a build or a person made it",
}
_BYTE_CODE = re.compile(r"\.py[co]$|(^|/)__pycache__(/|$)")


@dataclass(frozen=True)
class Finding:
    """One path that differs; every text is safe to show.

    Attributes:
        causes: of `repro.audit.explain.causes`, at least one.
        where: what differs, and the first differing bytes.
        judgement: IRREPRODUCIBLE, SUBSTITUTED or OPEN, and why.
    """

    path: str
    causes: tuple[str, ...]
    where: str
    judgement: str
    reason: str

    def __str__(self) -> str:
        why = f"{self.judgement}: {self.reason}" if self.reason else self.judgement
        return f"{self.path}: {', '.join(self.causes)} ({self.where}); {why}"

    def as_json(self) -> dict[str, Any]:
        """The finding in an explanation's JSON."""
        return {
            "path": self.path, "causes": list(self.causes), "where": self.where, "judgement": self.judgement,
            "reason": self.reason,
        }  # fmt: skip


@dataclass
class _Why:
    """Why one path differs, before it is judged."""

    causes: list[str]
    words: list[str]
    doubt: str = ""

    def add(self, cause: str, words: str) -> None:
        self.causes.append(cause)
        self.words.append(words)


def compare(one: Side, two: Side, truth: Side | None = None, utterances: Utterances | None = None) -> list[Finding]:
    """Every path that differs between two sides: those that one side lacks first, then in the order of the first one.

    Args:
        one, two: the sides.
        truth: what this audit itself made of the locked sources; None where it made nothing.
        utterances: names by batch and row, for batches of a stage.
    """
    looking = Looking()
    found: dict[str, _Why] = {}
    alone = [path for path in (*one.members, *two.members) if (path in one.members) != (path in two.members)]
    partner = _partners(alone, one, two)
    for path in alone:
        other = partner.get(path, "")
        pair = (path, other) if path in one.members else (other, path)
        same = bool(other) and _content(one, pair[0]) == _content(two, pair[1])
        found[path] = _alone(path, "A" if path in one.members else "B", other, same_content=same)
    out_of_order = _first_out_of_order(one, two)
    for path in one.members:
        if path not in two.members:
            continue
        why = _headers(one.members[path], two.members[path])
        if path == out_of_order:
            why.add(causes.ORDER, "first path in another order")
        if one.members[path].kind == two.members[path].kind == FILE:
            with one.open(one.members[path]) as left, two.open(two.members[path]) as right:
                content = difference(path, left, right, looking, utterances)
            if content is not None:
                why = _Why([*why.causes, *content.causes], [*why.words, content.where], content.doubt)
        if why.causes:
            found[path] = why
    return list(_judged(found, one, two, truth))


def _headers(one: Member, two: Member) -> _Why:
    """What differs of two members beside their content."""
    pairs: Sequence[tuple[str, object, object]] = (
        (causes.KIND, one.kind, two.kind),
        (causes.MODE, f"{one.mode:04o}", f"{two.mode:04o}"),
        (causes.OWNER, _owner(one), _owner(two)),
        (causes.TIME, one.mtime, two.mtime),
        (causes.TARGET, one.target, two.target),
    )
    differing = [(cause, f"{cause} {a} / {b}") for cause, a, b in pairs if a != b]
    return _Why([cause for cause, _ in differing], [words for _, words in differing])


def _owner(member: Member) -> str:
    uid, gid, user, group = member.owner
    return f"{uid}:{gid}" + (f" ({user}:{group})" if user or group else "")


def _first_out_of_order(one: Side, two: Side) -> str:
    """The first path, of those that both sides have, that stands at another place; '' where none does."""
    first = [path for path in one.members if path in two.members]
    second = [path for path in two.members if path in one.members]
    return next((a for a, b in zip(first, second) if a != b), "")


def _partners(alone: Sequence[str], one: Side, two: Side) -> dict[str, str]:
    """Paths of one side alone, each with the path of the other side that seems to be the same thing."""
    left = [path for path in alone if path in one.members]
    right = [path for path in alone if path in two.members]
    by_shape: dict[tuple[str, str], list[str]] = {}
    for path in right:
        by_shape.setdefault((_shape(path), two.members[path].kind), []).append(path)
    found = {}
    for path in left:
        others = by_shape.get((_shape(path), one.members[path].kind), [])
        if others:
            other = others.pop(0)
            found[path], found[other] = other, path
    return found


_SHAPES = (
    re.compile(r"(?<=[-_])v?\d[\w.+~]*"), re.compile(r"tmp[._]?\w{6,12}"),
    re.compile(r"[0-9a-f]{8,}(?:-[0-9a-f]{4,})*"), re.compile(r"[^\x00-\x7f]+|\?+"),
)  # fmt: skip


def _shape(path: str) -> str:
    for pattern in _SHAPES:
        path = pattern.sub("*", path)
    return path


def _alone(path: str, side: str, other: str, *, same_content: bool) -> _Why:
    """Why a path stands on one side alone; a name explains that only where what it names is the same."""
    words = [f"only in {side}"]
    if _BYTE_CODE.search(path):
        return _Why([causes.BYTE_CODE], words, UNCOMPILED)
    if not other:
        return _Why([causes.MISSING], words)
    words.append(f"the other side has {other}")
    if ".dist-info" in path or ".egg-info" in path:
        return _Why([causes.VERSION], words)
    if not same_content:
        return _Why([causes.MISSING], [*words, "with other content"])
    if not (path.isascii() and other.isascii()):
        return _Why([causes.LOCALE], words)
    return _Why(sorted(causes_of_line(path, other)) or [causes.MISSING], words)


def _judged(found: Mapping[str, _Why], one: Side, two: Side, truth: Side | None) -> Iterator[Finding]:
    for path, why in found.items():
        unique = tuple(dict.fromkeys(why.causes))
        judgement, reason = _by_source(path, unique, one, two, truth) if truth else ("", "")
        if not judgement:
            judgement, reason = _by_cause(unique, why.doubt, one.members.get(path), two.members.get(path))
        yield Finding(shown(path, 300), unique, shown("; ".join(why.words), 600), judgement, shown(reason, 300))


def _by_source(path: str, why: Sequence[str], one: Side, two: Side, truth: Side) -> tuple[str, str]:
    """Whose content is that of the locked sources: copying packages varies headers of a tar, never content."""
    held = {name: _content(side, path) for name, side in (("A", one), ("B", two))}
    known = _content(truth, path)
    renamed = causes.LOCALE in why and None in held.values()
    if held["A"] == held["B"] or (known is None and causes.BYTE_CODE in why) or renamed:
        return "", ""
    wrong = [name for name, content in held.items() if content != known]
    if known is None:
        return SUBSTITUTED, f"no locked source holds it, and {wrong[0]} does"
    if wrong == ["A", "B"]:
        return SUBSTITUTED, "neither side has what the locked sources hold"
    return SUBSTITUTED, f"{wrong[0]} lacks it" if held[wrong[0]] is None else (
        f"{wrong[0]} does not have what the locked sources hold"
    )  # fmt: skip


def _content(side: Side, path: str) -> str | None:
    """What a path is, without its headers: a file's sha256, else its kind and target; None where it is not there."""
    member = side.members.get(path)
    if member is None:
        return None
    if member.kind != FILE:
        return f"{member.kind} {member.target}"
    digest = hashlib.sha256()
    with side.open(member) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _by_cause(why: Sequence[str], doubt: str, one: Member | None, two: Member | None) -> tuple[str, str]:
    if doubt:
        return OPEN, doubt
    rest = set(why) - causes.OF_BUILDS
    if rest == {causes.MODE} and one and two:
        lost = one.mode & two.mode in (one.mode, two.mode) and not (one.mode ^ two.mode) & ~0o077
        return (IRREPRODUCIBLE, "as another umask does") if lost else (OPEN, "no umask does this")
    return (OPEN, "") if rest else (IRREPRODUCIBLE, "")


def counted(findings: Sequence[Finding]) -> list[str]:
    """How many paths there are of each cause, as lines for a person, the most frequent first."""
    numbers = Counter(cause for finding in findings for cause in finding.causes)
    return [f"{count} by {cause}" for cause, count in numbers.most_common()]

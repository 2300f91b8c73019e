"""Takes out of a text what must not leave a machine: names, paths, addresses, serial numbers, keys, TIMIT's text.

What this machine knows (its users, its names, the corpus' sentences) is taken out wherever it stands; what has a form
(addresses, paths, keys, serial numbers, speakers of TIMIT) is taken out by it. In doubt something goes: a version with
four numbers looks like an address.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Match = re.Match[str]
_LEAST_NAME = 2  # letters: a user called `a` is in every word
_NOBODY = {"root", "nobody", "daemon"}
_SYSTEM = (
    *(f"/usr/{name}" for name in ("bin", "sbin", "lib", "libexec", "share")),
    *(f"/usr/local/{name}" for name in ("bin", "sbin", "lib", "dcmi", "Ascend")),
    *(f"/{name}" for name in ("dev", "proc", "sys", "bin", "sbin", "lib", "lib64", "var/log/npu", "run/lock")),
    *(f"/run/{name}" for name in ("in", "out", "obs", "code", "docker.sock")),
    *(f"/etc/{name}" for name in ("os-release", "ascend_install.info", "Ascend")),
)
_OURS = ("repro", "stages", "conf", "docker", "tests", "docs", "artifacts", "tasks.py", "bootstrap")
_DATA = ("data/TIMIT", "data/data.zip", "data/sources", "data/demo", "data/user.lock.json", "data/README.md")
_PHONES = frozenset(
    "aa ae ah ao aw ax ax-h axr ay b bcl ch d dcl dh dx eh el em en eng epi er ey f g gcl h# hh hv ih ix iy jh k kcl l "  # noqa: SIM905 - as TIMIT's documentation lists them
    "m n ng nx ow oy p pau pcl q r s sh sil t tcl th uh uw ux v w y z zh".split()
)

_END = r"\s\"'`,;<>|()\[\]{}"  # what ends a path that is not quoted
_NAMED = r"(?:pass(?:word|wd|phrase)?|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|cookie)"
_NUMBERED = r"(?:serial(?:[ _-]?(?:number|num|no))?\.?|s/?n|uuid|v?die[ _-]?id|asset[ _-]?tag|machine[ _-]?id)"
_HOST_ENDS = "com|org|net|edu|gov|local|lan|internal|intranet|corp|cn|de|fr|uk|jp|eu|example|invalid"
# Kind, form, and what of it goes: all of it, the value behind a name, or what a method decides. In this order.
_FORMS = (
    ("key", r"(?s)-----BEGIN [^-\n]+-----.*?(?:-----END [^-\n]+-----|\Z)", "all"),
    ("key", r"\bssh-[a-z0-9-]+ +[A-Za-z0-9+/=]{16,}(?: +\S+)?", "all"),
    ("key", rf"(?im)([\w.-]*{_NAMED}[\w.-]*[\"']?[ \t]*[:=][ \t]*)(\S.*)$", "value"),
    ("key", r"(?im)\b(authorization[\"']?[ \t]*[:=][ \t]*)(\S.*)$", "value"),
    ("key", r"(?i)\b(bearer +)([A-Za-z0-9+/=._~-]{8,})", "value"),
    ("address", r"\b[A-Za-z][A-Za-z0-9+.-]*://[^\s\"'<>]+", "all"),
    ("address", r"[\w.+-]+@[A-Za-z][\w.-]*", "all"),
    ("serial number", rf"(?im)((?<!\w){_NUMBERED}[ \t]*[\"']?[ \t]*[:=][ \t]*[\"']?)([^\s\"',][^\"',\n]*)", "value"),
    ("serial number", r"(?i)\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", "all"),
    ("address", r"(?i)(?<![0-9a-f:-])(?:[0-9a-f]{2}[:-]){5,7}[0-9a-f]{2}(?![0-9a-f:-])", "all"),
    ("address", r"(?i)(?<![\w:.])(?=[0-9a-f.]*:[0-9a-f.]*:)[0-9a-f:.]+(?:%\w+)?", "ip"),
    ("address", r"(?<!\d)(?<!\d\.)(?:\d{1,3}\.){3}\d{1,3}(?!\.?\d)", "ip"),
    ("key", r"(?<![0-9A-Za-z])[0-9A-Fa-f]{32,}(?![0-9A-Za-z])", "hex"),
    ("serial number", r"(?<![A-Za-z0-9])(?=[A-Z]*[0-9])(?=[0-9]*[A-Z])[A-Z0-9]{12,32}(?![A-Za-z0-9])", "all"),
    ("path", r"(?<=[\"'])(?:/|~|[A-Za-z]:\\|\\\\)[^\"'\n]*(?=[\"'])", "path"),
    ("path", rf"(?<![\w.<>/~])~[\w.-]*/[^{_END}]*", "path"),
    ("path", rf"(?<![\w\\])(?:[A-Za-z]:\\|\\\\\w)[^{_END}]*", "path"),
    ("path", rf"(?<![\w.<>/-])/(?!NPU_compute_time)[^{_END}:=]+", "path"),
    ("path", rf"(?<![\w./<>-])data/[^{_END}:=]+", "path"),
    ("key", r"(?<![\w+/=-])(?=\S*[0-9])(?=\S*[a-z])(?=\S*[A-Z])[A-Za-z0-9+_][A-Za-z0-9+/_-]{39,}={0,2}", "all"),
    ("host", rf"(?i)(?<![\w.-])(?:[a-z0-9-]+\.)+(?:{_HOST_ENDS})(?![\w-])", "all"),
    ("TIMIT's text", r"(?im)^[ \t]*\d+[ \t]+\d+[ \t]+[a-z].*$", "all"),
    ("speaker", r"(?i)(?<![a-z0-9])[fm][a-z]{3}[0-9](?![a-z0-9])", "all"),
    ("sentence", r"(?i)(?<![a-z0-9])s[aix][0-9]{1,4}(?![a-z0-9])", "all"),
)


@dataclass(frozen=True)
class Known:
    """What this machine knows that no form tells.

    Attributes:
        users, hosts: names.
        folders: label by path, such as '<checkout>'.
        triples: three words in a row of the corpus' sentences, in small letters.
        digests: of files and commits, which are no keys: kept.
    """

    users: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    folders: Mapping[str, str] = field(default_factory=dict)
    triples: frozenset[tuple[str, str, str]] = frozenset()
    digests: frozenset[str] = frozenset()


class Redactor:
    """Redacts texts, and counts what was taken out by kind."""

    def __init__(self, known: Known) -> None:
        self._known = known
        self.counts: Counter[str] = Counter()
        names = [("host", known.hosts), ("user", known.users)]
        forms = [*_FORMS, *((kind, _words(every), "all") for kind, every in names if any(map(_is_name, every)))]
        self._steps = [(re.compile(form), self._replacement(kind, how)) for kind, form, how in forms]

    def text(self, text: str) -> str:
        """The text without it."""
        for pattern, replacement in self._steps:
            text = pattern.sub(replacement, text)
        return self._phones(self._sentences(text))

    def document(self, value: Any) -> Any:
        """A JSON document: every text in it, names too; a text that is one digest as a whole is kept."""
        if isinstance(value, dict):
            return {self.document(name): self.document(item) for name, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.document(item) for item in value]
        if isinstance(value, str) and not re.fullmatch(r"(?:sha256:|content:|file:)?[0-9a-f]{64}", value):
            return self.text(value)
        return value

    def _taken(self, kind: str) -> str:
        self.counts[kind] += 1
        return f"<{kind}>"

    def _replacement(self, kind: str, how: str) -> Callable[[Match], str]:
        def all_of_it(_: Match) -> str:
            return self._taken(kind)

        def value(found: Match) -> str:
            kept = found[2].startswith("<") or found[2].strip() == "NA"
            return found[0] if kept else found[1] + self._taken(kind)

        return {"all": all_of_it, "value": value, "ip": self._ip, "hex": self._hex, "path": self._path}[how]

    def _ip(self, found: Match) -> str:
        """An address, and what ends a sentence after it; anything else is left."""
        for text in (found[0], found[0].rstrip("."), found[0].rstrip(".:")):
            try:
                ipaddress.ip_address(text.partition("%")[0])
            except ValueError:
                continue
            return self._taken("address") + found[0][len(text) :]
        return found[0]

    def _hex(self, found: Match) -> str:
        return found[0] if found[0] in self._known.digests else self._taken("key")

    def _path(self, found: Match) -> str:
        """A path as far as it may be told: folders of the system, and of this repository below its label."""
        path = found[0]
        for folder, label in sorted(self._known.folders.items(), key=lambda item: -len(item[0])):
            if path == folder or path.startswith(folder + "/"):
                self.counts["path"] += 1
                below = path[len(folder) + 1 :]
                return f"{label}/{self._below(below)}" if below else label
        if path.startswith("data/"):
            return self._below(path)
        of_system = any(path == place or path.startswith(place + "/") for place in _SYSTEM)
        return path if (of_system and ".." not in path) or not path.strip("/") else self._taken("path")

    def _below(self, path: str) -> str:
        if path.partition("/")[0] in _OURS and ".." not in path:
            return path
        place = next((place for place in _DATA if path == place or path.startswith(place + "/")), "")
        if path in _DATA or (place == "data/sources" and path.count("/") == 2):
            return path
        return f"{place}/{self._taken('path')}" if place else self._taken("path")

    def _sentences(self, text: str) -> str:
        """Without three or more words in a row that a sentence of the corpus has."""
        if not self._known.triples:
            return text
        words = list(re.finditer(r"[A-Za-z']+", text))
        lower = [word[0].lower().strip("'") for word in words]
        marked = [False] * len(words)
        for first, triple in enumerate(zip(lower, lower[1:], lower[2:])):
            if triple in self._known.triples:
                marked[first : first + 3] = [True] * 3
        return self._without(text, [(word.start(), word.end()) for word in words], marked, "TIMIT's text")

    def _phones(self, text: str) -> str:
        """Without four or more phones in a row."""
        tokens = list(re.finditer(r"[^\s\"',;:()\[\]|]+", text))
        marked = [False] * len(tokens)
        start = 0
        for place in range(len(tokens) + 1):
            if place == len(tokens) or tokens[place][0].lower() not in _PHONES:
                if place - start >= 4:
                    marked[start:place] = [True] * (place - start)
                start = place + 1
        return self._without(text, [(token.start(), token.end()) for token in tokens], marked, "TIMIT's text")

    def _without(self, text: str, spans: list[tuple[int, int]], marked: list[bool], kind: str) -> str:
        pieces, at, place = [], 0, 0
        while place < len(spans):
            if not marked[place]:
                place += 1
                continue
            last = place
            while last + 1 < len(spans) and marked[last + 1]:
                last += 1
            pieces += [text[at : spans[place][0]], self._taken(kind)]
            at, place = spans[last][1], last + 1
        return "".join([*pieces, text[at:]])


def _is_name(name: str) -> bool:
    return len(name) >= _LEAST_NAME and name.lower() not in _NOBODY


def _words(names: Iterable[str]) -> str:
    """The form of these names as whole words, in any case, the longest first; a label is not one."""
    every = "|".join(re.escape(name) for name in sorted(filter(_is_name, names), key=lambda name: (-len(name), name)))
    return rf"(?i)(?<![A-Za-z0-9<])(?:{every})(?![A-Za-z0-9>])"


def triples_of(sentences: Iterable[str]) -> frozenset[tuple[str, str, str]]:
    """Three words in a row of each sentence, in small letters."""
    found: set[tuple[str, str, str]] = set()
    for sentence in sentences:
        words = [word.lower().strip("'") for word in re.findall(r"[A-Za-z']+", sentence)]
        found.update(zip(words, words[1:], words[2:]))
    return frozenset(found)

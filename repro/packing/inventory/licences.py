"""Licences as SPDX expressions: what a package's own texts say, in SPDX's names where it has one.

What has no SPDX name becomes a LicenseRef made of the words that stand there; nothing is guessed.
"""

from __future__ import annotations

import re

from cyclonedx.spdx import fixup_id, is_expression

NOT_STATED = "LicenseRef-not-stated"
_LONGEST = 80
_GNU = re.compile(r"(A?GPL|LGPL|GFDL)-?v?(\d)(?:\.(\d))?(\+)?", re.IGNORECASE)
_SPLIT = re.compile(r"\s+(and/or|and|or|AND|OR)\s+|\s*,\s*(?:(and|or)\s+)?|\s*\|\s*")
_OPERATOR = re.compile(r" (?:AND|OR|WITH) ")
_EXCEPTIONS = {
    "gcc": "GCC-exception-3.1", "autoconf": "Autoconf-exception-2.0", "bison": "Bison-exception-2.2",
    "libtool": "Libtool-exception", "openssl": "openvpn-openssl-exception",
}  # fmt: skip
_NAMES = {
    "expat": "MIT", "apache-2": "Apache-2.0", "apache 2.0": "Apache-2.0", "apache license 2.0": "Apache-2.0",
    "apache license": "Apache-2.0", "apache-2.0": "Apache-2.0", "artistic": "Artistic-1.0-Perl", "psf": "PSF-2.0",
    "psf-2": "PSF-2.0", "mit license": "MIT", "bsd-2-clauses": "BSD-2-Clause", "bsd-3-clauses": "BSD-3-Clause",
    "zlib/libpng": "Zlib", "apache software license": "Apache-2.0", "isc license (iscl)": "ISC",
    "python software foundation license": "PSF-2.0", "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only", "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "the unlicense (unlicense)": "Unlicense", "3-clause bsd": "BSD-3-Clause", "3-clause bsd license": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause", "new bsd": "BSD-3-Clause", "apache license, version 2.0": "Apache-2.0",
    "apache license v2.0": "Apache-2.0",
}  # fmt: skip


class Licences:
    """Turns names into expressions, and remembers what each LicenseRef stands for."""

    def __init__(self) -> None:
        self.texts = {NOT_STATED: "no licence is stated"}

    def expressions(self, names: list[str], origin: str) -> tuple[str, ...]:
        """The expressions of some names, sorted and each once.

        Args:
            names: as they stand in a package.
            origin: 'debian', 'pypi' or another word: whose names they are.
        """
        each = [self.expression(" ".join(name.split()), origin) for name in names if name.strip()]
        found = {atom for one in each for atom in (one.split(" AND ") if " OR " not in one else [one])}
        return tuple(sorted(found)) or (NOT_STATED,)

    def expression(self, name: str, origin: str) -> str:
        """One name, which may join several by 'and' and 'or'."""
        known = _known(name)
        if known:
            return known
        if origin == "pypi" and _OPERATOR.search(name) and is_expression(name):
            return name
        parts = [part for part in _SPLIT.split(name) if part]
        words = {part.lower() for part in parts if part.lower() in ("and", "or", "and/or")}
        atoms = [part for part in parts if part.lower() not in ("and", "or", "and/or")]
        if len(atoms) > 1 and len(words) == 1 and words != {"and/or"} and "(" not in name:
            return f" {words.pop().upper()} ".join(_known(atom) or self._reference(atom, origin) for atom in atoms)
        return self._reference(name, origin)

    def _reference(self, name: str, origin: str) -> str:
        slug = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")[:_LONGEST].strip("-.") or "unnamed"
        reference = f"LicenseRef-{origin}-{slug}"
        self.texts[reference] = name
        return reference


def _known(name: str) -> str:
    """The SPDX expression of one licence's name; '' where SPDX has none."""
    main, _, exception = name.partition(" with ")
    match = _GNU.fullmatch(main.strip())
    if match is None:
        return _NAMES.get(name.lower()) or fixup_id(name) or ""
    family, major, minor, later = match.groups()
    plain = fixup_id(f"{family.upper()}-{major}.{minor or 0}-{'or-later' if later else 'only'}") or ""
    if not exception:
        return plain
    known = next((spdx for word, spdx in _EXCEPTIONS.items() if word in exception.lower()), "")
    return f"{plain} WITH {known}" if plain and known else ""

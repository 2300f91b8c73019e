"""The import closure of a module: itself and every file of its package that it imports, directly or not.

What a result or a layer depends on of our own code is exactly this, so its digest is part of their keys.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from repro.base.errors import UsageError
from repro.base.files import canonical_json, sha256_bytes

_IMPORTS = "imports, version 2,"  # of a file with this content in this package, by `_imported` as it is now


class Facts(Protocol):
    """Remembers by content what a file imports, so that it is parsed once and not in each run."""

    def recall(self, kind: str, key: str) -> str | None: ...

    def remember(self, kind: str, key: str, value: str) -> None: ...


@dataclass(frozen=True)
class Module:
    """One file: its content, that content's sha256, and which modules of the checkout it may import."""

    data: bytes
    sha256: str
    imports: frozenset[str]


class Modules:
    """The checkout's Python files as they were when first asked for: all stages of a run see one state of them.

    Args:
        root: the checkout.
        facts: remembers imports by content; None to parse each file.
    """

    def __init__(self, root: Path, facts: Facts | None = None) -> None:
        self._root = root
        self._facts = facts
        self._known: dict[str, Module | None] = {}

    def find(self, name: str) -> tuple[str, Module | None]:
        """The file of a module or of a package, such as 'stages.score' or 'stages.model', and what is in it.

        Raises:
            UsageError: it is not Python.
        """
        path = name.replace(".", "/")
        for candidate in (f"{path}.py", f"{path}/__init__.py"):
            if candidate not in self._known:
                self._known[candidate] = self._read(candidate)
            module = self._known[candidate]
            if module is not None:
                return candidate, module
        return f"{path}.py", None

    def closure(self, name: str) -> dict[str, Module]:
        """The files of the import closure of one module, by path; empty where there is no such module.

        Raises:
            UsageError: one of them is not Python.
        """
        files: dict[str, Module] = {}
        pending = [name]
        seen: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen:
                continue
            seen.add(name)
            path, module = self.find(name)
            if module is None:
                continue  # `from stages.formats.bins import name`: a name, not a module
            files[path] = module
            pending.extend(module.imports)
            pending.append(name.rpartition(".")[0] or name)  # Python runs every package's __init__.py on the way
        return files

    def _read(self, path: str) -> Module | None:
        try:
            data = (self._root / path).read_bytes()
        except FileNotFoundError:
            return None
        digest = sha256_bytes(data)
        package = path.rpartition("/")[0].replace("/", ".")
        kind = f"{_IMPORTS} {package},"
        text = self._facts.recall(kind, digest) if self._facts else None
        if text is None:
            try:
                text = " ".join(sorted(_imported(ast.parse(data, path), package)))
            except (SyntaxError, ValueError) as error:
                raise UsageError(f"{path} is not valid Python: {error}") from None
            if self._facts:
                self._facts.remember(kind, digest, text)
        return Module(data, digest, frozenset(text.split()))


def digest_of_closure(files: dict[str, Module]) -> str:
    """Hex sha256 of paths and contents."""
    return sha256_bytes(canonical_json([[path, files[path].sha256] for path in sorted(files)]))


def _imported(tree: ast.AST, package: str) -> set[str]:
    """The modules, or names in them, that a file of `package` imports, absolutely or relatively at any level."""
    names: set[str] = set()
    pending = [tree]
    while pending:
        node = pending.pop()
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]  # no import there
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")
            parts = above[: len(above) - node.level + 1] if node.level else []
            module = ".".join([*parts, *([node.module] if node.module else [])])
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    top = package.partition(".")[0]
    return {name for name in names if name.partition(".")[0] == top}

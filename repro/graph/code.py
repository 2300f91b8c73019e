"""The code of a stage: its import closure in stages/, digested and copied, so that a run never reads a live tree."""

from __future__ import annotations

import ast
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from repro.base.errors import UsageError
from repro.base.files import canonical_json, remove_tree, sha256_bytes
from repro.graph.digests import StatCache

_IMPORTS = "imports, version 1,"  # of a file with this content, by `_imported` as it is now


@dataclass(frozen=True)
class StageCode:
    """The files of one stage's import closure: {path: content}, and their digest."""

    files: dict[str, bytes]
    digest: str


def _imported(tree: ast.AST) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 1:
            module = f"stages.{node.module}" if node.module else "stages"
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "stages"}


@dataclass(frozen=True)
class Module:
    """One file of stages/: its content, that content's sha256, and which modules of stages/ it may import."""

    data: bytes
    sha256: str
    imports: frozenset[str]


class Modules:
    """The files of stages/ as they were when first asked for: all stages of a run see one state of a shared module.

    Args:
        root: the checkout.
        cache: remembers, by content, which modules a file imports, so that it is parsed once and not in each run.
    """

    def __init__(self, root: Path, cache: StatCache | None = None) -> None:
        self._root = root
        self._cache = cache or StatCache(None)
        self._known: dict[str, Module | None] = {}

    def get(self, path: str) -> Module | None:
        """The file at `path`, such as 'stages/score.py'; None where there is none.

        Raises:
            UsageError: it is not Python.
        """
        if path not in self._known:
            self._known[path] = self._read(path)
        return self._known[path]

    def _read(self, path: str) -> Module | None:
        try:
            data = (self._root / path).read_bytes()
        except FileNotFoundError:
            return None  # `from stages._x import name`: a name, not a module
        digest = sha256_bytes(data)
        text = self._cache.recall(_IMPORTS, digest)
        if text is None:
            try:
                text = " ".join(sorted(_imported(ast.parse(data, path))))
            except SyntaxError as error:
                raise UsageError(f"{path} is not valid Python: {error}") from None
            self._cache.remember(_IMPORTS, digest, text)
        return Module(data, digest, frozenset(text.split()))


def read_code(root: Path, stage: str, modules: Modules | None = None) -> StageCode:
    """Read the stage's module and every module of stages/ that it imports, directly or not.

    Args:
        root: the checkout.
        stage: a module of stages/, without that prefix.
        modules: where the files are read; None to read each of them now.

    Raises:
        UsageError: there is no such stage, or a module of its closure is not Python.
    """
    modules = modules or Modules(root)
    files: dict[str, Module] = {}
    pending = ["stages", f"stages.{stage}"]
    while pending:
        name = pending.pop()
        path = "stages/__init__.py" if name == "stages" else name.replace(".", "/") + ".py"
        if path in files:
            continue
        module = modules.get(path)
        if module is not None:
            pending.extend(module.imports)
            files[path] = module
        elif name == f"stages.{stage}":
            raise UsageError(f"there is no stage {stage!r}", hint="stages: see `invoke --list`")
    digest = sha256_bytes(canonical_json([[path, files[path].sha256] for path in sorted(files)]))
    return StageCode({path: module.data for path, module in files.items()}, digest)


def snapshot(code: StageCode, folder: Path) -> Path:
    """Write the closure below `folder`/DIGEST, once; returns that folder, which is mounted read-only."""
    target = folder / code.digest
    if target.is_dir():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".code.", dir=folder))
    try:
        for path, data in code.files.items():
            file = temporary / "root" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            with open(file, "rb") as stream:
                os.fsync(stream.fileno())
        try:
            os.rename(temporary / "root", target)
        except OSError:
            if not target.is_dir():  # another run was first with the same bytes
                raise
    finally:
        remove_tree(temporary)
    return target

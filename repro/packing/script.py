"""install.py, the one file at a bundle's root, joined from the modules of repro/packing/installer."""

from __future__ import annotations

import ast
from pathlib import Path

_MODULES = ("ed25519", "listing", "archive", "folder", "base", "settings", "provenance", "statements", "rebuilders",
            "trust", "install")  # fmt: skip
_HEAD = '''#!/usr/bin/env python3
"""Verify and install a bundle: `python3 -I install.py BUNDLE.tar --key FINGERPRINT`.

Needs Python 3.9 or later and nothing else: no network, no root, no package. Everything is verified before anything is
written. It is joined from the modules of repro/packing/installer, unchanged except for their imports of each other. A
recipe that verifies the same without it stands in docs/guide-airgap.md.

Exit codes: 0 done, 2 wrong use, 3 verification failed, 4 could not verify or could not install, 70 a defect.
"""

import sys

if sys.version_info < (3, 9):
    sys.stderr.write("install.py needs Python 3.9 or later; this is Python %d.%d\\n" % sys.version_info[:2])
    sys.stderr.write("-> start it with a later one, such as: python3.11 -I install.py ...\\n")
    sys.exit(4)
# Before any other import: modules are taken from the standard library alone, where `encodings` was taken from when
# Python started. A tarfile.py that lies beside this file, or that PYTHONPATH leads to, would run before anything is
# verified.
_library = sys.modules["encodings"].__file__.replace("\\\\", "/").rpartition("/encodings/")[0]
_compiled = ("/lib-dynload", "\\\\DLLs")  # the latter on Windows
_own = [path for path in sys.path if path.endswith(_compiled) and path.startswith(sys.base_exec_prefix)]
sys.path[:] = [_library, *_own]
'''


def install_script() -> bytes:
    """The text of install.py: deterministic, ASCII, nothing in it but the standard library's imports."""
    folder = Path(__file__).parent / "installer"
    return "\n".join([_HEAD, *(_body((folder / f"{name}.py").read_text("ascii")) for name in _MODULES)]).encode("ascii")


def _body(source: str) -> str:
    """A module without its docstring and without its imports of its siblings."""
    lines = source.splitlines()
    tree = ast.parse(source)
    dropped: set[int] = set()
    for position, node in enumerate(tree.body):
        is_docstring = position == 0 and isinstance(node, ast.Expr)
        is_sibling = isinstance(node, ast.ImportFrom) and str(node.module).startswith("repro.packing.installer.")
        if is_docstring or is_sibling:
            dropped.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    title = f"# ---- repro/packing/installer: {str(ast.get_docstring(tree)).splitlines()[0]}"
    kept = "\n".join(line for number, line in enumerate(lines, 1) if number not in dropped)
    return f"{title}\n\n{kept.strip()}\n"

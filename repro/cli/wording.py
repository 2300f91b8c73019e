"""Is the difference between two versions of a function only in what a message says?"""

from __future__ import annotations

import ast
from collections.abc import Sequence

_ADVICE = ("hint", "detail")  # what an error says beside its message


def changes_wording(original: Sequence[ast.AST], mutant: Sequence[ast.AST]) -> bool:
    """Is the one difference between two functions' bodies in an error's text, in its advice, or that it has them?"""
    way = _way(original, mutant)
    raised = [number for number, node in enumerate(way) if isinstance(node, (ast.Raise, ast.keyword))]
    if not raised or not way:
        return False
    first = way[raised[0]]
    if isinstance(first, ast.keyword) and first.arg not in _ADVICE:
        return False
    text = isinstance(way[-1], ast.Constant) and isinstance(way[-1].value, str)
    return text or len(way) - raised[0] <= 3  # the raise, the exception, one of its arguments


def _way(old: object, new: object) -> list[ast.AST]:
    """The nodes of the original from the outermost to the smallest that holds all that differs."""
    if isinstance(old, ast.AST) and type(old) is type(new):
        pairs = [(getattr(old, name, None), getattr(new, name, None)) for name in old._fields]
    elif isinstance(old, (list, tuple)) and isinstance(new, (list, tuple)) and len(old) == len(new):
        pairs = list(zip(old, new))
    else:
        return [old] if isinstance(old, ast.AST) else []
    differing = [pair for pair in pairs if not _same(*pair)]
    inner = _way(*differing[0]) if len(differing) == 1 else []
    return [old, *inner] if isinstance(old, ast.AST) else inner


def _same(old: object, new: object) -> bool:
    if isinstance(old, ast.AST) and isinstance(new, ast.AST):
        return ast.dump(old) == ast.dump(new)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(map(_same, old, new))
    return type(old) is type(new) and old == new

"""Is the difference between two versions of a function only in what a message says?"""

from __future__ import annotations

import ast
import copy
from collections.abc import Sequence

_ADVICE = ("hint", "detail")  # what an error says beside its message
_HELP = ("help", "metavar")  # what --help says of an option


def changes_wording(original: Sequence[ast.AST], mutant: Sequence[ast.AST]) -> bool:
    """Is the one difference between two functions' bodies in an error's text, in its advice, or that it has them?

    Or in the help of an option of a command line.
    """
    if not _same(list(original), list(mutant)) and _without_help(original) == _without_help(mutant):
        return True
    way = _way(original, mutant)
    after_raise, after_advice = (
        next((len(way) - number for number, node in enumerate(way) if is_one(node)), 0)
        for is_one in (_raises, _advises)
    )
    if not after_raise and not after_advice:
        return False
    text = isinstance(way[-1], ast.Constant) and isinstance(way[-1].value, str)
    # A raise, the exception, one of its arguments; or an advice and its whole value.
    return text or 0 < after_raise <= 3 or 0 < after_advice <= 2


def _without_help(nodes: Sequence[ast.AST]) -> list[str]:
    return [ast.dump(_Unhelped().visit(copy.deepcopy(node))) for node in nodes]


class _Unhelped(ast.NodeTransformer):
    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        return None if node.arg in _HELP else self.generic_visit(node)


def _raises(node: ast.AST) -> bool:
    """Also where a helper makes the error that its caller raises."""
    made = node.value if isinstance(node, ast.Return) else None
    name = made.func.id if isinstance(made, ast.Call) and isinstance(made.func, ast.Name) else ""
    return isinstance(node, ast.Raise) or name.endswith(("Error", "Failed", "Refused", "Malformed"))


def _advises(node: ast.AST) -> bool:
    return isinstance(node, ast.keyword) and node.arg in _ADVICE


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

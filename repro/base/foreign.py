"""Text that a stranger wrote (a stage, a record, a bundle, a file name), made safe to show to a person."""

from __future__ import annotations

_LIMIT = 500


def shown(text: object, limit: int = _LIMIT, *, lines: bool = False) -> str:
    """`text` with everything escaped that a terminal or a page would act on or hide.

    Args:
        text: anything; its `str` is shown.
        limit: characters; what is longer is cut, and '…' says so.
        lines: keep line ends, for a text of several lines.

    Returns:
        printable text: a control character as \\x1b, a direction mark as \\u202e, a byte of no encoding as \\xff.
    """
    whole = str(text)
    cut = whole if len(whole) <= limit else whole[:limit] + "…"
    if cut.isprintable():
        return cut
    return "".join(letter if lines and letter == "\n" else _safe(letter) for letter in cut)


def _safe(letter: str) -> str:
    if letter.isprintable():  # no control, direction mark, surrogate, line end or space of another width
        return letter
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8, as Python holds it
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

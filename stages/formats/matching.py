"""Two sorted streams of utterances, joined in one pass without holding either."""

from __future__ import annotations

from typing import Any, Iterable, Iterator, TypeVar

from stages.shared.stage import StageError

T = TypeVar("T")


def matched(
    archive: Iterable[tuple[str, Any]], labels: Iterable[tuple[str, list[str]]], archive_path: str, labels_path: str
) -> Iterator[tuple[str, Any, list[str] | None]]:
    """Yield (id, features or None, phones or None) in the labels' order; None where a side lacks the utterance.

    Args:
        archive, labels: iterables of (id, features) and (id, phones); both must be sorted by id, so that one pass over
            them is enough, and neither is held in memory.
    """
    labels = in_order(labels, labels_path)
    following = next(labels, None)
    for utterance, features in in_order(archive, archive_path):
        while following and following[0] < utterance:
            yield following[0], None, following[1]
            following = next(labels, None)
        if following and following[0] == utterance:
            yield utterance, features, following[1]
            following = next(labels, None)
        else:
            yield utterance, features, None
    while following:
        yield following[0], None, following[1]
        following = next(labels, None)


def in_order(entries: Iterable[tuple[str, T]], path: str) -> Iterator[tuple[str, T]]:
    """Yield the entries as they are, or refuse the first that does not come after the one before it."""
    previous = ""
    for entry in entries:
        if entry[0] == previous:
            raise StageError("{}: {} stands there twice".format(path, previous))
        if entry[0] < previous:
            raise StageError("{}: {} after {}, not sorted".format(path, entry[0], previous))
        previous = entry[0]
        yield entry

"""Work on several chips at once, one process of the vendor's tools for each."""

from __future__ import annotations

import threading
from typing import Callable, Sequence, TypeVar

T = TypeVar("T")


def in_parallel(work: Callable[[T], None], items: Sequence[T]) -> None:
    """Call `work` for all items at once, and raise the first error, in the items' order, when all have ended."""
    errors: dict[int, BaseException] = {}

    def one(index: int) -> None:
        try:
            work(items[index])
        except BaseException as error:  # noqa: BLE001 - raised below, in the main thread
            errors[index] = error

    threads = [threading.Thread(target=one, args=(index,)) for index in range(len(items))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in sorted(errors):
        raise errors[index]

"""Work shared by threads, its results in the order of the tasks: for libraries that compute without Python's lock."""

from __future__ import annotations

import concurrent.futures
import itertools
from typing import Callable, Iterable, Iterator, TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_order(
    pool: concurrent.futures.ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """`function` of every item, on the pool, in the items' order; at most `ahead` are under way or waiting."""
    waiting = iter(items)
    pending = [pool.submit(function, item) for item in itertools.islice(waiting, ahead)]
    try:
        while pending:
            result = pending.pop(0).result()
            pending.extend(pool.submit(function, item) for item in itertools.islice(waiting, 1))
            yield result
    finally:
        for future in pending:
            future.cancel()

"""Where ready nodes are made. The runner decides what is stored, what is ready and when a node is handed over."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Union

from repro.graph.making import Done, Preparation
from repro.graph.pipeline import Node
from repro.graph.store import Result, fingerprint_of

Ended = Union[Done, BaseException]


@dataclass(frozen=True)
class Task:
    """A ready node, and all that its result depends on.

    Attributes:
        key: see `repro.graph.keys`.
        results: of the nodes before it, by their keys.
        forced: it is made though a result is stored.
    """

    node: Node
    key: Mapping[str, Any]
    results: Mapping[str, Result]
    forced: bool

    @property
    def fingerprint(self) -> str:
        """What names its result in the store."""
        return fingerprint_of(self.key)


class Executor(Protocol):
    """Makes results and publishes them in the store that the runner looks into."""

    @property
    def preparations(self) -> list[Preparation]:
        """Of the images that were needed here."""

    def admits(self, node: Node, running: Collection[Node]) -> bool:
        """Whether `node` may be handed over now, beside those that were and have not ended. True where none were."""

    def start(self, task: Task, ended: Callable[[Ended], None]) -> None:
        """Take a task over, and return at once.

        Args:
            task: a node that was admitted.
            ended: is called once, from any thread, with the result, or with what went wrong.
        """

    def look_ahead(self, waiting: Collection[Node]) -> None:
        """Told after a start which nodes will come, so that their images can be made ready."""

    def close(self, *, interrupted: bool) -> None:
        """Nothing more will be started. A process that a person interrupted ends at once, and waits for nothing."""

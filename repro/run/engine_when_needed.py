"""An engine that is chosen when the first job needs it: a run whose results are all stored starts none.

Choosing one costs more than all else of such a run: a client's import, probes, a container that is tried.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from repro.base.errors import UsageError
from repro.container.image import Image
from repro.container.job import Availability, Engine, Job, OnLine, Outcome

NAMES = ("docker", "podman", "sandbox")
AUTO = "auto"


def check_name(name: str) -> None:
    """Raises UsageError when there is no engine called `name`."""
    if name not in (AUTO, *NAMES):
        raise UsageError(f"there is no engine {name!r}", hint="engines: " + ", ".join((AUTO, *NAMES)))


@dataclass(frozen=True)
class Choice:
    """The engine taken, its probe, and what the probes of those before it said."""

    engine: Engine
    availability: Availability
    passed_over: tuple[Availability, ...]

    def sentence(self) -> str:
        """For a person: which engine runs the stages, and why not the ones before it."""
        version = self.availability.facts.get("version", "")
        lines = [f"engine: {self.engine.name}" + (f" ({version})" if version else "")]
        lines += [f"  not {other.name}: {other.reason}" for other in self.passed_over]
        return "\n".join(lines)


class EngineWhenNeeded:
    """Stands for the engine that `choose` will give. Thread-safe; `choose` is called once, and again if it failed.

    Attributes:
        choice: what was chosen; None as long as nothing was asked of it.
    """

    def __init__(self, choose: Callable[[], Choice]) -> None:
        self._choose = choose
        self._lock = threading.Lock()
        self.choice: Choice | None = None

    def chosen(self) -> Choice:
        """The choice, made now if it was not.

        Raises:
            EngineUnavailable: the engine asked for, or every one, cannot be used; says why for each.
        """
        with self._lock:
            if self.choice is None:
                self.choice = self._choose()
            return self.choice

    @property
    def name(self) -> str:
        """The engine's name, which is known once it is chosen."""
        return self.chosen().engine.name

    def prepare(self, image: Image) -> None:
        """See `Engine.prepare`."""
        self.chosen().engine.prepare(image)

    def run(self, job: Job, on_line: OnLine) -> Outcome:
        """See `Engine.run`."""
        return self.chosen().engine.run(job, on_line)

    def facts(self) -> dict[str, str]:
        """See `Engine.facts`."""
        return self.chosen().engine.facts()

"""Which locked files have come so far: a layer is built as soon as its own are there, while others still come."""

from __future__ import annotations

import threading

from repro.fetching.receiver import Receiver
from repro.images.recipes import LayerRecipe


class Arrivals(Receiver):
    """Told by the one side what came, and asked by the other what can be built. Thread-safe.

    Args:
        complete: every file is there already, as far as it ever will be.
    """

    def __init__(self, *, complete: bool = False) -> None:
        super().__init__()
        self._changed = threading.Condition()
        self._here: set[str] = set()
        self._complete = complete
        self._error: BaseException | None = None

    def add(self, sha256: str) -> None:
        """See `Receiver`."""
        with self._changed:
            self._here.add(sha256)
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Nothing more will come; with an error, nothing more is to be built either. The first error counts."""
        with self._changed:
            self._complete = True
            self._error = self._error or error
            if error is not None:
                self.stopped.set()
            self._changed.notify_all()

    def wait(self) -> None:
        """Until nothing more will come; raises what ended it."""
        with self._changed:
            self._changed.wait_for(lambda: self._complete)
            if self._error is not None:
                raise self._error

    def take(self, recipes: list[LayerRecipe]) -> LayerRecipe | None:
        """Remove the first of `recipes` whose files are there; waits for one.

        Returns:
            None where none is left.

        Raises:
            BaseException: what the fetching, or another layer, failed of.
        """
        with self._changed:
            while True:
                if self._error is not None:
                    raise self._error
                for recipe in recipes:
                    if self._complete or all(file.sha256 in self._here for file in recipe.files):
                        recipes.remove(recipe)
                        return recipe
                if not recipes:
                    return None
                self._changed.wait()

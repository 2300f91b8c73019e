"""The images of a run as they become ready: what needs one of them starts while others are still fetched and built."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Mapping

from repro.container.image import Image

Ready = Callable[[Image], None]
"""Told of an image whose layers are all there, from any thread."""


class ComingImages(Mapping[str, Image]):
    """Images by name, as far as they are ready. Thread-safe.

    Args:
        names: of all that will come.
        make: makes them, and tells of each; it is run in a thread of its own.
        stop: makes `make` end early, with the error that it is given.
    """

    def __init__(
        self, names: Collection[str], make: Callable[[Ready], object], stop: Callable[[BaseException], None]
    ) -> None:
        self._names = names
        self._make = make
        self._stop = stop
        self._ready: dict[str, Image] = {}
        self._changed = threading.Condition()
        self._over = False
        self._listener: Callable[[], None] = lambda: None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="images", daemon=True)
        self._thread.start()

    def __getitem__(self, name: str) -> Image:
        return self._ready[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._ready))

    def __len__(self) -> int:
        return len(self._ready)

    def listen(self, changed: Callable[[], None]) -> None:
        """Have `changed` called now, and whenever an image is ready or none will come any more."""
        self._listener = changed
        changed()

    def lacks(self, name: str) -> bool:
        """Whether this image is still to come, or will not, for the `error` that ended it all."""
        return name not in self._ready and (not self._over or self.error is not None)

    def await_any(self, names: Collection[str]) -> str | None:
        """The first of `names` that is ready; waits for one. None where none of them will come."""
        with self._changed:
            while True:
                found = next((name for name in names if name in self._ready), None)
                if found is not None or self._over or not names:
                    return found
                self._changed.wait()

    def finish(self) -> dict[str, Image]:
        """Wait for all of them; raises what making them failed of."""
        try:
            self._thread.join()
        except BaseException as error:
            self._stop(error)
            raise
        if self.error is not None:
            raise self.error
        return {name: self._ready[name] for name in self._names}

    def settle(self) -> None:
        """Wait until nothing is at work on them any more, whatever it came to."""
        self._thread.join()

    def stop(self, why: BaseException) -> None:
        """End early: nothing needs them any more. What is being built now is finished, and kept."""
        self._stop(why)

    def _work(self) -> None:
        try:
            self._make(self._add)
        except BaseException as error:  # noqa: BLE001 - raised where the images are waited for
            self.error = error
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._listener()

    def _add(self, image: Image) -> None:
        with self._changed:
            self._ready[image.name] = image
            self._changed.notify_all()
        self._listener()

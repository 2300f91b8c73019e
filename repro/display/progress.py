"""What long work with a known size tells whoever watches it. `repro.display.progress_display` shows it to a person."""

from __future__ import annotations

from types import TracebackType
from typing import Optional, Protocol


class Progress(Protocol):
    """Told how far a transfer is. Thread-safe; used as a context manager around the work."""

    def begin(self, files_total: int, bytes_total: int) -> None:
        """The size of the work, before its first byte."""

    def advance(self, count_bytes: int) -> None:
        """Bytes that have arrived; negative where some were given up again."""

    def file_done(self) -> None:
        """One file is complete and verified."""

    def note(self, text: str) -> None:
        """A line that a person should see."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None: ...

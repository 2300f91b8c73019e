"""What takes fetched files one by one, while others still come."""

from __future__ import annotations

import threading


class Receiver:
    """Takes files as they come; this one only lets them lie in the cache.

    Attributes:
        stopped: set where nothing more is wanted: what is being downloaded is given up, and what arrived of it is kept.
    """

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def add(self, sha256: str) -> None:
        """This file came, and is right. Called from several threads."""

"""How a container's end is learnt, and forced: the engine's event stream, and a kill when time is up.

The event stream is opened before the container exists, and the container is started only when the stream has told of
its creation. So no event is missed, however short the job, and nothing depends on a clock.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

from docker.errors import APIError, DockerException
from requests.exceptions import RequestException

from repro.base.errors import CouldNotRun
from repro.base.pace import time_factor
from repro.engines.endpoint import Endpoint

JOB_LABEL = "org.lstm-ctc-bundle.job"
_GONE_EVENTS = ("destroy", "remove")  # Docker's word and Podman's
_CREATED_TIMEOUT_S = 30.0
_END_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 60


def end_response(connection: Any) -> None:
    """Close a stream or socket that docker-py took out of a response, by that response.

    Where only what lies below it is closed, the response is surprised by that when it is collected, and Python 3.14
    prints so.
    """
    with contextlib.suppress(DockerException, OSError, ValueError):  # ValueError: closed below already
        getattr(connection, "_response", connection).close()


class Watch:
    """What the engine tells about the one container that carries a label."""

    def __init__(self, endpoint: Endpoint, marker: str) -> None:
        self._api = endpoint.connect(_REQUEST_TIMEOUT_S)
        self._marker = marker
        self._changed = threading.Condition()
        self._created = False
        self._exit_code: int | None = None
        self._over = False
        self._broken = ""
        self.out_of_memory = False

    def __enter__(self) -> Watch:
        try:
            self._stream = self._api.events(filters={"label": [f"{JOB_LABEL}={self._marker}"]}, decode=True)
        except BaseException:  # without a stream there is nothing to leave
            self._api.close()
            raise
        self._thread = threading.Thread(target=self._listen, name="container-events", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(DockerException, OSError):
            self._stream.close()
        self._thread.join(5.0)
        if not self._thread.is_alive():
            end_response(self._stream)
        self._api.close()

    def _listen(self) -> None:
        try:
            for event in self._stream:
                if self._take(event):
                    break
        except (DockerException, RequestException, OSError, ValueError, AttributeError) as error:
            self._broken = str(error) or type(error).__name__
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _take(self, event: dict[str, Any]) -> bool:
        """Note one event; True when it is the container's last."""
        action = str(event.get("Action") or event.get("status") or "")
        attributes = (event.get("Actor") or {}).get("Attributes") or {}
        with self._changed:
            if action == "create":
                self._created = True
            elif action == "oom":
                self.out_of_memory = True
            elif action in ("die", "died"):
                self._exit_code = int(attributes.get("exitCode") or attributes.get("containerExitCode") or 0)
            self._changed.notify_all()
        return action in _GONE_EVENTS

    def wait_until_created(self) -> None:
        """Return once the stream is known to be live.

        Raises:
            CouldNotRun: it is not.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._created or self._over, _CREATED_TIMEOUT_S * time_factor())
            if not self._created:
                raise CouldNotRun(
                    f"the engine's event stream does not tell of a container that was made {self._broken}".rstrip(),
                    hint="restart the engine, or use `--engine sandbox`",
                )

    def exit_code(self, deadline_s: float) -> int:
        """The job's exit code, once its container is gone.

        Args:
            deadline_s: of the monotonic clock; the job is killed then, and is given a little longer to vanish.

        Raises:
            CouldNotRun: the engine stopped telling, or cannot end the container.
        """
        with self._changed:
            left_s = max(0.0, deadline_s - time.monotonic()) + _END_TIMEOUT_S * time_factor()
            self._changed.wait_for(lambda: self._over, min(left_s, threading.TIMEOUT_MAX))
            if self._exit_code is None:
                raise CouldNotRun(
                    f"the engine did not say how the container ended {self._broken}".rstrip(),
                    hint="was the engine restarted? run again: finished stages are kept",
                )
            return self._exit_code


class Killer:
    """Kills a container when its time is up, over a connection of its own."""

    def __init__(self, endpoint: Endpoint, container: str, connection: Any) -> None:
        self._endpoint = endpoint
        self._container = container
        self._connection = connection
        self.fired = False

    def fire(self) -> None:
        """Kill. When this has returned, `fired` says whether it was this that ended the job."""
        try:
            with contextlib.closing(self._endpoint.connect(_REQUEST_TIMEOUT_S)) as api:
                api.kill(self._container)
            self.fired = True
        except APIError as error:
            if error.status_code not in (404, 409):  # else it had just ended by itself
                self._hang_up()
        except (DockerException, RequestException, CouldNotRun):
            self._hang_up()

    def _hang_up(self) -> None:
        """The engine does not kill: closing standard input makes the container's own watchdog do so."""
        self.fired = True
        raw = getattr(self._connection, "_sock", self._connection)
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)

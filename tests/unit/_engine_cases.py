"""An engine's API in memory: what the Docker SDK's client does, as far as the engines call it.

It holds each call to what the engines mean by it: whose events, which containers, which streams, what is removed.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import struct
from pathlib import Path

from docker.errors import APIError, ImageNotFound
from docker.types import HostConfig

from repro.container.image import Image, Layer
from repro.engines.following import JOB_LABEL
from repro.machine.owner import OWNER_LABEL

CONFIG = "sha256:" + "c" * 64
MANIFEST = "sha256:" + "d" * 64
DIFF = "sha256:" + "1" * 64
IMAGE = Image(
    name="base",
    architecture="amd64",
    layers=(Layer("debs:base", "debs", DIFF, 10, Path("/nowhere"), "sha256:0"),),
    config=b"{}",
    config_digest=CONFIG,
    manifest=b"{}",
    manifest_digest=MANIFEST,
    env={"IMAGE": "yes"},
    python="3.11",
)
VERSION = {"Version": "28.2.2", "ApiVersion": "1.50", "Components": [{"Name": "Engine"}]}
INFO = {"OSType": "linux", "OperatingSystem": "Debian", "SecurityOptions": ["name=seccomp,profile=default"]}


class Response:
    def __init__(self, status_code):
        self.status_code = status_code


def api_error(status_code, text="refused"):
    return APIError(text, response=Response(status_code), explanation=text)


class FakeDaemon:
    """What all clients of one engine share. `job` decides how a started container ends."""

    def __init__(self):
        self.version, self.info = dict(VERSION), dict(INFO)
        self.images = {}
        self.loaded_as = {"Id": CONFIG, "RootFS": {"Layers": [DIFF]}}
        self.loads = 0
        self.open_clients = 0
        self.created = []
        self.removed = []
        self.containers = []
        self.job = lambda container: container.end(0)


class FakeContainer:
    def __init__(self, daemon, config):
        self.daemon, self.config = daemon, config
        self.ours, self.theirs = socket.socketpair()
        self.ended = False

    def say(self, stream, data):
        self.theirs.sendall(struct.pack(">BxxxL", stream, len(data)) + data)

    def end(self, code, *, out_of_memory=False):
        if self.ended:
            raise api_error(409)
        self.ended = True
        if out_of_memory:
            self.tell("oom")
        self.tell("die", exitCode=str(code))
        self.tell("destroy")
        self.theirs.close()

    def tell(self, action, **attributes):
        self.daemon.events.put({"Action": action, "Actor": {"Attributes": attributes}})


class FakeApi:
    """One client."""

    timeout = 60

    def __init__(self, daemon):
        self._daemon = daemon
        daemon.open_clients += 1

    def close(self):
        self._daemon.open_clients -= 1

    def version(self):
        return self._daemon.version

    def info(self):
        return self._daemon.info

    def inspect_image(self, name):
        if name not in self._daemon.images:
            raise ImageNotFound("no such image", response=Response(404))
        return self._daemon.images[name]

    def load_image(self, chunks):
        self._daemon.loads += 1
        assert b"".join(chunks), "an archive without a byte"
        if self._daemon.loaded_as is not None:
            self._daemon.images[self._daemon.loaded_as["Id"]] = self._daemon.loaded_as
        return iter([{"stream": "Loaded"}])

    def create_host_config(self, **options):
        """The SDK's own: it refuses options that it does not know, and gives the document that the engine gets."""
        return dict(HostConfig(version="1.41", **options))

    def create_container(self, image, **config):
        if image not in self._daemon.images:
            raise ImageNotFound("no such image", response=Response(404))
        container = FakeContainer(self._daemon, {"Image": image, **config})
        self._daemon.created.append(container)
        container.tell("create")
        return {"Id": str(len(self._daemon.created) - 1)}

    def events(self, filters, decode):
        (label,) = filters["label"]
        assert decode and label.startswith(f"{JOB_LABEL}=") and len(label) > len(JOB_LABEL) + 8, "of one job alone"
        self._daemon.events = queue.Queue()
        return _Stream(self._daemon.events)

    def attach_socket(self, container, params):
        assert params == {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        return self._daemon.created[int(container)].ours

    def start(self, container):
        self._daemon.job(self._daemon.created[int(container)])

    def kill(self, container):
        self._daemon.created[int(container)].end(137)

    def remove_container(self, container, force, v=False):
        assert force and v, "a container that runs is removed too, and its volumes with it"
        self._daemon.removed.append(container)
        with contextlib.suppress(IndexError, ValueError):
            removed = self._daemon.created[int(container)]
            removed.theirs.close()
            if removed.ended:
                raise api_error(404)

    def containers(self, all, filters):
        assert all and filters == {"label": OWNER_LABEL}, "ours alone, the stopped ones too"
        return self._daemon.containers


class _Stream:
    def __init__(self, events):
        self._events = events

    def __iter__(self):
        while (event := self._events.get()) is not None:
            yield event

    def close(self):
        self._events.put(None)


class FakeEndpoint:
    url, title = "unix:///fake", "Docker"

    def __init__(self, daemon):
        self.daemon = daemon

    def connect(self, timeout_s):
        return FakeApi(self.daemon)

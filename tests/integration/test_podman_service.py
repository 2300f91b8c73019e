"""The private Podman service ends with the process that started it, however that one ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
pytestmark = [
    pytest.mark.skipif(shutil.which("podman") is None, reason="Podman is not on this machine"),
]
_CLIENT = """
import os, sys
from repro.engines.podman import Service
service = Service(sys.argv[1], dict(os.environ))
service.wait_until_listening()
print(service.url, flush=True)
sys.stdin.read()
"""


def client(folder: str) -> tuple[subprocess.Popen[str], str]:
    """A process that has started a service below a folder and waits, and the service's address."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(shutil.which("podman"))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": folder},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def of_service(url: str) -> list[int]:
    """Processes that have the service's address on their command line, ended ones aside."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if url.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture
def folder() -> Iterator[str]:
    """Of this test's services alone, on a short path: another service would clear away what a killed one left."""
    with tempfile.TemporaryDirectory(prefix="service-") as name:
        yield name


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_the_service_ends_with_its_client(folder: str, how: signal.Signals | None):
    process, url = client(folder)
    assert url.startswith("unix://")
    assert of_service(url)
    if how is None:
        process.communicate(timeout=60)
    else:
        process.send_signal(how)
        process.wait()
    deadline_s = time.monotonic() + 20
    while of_service(url) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert of_service(url) == []


def test_the_folder_of_a_service_whose_client_was_killed_goes_with_the_next_one(folder: str):
    process, url = client(folder)
    left = Path(url.removeprefix("unix://")).parent
    process.kill()
    process.wait()
    assert left.is_dir()
    process, _ = client(folder)
    assert not left.exists()
    process.communicate(timeout=60)


_PROBES = """
import os, sys
from pathlib import Path
import docker
from repro.engines.endpoint import check_files
from repro.engines.podman import Service
service = Service(sys.argv[1], dict(os.environ))
service.wait_until_listening()
api = docker.APIClient(service.url, version="1.40", timeout=600)
for _ in range(6):
    check_files(api, Path(sys.argv[2]), "Podman")
"""


def test_processes_that_ask_podman_at_once_whether_it_sees_their_files_are_all_told_that_it_does(folder: str):
    argv = [sys.executable, "-c", _PROBES, str(shutil.which("podman")), folder]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": folder}
    clients = [subprocess.Popen(argv, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    assert [(process.communicate()[1], process.returncode) for process in clients] == [("", 0)] * 3

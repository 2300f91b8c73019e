"""A machine without apt: everything comes from a server that speaks the snapshot archive's layout, and an index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from repro.base.errors import CouldNotVerify, FetchError, VerificationFailed
from repro.fetching import Cache, fetch_all, locked_files
from repro.locks.debian import keyring_path
from repro.locks.model import dump_deb_lock, dump_wheel_lock, lock_path
from repro.resolving.prove import verify_chain
from tests.simulators.archive import Archive, Server, index_page, wheel_lock

WHEELS = {"one-1.0-py3-none-any.whl": b"one" * 1000, "two-2.0-py3-none-any.whl": b"two" * 1000}


class Machine:
    """A repository with locks of a made archive, on a machine whose only sources are local servers."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.archive = Archive({"alpha": b"a" * 100_000, "beta": b"b" * 200_000, "gamma": b"g" * 300_000})
        self._write(keyring_path(root), self.archive.keyring)
        for index in self.archive.lock.indexes:
            self._write(root / "conf" / "locks" / index.inrelease, self.archive.releases[index.suite])
        self._write(lock_path(root, "debs", "set", "amd64"), dump_deb_lock(self.archive.lock))
        self._write(lock_path(root, "wheels", "made", "amd64"), dump_wheel_lock(wheel_lock(WHEELS)))

    def served(self) -> tuple[dict[str, bytes], dict[str, str]]:
        """Files and content types of a server that has all."""
        files = self.archive.served("/archive", dated=True)
        files.update({f"/files/{name}": data for name, data in WHEELS.items()})
        pages = {f"/simple/{name.split('-')[0]}/": index_page({name: data}) for name, data in WHEELS.items()}
        return {**files, **pages}, dict.fromkeys(pages, "text/html")

    def snapshot_is(self, url: str) -> None:
        self._write(self.root / "conf" / "snapshot.toml", f'snapshot = "{url}/archive"\n'.encode())

    def site(self, text: str) -> None:
        self._write(self.root / "conf" / "site.toml", text.encode())

    def fetch(self) -> None:
        fetch_all(self.root, ["amd64"], [])

    def complete(self) -> bool:
        return all(Cache(self.root).holds(file.sha256) for file in locked_files(self.root, ["amd64"]))

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("PATH", "/nonexistent")  # no apt-config, so no apt
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_PROXY", "http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return Machine(tmp_path)


@pytest.fixture
def server(machine: Machine, monkeypatch: pytest.MonkeyPatch):
    files, types = machine.served()
    with Server(files, types=types) as server:
        machine.snapshot_is(server.url)
        monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
        yield server


def test_debs_come_from_the_snapshot_at_the_locks_date_and_wheels_from_pips_index(
    machine: Machine, server: Server
) -> None:
    machine.fetch()
    assert machine.complete()
    debs = [path for path in server.paths() if path.endswith(".deb")]
    assert len(debs) == 3
    assert {path.split("/")[3] for path in debs} == {machine.archive.snapshot}
    assert {path.split("/")[2] for path in debs} == {"debian", "debian-security"}


def test_the_chain_is_proven_with_indexes_of_the_snapshot(machine: Machine, server: Server) -> None:
    lines: list[str] = []
    verify_chain(machine.root, lines.append)
    assert len(lines) == 2
    assert all(machine.archive.fingerprint in line for line in lines)


def test_an_index_that_nobody_has_could_not_be_verified(machine: Machine, server: Server) -> None:
    for path in [path for path in server.files if path.endswith("Packages.xz")]:
        del server.files[path]
    with pytest.raises(CouldNotVerify, match="was not checked"):
        verify_chain(machine.root, print)


def test_an_altered_index_is_a_failed_verification(machine: Machine, server: Server) -> None:
    for path in [path for path in server.files if path.endswith("Packages.xz")]:
        server.files[path] = server.files[path][:-1] + b"!"
    with pytest.raises(VerificationFailed):
        verify_chain(machine.root, print)


def test_an_altered_deb_is_a_failed_verification(machine: Machine, server: Server) -> None:
    path = next(path for path in server.files if "beta" in path)
    server.files[path] = b"B" * 200_000
    with pytest.raises(VerificationFailed, match=r"debs/set\.amd64: beta"):
        machine.fetch()
    assert not machine.complete()
    server.files[path] = b"b" * 200_000
    machine.fetch()
    assert machine.complete()


def test_the_site_file_goes_before_pip_and_the_snapshot(machine: Machine, server: Server) -> None:
    files = machine.archive.served("/mirror", dated=False)
    files["/own/one/"] = index_page({"one-1.0-py3-none-any.whl": WHEELS["one-1.0-py3-none-any.whl"]})
    files["/files/one-1.0-py3-none-any.whl"] = WHEELS["one-1.0-py3-none-any.whl"]
    with Server(files, types={"/own/one/": "text/html"}) as own:
        machine.site(
            f'[debian]\nmirrors = ["{own.url}/mirror/debian"]\n'
            f'security_mirrors = ["{own.url}/mirror/debian-security/"]\n[python]\nindex_urls = ["{own.url}/own"]\n'
        )
        machine.fetch()
    assert machine.complete()
    assert sorted(server.paths()) == ["/files/two-2.0-py3-none-any.whl", "/simple/two/"]


def test_a_dead_mirror_in_the_site_file_costs_only_a_note(machine: Machine, server: Server) -> None:
    machine.site('[debian]\nmirrors = ["http://127.0.0.1:9/debian"]\n')
    machine.fetch()
    assert machine.complete()


def test_without_any_source_the_error_names_them_all(machine: Machine) -> None:
    machine.snapshot_is("http://127.0.0.1:9")
    with pytest.raises(FetchError) as caught:
        machine.fetch()
    said = caught.value.diagnostics()
    assert "data/sources" in said
    assert "pip: http://127.0.0.1:9/simple" in said
    assert "the Debian snapshot archive http://127.0.0.1:9/archive" in said


def test_files_carried_by_hand_need_no_server(machine: Machine) -> None:
    machine.snapshot_is("http://127.0.0.1:9")
    folder = machine.root / "data" / "sources" / "stick"
    folder.mkdir(parents=True)
    for name, data in WHEELS.items():
        (folder / name).write_bytes(data)
    for file in machine.archive.lock.files:
        (folder / file.sha256).write_bytes(machine.archive.packages[file.project])
    machine.fetch()
    assert machine.complete()


def test_two_fetches_at_once_share_the_work(machine: Machine, server: Server) -> None:
    command = "import sys; from pathlib import Path; from repro.fetching import fetch_all; "
    command += "fetch_all(Path(sys.argv[1]), ['amd64'], [])"
    repository = Path(__file__).resolve().parents[2]
    running = [
        subprocess.Popen([sys.executable, "-c", command, str(machine.root)], cwd=repository, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60)[1].decode() for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    assert machine.complete()
    assert len([path for path in server.paths() if path.endswith(".deb")]) == 3
    assert list((machine.root / "artifacts" / "cache" / "parts").iterdir()) == []

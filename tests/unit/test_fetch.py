"""Bringing files into the cache: what each fault of a source leads to, and what is left on disk after it."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest
import requests

from repro.base.errors import CouldNotRun, FetchError, VerificationFailed
from repro.display.console import Console
from repro.fetching import cache as cache_module
from repro.fetching import download
from repro.fetching.cache import Cache
from repro.fetching.download import fetch
from repro.fetching.origins import DebianSource, FolderSource, IndexSource, Location
from repro.fetching.receiver import Receiver
from repro.locks.model import LockedFile
from tests.simulators.archive import Server, index_page, sha256, wheel_lock

BODY = bytes(range(256)) * 4096  # 1 MiB
PATH = "pool/main/a/a/a_1+b~1_amd64.deb"


def locked(data: bytes = BODY, path: str = PATH) -> LockedFile:
    name = path.rpartition("/")[2]
    return LockedFile(name, "deb", sha256(data), len(data), f"debs/base.amd64: {name}", "a", "1", "debian", path, "x")


class Bench:
    """A cache in a temporary folder, and one way to fetch into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = Cache(root)
        self.shown = io.StringIO()

    def fetch(self, files, *sources) -> None:
        with requests.Session() as session:
            fetch(files, self.cache, sources, session, Console(self.shown, every_s=0).transfer("fetch"))

    def left(self) -> list[str]:
        folder = self.cache.folder
        return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

    def mirror(self, server: Server, label: str = "mirror") -> DebianSource:
        return DebianSource(label, {"debian": server.url})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_file_lies_in_the_cache_under_its_hash(bench: Bench) -> None:
    with Server({f"/{PATH}": BODY}) as server:
        bench.fetch([locked(), locked()], bench.mirror(server))
    digest = sha256(BODY)
    assert bench.left() == [f"sha256/{digest[:2]}/{digest}"]
    assert bench.cache.path(digest).read_bytes() == BODY
    assert len(server.log) == 1
    assert "1 of 1 files, 1.0 of 1.0 MB (100 %)" in bench.shown.getvalue()


def test_a_second_fetch_asks_nobody(bench: Bench) -> None:
    with Server({f"/{PATH}": BODY}) as server:
        bench.fetch([locked()], bench.mirror(server))
    bench.fetch([locked()])


def test_a_wrong_hash_is_a_failed_verification_and_leaves_nothing(bench: Bench) -> None:
    wrong = BODY[:-1] + b"!"
    with Server({f"/{PATH}": wrong}) as server, pytest.raises(VerificationFailed) as caught:
        bench.fetch([locked()], bench.mirror(server))
    said = caught.value.diagnostics()
    assert bench.left() == []
    for part in ("debs/base.amd64: a_1+b~1_amd64.deb", server.url, sha256(BODY), sha256(wrong), "data/sources"):
        assert part in said


def test_wrong_bytes_from_one_source_are_passed_over_for_right_ones(bench: Bench) -> None:
    with Server({f"/{PATH}": BODY[:-1] + b"!"}) as bad, Server({f"/{PATH}": BODY}) as good:
        bench.fetch([locked()], bench.mirror(bad), bench.mirror(good))
    assert bench.cache.holds(sha256(BODY))
    assert "passed over" in bench.shown.getvalue()
    assert "1.0 of 1.0 MB (100 %)" in bench.shown.getvalue().splitlines()[-1]


@pytest.mark.parametrize(("served", "said"), [(BODY[:1000], "truncated: 1000 bytes"), (BODY + b"x", "too long")])
def test_a_file_of_another_size_is_a_failed_verification(bench: Bench, served: bytes, said: str) -> None:
    with Server({f"/{PATH}": served}) as server, pytest.raises(VerificationFailed, match=said):
        bench.fetch([locked()], bench.mirror(server))
    assert bench.left() == []


def test_a_cut_connection_is_taken_up_where_it_broke(bench: Bench) -> None:
    with Server({f"/{PATH}": BODY}, cuts={f"/{PATH}": (300_000, 2)}) as server:
        bench.fetch([locked()], bench.mirror(server))
    assert bench.cache.holds(sha256(BODY))
    starts = [int(asked[len("bytes=") : -1]) for _, asked in server.log[1:]]
    assert len(starts) == 2
    assert 0 < starts[0] < starts[1] < len(BODY)
    assert "1.0 of 1.0 MB (100 %)" in bench.shown.getvalue().splitlines()[-1]


def test_a_download_that_never_ends_well_keeps_its_part_for_the_next_run(bench: Bench) -> None:
    with Server({f"/{PATH}": BODY}, cuts={f"/{PATH}": (100_000, 99)}) as server:
        with pytest.raises(FetchError):
            bench.fetch([locked()], bench.mirror(server))
        assert bench.left() == [f"parts/{sha256(BODY)}.part"]
        assert bench.cache.path(sha256(BODY)) is None
        server.cuts.clear()
        server.log.clear()
        bench.fetch([locked()], bench.mirror(server))
    assert server.log[0][1].startswith("bytes=")
    assert bench.cache.holds(sha256(BODY))


@pytest.mark.parametrize("ranges", [True, False])
def test_a_part_with_wrong_bytes_is_thrown_away_and_fetched_anew(bench: Bench, ranges: bool) -> None:
    part = bench.cache.part(sha256(BODY))
    part.parent.mkdir(parents=True)
    part.write_bytes(b"what another source began" * 100)
    with Server({f"/{PATH}": BODY}, ranges=ranges) as server:
        bench.fetch([locked()], bench.mirror(server))
    assert bench.cache.path(sha256(BODY)).read_bytes() == BODY


def test_a_part_that_is_too_long_is_thrown_away(bench: Bench) -> None:
    part = bench.cache.part(sha256(BODY))
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY + BODY)
    with Server({f"/{PATH}": BODY}) as server:
        bench.fetch([locked()], bench.mirror(server))
    assert bench.cache.path(sha256(BODY)).read_bytes() == BODY


def test_a_missing_file_names_its_lock_entry_and_every_source_with_its_reason(bench: Bench) -> None:
    with Server() as empty, Server(status={f"/{PATH}": 500}) as broken, pytest.raises(FetchError) as caught:
        bench.fetch(
            [locked()],
            FolderSource(bench.root / "data" / "sources", "data/sources"),
            bench.mirror(empty, "apt: one"),
            bench.mirror(broken, "apt: two"),
            DebianSource("apt: gone", {"debian": "http://127.0.0.1:9"}),
            DebianSource("apt: security", {"debian-security": "http://127.0.0.1:9"}),
        )
    said = caught.value.diagnostics()
    assert "debs/base.amd64: a_1+b~1_amd64.deb" in said
    for reason in ("data/sources: no such folder", "apt: one", "HTTP 404", "apt: two", "HTTP 500", "apt: gone"):
        assert reason in said
    assert "apt: security: serves no debian" in said
    assert "conf/site.toml" in caught.value.hint
    assert bench.left() == []


def test_the_first_source_that_has_a_file_is_the_only_one_asked(bench: Bench) -> None:
    folder = bench.root / "data" / "sources" / "deep" / "down"
    folder.mkdir(parents=True)
    (folder / "a_1+b%7e1_amd64.deb").write_bytes(BODY)
    with Server({f"/{PATH}": BODY}) as server:
        bench.fetch([locked()], FolderSource(bench.root / "data" / "sources", "data/sources"), bench.mirror(server))
    assert server.log == []
    assert bench.cache.holds(sha256(BODY))
    assert (folder / "a_1+b%7e1_amd64.deb").read_bytes() == BODY


def test_a_file_in_data_sources_is_found_by_its_hash(bench: Bench) -> None:
    (bench.root / sha256(BODY)).write_bytes(BODY)
    bench.fetch([locked()], FolderSource(bench.root, "data/sources"))
    assert bench.cache.holds(sha256(BODY))


def test_a_file_of_the_cache_that_was_altered_is_fetched_again(bench: Bench) -> None:
    with Server({f"/{PATH}": BODY}) as server:
        bench.fetch([locked()], bench.mirror(server))
        bench.cache.path(sha256(BODY)).write_bytes(b"altered")
        bench.fetch([locked()], bench.mirror(server))
    assert bench.cache.path(sha256(BODY)).read_bytes() == BODY


def test_one_failing_file_among_many_leaves_only_right_files(bench: Bench) -> None:
    bodies = {f"pool/{n}.deb": bytes([n]) * 5000 for n in range(30)}
    files = [locked(data, path) for path, data in bodies.items()]
    served = {f"/{path}": data for path, data in bodies.items()}
    served["/pool/7.deb"] = b"wrong"
    with Server(served) as server:
        with pytest.raises(VerificationFailed, match=r"7\.deb"):
            bench.fetch(files, bench.mirror(server))
        for path in (path for path in bench.cache.folder.rglob("*") if path.is_file()):
            assert path.parent.name != "sha256"
            assert path.name == sha256(path.read_bytes())
        server.files["/pool/7.deb"] = bodies["pool/7.deb"]
        bench.fetch(files, bench.mirror(server))
    assert all(bench.cache.holds(file.sha256) for file in files)


def test_a_full_disk_is_said_and_leaves_no_part(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("repro.fetching.download.os.fsync", full)
    with Server({f"/{PATH}": BODY}) as server, pytest.raises(CouldNotRun, match="no space left"):
        bench.fetch([locked()], bench.mirror(server))
    assert bench.left() == []


def test_too_little_space_is_said_before_anything_is_fetched(bench: Bench) -> None:
    file = locked()
    huge = LockedFile(**{**vars(file), "size_bytes": 1 << 60})
    with Server({f"/{PATH}": BODY}) as server, pytest.raises(CouldNotRun, match="MB are free"):
        bench.fetch([huge], bench.mirror(server))
    assert server.log == []


def test_a_wheel_is_found_by_its_name_and_hash_in_an_index(bench: Bench) -> None:
    files = {"one_two-1.0-py3-none-any.whl": BODY}
    served = {f"/files/{name}": data for name, data in files.items()}
    served["/simple/one-two/"] = index_page(files)
    with Server(served, types={"/simple/one-two/": "text/html"}) as server, requests.Session() as session:
        bench.fetch(wheel_lock(files).files, IndexSource("index", f"{server.url}/simple", session))
    assert bench.cache.holds(sha256(BODY))


def test_an_index_that_lists_another_hash_is_not_downloaded_from(bench: Bench) -> None:
    files = {"one-1.0-py3-none-any.whl": BODY}
    served = {"/simple/one/": index_page(files, wrong_hash=True), "/files/one-1.0-py3-none-any.whl": BODY}
    with Server(served, types={"/simple/one/": "text/html"}) as server, pytest.raises(FetchError) as caught:
        bench.fetch(wheel_lock(files).files, IndexSource("index", f"{server.url}/simple", requests.Session()))
    assert "with another hash" in caught.value.detail
    assert server.paths() == ["/simple/one/"]


def test_passwords_in_addresses_are_never_shown(bench: Bench) -> None:
    with Server() as server:
        base = server.url.replace("http://", "http://user:secret@")
        with pytest.raises(FetchError) as caught:
            bench.fetch([locked()], DebianSource("apt", {"debian": base}))
    assert "secret" not in caught.value.diagnostics()


class PathSource:
    """A source on this machine that names a file without looking into it."""

    label = "a folder"

    def __init__(self, path: Path) -> None:
        self._path = path

    def locate(self, file: LockedFile) -> list[Location]:
        return [Location(path=self._path)]


@pytest.mark.parametrize("data", [BODY[:-1] + b"x", BODY + b"x", BODY[:-1], b""])
def test_wrong_bytes_from_a_file_on_this_machine_never_reach_the_cache(bench: Bench, tmp_path: Path, data) -> None:
    (tmp_path / "local").write_bytes(data)
    with pytest.raises((VerificationFailed, FetchError)):
        bench.fetch([locked()], PathSource(tmp_path / "local"))
    assert bench.left() == [] and bench.cache.path(sha256(BODY)) is None


def test_right_bytes_from_a_file_on_this_machine_are_copied_and_not_linked(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "local").write_bytes(BODY)
    bench.fetch([locked()], PathSource(tmp_path / "local"))
    (tmp_path / "local").write_bytes(b"changed afterwards")
    assert bench.cache.path(sha256(BODY)).read_bytes() == BODY


def test_a_file_is_hashed_once_per_process_and_again_after_any_change(bench: Bench, monkeypatch):
    with Server({f"/{PATH}": BODY}) as server:
        bench.fetch([locked()], bench.mirror(server))
    path, hashed = bench.cache.path(sha256(BODY)), []
    whole = cache_module.sha256_file
    monkeypatch.setattr(cache_module, "sha256_file", lambda each: hashed.append(each) or whole(each))
    assert bench.cache.holds(sha256(BODY)) and Cache(bench.root).holds(sha256(BODY)) and hashed == []
    path.write_bytes(BODY[::-1])
    assert not bench.cache.holds(sha256(BODY)) and hashed == [path] and not path.exists()


def test_each_file_is_handed_over_as_it_comes_and_nothing_is_brought_once_nothing_is_wanted(bench: Bench):
    class Taker(Receiver):
        def __init__(self) -> None:
            super().__init__()
            self.came: list[str] = []

        def add(self, sha256: str) -> None:
            self.came.append(sha256)

    taker = Taker()
    with Server({f"/{PATH}": BODY}) as server, requests.Session() as session:
        progress = Console(bench.shown, every_s=0)
        for _ in ("fetched", "there already"):
            fetch([locked()], bench.cache, [bench.mirror(server)], session, progress.transfer("fetch"), taker)
        assert taker.came == [sha256(BODY)] * 2
        bench.cache.path(sha256(BODY)).unlink()
        taker.stopped.set()
        fetch([locked()], bench.cache, [bench.mirror(server)], session, progress.transfer("fetch"), taker)
        assert len(taker.came) == 2 and not bench.cache.holds(sha256(BODY))


def test_the_largest_file_comes_first_and_the_others_in_the_order_in_which_they_are_needed() -> None:
    files = [locked(bytes(size), f"pool/{size}.deb") for size in (20, 10, 40, 30)]
    assert [file.size_bytes for file in download._largest_first(files)] == [40, 20, 10, 30]
    assert download._largest_first([]) == []

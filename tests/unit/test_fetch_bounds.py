"""Fetching in detail: where each source looks, what it says when it has nothing, what a cut connection may cost."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from repro.base.errors import CouldNotRun, CouldNotVerify, FetchError
from repro.base.files import sha256_bytes
from repro.base.locking import Taken
from repro.base.locking import locked as lock_of
from repro.fetching import download, origins
from repro.fetching.cache import Cache, cache_error
from repro.fetching.download import fetch
from repro.fetching.origins import (
    DebianSource,
    FindLinksSource,
    FolderSource,
    IndexSource,
    Location,
    NotOfferedError,
    SnapshotSource,
    is_there,
    redacted,
)
from repro.fetching.receiver import Receiver
from repro.fetching.simple_index import Link, file_url_path, folder_links, project_links
from repro.locks.model import LockedFile

BODY = b"0123456789" * 20
ROOT = Path(__file__).resolve().parents[2]


def wanted(data: bytes = BODY, **more) -> LockedFile:
    known = {
        "name": "a_1.deb", "kind": "deb", "sha256": sha256_bytes(data), "size_bytes": len(data), "entry": "debs: a",
        "project": "a", "version": "1", "archive": "debian", "path": "pool/a b/a_1+b~1:2.deb", "snapshot": "2026",
    }  # fmt: skip
    return LockedFile(**{**known, **more})


def where(source, file: LockedFile | None = None) -> list[str]:
    return [str(location) for location in source.locate(file or wanted())]


def refusal(source, file: LockedFile | None = None) -> str:
    with pytest.raises(NotOfferedError) as caught:
        source.locate(file or wanted())
    return str(caught.value)


def test_a_mirror_has_the_archive_that_it_is_of_by_quoted_path():
    mirror = DebianSource("m", {"debian": "http://x/debian"})
    assert where(mirror) == ["http://x/debian/pool/a%20b/a_1+b~1:2.deb"]
    assert refusal(mirror, wanted(archive="debian-security")) == "serves no debian-security"
    assert refusal(mirror, wanted(archive="", path="", kind="wheel")) == "serves no wheel"
    assert refusal(mirror, wanted(path="")) == "serves no debian"


def test_the_snapshot_archive_is_asked_at_the_locks_date_and_by_an_index_s_two_names():
    source = SnapshotSource("http://u:p@s")
    assert source.label == "the Debian snapshot archive http://s"
    assert where(source) == ["http://s/debian/2026/pool/a%20b/a_1+b~1:2.deb"]
    by_hash = f"dists/bookworm/main/binary-amd64/by-hash/SHA256/{'a' * 64}"
    assert where(source, wanted(path=by_hash)) == [
        f"http://s/debian/2026/{by_hash}", "http://s/debian/2026/dists/bookworm/main/binary-amd64/Packages.xz"
    ]  # fmt: skip
    assert refusal(source, wanted(snapshot="")) == "holds no deb" == refusal(source, wanted(path=""))


def test_a_folder_is_searched_by_hash_then_by_name_however_nested(tmp_path: Path):
    source = FolderSource(tmp_path / "none", "data/sources")
    assert refusal(source) == "no such folder" and source.label == "data/sources"
    assert refusal(FolderSource(tmp_path, "f")) == "no file of this name or hash in it"
    file = wanted(name="a_1:2~b.deb")
    for name in ("z/a_1%3a2%7eb.deb", f"b/{file.sha256}", "a_1:2~b.deb", "c/a_1:2~b.deb.bak"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "d" / file.name).mkdir(parents=True)
    expected = [tmp_path / "b" / file.sha256, tmp_path / "a_1:2~b.deb", tmp_path / "z" / "a_1%3a2%7eb.deb"]
    assert where(FolderSource(tmp_path, "f"), file) == [str(path) for path in expected]


class Index(IndexSource):
    def __init__(self, answers):
        super().__init__("i", "http://i", requests.Session())
        self.answers, self.asked = answers, []

    def _read(self, project):
        self.asked.append(project)
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers


def test_an_index_offers_what_it_lists_by_name_and_right_hash():
    file = wanted(kind="wheel", name="a-1.whl")
    links = [
        Link("b-1.whl", "http://i/b", None, None),
        Link("a-1.whl", "http://i/1?x=y#z", None, None),
        Link("a-1.whl", "http://i/2", "0" * 64, None),
        Link("a-1.whl", "http://i/3", file.sha256, None),
    ]
    index = Index(links)
    assert where(index, file) == ["http://i/1?x=y", "http://i/3"] and where(index, file) and index.asked == ["a"]
    assert refusal(index) == "holds no deb"
    assert refusal(Index(links[:1]), file) == "does not list a-1.whl" and refusal(Index([]), file) == "does not know a"
    assert refusal(Index(links[2:3]), file) == f"lists a-1.whl with another hash, {'0' * 64}"


def test_an_index_that_cannot_be_reached_is_asked_once_and_a_bad_page_again():
    file = wanted(kind="wheel", name="a-1.whl")
    gone = Index(requests.ConnectionError("http://u:p@i is gone"))
    assert refusal(gone, file) == refusal(gone, file) == "did not answer: http://i is gone" and gone.asked == ["a"]
    for error in (ValueError("odd"), OSError("odd"), requests.HTTPError("odd")):
        odd = Index(error)
        assert refusal(odd, file) == refusal(odd, file) == "did not answer: odd" and odd.asked == ["a", "a"]


def test_find_links_are_a_folder_a_wheel_or_a_page(tmp_path: Path):
    (tmp_path / "My_Pkg-1-py3-none-any.whl").write_bytes(b"12")
    (tmp_path / "other-1-py3-none-any.whl").write_bytes(b"")
    (tmp_path / "my_pkg-1.tar.gz").write_bytes(b"")
    (link,) = folder_links(str(tmp_path), "my.pkg")
    assert link == Link("My_Pkg-1-py3-none-any.whl", (tmp_path / "My_Pkg-1-py3-none-any.whl").as_uri(), None, 2)
    assert folder_links(tmp_path.as_uri(), "MY-PKG") == [link] and folder_links(str(tmp_path / "none"), "my-pkg") == []
    file = wanted(kind="wheel", name="My_Pkg-1-py3-none-any.whl", project="my-pkg")
    assert where(FindLinksSource("f", str(tmp_path), requests.Session()), file) == [str(tmp_path / file.name)]
    one = FindLinksSource("f", "https://h/w/a%2B1.whl", requests.Session())
    assert where(one, wanted(kind="wheel", name="a+1.whl")) == ["https://h/w/a%2B1.whl"]
    assert file_url_path("file:/a%20b") == "/a b" == file_url_path("file:///a%20b")


def test_a_page_gives_names_addresses_hashes_and_sizes(tmp_path: Path):
    digest = "b" * 64
    (tmp_path / "my-pkg").mkdir()
    (tmp_path / "my-pkg" / "index.html").write_text(
        f'<a href="../w/my_pkg-1-py3-none-any.whl#sha256={digest}">my_pkg-1-py3-none-any.whl</a>'
        '<a href="http://h/my_pkg-2-py3-none-any.whl#sha256=xyz">my_pkg-2-py3-none-any.whl</a>'
    )
    first, second = project_links(requests.Session(), tmp_path.as_uri(), "My_Pkg")
    assert first == Link("my_pkg-1-py3-none-any.whl", f"{tmp_path.as_uri()}/w/my_pkg-1-py3-none-any.whl", digest, None)
    assert (second.url, second.sha256) == ("http://h/my_pkg-2-py3-none-any.whl", None)
    assert project_links(requests.Session(), tmp_path.as_uri(), "absent") == []


@pytest.mark.parametrize(("code", "there"), [(200, True), (403, True), (404, False), (410, False), (405, True)])
def test_only_what_says_that_it_is_gone_is_not_there(tmp_path: Path, code: int, there: bool):
    asked = []

    def head(url, **options):
        asked.append((url, options))
        return SimpleNamespace(status_code=code)

    assert is_there(Location(url="http://x/a"), SimpleNamespace(head=head)) is there
    assert asked == [("http://x/a", {"timeout": origins._TIMEOUT_S, "allow_redirects": True})]
    (tmp_path / "f").write_bytes(b"")
    assert is_there(Location(path=tmp_path / "f"), None) and not is_there(Location(path=tmp_path), None)

    def silent(*_, **__):
        raise requests.ConnectionError

    assert not is_there(Location(url="http://x/a"), SimpleNamespace(head=silent))


def test_names_and_passwords_in_addresses_are_left_out():
    assert redacted("at http://u:p@h/x and https://t@i/y") == "at http://h/x and https://i/y"
    assert redacted("http://h/a@b u:p@h") == "http://h/a@b u:p@h"


class Line:
    """A session whose answers are given: (status, headers, bytes, error after them)."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def get(self, url, headers, stream, timeout):
        assert stream is True and timeout == download._TIMEOUT_S and headers["Accept-Encoding"] == "identity"
        self.asked.append((url, headers.get("Range")))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        code, said, data, error = answer
        return _Answer(code, said, data, error)


class _Answer:
    def __init__(self, code, headers, data, error):
        self.status_code, self.headers, self.reason, self._data, self._error = code, headers, "Why", data, error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def iter_content(self, size):
        assert size == 64 * 1024
        yield self._data
        if self._error is not None:
            raise self._error


class Told:
    """What is shown of a transfer."""

    def __init__(self):
        self.began, self.sum, self.done, self.notes = None, 0, 0, []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def begin(self, files, size_bytes):
        self.began = (files, size_bytes)

    def advance(self, size_bytes):
        self.sum += size_bytes

    def file_done(self):
        self.done += 1

    def note(self, text):
        self.notes.append(text)


def brought(tmp_path: Path, line: Line, *bases: str, files=None):
    told, cache = Told(), Cache(tmp_path)
    sources = [DebianSource(base, {"debian": f"http://{base}"}) for base in bases or ("one",)]
    try:
        fetch(files or [wanted()], cache, sources, line, told)
    finally:
        brought.told, brought.cache = told, cache
    return told, cache


CUT = requests.exceptions.ChunkedEncodingError("cut")
URL = "http://one/pool/a%20b/a_1+b~1:2.deb"


def test_a_cut_is_taken_up_five_times_and_a_sixth_one_ends_it(tmp_path: Path):
    def pieces(number):
        return [
            (206 if at else 200, {"Content-Range": f"bytes {at}-199/200"} if at else {}, BODY[at : at + 10], CUT)
            for at in range(0, 10 * number, 10)
        ]

    line = Line(*pieces(5), (206, {"Content-Range": "bytes 50-199/200"}, BODY[50:], None))
    told, cache = brought(tmp_path / "five", line)
    assert cache.holds(wanted().sha256) and told.sum == 200 and told.began == (1, 200) and told.done == 1
    assert line.asked == [(URL, None), *((URL, f"bytes={at}-") for at in (10, 20, 30, 40, 50))]
    with pytest.raises(FetchError, match=r"no source delivered a_1\.deb") as caught:
        brought(tmp_path / "six", Line(*pieces(6)))
    assert caught.value.detail == f"one: {URL}: ChunkedEncodingError: cut" and wanted().sha256 in caught.value.hint
    assert brought.cache.part(wanted().sha256).read_bytes() == BODY[:60] and brought.told.sum == 0


def test_an_answer_from_the_start_in_place_of_the_rest_is_written_from_the_start(tmp_path: Path):
    for code, said in ((200, {}), (206, {"Content-Range": "bytes 0-199/200"}), (206, {})):
        place = tmp_path / f"{code}{len(said)}"
        line = Line((200, {}, BODY[:50], CUT), (code, said, BODY, None))
        _, cache = brought(place, line)
        assert cache.path(wanted().sha256).read_bytes() == BODY and line.asked[1] == (URL, "bytes=50-")


def test_a_host_that_gave_nothing_is_not_asked_again_and_one_that_gave_some_is(tmp_path: Path):
    other = wanted(b"other", name="b.deb", path="pool/b.deb")
    line = Line(requests.ConnectionError("no route"), *[(404, {}, b"", None)] * 9)
    with pytest.raises(FetchError) as caught:
        brought(tmp_path, line, files=[wanted()])
    assert caught.value.detail == f"one: {URL}: ConnectionError: no route"
    job = download._Fetch(Cache(tmp_path), [DebianSource("one", {"debian": "http://one"})], line, Told(), Receiver())
    job._dead["one"] = "no route"
    with pytest.raises(FetchError) as caught:
        job.bring(other)
    assert caught.value.detail == "one: http://one/pool/b.deb: no route" and len(line.asked) == 1


def test_a_status_from_400_on_is_no_content_and_416_forgets_the_part(tmp_path: Path):
    for code, kept in ((400, True), (404, True), (416, False), (500, True)):
        place = tmp_path / str(code)
        line = Line((200, {}, BODY[:50], CUT), (code, {}, b"an error's page", None))
        with pytest.raises(FetchError) as caught:
            brought(place, line)
        assert caught.value.detail == f"one: {URL}: HTTP {code} Why"
        assert brought.cache.part(wanted().sha256).exists() is kept
    _, cache = brought(tmp_path / "399", Line((399, {}, BODY, None)))
    assert cache.holds(wanted().sha256)


def test_the_next_source_is_asked_and_what_arrived_is_counted_once(tmp_path: Path):
    line = Line((200, {}, BODY[:-1] + b"!", None), (200, {}, BODY, None))
    told, _ = brought(tmp_path, line, "one", "two")
    assert told.sum == 200 and told.done == 1 and [url.split("/")[2] for url, _ in line.asked] == ["one", "two"]
    (note,) = told.notes
    assert note.startswith("debs: a: passed over http://one/") and f"expected sha256 {wanted().sha256}, found" in note


def test_room_is_asked_for_exactly_what_is_missing_and_a_margin(tmp_path: Path, monkeypatch):
    cache = Cache(tmp_path)
    part = cache.part(wanted().sha256)
    part.parent.mkdir(parents=True)
    part.write_bytes(BODY[:50])
    need = 150 + 64 * 1024 * 1024
    for free, enough in ((need, True), (need - 1, False)):
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        if enough:
            download._check_space([wanted()], cache)
        else:
            with pytest.raises(CouldNotRun, match="67 MB are needed in"):
                download._check_space([wanted()], cache)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_a_disk_that_is_full_is_told_from_one_that_is_closed(number: int):
    error = cache_error(OSError(number, "Reason"), Path("/cache"))
    full = number in (errno.ENOSPC, errno.EDQUOT)
    assert error.message == ("no space left for downloads in /cache" if full else "/cache cannot be written: Reason")
    assert ("free some space" in error.hint) is full and ("owner and mode" in error.hint) is not full


def test_the_cache_takes_a_part_as_whole_and_drops_what_is_wrong(tmp_path: Path):
    cache, digest = Cache(tmp_path), wanted().sha256
    assert cache.folder == tmp_path / "artifacts" / "cache" and cache.path(digest) is None and not cache.holds(digest)
    with pytest.raises(CouldNotVerify, match="debs: a is not here"):
        cache.read(wanted())
    with cache.exclusive(digest):
        with pytest.raises(Taken), lock_of(cache.folder / "parts" / f"{digest}.lock", wait=False):
            pass
        cache.part(digest).write_bytes(BODY)
        cache.part(digest).chmod(0o600)
        place = cache.accept(digest)
    assert place == cache.folder / "sha256" / digest[:2] / digest == cache.path(digest)
    assert stat.S_IMODE(place.stat().st_mode) == 0o644 and list((cache.folder / "parts").iterdir()) == []
    assert cache.read(wanted()) == BODY and cache.holds(digest)
    place.write_bytes(b"wrong")
    assert not cache.holds(digest) and not place.exists()


def test_a_cache_that_cannot_be_locked_says_why(tmp_path: Path):
    (tmp_path / "artifacts").write_text("a file")
    with pytest.raises(CouldNotRun, match="cannot be written"), Cache(tmp_path).exclusive("0" * 64):
        pass

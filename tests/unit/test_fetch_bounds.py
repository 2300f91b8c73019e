"""Fetching in detail: where each source looks, what it says when it has nothing, what a cut connection may cost."""

from __future__ import annotations

import errno
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from repro.base.errors import CouldNotRun, CouldNotVerify, FetchError, UsageError
from repro.base.files import sha256_bytes
from repro.base.locking import Taken
from repro.base.locking import locked as lock_of
from repro.fetching import apt_client as apt
from repro.fetching import archives, download, fetch_all, fetch_files, locked_files, origins, site
from repro.fetching import pip_client as pip
from repro.fetching.apt_client import AptClient, AptSource, debian_mirrors
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
    sources_of,
)
from repro.fetching.pip_client import PipClient, parse_config_list
from repro.fetching.receiver import Receiver
from repro.fetching.session import http_session
from repro.fetching.simple_index import Link, file_url_path, folder_links, project_links
from repro.fetching.site import Site, Whereabouts, load_site
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


def test_files_of_locks_are_chosen_by_architecture_and_set(monkeypatch):
    every = locked_files(ROOT, ("amd64", "arm64"))
    amd64 = locked_files(ROOT, ("amd64",))
    assert 0 < len(amd64) < len(every) and {file.kind for file in amd64} == {"deb", "wheel"}
    wheels = locked_files(ROOT, ("amd64",), ("wheels/base",))
    assert {file.kind for file in wheels} == {"wheel"} and set(wheels) < set(amd64)
    debs = locked_files(ROOT, ("arm64",), ("debs/base",))
    assert {file.entry.partition(":")[0] for file in debs} == {"debs/base.arm64"}
    assert locked_files(ROOT, ()) == []
    with pytest.raises(UsageError, match="no lock is called debs/x, wheels/y") as caught:
        locked_files(ROOT, ("amd64",), ("wheels/y", "debs/base", "debs/x"))
    assert "debs/base" in caught.value.hint and "wheels/base" in caught.value.hint
    got = []
    monkeypatch.setattr("repro.fetching.fetch_files", lambda *arguments: got.append(arguments))
    fetch_all(ROOT, ("amd64",), ("wheels/base",), None)
    assert got == [(ROOT, wheels, None)]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[odd]\n", r"unknown section \[odd\]"),
        ("debian = 1\n", r"unknown section \[debian\]"),
        ("[debian]\nproxy = 'x'\n", r"unknown 'proxy' in \[debian\]"),
        ("[debian]\nmirrors = 'x'\n", "mirrors must be a list of addresses"),
        ("[debian]\nmirrors = ['']\n", "mirrors must be a list of addresses"),
        ("[python]\nfind_links = [1]\n", "find_links must be a list of addresses"),
        ("[http]\nheaders = 'x'\n", "headers must be a table of texts"),
        ("[http.headers]\na = 1\n", "headers must be a table of texts"),
        ("[http]\nca = 1\n", "ca must be a text"),
    ],
)
def test_each_slip_in_the_site_file_is_named(tmp_path: Path, text: str, why: str):
    (tmp_path / "site.toml").write_text(text)
    with pytest.raises(UsageError, match=why):
        load_site(tmp_path / "site.toml")


def test_the_site_file_s_addresses_lose_a_last_slash_and_headers_take_the_environment(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("TOKEN", "secret")
    (tmp_path / "site.toml").write_text(
        "[debian]\nmirrors = ['http://a/', 'http://b']\nsnapshot = 'http://s/'\n"
        "[http]\nheaders = {X = 'Bearer $TOKEN'}\n"
    )
    site = load_site(tmp_path / "site.toml")
    assert site.mirrors == ("http://a", "http://b") and site.snapshot == "http://s/"
    assert site.headers == {"X": "Bearer secret"} and load_site(tmp_path / "none") == type(site)()


def test_every_source_of_this_machine_looks_where_it_was_told(tmp_path: Path):
    site = Site(mirrors=("http://sm",), security_mirrors=("http://ss",), find_links=("http://sf/w/a-1.whl",))
    apt = AptClient(mirrors=("http://am",), security_mirrors=("http://as",))
    pip = PipClient(index_urls=("http://pi",), find_links=(str(tmp_path / "links"),))
    (tmp_path / "data" / "sources").mkdir(parents=True)
    (tmp_path / "data" / "sources" / "a_1.deb").write_bytes(b"")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a-1.whl").write_bytes(b"")
    session = requests.Session()
    found = {
        source.label: source for source in sources_of(tmp_path, Whereabouts(site, apt, pip, "http://snap"), session)
    }
    assert list(found) == [
        "data/sources", "conf/site.toml: http://sm", "conf/site.toml: http://ss", "conf/site.toml: http://sf/w/a-1.whl",
        "apt: http://am", "apt: http://as", f"pip: {tmp_path}/links", "pip: http://pi",
        "the Debian snapshot archive http://snap",
    ]  # fmt: skip
    assert where(found["data/sources"]) == [str(tmp_path / "data" / "sources" / "a_1.deb")]
    wheel, secure = wanted(kind="wheel", name="a-1.whl"), wanted(archive="debian-security")
    assert where(found["conf/site.toml: http://sm"])[0].startswith("http://sm/pool/")
    assert where(found["conf/site.toml: http://ss"], secure)[0].startswith("http://ss/pool/")
    assert where(found["apt: http://as"], secure)[0].startswith("http://as/pool/")
    assert where(found["conf/site.toml: http://sf/w/a-1.whl"], wheel) == ["http://sf/w/a-1.whl"]
    assert where(found[f"pip: {tmp_path}/links"], wheel) == [str(tmp_path / "links" / "a-1.whl")]
    assert (found["pip: http://pi"]._url, found["pip: http://pi"]._session) == ("http://pi", session)
    assert list(found)[-1] not in [s.label for s in sources_of(tmp_path, Whereabouts(site, apt, pip, ""), session)]


def test_a_page_of_links_is_asked_with_a_time_limit_and_its_errors_count():
    page = requests.Response()
    page.status_code, page.url, page._content = 200, "http://h/links/", b'<a href="a-1.whl">a-1.whl</a>'
    page.headers["Content-Type"] = "text/html"
    asked = []
    line = SimpleNamespace(get=lambda url, **options: asked.append((url, options)) or page)
    wheel = wanted(kind="wheel", name="a-1.whl")
    assert where(FindLinksSource("f", "http://h/links/", line), wheel) == ["http://h/links/a-1.whl"]
    assert asked == [("http://h/links/", {"timeout": origins._TIMEOUT_S})]
    page.status_code = 500
    assert refusal(FindLinksSource("f", "http://h/links/", line), wheel).startswith("did not answer: 500")


def test_a_file_on_this_machine_that_cannot_be_read_is_passed_over_with_its_reason(tmp_path: Path):
    source = SimpleNamespace(label="here", locate=lambda file: [Location(path=tmp_path / "gone")])
    with pytest.raises(FetchError) as caught:
        fetch([wanted()], Cache(tmp_path), [source], None, Told())
    assert caught.value.detail == f"here: {tmp_path}/gone: No such file or directory"


def test_proxies_and_certificates_are_the_sites_else_the_clients_own():
    apt, pip = AptClient(proxies={"http": "http://apt"}, ca="/apt.pem"), PipClient(proxy="http://pip", ca="/pip.pem")
    for own, proxies, verify in (
        (Site(proxy="http://site", ca="/site.pem"), {"http": "http://site", "https": "http://site"}, "/site.pem"),
        (Site(), {"http": "http://apt", "https": "http://pip"}, "/pip.pem"),
    ):
        with http_session(Whereabouts(own, apt, pip, "")) as found:
            assert dict(found.proxies) == proxies and found.verify == verify
    with http_session(
        Whereabouts(Site(), AptClient(proxies={"https": "http://a"}, ca="/a"), PipClient(proxy="p"), "")
    ) as s:
        assert dict(s.proxies) == {"https": "http://a"} and s.verify == "/a"
    with http_session(Whereabouts(Site(), AptClient(), PipClient(), "")) as found:
        assert dict(found.proxies) == {} and found.verify is True
        assert found.get_adapter("http://x").max_retries.total == 3 == found.get_adapter("https://x").max_retries.total


def test_lines_of_pip_that_say_nothing_are_passed_over_and_apts_copies_are_files():
    odd = "odd\nglobal.odd=1\nother.index-url='http://no'\nglobal.broken='\nglobal.index-url='http://g'\n"
    assert parse_config_list(odd) == {"index-url": "http://g"}
    sources = [
        AptSource("copy:/srv/debian", "bookworm", ("main",)),
        AptSource("http://x/copy:/y", "bookworm", ("main",)),
    ]
    assert debian_mirrors(sources) == (("file:/srv/debian", "http://x/copy:/y"), ())


DUMP = """Dir::Etc "ETC";
Dir::Etc::SourceList "one.list";
Dir::Etc::SourceParts "parts";
Acquire::HTTP::Proxy "http://p:1/";
Acquire::https::Proxy "PROXY";
Acquire::https::CaInfo "/ca.pem";
"""


@pytest.mark.parametrize("https_proxy", ["DIRECT", "direct", "", "http://q"])
def test_apt_says_where_its_sources_lie_and_through_what_it_goes(tmp_path: Path, monkeypatch, https_proxy):
    (tmp_path / "parts").mkdir()
    (tmp_path / "one.list").write_text("deb http://m/debian bookworm main\ndeb http://v/debian bookworm stable\n")
    (tmp_path / "parts" / "s.list").write_text("deb http://m/debian-security bookworm-security main\n")
    asked = []

    def run(command, **options):
        asked.append((command, options))
        return SimpleNamespace(stdout=DUMP.replace("ETC", str(tmp_path)[1:]).replace("PROXY", https_proxy))

    monkeypatch.setattr(apt.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(apt.subprocess, "run", run)
    proxies = {"http": "http://p:1/", **({"https": https_proxy} if https_proxy == "http://q" else {})}
    assert apt.apt_client() == AptClient(("http://m/debian",), ("http://m/debian-security",), proxies, "/ca.pem")
    options = {"capture_output": True, "text": True, "timeout": apt._TIMEOUT_S, "check": False}
    assert asked == [(["/bin/apt-config", "dump"], options)]
    for error in (OSError("gone"), subprocess.TimeoutExpired("apt-config", 20)):
        monkeypatch.setattr(apt.subprocess, "run", raising(error))
        assert apt.apt_client() == AptClient()


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_without_words_of_its_own_apts_usual_files_are_read(monkeypatch):
    read = []
    monkeypatch.setattr(apt.shutil, "which", lambda name: name)
    monkeypatch.setattr(apt.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=""))
    monkeypatch.setattr(apt, "read_sources", lambda *places: read.append(places) or [])
    assert apt.apt_client() == AptClient()
    assert read == [(Path("/etc/apt/sources.list.d"), Path("/etc/apt/sources.list"))]


@pytest.mark.parametrize(
    ("answers", "client"),
    [
        ([(0, "global.index-url='http://i/'\nglobal.proxy='http://p'\nglobal.cert='/c'")],
         PipClient(("http://i",), (), "http://p", "/c")),
        ([(0, "global.find-links='/a /b /a'"), (0, " http://d/ \n")], PipClient(("http://d",), ("/a", "/b"))),
        ([(0, ""), (1, "http://no")], PipClient()),
        ([(1, "global.index-url='http://no'")], PipClient()),
        ([OSError("gone")], PipClient()),
        ([subprocess.TimeoutExpired("pip", 60)], PipClient()),
        ([(0, "global.no-index='1'\nglobal.extra-index-url='http://x'"), (0, "http://d")], PipClient()),
    ],
)  # fmt: skip
def test_pip_is_asked_by_this_interpreter_and_may_say_nothing(monkeypatch, answers, client):
    asked = []

    def run(command, **options):
        asked.append(command)
        assert options == {"capture_output": True, "text": True, "timeout": pip._TIMEOUT_S, "check": False}
        answer = answers[len(asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(returncode=answer[0], stdout=answer[1])

    monkeypatch.setattr(pip.subprocess, "run", run)
    assert pip.pip_client() == client
    expected = [[sys.executable, "-m", "pip", "config", "list"], [sys.executable, "-c", pip._ASK_DEFAULT]]
    assert asked == expected[: len(answers)]


def test_the_whereabouts_of_a_checkout_are_its_site_file_s_and_the_clients_own(tmp_path: Path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "snapshot.toml").write_text("snapshot = 'http://public/'\n")
    monkeypatch.setattr(site, "apt_client", lambda: AptClient(ca="/apt"))
    monkeypatch.setattr(site, "pip_client", lambda: PipClient(ca="/pip"))
    expected = Whereabouts(Site(), AptClient(ca="/apt"), PipClient(ca="/pip"), "http://public")
    assert site.whereabouts(tmp_path) == expected
    (tmp_path / "conf" / "site.toml").write_text("[debian]\nsnapshot = 'http://own/'\n[slurm]\nx = 1\n")
    found = site.whereabouts(tmp_path)
    assert (found.snapshot, found.site.snapshot) == ("http://own", "http://own/")


def test_fetching_goes_through_the_sources_of_this_machine_into_the_checkout_s_cache(tmp_path: Path, monkeypatch):
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "snapshot.toml").write_text("")
    (tmp_path / "data" / "sources").mkdir(parents=True)
    (tmp_path / "data" / "sources" / "a_1.deb").write_bytes(BODY)
    monkeypatch.setattr(site, "apt_client", AptClient)
    monkeypatch.setattr(site, "pip_client", PipClient)
    told, received = Told(), Receiver()
    had = []
    received.add = had.append
    fetch_files(tmp_path, [wanted()], told, received)
    assert Cache(tmp_path).read(wanted()) == BODY and told.began == (1, 200) and had == [wanted().sha256]
    told = Told()
    fetch_files(tmp_path, [wanted()], told, received)
    assert told.began is None and had == [wanted().sha256] * 2


def test_an_archive_is_asked_with_its_headers_a_time_limit_and_errors_that_count():
    asked = []

    class Answer:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            asked.append("closed")

        def raise_for_status(self):
            asked.append("status")

        def iter_content(self, size):
            asked.append(size)
            return iter([b"1", b"2"])

    def get(url, **options):
        asked.append((url, options))
        return Answer()

    open_url = archives._opener(SimpleNamespace(get=get), {"X": "y"})
    assert list(open_url("http://a")) == [b"1", b"2"]
    assert asked == [
        ("http://a", {"headers": {"X": "y"}, "stream": True, "timeout": 60}), "status", 1 << 20, "closed",
    ]  # fmt: skip


def test_retries_are_of_what_a_busy_server_says_and_of_no_refusal():
    with http_session(Whereabouts(Site(headers={"X": "y"}), AptClient(), PipClient(), "")) as found:
        assert found.headers["X"] == "y"
        for scheme in ("http://", "https://"):
            retries = found.get_adapter(scheme + "h").max_retries
            assert (retries.total, retries.connect, retries.backoff_factor, retries.raise_on_status) == (
                3,
                1,
                0.5,
                False,
            )
            assert set(retries.status_forcelist) == {429, 502, 503, 504}
            assert found.get_adapter(scheme + "h")._pool_maxsize == 8


@pytest.mark.parametrize("excepted", ["h.invalid", ""])
def test_no_proxy_of_the_environment_counts_for_the_sites_proxy_too(monkeypatch, excepted):
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("no_proxy", excepted)
    with http_session(Whereabouts(Site(proxy="http://p"), AptClient(), PipClient(), "")) as found:
        merged = found.merge_environment_settings("http://h.invalid/x", {"ftp": "f"}, True, None, "c")
    assert merged["proxies"].get("http") == (None if excepted else "http://p") and merged["proxies"]["ftp"] == "f"
    assert (merged["stream"], merged["cert"]) == (True, "c")


def test_sources_of_apt_are_read_in_each_of_their_spellings():
    text = "Types: deb\nURIs:\n\thttp://a\n http://b/\nSuites: s\nComponents:\n\tmain\n"
    assert apt.parse_deb822(text) == [AptSource("http://a", "s", ("main",)), AptSource("http://b", "s", ("main",))]
    for enabled, there in (("yes", 1), ("no", 0), ("False", 0), ("0", 0), ("OFF", 0), ("maybe", 1)):
        assert len(apt.parse_deb822(f"Enabled: {enabled}\nTypes: deb-src deb\nURIs: http://a\nSuites: s\n")) == there
    lines = "deb http://a/ s/\ndeb [a=b c=d] http://b s main # x\ndeb http://c\n#deb http://d s\ndeb-src http://e s"
    assert apt.parse_one_line(lines) == [AptSource("http://a", "s/", ()), AptSource("http://b", "s", ("main",))]


@pytest.mark.parametrize(("text", "refused"), [("1", 1), ("TRUE", 1), ("yes", 1), ("On", 1), ("0", 0), ("", 0)])
def test_an_index_is_refused_in_each_spelling_of_yes(text, refused):
    assert pip.pip_client_from({"no-index": text}, "http://d").index_urls == (() if refused else ("http://d",))

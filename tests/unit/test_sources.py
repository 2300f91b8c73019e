"""Source archives: known by their digest whatever their name or packing, and never trusted without it."""

import gzip
import hashlib
import http.server
import lzma
import shutil
import threading
from dataclasses import replace
from typing import ClassVar

import pytest

from repro.base import user_lock
from repro.base.errors import CouldNotRun, FetchError, UsageError, VerificationFailed
from repro.base.paths import Paths
from repro.fetching import archives
from repro.fetching.archives import fetch_source
from repro.locks.archives import (
    SourceArchive,
    copy_verified,
    find_source,
    known_source,
    load_sources,
    missing_sources,
    settled,
)

CONTENT = b"an archive's content\n" * 100


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def archive(**more):
    given = more or {"sha256": sha256(CONTENT)}
    return SourceArchive("thing", "Thing 1.0", "thing-1.0.tar.gz", "MIT", "https://example.org", ("u1", "u2"), **given)


@pytest.fixture
def paths(tmp_path):
    (tmp_path / "data" / "sources").mkdir(parents=True)
    (tmp_path / "conf").mkdir()
    shutil.copy(Paths.of_checkout({}).conf / "snapshot.toml", tmp_path / "conf")
    return Paths(tmp_path)


def sources_toml(paths, text):
    (paths.conf / "sources.toml").write_text(text)


def test_the_repositorys_own_list_is_valid_and_names_kaldi_at_a_full_commit():
    known = load_sources(Paths.of_checkout({}).conf)
    assert {"kaldi", "cpython", "checkpoint"} <= set(known)
    assert "f4007661023b98b8081fd875029f0dee62242fd1" in known["kaldi"].file
    assert known["cpython"].sha256 == "e85a76ea9f3d6c485ec1780fca4e500725a4a7bbc63c78ebc44170de9b619d94"


def test_an_archive_is_found_by_its_name(paths):
    named = paths.data / "sources" / "thing-1.0.tar.gz"
    named.write_bytes(CONTENT)
    assert find_source(paths, archive()) == named


def test_an_archive_under_another_name_is_found_by_its_hash(paths):
    (paths.data / "sources" / "a-readme").write_bytes(b"something else")
    other = paths.data / "sources" / "download (1)"
    other.write_bytes(CONTENT)
    assert find_source(paths, archive()) == other


@pytest.mark.parametrize("suffix, pack", [(".gz", gzip.compress), (".xz", lzma.compress), (".tar", bytes)])
def test_the_same_content_is_accepted_in_any_packing(paths, tmp_path, suffix, pack):
    (paths.data / "sources" / f"other{suffix}").write_bytes(pack(CONTENT))
    target = tmp_path / "copy"
    copy_verified(paths, archive(content_sha256=sha256(CONTENT)), target)
    assert target.read_bytes() == pack(CONTENT)


def test_a_file_of_the_right_name_with_other_bytes_is_refused_and_leaves_no_copy(paths, tmp_path):
    (paths.data / "sources" / "thing-1.0.tar.gz").write_bytes(CONTENT + b"!")
    with pytest.raises(VerificationFailed, match=r"thing-1\.0\.tar\.gz is not Thing 1\.0"):
        copy_verified(paths, archive(), tmp_path / "copy")
    assert not list(tmp_path.glob("copy*"))


def test_a_truncated_packing_is_refused(paths, tmp_path):
    (paths.data / "sources" / "thing-1.0.tar.gz").write_bytes(gzip.compress(CONTENT)[:-9])
    with pytest.raises(VerificationFailed, match="not readable"):
        copy_verified(paths, archive(content_sha256=sha256(CONTENT)), tmp_path / "copy")


def test_a_vendor_s_zip_under_another_name_is_found_by_its_published_digest(paths, tmp_path):
    source = replace(archive(first_use=True, zip_sha256=sha256(CONTENT)), file="thing.run")
    (paths.data / "sources" / "other.zip").write_bytes(b"something else")
    renamed = paths.data / "sources" / "download (1).zip"
    renamed.write_bytes(CONTENT)
    assert find_source(paths, source) == renamed
    assert settled(paths, source).sha256 == sha256(CONTENT)
    copy_verified(paths, source, tmp_path / "copy")
    assert not (paths.data / "user.lock.json").exists()  # nothing had to be trusted


def test_a_vendor_s_file_once_seen_is_found_under_another_name(paths):
    source = archive(first_use=True)
    named = paths.data / "sources" / source.file
    (paths.data / "sources" / "other").write_bytes(b"something else")
    assert find_source(paths, source) is None
    named.write_bytes(CONTENT)
    settled(paths, source)
    renamed = named.rename(named.with_name("renamed"))
    assert find_source(paths, source) == renamed
    renamed.write_bytes(CONTENT + b"!")
    assert find_source(paths, source) is None


def test_a_missing_archive_says_where_to_get_it(paths, tmp_path):
    with pytest.raises(CouldNotRun) as caught:
        copy_verified(paths, archive(), tmp_path / "copy")
    assert "https://example.org" in caught.value.hint
    assert "data/sources" in caught.value.hint


def test_a_source_of_debian_s_is_fetched_as_packages_are_and_is_missed_by_nobody(paths):
    sources_toml(
        paths,
        f"""
        [flite]
        title = "flite"
        file = "flite_2.2.orig.tar.gz"
        sha256 = "{"1" * 64}"
        size_bytes = 3
        licence = "MIT-Festival"
        page = "https://example.org"
        debian = "pool/main/f/flite/flite_2.2.orig.tar.gz"
        snapshot = "20261121T125302Z"
        urls = []
        """,
    )
    assert missing_sources(paths, ("flite",)) == []
    locked = load_sources(paths.conf)["flite"].locked
    assert (locked.archive, locked.path, locked.size_bytes) == ("debian", "pool/main/f/flite/flite_2.2.orig.tar.gz", 3)
    assert archive().locked is None


def test_only_what_is_not_there_is_missing(paths):
    table = '[{0}]\ntitle = "T"\nfile = "{0}"\nsha256 = "{1}"\nlicence = "MIT"\npage = "p"\nurls = []\n'
    sources_toml(paths, table.format("a", sha256(CONTENT)) + table.format("b", sha256(b"b")))
    (paths.data / "sources" / "a").write_bytes(CONTENT)
    assert [source.name for source in missing_sources(paths, ("a", "b"))] == ["b"]


def test_a_name_that_the_list_lacks_is_a_mistake_of_the_definition(paths):
    with pytest.raises(UsageError, match=r"no \[nothing\]"):
        known_source({}, "nothing")


@pytest.mark.parametrize(
    "text",
    [
        '[a]\ntitle = "T"\nfile = "f"\nlicence = "MIT"\npage = "p"\nurls = []\n',
        '[a]\nsha256 = "1"\ncontent_sha256 = "2"\n',
        '[a]\nsha256 = "1"\nsurplus = 1\n',
        '[a]\nsha256 = "1"\nurls = []\n',
        'a = "no table"\n',
        '[a]\nsha256 = "1"\ntitle = "T"\nfile = "f"\nlicence = "MIT"\npage = "p"\nurls = []\ndebian = "pool/f"\n',
    ],
)
def test_a_wrong_list_is_refused(paths, text):
    sources_toml(paths, text)
    with pytest.raises(UsageError, match=r"sources\.toml"):
        load_sources(paths.conf)


def test_a_download_goes_on_to_the_next_address_until_the_bytes_are_right(paths):
    served = {"u1": [b"not it"], "u2": [CONTENT[:10], CONTENT[10:]]}
    got = fetch_source(paths, archive(), lambda url: iter(served[url]))
    assert got.read_bytes() == CONTENT
    assert [path.name for path in got.parent.iterdir()] == ["thing-1.0.tar.gz"]


def test_a_download_that_fails_everywhere_says_why_and_leaves_nothing(paths):
    def open_url(url):
        if url == "u1":
            raise OSError("no route to host")
        yield b"not it"

    with pytest.raises(FetchError) as caught:
        fetch_source(paths, archive(), open_url)
    assert "no route to host" in caught.value.detail
    assert "another sha256" in caught.value.detail
    assert not list((paths.data / "sources").iterdir())


def test_two_fetches_of_one_archive_at_once_share_one_download(paths):
    opened, started = [], threading.Event()

    def open_url(url):
        opened.append(url)
        yield CONTENT[:10]
        started.set()
        other.join(1)  # the other fetch waits for the lock meanwhile
        yield CONTENT[10:]

    found = []

    def second():
        started.wait()
        found.append(fetch_source(paths, vendors(), open_url))

    other = threading.Thread(target=second)
    other.start()
    found.append(fetch_source(paths, vendors(), open_url))
    other.join()
    assert opened == ["u1"]
    assert [path.read_bytes() for path in found] == [CONTENT, CONTENT]
    assert user_lock.read(paths)["sources"] == {"thing-1.0.tar.gz": sha256(CONTENT)}
    assert [path.name for path in (paths.data / "sources").iterdir()] == ["thing-1.0.tar.gz"]


def test_a_download_is_held_to_what_was_recorded_on_first_use(paths):
    user_lock.first_seen(paths, "sources", "thing-1.0.tar.gz", sha256(CONTENT))
    served = {"u1": [b"another one"], "u2": [CONTENT]}
    assert fetch_source(paths, vendors(), lambda url: iter(served[url])).read_bytes() == CONTENT


def vendors(**more):
    return archive(first_use=True, **more)


def test_an_archive_that_is_there_is_not_fetched_again(paths):
    table = '[a]\ntitle = "T"\nfile = "a"\nsha256 = "{}"\nlicence = "MIT"\npage = "p"\nurls = ["u"]\n'
    sources_toml(paths, table.format(sha256(CONTENT)))
    (paths.data / "sources" / "a").write_bytes(CONTENT)
    said = []
    archives.fetch_archives(paths, ["a"], said.append)
    assert said == ["T: it is in data/sources"]


def test_what_a_licence_covers_is_never_fetched_before_it_is_accepted(paths):
    table = '[a]\ntitle = "T"\nfile = "a"\nfirst_use = true\naccept = "CANN"\nlicence = "L"\npage = "p"\nurls = ["u"]\n'
    sources_toml(paths, table)
    with pytest.raises(CouldNotRun, match="only for a user who accepts Huawei's licence") as caught:
        archives.fetch_archives(paths, ["a"], print)
    assert "accept-cann-licence" in caught.value.hint
    assert not list((paths.data / "sources").iterdir())


def test_the_first_file_seen_is_recorded_and_another_one_refused(paths):
    named = paths.data / "sources" / "thing-1.0.tar.gz"
    named.write_bytes(CONTENT)
    seen = settled(paths, vendors())
    assert seen.sha256 == sha256(CONTENT)
    assert "trusted on first use" in seen.trust
    assert user_lock.read(paths)["sources"] == {"thing-1.0.tar.gz": sha256(CONTENT)}
    named.write_bytes(CONTENT + b"changed")
    assert settled(paths, vendors()).sha256 == sha256(CONTENT)
    with pytest.raises(VerificationFailed, match=r"data/user\.lock\.json says") as caught:
        copy_verified(paths, vendors(), paths.data / "copy")
    assert "remove thing-1.0.tar.gz from the lock" in caught.value.hint


def test_what_was_seen_is_known_without_the_file_and_nothing_is_known_of_what_never_was(paths):
    assert settled(paths, vendors()).sha256 == ""
    named = paths.data / "sources" / "thing-1.0.tar.gz"
    named.write_bytes(CONTENT)
    settled(paths, vendors())
    named.unlink()
    assert settled(paths, vendors()).sha256 == sha256(CONTENT)


def test_a_zip_of_published_digest_needs_no_trust(paths):
    (paths.data / "sources" / "thing-1.0.tar.zip").write_bytes(CONTENT)
    seen = settled(paths, vendors(zip_sha256=sha256(CONTENT)))
    assert seen.trust == "pinned in conf/sources.toml"
    copy_verified(paths, vendors(zip_sha256=sha256(CONTENT)), paths.data / "copy")
    (paths.data / "sources" / "thing-1.0.tar.zip").write_bytes(b"another")
    with pytest.raises(VerificationFailed, match=r"conf/sources\.toml says"):
        copy_verified(paths, vendors(zip_sha256=sha256(CONTENT)), paths.data / "copy")
    assert "sources" not in user_lock.read(paths)


def test_a_zip_is_fetched_by_its_digest_and_a_wheel_is_recorded(paths):
    got = fetch_source(paths, vendors(zip_sha256=sha256(CONTENT)), lambda url: iter([CONTENT]))
    assert got.name == "thing-1.0.tar.zip"
    got.unlink()
    with pytest.raises(FetchError, match="cannot fetch"):
        fetch_source(paths, vendors(zip_sha256=sha256(CONTENT)), lambda url: iter([b"not it"]))
    assert fetch_source(paths, vendors(), lambda url: iter([CONTENT])).name == "thing-1.0.tar.gz"
    assert user_lock.read(paths)["sources"] == {"thing-1.0.tar.gz": sha256(CONTENT)}


def test_every_archive_that_cannot_be_had_is_named(paths, monkeypatch):
    def refuse(session, headers):
        def open_url(url):
            raise OSError(f"{url} is not reached")

        return open_url

    monkeypatch.setattr(archives, "_opener", refuse)
    table = (
        '[{0}]\ntitle = "Archive {0}"\nfile = "{0}"\nsha256 = "0"\nlicence = "MIT"\npage = "page-{0}"\nurls = ["u"]\n'
    )
    sources_toml(paths, table.format("a") + table.format("b"))
    with pytest.raises(FetchError, match="Archive a; cannot fetch Archive b") as caught:
        archives.fetch_archives(paths, ["a", "b"], lambda _: None)
    assert "page-a" in caught.value.hint and "page-b" in caught.value.hint


class Vendor(http.server.BaseHTTPRequestHandler):
    """A vendor's server behind a proxy: it gives its package to who comes from its page, as CANN's does."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Referer", "")))
        self.send_response(200 if self.headers.get("Referer") == "https://vendor.invalid/" else 403)
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *_):
        pass


@pytest.fixture
def vendor():
    Vendor.asked.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Vendor)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_licensed_package_is_asked_for_only_after_consent_through_the_proxy_with_its_header(paths, vendor):
    (paths.conf / "site.toml").write_text(f'[http]\nproxy = "{vendor}"\n')
    table = (
        f'[a]\ntitle = "T"\nfile = "a.run"\nfirst_use = true\nzip_sha256 = "{sha256(CONTENT)}"\naccept = "CANN"\n'
        'licence = "L"\npage = "p"\nurls = ["http://vendor.invalid/a.zip"]\n'
    )
    sources_toml(paths, table)
    with pytest.raises(CouldNotRun, match="accepts Huawei's licence"):
        archives.fetch_archives(paths, ["a"], lambda _: None)
    assert Vendor.asked == []
    user_lock.accept(paths, "CANN")
    with pytest.raises(FetchError, match="cannot fetch T") as caught:
        archives.fetch_archives(paths, ["a"], lambda _: None)
    assert "403" in caught.value.detail
    sources_toml(paths, table + 'headers = { Referer = "https://vendor.invalid/" }\n')
    archives.fetch_archives(paths, ["a"], lambda _: None)
    assert (paths.data / "sources" / "a.zip").read_bytes() == CONTENT
    assert Vendor.asked[-1] == ("http://vendor.invalid/a.zip", "https://vendor.invalid/")


def test_every_package_of_cann_has_that_header_a_digest_and_a_licence():
    known = load_sources(Paths.of_checkout({}).conf)
    every = [source for name, source in known.items() if name.startswith("cann-")]
    packages = [source for source in every if not source.versioned]
    assert len(packages) == 3
    assert all(source.accept == "CANN" and not source.urls for source in every if source.versioned)
    assert all(source.headers["Referer"].startswith("https://www.hiascend.com") for source in packages)
    assert all(source.accept == "CANN" and len(source.zip_sha256) == 64 for source in packages)

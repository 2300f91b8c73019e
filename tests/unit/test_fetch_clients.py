"""Where files come from by the site's file and by the clients of this machine: pip, apt, proxies and archives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from repro.base.errors import FetchError, UsageError
from repro.fetching import apt_client as apt
from repro.fetching import archives, fetch_all, fetch_files, locked_files, origins, site
from repro.fetching import pip_client as pip
from repro.fetching.apt_client import AptClient, AptSource, debian_mirrors
from repro.fetching.cache import Cache
from repro.fetching.download import fetch
from repro.fetching.origins import (
    FindLinksSource,
    Location,
    sources_of,
)
from repro.fetching.pip_client import PipClient, parse_config_list
from repro.fetching.receiver import Receiver
from repro.fetching.session import http_session
from repro.fetching.site import Site, Whereabouts, load_site
from tests.unit.test_fetch_bounds import BODY, ROOT, Told, refusal, wanted, where


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

    monkeypatch.setattr(apt.programs, "find", lambda name: Path("/bin", name))
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
    monkeypatch.setattr(apt.programs, "find", Path)
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

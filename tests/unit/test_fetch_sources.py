"""What this machine's own clients and the site file say about sources, and in which order they are asked."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from repro.base.errors import UsageError
from repro.fetching.apt_client import (
    AptClient,
    AptSource,
    apt_client,
    debian_mirrors,
    parse_config,
    parse_deb822,
    parse_one_line,
    read_sources,
)
from repro.fetching.origins import sources_of
from repro.fetching.pip_client import PipClient, parse_config_list, pip_client, pip_client_from
from repro.fetching.session import http_session
from repro.fetching.simple_index import folder_links, project_links
from repro.fetching.site import Site, Whereabouts, load_site
from tests.simulators.archive import Server, index_page, sha256

ROOT = Path(__file__).resolve().parents[2]
WORDS = st.text(st.sampled_from("abcxyz019-."), min_size=1, max_size=8)
SOURCES = st.builds(
    AptSource,
    uri=WORDS.map(lambda word: f"http://{word}.example/debian"),
    suite=WORDS,
    components=st.lists(WORDS, min_size=1, max_size=3).map(tuple),
)


@given(SOURCES, st.sampled_from(["", "[arch=amd64 signed-by=/etc/a.gpg] ", "[ trusted=yes ] "]))
def test_one_line_sources_are_read_whatever_their_options(source: AptSource, options: str) -> None:
    line = f"deb  {options}{source.uri}/ {source.suite} {' '.join(source.components)} # why"
    assert parse_one_line(f"# deb http://no.example x main\ndeb-src {source.uri} x main\n\n{line}\n") == [source]


@given(st.lists(SOURCES, max_size=4))
def test_deb822_sources_are_read_stanza_by_stanza(sources: list[AptSource]) -> None:
    text = "\n".join(
        f"Types: deb deb-src\nURIs: {s.uri}\n# a remark\nSuites:\n {s.suite}\nComponents: {' '.join(s.components)}\n"
        for s in sources
    )
    assert parse_deb822(text) == sources


def test_disabled_and_source_only_stanzas_are_left_out() -> None:
    text = "Types: deb\nEnabled: no\nURIs: http://a\nSuites: s\n\nTypes: deb-src\nURIs: http://b\nSuites: s\n"
    assert parse_deb822(text) == []


@given(st.text(max_size=200))
def test_no_text_breaks_the_parsers_of_client_configuration(text: str) -> None:
    parse_one_line(text)
    parse_deb822(text)
    parse_config(text)
    parse_config_list(text)


def test_only_debians_own_archives_count_as_mirrors() -> None:
    sources = [
        AptSource("http://m/debian", "bookworm", ("main",)),
        AptSource("http://m/debian", "bookworm-updates", ("main",)),
        AptSource("http://m/debian-security", "bookworm-security", ("main", "contrib")),
        AptSource("http://vendor/linux/debian", "bookworm", ("stable",)),
        AptSource("http://ubuntu/ubuntu", "jammy", ("main",)),
        AptSource("cdrom:[Debian]", "bookworm", ("main",)),
        AptSource("http://old/debian-security", "buster/updates", ("main",)),
    ]
    assert debian_mirrors(sources) == (
        ("http://m/debian",),
        ("http://m/debian-security", "http://old/debian-security"),
    )


def test_sources_of_both_formats_are_read_from_their_folders(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a/debian sid main\n")
    (parts / "b.list").write_text("deb http://b/debian sid main\n")
    (parts / "c.sources").write_text("Types: deb\nURIs: http://c/debian\nSuites: sid\nComponents: main\n")
    (parts / "d.list.disabled").write_text("deb http://d/debian sid main\n")
    found = read_sources(parts, tmp_path / "sources.list")
    assert [source.uri for source in found] == ["http://a/debian", "http://b/debian", "http://c/debian"]
    assert read_sources(tmp_path / "absent", tmp_path / "sources.list") == found[:1]
    assert read_sources(parts, tmp_path / "absent") == found[1:]


def test_a_machine_without_apt_has_no_mirrors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert apt_client() == AptClient()


def test_apt_config_is_read_key_by_key() -> None:
    dump = 'Acquire "";\nAcquire::http::Proxy "http://p:1/";\nAcquire::Languages "";\nAcquire::Languages:: "none";\n'
    assert parse_config(dump)["acquire::http::proxy"] == "http://p:1/"


def test_pips_sections_are_merged_from_weak_to_strong() -> None:
    text = "global.index-url='http://g/simple'\n:env:.index_url='http://e/simple/'\nglobal.find-links='\\n/a\\n/b'\n"
    client = pip_client_from(parse_config_list(text), "")
    assert client == PipClient(index_urls=("http://e/simple",), find_links=("/a", "/b"))


def test_the_default_index_is_asked_from_pip_only_where_none_is_configured() -> None:
    assert pip_client_from({"extra-index-url": "http://x"}, "http://d/").index_urls == ("http://d", "http://x")
    assert pip_client_from({"index-url": "http://i"}, "http://d").index_urls == ("http://i",)
    assert pip_client_from({"no-index": "true", "find-links": "/w"}, "http://d") == PipClient(find_links=("/w",))


def test_pip_of_this_interpreter_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple/")
    assert pip_client().index_urls[0] == "http://127.0.0.1:9/simple"


def test_the_site_file_says_everything_that_its_example_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SITE_TOKEN", "t0ken")
    example = (ROOT / "conf" / "site.example.toml").read_text("utf-8")
    path = tmp_path / "site.toml"
    path.write_text(re.sub(r"^# (?=[a-zA-Z_]+ = |\[)", "", example, flags=re.M))
    site = load_site(path)
    assert site.headers == {"Authorization": "Bearer t0ken"}
    assert all(
        [site.mirrors, site.security_mirrors, site.snapshot, site.index_urls, site.find_links, site.proxy, site.ca]
    )


@pytest.mark.parametrize(
    "text",
    ["[debian]\nmirror = []", "[debain]", "mirrors = []", "[debian]\nmirrors = 'x'", "[http]\nheaders = 1", "[http"],
)
def test_a_slip_in_the_site_file_is_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"site\.toml"):
        load_site(path)


def whereabouts_of(site: Site, apt: AptClient | None = None, pip: PipClient | None = None) -> Whereabouts:
    return Whereabouts(site, apt or AptClient(), pip or PipClient(), "")


def test_the_sites_proxy_and_headers_go_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with Server({"http://mirror.invalid/a": b"proxied"}) as proxy:
        with http_session(whereabouts_of(Site(proxy=proxy.url, headers={"X-Site": "1"}))) as session:
            assert session.get("http://mirror.invalid/a").content == b"proxied"
            assert session.headers["X-Site"] == "1"
        with http_session(whereabouts_of(Site(), AptClient(proxies={"http": proxy.url}))) as session:
            assert session.get("http://mirror.invalid/a").content == b"proxied"
    assert proxy.paths() == ["http://mirror.invalid/a"] * 2


def test_the_sites_certificates_go_before_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/env.pem")
    for where, expected in (
        (whereabouts_of(Site(ca="/site.pem"), pip=PipClient(ca="/pip.pem")), "/site.pem"),
        (whereabouts_of(Site(), pip=PipClient(ca="/pip.pem")), "/pip.pem"),
        (whereabouts_of(Site()), "/env.pem"),
    ):
        with http_session(where) as session:
            assert session.merge_environment_settings("https://x.invalid", None, None, None, None)["verify"] == expected


def test_sources_are_asked_in_their_order(tmp_path: Path) -> None:
    where = Whereabouts(
        Site(mirrors=("http://site/debian",), index_urls=("http://site/simple",), find_links=("/site",)),
        AptClient(("http://apt/debian",), ("http://apt/security",)),
        PipClient(("http://pip/simple",), ("/pip",)),
        "http://snapshot/archive",
    )
    labels = [source.label for source in sources_of(tmp_path, where, requests.Session())]
    assert labels == [
        "data/sources",
        "conf/site.toml: http://site/debian",
        "conf/site.toml: /site",
        "conf/site.toml: http://site/simple",
        "apt: http://apt/debian",
        "apt: http://apt/security",
        "pip: /pip",
        "pip: http://pip/simple",
        "the Debian snapshot archive http://snapshot/archive",
    ]


def test_html_json_and_file_indexes_give_the_same_files(tmp_path: Path) -> None:
    files = {"a-1-py3-none-any.whl": b"one"}
    json_page = (
        '{"meta": {"api-version": "1.0"}, "name": "a", "files": [{"filename": "a-1-py3-none-any.whl", '
        f'"url": "../../files/a-1-py3-none-any.whl", "hashes": {{"sha256": "{sha256(b"one")}"}}, "size": 3}}]}}'
    )
    (tmp_path / "simple" / "a").mkdir(parents=True)
    (tmp_path / "simple" / "a" / "index.html").write_bytes(index_page(files))
    types = {"/html/simple/a/": "text/html", "/json/simple/a/": "application/vnd.pypi.simple.v1+json"}
    served = {"/html/simple/a/": index_page(files), "/json/simple/a/": json_page.encode()}
    found = []
    with Server(served, types=types) as server, requests.Session() as session:
        for base in (f"{server.url}/html/simple", f"{server.url}/json/simple", (tmp_path / "simple").as_uri()):
            found += project_links(session, base, "A")
            assert project_links(session, base, "unknown") == []
    assert {(link.filename, link.sha256, link.url.rpartition("/files/")[2]) for link in found} == {
        ("a-1-py3-none-any.whl", sha256(b"one"), "a-1-py3-none-any.whl")
    }
    assert [link.size_bytes for link in found] == [None, 3, None]


def test_a_folder_of_wheels_is_read_by_project_name(tmp_path: Path) -> None:
    (tmp_path / "One_Two-1.0-py3-none-any.whl").write_bytes(b"x")
    (tmp_path / "other-1.0-py3-none-any.whl").write_bytes(b"x")
    assert [link.filename for link in folder_links(str(tmp_path), "one.two")] == ["One_Two-1.0-py3-none-any.whl"]
    assert folder_links(tmp_path.as_uri(), "absent") == []


def test_no_registry_of_this_machine_is_named_in_the_repository() -> None:
    """Hosts come from the machine's clients, so a repository that names one of them has it from somewhere else."""
    apt, pip = apt_client(), pip_client()
    urls = [*apt.mirrors, *apt.security_mirrors, *pip.index_urls, *pip.find_links]
    hosts = sorted({url.split("/")[2].rpartition("@")[2] for url in urls if url.startswith("http")})
    if not hosts:
        pytest.skip("this machine's clients name no host")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        found += [f"{name}: {host}" for host in hosts if host.encode() in data]
    assert found == []

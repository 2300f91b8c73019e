"""Resolving with the machine's own apt, from a made archive in a folder: no network, nothing of the machine's."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from repro.base.errors import CouldNotRun
from repro.fetching.apt_client import AptClient
from repro.fetching.pip_client import PipClient
from repro.fetching.site import Site, Whereabouts
from repro.locks.debian import keyring_path, verify_debian_chain
from repro.locks.model import dump_deb_lock
from repro.resolving.apt import PrivateApt
from repro.resolving.intents import DebIntent
from repro.resolving.write import write_locks
from tests.simulators.archive import Archive, sha256

needs_apt = pytest.mark.skipif(shutil.which("apt-get") is None, reason="this machine has no apt-get")
INTENT = DebIntent(name="set", suite="made", packages=("alpha", "gamma"), architectures=("amd64",))


class Place:
    """A repository, and a mirror in a folder beside it."""

    def __init__(self, root: Path) -> None:
        self.root = root / "repository"
        self.archive = Archive({"alpha": b"a" * 10, "beta": b"b" * 20, "gamma": b"g" * 30})
        self.mirror = root / "mirror"
        for path, data in self.archive.contents.items():
            self._write(self.mirror / path, data)
        self._write(keyring_path(self.root), self.archive.keyring)
        base = self.mirror.as_uri()
        site = Site(mirrors=(f"{base}/debian",), security_mirrors=(f"{base}/debian-security",))
        self.where = Whereabouts(site, AptClient(), PipClient(), "")

    def apt(self, name: str = "apt") -> PrivateApt:
        return PrivateApt(self.root.parent / name, self.root, self.where, "made", INTENT.pockets, "amd64")

    @staticmethod
    def _write(path: Path, data: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@needs_apt
def test_a_lock_holds_what_apt_resolves_with_its_evidence(place: Place) -> None:
    apt = place.apt()
    apt.update()
    lock, releases = apt.lock(INTENT, apt.closure(INTENT.packages))
    assert [(deb.package, deb.suite) for deb in lock.debs] == [("alpha", "made"), ("gamma", "made-security")]
    assert lock.snapshot == "20200102T150405Z"
    for name, data in releases.items():
        place._write(place.root / "conf" / "locks" / name, data)
    indexes = {sha256(data): data for path, data in place.archive.contents.items() if path.endswith(".xz")}
    assert len(verify_debian_chain(place.root, lock, lambda file: indexes[file.sha256])) == 2


@needs_apt
def test_resolving_twice_gives_the_same_bytes(place: Place) -> None:
    written = []
    for name in ("one", "two"):
        apt = place.apt(name)
        apt.update()
        written.append(dump_deb_lock(apt.lock(INTENT, apt.closure(INTENT.packages))[0]))
    assert written[0] == written[1]


@needs_apt
def test_a_mirror_signed_by_a_stranger_is_refused(place: Place) -> None:
    keyring_path(place.root).write_bytes(Archive({"alpha": b"x"}).keyring)
    with pytest.raises(CouldNotRun, match="apt-get update failed"):
        place.apt().update()


@needs_apt
def test_an_unknown_package_is_named(place: Place) -> None:
    apt = place.apt()
    apt.update()
    with pytest.raises(CouldNotRun) as caught:
        apt.closure(["unheard-of"])
    assert "unheard-of" in caught.value.detail


@needs_apt
def test_a_set_is_not_locked_upon_an_older_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.root / "conf" / "intents").mkdir(parents=True)
    (place.root / "conf" / "intents" / "debs.toml").write_text(
        'architectures = ["amd64"]\n[sets.base]\nsuite = "made"\npackages = ["alpha"]\n'
        '[sets.more]\nsuite = "made"\nextends = "base"\npackages = ["beta"]\n'
    )
    (place.root / "conf" / "intents" / "wheels.toml").write_text('architectures = ["amd64"]\n')
    monkeypatch.setattr("repro.resolving.write.whereabouts", lambda _root: place.where)
    write_locks(place.root, ["debs/base", "more"], lambda _line: None)
    locks = place.root / "conf" / "locks"
    assert '"beta"' in (locks / "debs" / "more.amd64.json").read_text()
    assert '"package": "alpha"' not in (locks / "debs" / "more.amd64.json").read_text()
    assert len(list((locks / "inrelease").iterdir())) == 2

    old = (locks / "debs" / "base.amd64.json").read_text()
    digest = sha256(b"a" * 10)
    (locks / "debs" / "base.amd64.json").write_text(old.replace(digest, "0" * 64))
    with pytest.raises(CouldNotRun, match="has moved since debs/base was locked"):
        write_locks(place.root, ["debs/more"], lambda _line: None)


@needs_apt
def test_a_pocket_that_is_left_out_is_not_resolved(place: Place) -> None:
    apt = PrivateApt(place.root.parent / "apt", place.root, place.where, "made", ("updates",), "amd64")
    apt.update()
    assert [deb.suite for deb in apt.closure(["alpha"])] == ["made"]
    with pytest.raises(CouldNotRun):
        apt.closure(["gamma"])


@needs_apt
def test_a_package_that_the_mirror_lists_but_does_not_have_is_not_locked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place.root / "conf" / "intents").mkdir(parents=True)
    (place.root / "conf" / "intents" / "debs.toml").write_text(
        'architectures = ["amd64"]\n[sets.base]\nsuite = "made"\npackages = ["alpha", "beta"]\n'
    )
    (place.root / "conf" / "intents" / "wheels.toml").write_text('architectures = ["amd64"]\n')
    monkeypatch.setattr("repro.resolving.write.whereabouts", lambda _root: place.where)
    next(place.mirror.rglob("beta*.deb")).unlink()
    with pytest.raises(CouldNotRun, match="does not have") as caught:
        write_locks(place.root, ["debs/base"], lambda _line: None)
    assert "beta" in caught.value.detail and "alpha" not in caught.value.detail
    assert not (place.root / "conf" / "locks").exists()


def test_a_machine_without_apt_get_says_where_to_lock(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CouldNotRun, match="apt-get, which this machine lacks"):
        place.apt().update()


def test_a_machine_without_mirrors_is_asked_for_them(place: Place) -> None:
    place.where = dataclasses.replace(place.where, site=Site())
    with pytest.raises(CouldNotRun, match="no mirror") as caught:
        place.apt()
    assert "conf/site.toml" in caught.value.hint

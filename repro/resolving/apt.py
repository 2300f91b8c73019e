"""Resolving a set of .debs with the machine's own apt, in folders of its own: no root, nothing installed."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from repro.base import programs
from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import sha256_bytes, write_atomic
from repro.fetching.site import Whereabouts
from repro.locks.debian import fields_of, kept_lines, keyring_path, parse_release, stanzas
from repro.locks.model import Deb, DebLock, Index
from repro.locks.openpgp import verify_cleartext
from repro.resolving.intents import DebIntent

_URI_LINE = re.compile(r"'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})")
_TIMEOUT_S = 900.0
_SETTLED = timedelta(hours=12)
"""The public snapshot archive takes a copy every six hours or so, and pools keep what a suite drops for a day."""


@dataclass(frozen=True)
class _Suite:
    """One suite as the private apt has fetched it."""

    archive: str
    suite: str
    inrelease: bytes
    signers: tuple[str, ...]
    index_path: str
    index_size_bytes: int
    index_sha256: str
    date: datetime
    by_sha256: Mapping[str, tuple[str, ...]]


class PrivateApt:
    """apt for one suite and one architecture, with its own state, lists, sources and an empty dpkg status.

    The client's apt.conf stays in force (proxies, certificates); its sources are replaced by the mirrors of Debian
    among them with the suites wanted, and its keys by ours.

    Args:
        folder: private to this object; created.
        root: the repository.
        where: the mirrors.
        suite: Debian's codename.
        pockets: some of 'updates' and 'security'.
        architecture: 'amd64' or 'arm64'; need not be this machine's.
    """

    def __init__(
        self,
        folder: Path,
        root: Path,
        where: Whereabouts,
        suite: str,
        pockets: Sequence[str],
        architecture: str,
    ) -> None:
        self._folder = folder
        self._root = root
        self._suite = suite
        self._architecture = architecture
        self._suites: tuple[_Suite, ...] = ()
        mirrors = (where.site.mirrors or where.apt.mirrors)[:1]
        security = (where.site.security_mirrors or where.apt.security_mirrors)[:1]
        if not mirrors or ("security" in pockets and not security):
            raise CouldNotRun(
                "no mirror of debian and debian-security is known on this machine",
                hint="name them in conf/site.toml, see conf/site.example.toml",
            )
        self._sources: dict[str, tuple[str, tuple[str, ...]]] = {
            "debian": (mirrors[0], (suite, *(f"{suite}-{pocket}" for pocket in pockets if pocket != "security")))
        }
        if "security" in pockets:
            self._sources["debian-security"] = (security[0], (f"{suite}-security",))

    def update(self) -> None:
        """Fetch the lists; apt verifies their signatures, and so do we.

        Raises:
            CouldNotRun: there is no apt-get, or a mirror did not answer.
        """
        for name in ("state/lists/partial", "cache/archives/partial", "sources.list.d", "preferences.d"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        write_atomic(self._folder / "status", b"")
        keyring = keyring_path(self._root)
        paragraphs = [
            f"Types: deb\nURIs: {uri}\nSuites: {' '.join(suites)}\nComponents: main\nSigned-By: {keyring}\n"
            for uri, suites in self._sources.values()
        ]
        write_atomic(self._folder / "sources.list.d" / "debian.sources", "\n".join(paragraphs).encode())
        self._apt_get("update", "-q", "--error-on=any")
        self._suites = tuple(self._read(archive, s) for archive, (_, suites) in self._sources.items() for s in suites)

    def closure(self, packages: Sequence[str]) -> list[Deb]:
        """The packages with all they depend on, sorted by package, as apt would install them on nothing.

        Raises:
            CouldNotRun: a package is unknown to the suite, or its dependencies cannot be met.
            VerificationFailed: apt names a file that no signed index lists.
        """
        listed = self._apt_get("install", "--print-uris", "-q", "-y", "--no-install-recommends", *packages)
        found = [self._deb(*match.groups()) for match in map(_URI_LINE.match, listed.splitlines()) if match]
        return sorted(found, key=lambda deb: deb.package)

    def lock(self, intent: DebIntent, debs: Sequence[Deb]) -> tuple[DebLock, dict[str, bytes]]:
        """The lock of `debs`, and the InRelease files it refers to, by their path below conf/locks."""
        used = [suite for suite in self._suites if any(deb.suite == suite.suite for deb in debs)]
        indexes, files = [], {}
        for suite in used:
            digest = sha256_bytes(suite.inrelease)
            name = f"inrelease/{suite.suite}.{digest[:12]}.InRelease"
            files[name] = suite.inrelease
            indexes.append(
                Index(
                    archive=suite.archive,
                    suite=suite.suite,
                    inrelease=name,
                    inrelease_sha256=digest,
                    signed_by=suite.signers,
                    path=suite.index_path,
                    sha256=suite.index_sha256,
                    size_bytes=suite.index_size_bytes,
                )
            )
        lock = DebLock(
            name=intent.name,
            architecture=self._architecture,
            suite=intent.suite,
            extends=intent.extends,
            snapshot=snapshot_date(max(suite.date for suite in used)) if used else "",
            indexes=tuple(indexes),
            debs=tuple(debs),
        )
        return lock, files

    def _deb(self, uri: str, _name: str, size: str, sha256: str) -> Deb:
        decoded = unquote(uri)
        for suite in self._suites:
            stanza = suite.by_sha256.get(sha256)
            if stanza is None or not decoded.endswith("/" + fields_of(stanza)["Filename"]):
                continue
            fields = fields_of(stanza)
            return Deb(
                package=fields["Package"],
                version=fields["Version"],
                architecture=fields["Architecture"],
                suite=suite.suite,
                path=fields["Filename"],
                sha256=sha256,
                size_bytes=int(size),
                stanza=stanza,
            )
        raise VerificationFailed(
            f"apt names {decoded.rpartition('/')[2]}, which no signed index of {self._suite} lists"
        )

    def _read(self, archive: str, suite: str) -> _Suite:
        lists = self._folder / "state" / "lists"
        stem = f"_dists_{suite}_"
        releases = list(lists.glob(f"*{stem}InRelease"))
        packages = list(lists.glob(f"*{stem}main_binary-{self._architecture}_Packages"))
        if len(releases) != 1 or len(packages) != 1:
            raise CouldNotRun(
                f"the mirror has no signed index of {suite} for {self._architecture}",
                hint="name a complete mirror in conf/site.toml",
            )
        inrelease = releases[0].read_bytes()
        signed = verify_cleartext(inrelease, keyring_path(self._root), f"InRelease of {suite}")
        release = parse_release(signed.text)
        index_path = f"main/binary-{self._architecture}/Packages.xz"
        size, digest = release.sha256[index_path]
        text = packages[0].read_bytes()
        plain = release.sha256[index_path[: -len(".xz")]]
        if (len(text), sha256_bytes(text)) != plain:
            raise VerificationFailed(f"the Packages of {suite} is not the one that its InRelease lists")
        kept = map(kept_lines, stanzas(text.decode("utf-8")))
        by_sha256 = {fields_of(stanza)["SHA256"]: stanza for stanza in kept}
        date = parsedate_to_datetime(release.fields["Date"].replace("UTC", "+0000"))
        return _Suite(archive, suite, inrelease, signed.signers, index_path, size, digest, date, by_sha256)

    def _apt_get(self, *argv: str) -> str:
        tool = programs.find("apt-get")
        if tool is None:
            raise CouldNotRun(
                "locks of .debs are resolved by apt-get, which this machine lacks",
                hint="run `invoke lock` on Debian or Ubuntu, or in a container of theirs; locks serve every machine",
            )
        folder = self._folder
        options = {
            "Dir::State": f"{folder}/state",
            "Dir::State::lists": f"{folder}/state/lists",
            "Dir::State::status": f"{folder}/status",
            "Dir::Cache": f"{folder}/cache",
            "Dir::Etc::sourcelist": "/dev/null",
            "Dir::Etc::sourceparts": f"{folder}/sources.list.d",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": f"{folder}/preferences.d",
            "APT::Architecture": self._architecture,
            "APT::Default-Release": "",
            "APT::Install-Suggests": "false",
            "APT::Sandbox::User": "",
            "Acquire::ForceHash": "SHA256",
            "Acquire::GzipIndexes": "false",
            "Acquire::Languages": "none",
        }
        command = [str(tool), *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
        # a list: cleared first, or the machine's own architectures would stay in it
        command += ["-o", f"APT::Architectures={self._architecture}", *argv]
        environment = {**os.environ, "LC_ALL": "C.UTF-8"}
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, env=environment, timeout=_TIMEOUT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CouldNotRun(f"apt-get {argv[0]} did not end within {_TIMEOUT_S:.0f} s") from error
        if done.returncode != 0:
            raise CouldNotRun(
                f"apt-get {argv[0]} failed for {self._suite} {self._architecture}",
                detail=done.stderr[-4000:],
                hint="check the mirror's address and the package's name",
            )
        return done.stdout


def snapshot_date(newest: datetime) -> str:
    """The date to ask the snapshot archive for: from the newest InRelease of a lock, never from the clock."""
    settled = newest.astimezone(timezone.utc) + _SETTLED
    return settled.strftime("%Y%m%dT%H%M%SZ")

"""`invoke lock`: from intents to locks, with the machine's own apt and indexes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import requests

from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import write_atomic
from repro.base.paths import Paths
from repro.base.temporary import temporary_folder
from repro.fetching.origins import NotOfferedError, is_there, mirror_sources
from repro.fetching.session import http_session
from repro.fetching.site import Whereabouts, whereabouts
from repro.locks.model import (
    Deb,
    DebLock,
    LockedFile,
    WheelLock,
    dump_deb_lock,
    dump_wheel_lock,
    load_deb_lock,
    load_wheel_lock,
    lock_names,
    lock_path,
)
from repro.resolving.apt import PrivateApt
from repro.resolving.host_wheels import write_host_wheels
from repro.resolving.intents import DebIntent, WheelIntent, load_deb_intents, load_wheel_intents
from repro.resolving.wheels import resolve_wheels, uv_compile

Log = Callable[[str], None]
REQUIREMENTS = ("host", "test", "validators", "model-signing")


def write_locks(root: Path, names: Sequence[str], log: Log) -> None:
    """Write locks anew from conf/intents and requirements/*.in.

    The same intents and the same state of mirrors and index give the same files, byte for byte.

    Args:
        root: the repository.
        names: 'debs/base', 'wheels/runtime', 'requirements/host', …, or 'base' for both of a name; none for all.
        log: called with a line per lock.

    Raises:
        UsageError: an unknown name.
        CouldNotRun: apt, uv, a mirror or the index is missing; locks already written stay as they were.
    """
    debs, wheels = load_deb_intents(root), load_wheel_intents(root)
    known = [
        *(f"debs/{n}" for n in debs),
        *(f"wheels/{n}" for n in wheels),
        *(f"requirements/{n}" for n in REQUIREMENTS),
    ]
    tails = {name.partition("/")[2] for name in known}
    unknown = sorted(set(names) - set(known) - tails)
    if unknown:
        raise UsageError(f"no intent is called {', '.join(unknown)}", hint="known: " + ", ".join(known))
    wanted = [name for name in known if not names or name in names or name.partition("/")[2] in names]
    where = whereabouts(root)
    with http_session(where) as session:
        picked = [intent for name, intent in debs.items() if f"debs/{name}" in wanted]
        _write_debs(root, picked, debs, where, session, log)
        _write_wheels(
            root, [intent for name, intent in wheels.items() if f"wheels/{name}" in wanted], where, session, log
        )
    for name in REQUIREMENTS:
        if f"requirements/{name}" in wanted:
            _write_requirements(root / "requirements", name, where)
            log(f"requirements/{name}.txt written")
            if name == "host":
                write_host_wheels(root, log)


def _write_debs(
    root: Path,
    wanted: Sequence[DebIntent],
    known: dict[str, DebIntent],
    where: Whereabouts,
    session: requests.Session,
    log: Log,
) -> None:
    apts: dict[tuple[str, ...], PrivateApt] = {}
    with temporary_folder(Paths(root).temporary, "apt") as folder:
        for intent in wanted:
            for architecture in intent.architectures:
                key = (intent.suite, *intent.pockets, architecture)
                if key not in apts:
                    log(f"reading {intent.suite} for {architecture}")
                    place = folder / "-".join(key)
                    apts[key] = PrivateApt(place, root, where, intent.suite, intent.pockets, architecture)
                    apts[key].update()
                debs = _own(root, apts[key], intent, known, architecture)
                lock, releases = apts[key].lock(intent, debs)
                _check_there(lock, where, session)
                for name, data in releases.items():
                    write_atomic(root / "conf" / "locks" / name, data)
                write_atomic(lock_path(root, "debs", intent.name, architecture), dump_deb_lock(lock))
                log(f"{lock.label}: {len(debs)} packages, {sum(d.size_bytes for d in debs) / 1e6:.1f} MB")
    _drop_unused_releases(root)


def _check_there(lock: DebLock, where: Whereabouts, session: requests.Session) -> None:
    """A mirror may list what it has dropped; such a lock would serve nobody whose cache is empty."""
    mirrors = mirror_sources(where)

    def absent(file: LockedFile) -> bool:
        for mirror in mirrors:
            with contextlib.suppress(NotOfferedError):
                if any(is_there(location, session) for location in mirror.locate(file)):
                    return False
        return True

    with ThreadPoolExecutor(max_workers=8) as pool:
        gone = [file for file, missing in zip(lock.files, pool.map(absent, lock.files)) if missing]
    if gone:
        raise CouldNotRun(
            f"{lock.label}: the mirror lists {len(gone)} packages that it does not have",
            detail="\n".join(file.path for file in gone),
            hint="leave the suite's pocket out in conf/intents/debs.toml, or name a complete mirror in conf/site.toml",
        )


def _own(root: Path, apt: PrivateApt, intent: DebIntent, known: dict[str, DebIntent], architecture: str) -> list[Deb]:
    """The set's closure, without the packages of the sets that it extends, which must be locked as they are now."""
    inherited: list[str] = []
    locked: set[str] = set()
    parent = intent.extends
    while parent:
        inherited += known[parent].packages
        locked |= {deb.sha256 for deb in load_deb_lock(root, parent, architecture).debs}
        parent = known[parent].extends
    held = {deb.package: deb for deb in apt.closure(inherited)} if inherited else {}
    moved = sorted(f"{deb.package} {deb.version}" for deb in held.values() if deb.sha256 not in locked)
    if moved:
        raise CouldNotRun(
            f"debs/{intent.name}.{architecture}: the mirror has moved since debs/{intent.extends} was locked",
            detail="\n".join(moved),
            hint=f"write debs/{intent.extends} again as well",
        )
    return [deb for deb in apt.closure([*inherited, *intent.packages]) if deb.package not in held]


def _drop_unused_releases(root: Path) -> None:
    used = {
        index.inrelease
        for name, architecture in lock_names(root, "debs")
        for index in load_deb_lock(root, name, architecture).indexes
    }
    for path in (root / "conf" / "locks" / "inrelease").glob("*.InRelease"):
        if f"inrelease/{path.name}" not in used:
            path.unlink()


def _write_wheels(
    root: Path, wanted: Sequence[WheelIntent], where: Whereabouts, session: requests.Session, log: Log
) -> None:
    for intent in wanted:
        for architecture in intent.architectures:
            base: WheelLock | None = load_wheel_lock(root, intent.extends, architecture) if intent.extends else None
            lock = resolve_wheels(intent, architecture, base, where, session)
            write_atomic(lock_path(root, "wheels", intent.name, architecture), dump_wheel_lock(lock))
            log(f"{lock.label}: {len(lock.wheels)} wheels, {sum(w.size_bytes for w in lock.wheels) / 1e6:.1f} MB")


def _write_requirements(folder: Path, name: str, where: Whereabouts) -> None:
    options = ["--universal", "--generate-hashes", "--no-header", "--no-annotate", "--python-version", "3.9"]
    text = (folder / f"{name}.in").read_text("utf-8")
    compiled = uv_compile(options, text, f"requirements/{name}", where, cwd=folder)
    write_atomic(folder / f"{name}.txt", compiled.encode())

"""Intents and locks as files, the choice of a wheel, and the committed locks themselves."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import datetime, timezone
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from repro.base.errors import CouldNotRun, UsageError
from repro.fetching import locked_files
from repro.fetching.simple_index import Link
from repro.locks.model import (
    Deb,
    DebLock,
    Wheel,
    WheelLock,
    dump_deb_lock,
    dump_wheel_lock,
    load_deb_lock,
    load_wheel_lock,
    lock_names,
    lock_path,
)
from repro.resolving.apt import snapshot_date
from repro.resolving.intents import load_deb_intents, load_wheel_intents
from repro.resolving.wheels import choose, parse_compiled, platform_tags, supported_tags
from tests.simulators.archive import Archive

ROOT = Path(__file__).resolve().parents[2]
DEB_LOCKS = lock_names(ROOT, "debs")
WHEEL_LOCKS = lock_names(ROOT, "wheels")
WHEEL = Wheel("one", "1.0", "one-1.0-py3-none-any.whl", "a" * 64, 3, ("py3-none-any",))


def put(root: Path, kind: str, name: str, data: bytes) -> None:
    path = lock_path(root, kind, name, "amd64")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    debs = Archive({"a": b"1", "b": b"2"}).lock
    wheels = WheelLock("set", "amd64", "3.11", "2.36", "base", (WHEEL,))
    put(tmp_path, "debs", "set", dump_deb_lock(debs))
    put(tmp_path, "wheels", "set", dump_wheel_lock(wheels))
    assert load_deb_lock(tmp_path, "set", "amd64") == debs
    assert load_wheel_lock(tmp_path, "set", "amd64") == wheels
    assert lock_names(tmp_path, "debs") == (("set", "amd64"),)


def test_the_digest_follows_names_and_hashes_and_nothing_else() -> None:
    lock = Archive({"a": b"1", "b": b"2"}).lock
    other_evidence = dataclasses.replace(lock, snapshot="20300101T000000Z", debs=lock.debs[::-1])
    assert other_evidence.digest == lock.digest
    changed = (dataclasses.replace(lock.debs[0], sha256="b" * 64), *lock.debs[1:])
    assert dataclasses.replace(lock, debs=changed).digest != lock.digest
    assert dataclasses.replace(lock, architecture="arm64").digest != lock.digest
    wheels = WheelLock("set", "amd64", "3.11", "2.36", "", (WHEEL,))
    assert dataclasses.replace(wheels, python="3.9").digest != wheels.digest


def test_a_missing_lock_could_not_run_and_says_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(CouldNotRun, match=r"no lock absent\.amd64\.json") as caught:
        load_deb_lock(tmp_path, "absent", "amd64")
    assert "invoke lock" in caught.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 2}', '{"format": 1}', '{"format": 1, "name": 3}'])
def test_a_file_that_is_no_lock_is_a_usage_error(tmp_path: Path, text: str) -> None:
    put(tmp_path, "debs", "bad", text.encode())
    put(tmp_path, "wheels", "bad", text.encode())
    for load in (load_deb_lock, load_wheel_lock):
        with pytest.raises(UsageError, match=r"bad\.amd64\.json"):
            load(tmp_path, "bad", "amd64")


def test_a_lock_under_another_name_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "debs", "other", dump_deb_lock(Archive({"a": b"1"}).lock))
    with pytest.raises(UsageError, match="contradict"):
        load_deb_lock(tmp_path, "other", "amd64")


INTENT = 'architectures = ["amd64"]\n[sets.a]\nsuite = "s"\npackages = ["p"]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (INTENT.replace("amd64", "mips"), "architectures"),
        (INTENT + 'extends = "b"\n', "extends"),
        (INTENT + 'extends = "a"\n', "extends"),
        (INTENT.replace('"p"', '"-o=x"'), "packages"),
        (INTENT.replace('"p"', ""), "packages"),
        (INTENT.replace('suite = "s"\n', ""), "missing required field `suite`"),
        (INTENT + 'pockets = ["backports"]\n', "pockets"),
        (INTENT + "sweet = 1\n", "unknown field `sweet`"),
        (INTENT + "[", "not TOML"),
    ],
)
def test_a_slip_in_an_intent_is_said(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "conf" / "intents").mkdir(parents=True)
    (tmp_path / "conf" / "intents" / "debs.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        load_deb_intents(tmp_path)


def test_intents_come_after_what_they_extend(tmp_path: Path) -> None:
    (tmp_path / "conf" / "intents").mkdir(parents=True)
    text = INTENT + 'extends = "z"\n[sets.z]\nsuite = "s"\npackages = ["q"]\n'
    (tmp_path / "conf" / "intents" / "debs.toml").write_text(text)
    assert list(load_deb_intents(tmp_path)) == ["z", "a"]


def test_the_snapshot_date_comes_from_the_newest_release_not_from_the_clock() -> None:
    assert snapshot_date(datetime(2026, 7, 11, 20, 0, tzinfo=timezone.utc)) == "20260712T080000Z"


def test_platform_tags_stop_at_the_images_c_library() -> None:
    tags = platform_tags("2.31", "arm64")
    assert tags[0] == "manylinux_2_31_aarch64"
    assert "manylinux_2_17_aarch64" in tags and "manylinux2014_aarch64" in tags
    assert "manylinux_2_34_aarch64" not in tags


def link(name: str, sha256: str = "a" * 64) -> Link:
    return Link(name, "http://x/" + name, sha256, 1)


def test_the_best_fitting_wheel_is_chosen() -> None:
    tags = supported_tags("3.11", "2.36", "amd64")
    names = [
        "p-1.0-py3-none-any.whl",
        "p-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
        "p-1.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "p-1.0-cp311-cp311-manylinux_2_38_x86_64.whl",
        "p-1.0-cp311-cp311-manylinux_2_28_aarch64.whl",
        "p-1.0-cp312-cp312-manylinux_2_28_x86_64.whl",
        "p-1.1-cp311-cp311-manylinux_2_28_x86_64.whl",
        "p-1.0.tar.gz",
    ]
    hashes = frozenset({"a" * 64})
    assert choose([link(name) for name in names], "1.0", hashes, tags).filename == names[2]
    assert choose([link(name) for name in names[:2]], "1.0", hashes, tags).filename == names[1]
    assert choose([link(name) for name in names[3:]], "1.0", hashes, tags) is None


def test_wheels_of_python_3_7_carry_its_abi_flag() -> None:
    name = "torch-1.8.0-cp37-cp37m-manylinux2014_aarch64.whl"
    tags = supported_tags("3.7", "2.36", "arm64")
    assert choose([link(name)], "1.8.0", frozenset({"a" * 64}), tags).filename == name


def test_a_wheel_that_the_resolver_has_not_seen_is_not_chosen() -> None:
    tags = supported_tags("3.11", "2.36", "amd64")
    assert choose([link("p-1.0-py3-none-any.whl", "b" * 64)], "1.0", frozenset({"a" * 64}), tags) is None


def test_compiled_requirements_are_read_with_their_hashes() -> None:
    hashes = {letter: f" \\\n    --hash=sha256:{letter * 64}" for letter in "abc"}
    text = f"A_b==1.0{hashes['a']}{hashes['b']}\nc==2{hashes['c']}\n"
    assert parse_compiled(text) == {
        "a-b": ("1.0", frozenset({"a" * 64, "b" * 64})),
        "c": ("2", frozenset({"c" * 64})),
    }


@pytest.mark.parametrize(("name", "architecture"), DEB_LOCKS)
def test_each_committed_deb_lock_fits_its_intent_and_is_sorted(name: str, architecture: str) -> None:
    intents = load_deb_intents(ROOT)
    intent, lock = intents[name], load_deb_lock(ROOT, name, architecture)
    assert dump_deb_lock(lock) == lock_path(ROOT, "debs", name, architecture).read_bytes()
    packages = [deb.package for deb in lock.debs]
    assert packages == sorted(set(packages))
    held = {deb.package for deb in load_deb_lock(ROOT, lock.extends, architecture).debs} if lock.extends else set()
    assert set(intent.packages) <= {*packages, *held}
    assert held.isdisjoint(packages)
    assert (lock.suite, lock.extends) == (intent.suite, intent.extends)
    assert {deb.architecture for deb in lock.debs} <= {architecture, "all"}
    assert re.fullmatch(r"20\d{6}T\d{6}Z", lock.snapshot)


@pytest.mark.parametrize(("name", "architecture"), WHEEL_LOCKS)
def test_each_committed_wheel_lock_fits_its_intent_and_its_image(name: str, architecture: str) -> None:
    intent, lock = load_wheel_intents(ROOT)[name], load_wheel_lock(ROOT, name, architecture)
    assert dump_wheel_lock(lock) == lock_path(ROOT, "wheels", name, architecture).read_bytes()
    versions = {wheel.project: wheel.version for wheel in lock.wheels}
    if lock.extends:
        base = {w.project: w.version for w in load_wheel_lock(ROOT, lock.extends, architecture).wheels}
        assert base.keys().isdisjoint(versions)
        versions.update(base)
    for text in intent.packages:
        requirement = Requirement(text)
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier
    supported = set(supported_tags(intent.python, intent.glibc, architecture))
    for wheel in lock.wheels:
        tags = parse_wheel_filename(wheel.filename)[3]
        assert supported & tags, wheel.filename
        assert tuple(sorted(map(str, tags))) == wheel.tags


def test_every_intent_is_locked_for_every_architecture() -> None:
    for intents, locks in ((load_deb_intents(ROOT), DEB_LOCKS), (load_wheel_intents(ROOT), WHEEL_LOCKS)):
        assert sorted(locks) == sorted((i.name, arch) for i in intents.values() for arch in i.architectures)


def test_no_lock_or_requirements_file_holds_an_address() -> None:
    files = [*(ROOT / "conf" / "locks").rglob("*.json"), *(ROOT / "requirements").iterdir()]
    assert [path.name for path in files if "://" in path.read_text("utf-8")] == []


@pytest.mark.parametrize("name", ["host", "test"])
def test_every_requirement_is_pinned_by_hash(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text("utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert lines
    for line in lines:
        assert re.match(r"[a-z0-9._-]+==\S+", line), line
        assert "--hash=sha256:" in line


def test_files_of_all_locks_are_named_once_a_set() -> None:
    files = locked_files(ROOT, ["arm64"])
    assert {file.kind for file in files} == {"deb", "wheel"}
    assert all(".arm64: " in file.entry for file in files)
    assert {f.entry.split(".")[0] for f in locked_files(ROOT, ["amd64"], ["debs/synth"])} == {"debs/synth"}
    with pytest.raises(UsageError, match="debs/unheard"):
        locked_files(ROOT, ["amd64"], ["debs/unheard"])


def test_lock_types_cannot_be_changed() -> None:
    lock = Archive({"a": b"1"}).lock
    assert isinstance(lock, DebLock) and isinstance(lock.debs[0], Deb)
    with pytest.raises(dataclasses.FrozenInstanceError):
        lock.snapshot = ""
    json.loads(dump_deb_lock(lock))

"""Strict JSON, foreign text, versions, optional programs, locks and temporary folders."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.base import programs, strict_json, versions
from repro.base.errors import CouldNotRun, VerificationFailed
from repro.base.files import canonical_json, pretty_json
from repro.base.foreign import shown
from repro.base.locking import Taken, locked
from repro.base.temporary import clear_dead, temporary_folder
from repro.base.toml import parse_toml

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
)  # fmt: skip


@given(JSON)
def test_whatever_we_write_is_read(document):
    assert strict_json.parse(canonical_json(document), what="it") == document
    assert strict_json.parse(pretty_json(document), what="it") == document


@given(JSON)
def test_json_for_people_is_as_the_standard_library_writes_it(document):
    text = json.dumps(document, sort_keys=True, indent=2, ensure_ascii=False)
    assert pretty_json(document).decode() == f"{text}\n"


@given(JSON)
def test_the_nesting_of_a_document_is_that_of_its_brackets(document):
    def deep(value: object) -> int:
        if not isinstance(value, (list, dict)):
            return 0
        return 1 + max(map(deep, value.values() if isinstance(value, dict) else value), default=0)

    assert strict_json._depth(json.dumps(document).encode()) == deep(document)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "Infinity"),
        (b"[1e999]", "too large"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"b": 1, "b": 1}}', "twice"),
        (b'["\\ud800"]', "surrogate"),
        (b"[" + b"9" * 5000 + b"]", "digits"),
        (b"[" * 100000, "deep"),
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "deep"),
        (b"\xff", "UTF-8"),
        (b"{", "not JSON"),
        (b"", "not JSON"),
        (b"[1] x", "not JSON"),
        (b'["' + b'\\"' * 300_000, "not JSON"),  # each is looked at once, not once per end that a text could have
        (b'["' + b'\\"' * 300_000 + b"\\", "not JSON"),
        (b'["' + b"x" * 100 + b'"]', "at most 50"),
    ],
)
def test_what_has_no_one_meaning_is_refused_with_the_document_s_name(data: bytes, why: str):
    with pytest.raises(VerificationFailed, match=why) as caught:
        strict_json.parse(data, what="record.json", max_bytes=50 if "50" in why else 1 << 20)
    assert caught.value.message.startswith("record.json: ")


@given(st.text())
def test_foreign_text_is_shown_without_anything_that_a_terminal_acts_on(text: str):
    assert shown(text).isprintable()
    assert shown(text, lines=True).replace("\n", "").isprintable()


def test_escapes_are_spelt_out_and_length_is_bounded():
    assert shown("\x1b[2J\u202eA\udcff") == "\\x1b[2J\\u202eA\\xff"
    assert len(shown("x" * 10_000)) == 501


ORDERED = ("21.0.2", "22.0.4", "23.0.rc1", "23.0.rc1.1", "23.0.RC2", "23.0.rc3", "23.0.0", "24.1.rc1", "24.1.rc2",
           "24.1.rc2.2", "24.1.0", "24.1.0.1", "25.0.rc1.1", "25.2.0")  # fmt: skip


def test_versions_are_ordered_as_the_vendor_numbers_them():
    found = [versions.parse(text) for text in ORDERED]
    assert all(found) and sorted(found) == found and len(set(found)) == len(found)


@given(st.sampled_from(ORDERED), st.sampled_from(["upper", "lower", "title", "strip"]))
def test_the_spelling_of_a_version_counts_for_nothing(text: str, change: str):
    assert versions.same(text, getattr(text, change)())
    assert hash(versions.parse(text)) == hash(versions.parse(getattr(text, change)()))


@given(st.sampled_from(ORDERED), st.sampled_from(ORDERED), st.sampled_from(ORDERED))
def test_the_order_of_versions_is_an_order(a: str, b: str, c: str):
    one, two, three = versions.parse(a), versions.parse(b), versions.parse(c)
    assert (one < two) + (one == two) + (one > two) == 1
    assert not (one < two < three) or one < three


def test_texts_that_are_no_versions_equal_only_themselves():
    assert versions.parse("unknown") is None and versions.same("NA", "na") and not versions.same("NA", "1.0")


def test_a_folder_that_cannot_be_entered_is_passed_over(tmp_path: Path, monkeypatch):
    tool = tmp_path / "good" / "tool"
    tool.parent.mkdir()
    tool.write_text("")
    tool.chmod(0o755)
    real = os.stat

    def stat(path, *args, **kwargs):
        if "closed" in str(path):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", stat)
    assert (
        programs.find("tool", [str(tmp_path / "closed"), "bad\0name", str(tmp_path / "none"), str(tool.parent)]) == tool
    )
    tool.chmod(0o644)
    assert programs.find("tool", [str(tool.parent)]) is None


def test_a_lock_is_held_by_one_and_a_shared_one_by_many(tmp_path: Path):
    with locked(tmp_path), pytest.raises(Taken), locked(tmp_path, wait=False):
        pass
    with (
        locked(tmp_path, shared=True),
        locked(tmp_path, shared=True, wait=False),
        pytest.raises(Taken),
        locked(tmp_path, wait=False),
    ):
        pass


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_taken_on_the_new_one(tmp_path: Path, monkeypatch):
    path = tmp_path / "lock"
    path.write_text("")
    real, calls = fcntl.flock, []

    def flock(descriptor, kind):
        if not calls:
            path.unlink()
        calls.append(descriptor)
        return real(descriptor, kind)

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(path, create=True) as descriptor:
        assert os.fstat(descriptor).st_ino == path.stat().st_ino and len(calls) == 2


def test_a_file_system_without_locks_is_named_with_what_to_do(tmp_path: Path, monkeypatch):
    def flock(_descriptor, _kind):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(CouldNotRun, match="no file locks") as caught, locked(tmp_path):
        pass
    assert "BUNDLE_RESULTS" in caught.value.hint


def test_the_next_command_removes_a_dead_owner_s_folder_and_no_living_one_s(tmp_path: Path):
    code = """
import os, sys
from pathlib import Path
from repro.base.temporary import temporary_folder
(temporary_folder(Path(sys.argv[1]), 'work').path / 'f').write_text('x')
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -9 and len(list(tmp_path.iterdir())) == 1
    with temporary_folder(tmp_path, "work") as alive:
        assert len(clear_dead(tmp_path)) == 1
        assert list(tmp_path.iterdir()) == [alive]
    assert list(tmp_path.iterdir()) == []
    assert clear_dead(tmp_path / "absent") == []


def test_a_key_that_stands_twice_is_found_in_time_that_grows_with_the_text():
    names = [f'"{number}": 0' for number in range(200_000)]
    with pytest.raises(VerificationFailed, match="'199999' stands twice"):
        strict_json.parse(("{" + ", ".join([*names, names[-1]]) + "}").encode(), what="it")


@pytest.mark.parametrize("text", ["9" * 5000, "1." + "9" * 5000, "١.٢", "1.0.rc" + "1" * 5000])
def test_what_only_looks_like_a_version_is_none(text: str):
    assert versions.parse(text) is None


def test_what_one_reader_of_a_toml_text_changes_the_next_does_not_see():
    first = parse_toml("[a]\nb = [1]\n", "x.toml")
    first["a"]["b"].append(2)
    assert parse_toml("[a]\nb = [1]\n", "x.toml") == {"a": {"b": [1]}}

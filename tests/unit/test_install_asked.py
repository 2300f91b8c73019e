"""Whose signature counts, what install.py is asked, and what it leaves: told and kept whole."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from repro.packing.installer import archive as archives
from repro.packing.installer import install, settings
from repro.packing.installer.archive import Archive
from repro.packing.installer.install import write_files
from repro.packing.installer.listing import Refused
from repro.packing.installer.trust import (
    Asked,
    check,
    is_fingerprint,
    remember_key,
    trust_file,
    trust_in,
    trusted_keys,
    verify,
)
from tests.unit import _bundle_cases as cases

KEY, OTHER = cases.signer(), cases.signer(2)
IMAGE = cases.images()["amd64"]["base"]


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "lstm-ctc-bundle"


# --- whose key counts


def test_settings_are_written_as_sorted_json_that_replaces_the_old(config: Path):
    config.mkdir(parents=True)
    settings.write_settings(config / "x.json", {"b": 1, "a": [2]})
    assert (config / "x.json").read_bytes() == b'{\n  "a": [\n    2\n  ],\n  "b": 1\n}\n'
    settings.write_settings(config / "x.json", {})
    assert (config / "x.json").read_bytes() == b"{}\n" and os.listdir(config) == ["x.json"]


@pytest.mark.parametrize(
    ("signer", "named", "known", "said"),
    [
        ("a", ("b", "a"), {}, "pinned"),
        ("a", (), {"a": "first use", "b": "pinned"}, "first use"),
        ("a", (), {"a": "pinned"}, "pinned"),
        ("a", (), {}, "unknown"),
        ("", (), {}, "unsigned"),
        ("a", ("c", "b"), {"a": "pinned"}, "the bundle is signed by the key a, not by the key named: b, c"),
        ("", ("b",), {}, "the bundle is not signed, not by the key named: b"),
        ("a", (), {"c": "pinned", "b": "pinned"},
         "the bundle is signed by the key a, not by a key trusted here ({}): b, c"),
        ("", (), {"b": "pinned"}, "the bundle is not signed, not by a key trusted here ({}): b"),
    ],
)  # fmt: skip
def test_a_signer_is_trusted_as_far_as_it_is_named_or_known(signer: str, named, known, said: str):
    if " " not in said or said == "first use":
        assert trust_in(signer, named, known) == said
        return
    with pytest.raises(Refused) as error:
        trust_in(signer, named, known)
    assert (error.value.code, error.value.message) == (3, said.format(trust_file()))


def test_keys_are_remembered_as_pinned_once_and_for_all(config: Path):
    first, second = KEY.fingerprint, OTHER.fingerprint
    assert trusted_keys() == {}
    remember_key(first, "first use")
    remember_key(first, "first use")
    assert trusted_keys() == {first: "first use"} and trust_file() == config / "trusted-keys.json"
    with pytest.raises(Refused) as error:
        remember_key(second, "first use")
    assert error.value.code == 3
    remember_key(second, "pinned")
    remember_key(first, "pinned")
    remember_key(first, "first use")
    assert trusted_keys() == {first: "pinned", second: "pinned"}
    assert stat.S_IMODE(config.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("[]", 2, "is damaged: "),
        ("{", 2, "is damaged: "),
        ('{"x": "pinned"}', 2, "is damaged: it is not a table of fingerprints"),
        (json.dumps({"a" * 64: "perhaps"}), 2, "is damaged: it is not a table of fingerprints"),
        (None, 4, "cannot be read: Is a directory"),
    ],
)
def test_a_damaged_table_of_keys_is_told_and_not_passed_over(config: Path, text: str | None, code: int, said: str):
    config.mkdir(parents=True)
    (config / "trusted-keys.json").mkdir() if text is None else (config / "trusted-keys.json").write_text(text)
    with pytest.raises(Refused) as error:
        trusted_keys()
    assert error.value.code == code and error.value.message.startswith(f"{trust_file()} {said}")


def test_a_fingerprint_is_64_small_hex_digits():
    texts = ("a" * 64, "A" * 64, "a" * 63, "a" * 65, "g" * 64, "0123456789abcdef" * 4)
    assert [is_fingerprint(text) for text in texts] == [True, False, False, False, False, True]


def test_a_report_tells_on_whom_it_relies_and_who_signed_too(tmp_path: Path):
    path = cases.pack(tmp_path)
    report = verify(path, Asked([KEY.fingerprint]))
    assert (report.trust, report.verified, report.relied_on, report.also, report.rebuilt) == (
        "pinned", True, KEY.fingerprint, (), (),
    )  # fmt: skip
    unknown = verify(path, Asked())
    assert (unknown.trust, unknown.verified, unknown.relied_on) == ("unknown", False, KEY.fingerprint)
    archive = Archive(path)
    keys = {OTHER.fingerprint: b"x" * 32}
    asked = Asked([], first_use=True, rebuilders=keys)
    first = check(archive, asked)
    archive.close()
    assert (first.trust, first.verified, trusted_keys()) == ("first use", True, {KEY.fingerprint: "first use"})
    (image,) = first.rebuilt
    assert (image.image, image.silent) == ("image base (amd64)", (OTHER.fingerprint,))


# --- what is asked of the program


def asked_of(tmp_path: Path, *words: str) -> int:
    return install.run([str(tmp_path / "small.tar"), "--key", KEY.fingerprint, *words])


def rebuilders(tmp_path: Path, result: str) -> str:
    cases.put_beside(tmp_path / "small.tar", {"theirs": cases.rebuild(IMAGE["image_id"], result)}, OTHER)
    folder = tmp_path / "small.tar.attestations"
    (folder / "keys").mkdir(exist_ok=True)
    (folder / "keys" / f"{OTHER.fingerprint}.pem").write_text(OTHER.public_pem)
    (tmp_path / "keys.pem").write_text(OTHER.public_pem)
    return str(tmp_path / "keys.pem")


def test_so_many_rebuilders_must_confirm_as_are_asked_for_and_none_where_none_are(tmp_path: Path, capsys):
    cases.pack(tmp_path)
    keys = rebuilders(tmp_path, "FAILED")
    assert asked_of(tmp_path, "--verify-only") == 0
    with pytest.raises(Refused) as error:
        asked_of(tmp_path, "--verify-only", "--rebuilders", keys)
    assert (error.value.code, error.value.failures) == (
        3, (f"image base (amd64): contradicted by {OTHER.fingerprint}",),
    )  # fmt: skip
    capsys.readouterr()
    keys = rebuilders(tmp_path, "PASSED")
    assert asked_of(tmp_path, "--verify-only", "--rebuilders", keys) == 0
    assert f"image base (amd64): confirmed by {OTHER.fingerprint}\n" in capsys.readouterr().out
    (tmp_path / "small.tar.attestations").rename(tmp_path / "elsewhere")
    with pytest.raises(Refused) as error:
        asked_of(tmp_path, "--verify-only", "--rebuilders", keys)
    assert error.value.code == 4
    assert asked_of(tmp_path, "--verify-only", "--rebuilders", keys, "--attestations", str(tmp_path / "elsewhere")) == 0
    with pytest.raises(Refused, match="--threshold 2 counts rebuilders"):
        asked_of(tmp_path, "--verify-only", "--threshold", "2")


@pytest.mark.parametrize("files_only", [False, True])
def test_room_is_asked_for_all_files_and_for_what_the_images_take_unpacked(
    tmp_path: Path, monkeypatch, files_only: bool
):
    cases.pack(tmp_path, unpacked_bytes=10**12)
    archive = Archive(tmp_path / "small.tar")
    archive.close()
    needed: list[tuple[Path, int]] = []

    def check_room(folder: Path, size: int) -> None:
        needed.append((folder, size))
        raise Refused(4, "enough is seen")

    monkeypatch.setattr(install, "_check_room", check_room)
    with pytest.raises(Refused, match="enough is seen"):
        asked_of(tmp_path, "--to", str(tmp_path / "new" / "site"), *(["--files-only"] if files_only else []))
    files = sum(entry.size_bytes for entry in archive.listing.entries)
    assert needed == [(tmp_path / "new", files + (0 if files_only else 10**12))]
    assert os.listdir(tmp_path / "new") == []


def test_an_installation_is_made_ready_once_and_remembered_as_such(tmp_path: Path, monkeypatch, capsys):
    made: list[tuple[Path, str]] = []
    monkeypatch.setattr(install, "_make_ready", lambda target, kept: made.append((target, kept)))
    cases.pack(tmp_path)
    site = tmp_path / "site"
    assert asked_of(tmp_path, "--to", str(site), "--files-only") == 0
    assert made == [] and [each.state for each in settings.known_folders()] == ["files"]
    stay = f"the files in {site} stay as they were verified"
    for _ in range(2):
        assert asked_of(tmp_path, "--to", str(site)) == 0
        assert made == [(site, stay)] and [each.state for each in settings.known_folders()] == ["ready"]
    (settings.settings_folder() / "installations.json").unlink()
    assert asked_of(tmp_path, "--to", str(site)) == 0
    assert made == [(site, stay)] * 2
    (known,) = settings.known_folders()
    assert (known.state, known.target, known.lies_at(site)) == ("ready", str(site), True)
    monkeypatch.chdir(tmp_path)
    assert asked_of(tmp_path) == 0, "into the folder of the bundle's own name"
    assert made[-1] == (tmp_path / "small", "nothing is left installed")
    assert capsys.readouterr().out.endswith(f"installed: cd {tmp_path}/small && ./bootstrap reproduce --bs 8\n")


def test_an_installation_that_fails_leaves_nothing_and_is_forgotten(tmp_path: Path, monkeypatch):
    def fail(*_):
        raise Refused(4, "the step failed")

    monkeypatch.setattr(install, "_make_ready", fail)
    cases.pack(tmp_path)
    with pytest.raises(Refused, match="the step failed"):
        asked_of(tmp_path, "--to", str(tmp_path / "site"))
    assert sorted(os.listdir(tmp_path)) == ["config", "small.tar"] and settings.known_folders() == []


def test_a_difference_is_written_from_its_own_files_and_the_earlier_one_s(tmp_path: Path):
    cases.pack(tmp_path)
    archive = Archive(tmp_path / "small.tar")
    based = next(entry for entry in archive.listing.entries if entry.path == "tree/requirements/host.txt")
    others = tuple(entry for entry in archive.listing.entries if entry is not based)
    archive.listing = archive.listing._replace(entries=(*others, based._replace(offset=-1, content=-1)))
    with pytest.raises(Refused) as error:
        write_files(archive, tmp_path / "site")
    assert (error.value.code, error.value.failures) == (4, (f"{based.path}: no earlier bundle given has it",))
    write_files(archive, tmp_path / "site", [tmp_path / "small.tar"])
    assert (tmp_path / "site" / "requirements" / "host.txt").read_bytes() == b"invoke==1\n"
    write_files(archive, tmp_path / "more", [tmp_path / "site"])
    (tmp_path / "site" / "requirements" / "host.txt").write_bytes(b"invoke==2\n")
    with pytest.raises(Refused) as error:
        write_files(archive, tmp_path / "again", [tmp_path / "site"])
    assert (error.value.code, error.value.failures) == (3, (f"{based.path}: the earlier bundle's copy was changed",))
    archive.close()


def test_how_many_processors_hash_at_once(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(40)))
    assert archives.processors() == 32
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2})
    assert archives.processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert archives.processors() == 1

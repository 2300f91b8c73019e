"""install.py's parts, each by itself: what it is asked, what it says, what it insists on, what it starts and keeps."""

from __future__ import annotations

import base64
import json
import os
import signal
import stat
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.packing.installer import archive as archives
from repro.packing.installer import folder as folders
from repro.packing.installer import install, settings, statements
from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import LIST_NAME, Refused, canonical, public_key_of
from repro.packing.installer.provenance import first_difference, lock_digest
from repro.packing.installer.rebuilders import Rebuilt, count_rebuilders
from repro.packing.installer.settings import Made
from repro.packing.installer.trust import Asked, check
from repro.packing.statements import envelope
from tests.unit import _bundle_cases as cases

KEY, OTHER = cases.signer(), cases.signer(2)


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "config" / "lstm-ctc-bundle"


# --- What it is asked and says


def test_its_options_are_these():
    found = {
        action.dest: (action.nargs == 0, action.default, action.required, action.type)
        for action in install._parser()._actions
        if action.dest != "help"
    }
    assert found == {
        "bundle": (False, None, True, Path),
        "key": (False, [], False, None),
        "first_use": (True, False, False, None),
        "allow_unsigned": (True, False, False, None),
        "attestations": (False, None, False, Path),
        "rebuilders": (False, None, False, Path),
        "threshold": (False, 1, False, int),
        "verify_only": (True, False, False, None),
        "to": (False, None, False, Path),
        "base": (False, [], False, Path),
        "files_only": (True, False, False, None),
    }
    words = ["b", "--key", "1", "--key", "2", "--base", "x", "--base", "y"]
    parsed = install._parser().parse_args(words)
    assert (parsed.key, parsed.base) == (["1", "2"], [Path("x"), Path("y")])


@pytest.fixture
def report(tmp_path: Path):
    archive = Archive(cases.pack(tmp_path))
    found = check(archive, Asked([KEY.fingerprint]))
    archive.close()
    return found


def test_a_verification_is_told_in_words(report):
    count, size = len(cases.files()), report.listing.total_bytes / 1e6
    about = f"list: sha256 {report.listing.sha256}, commit {'c' * 40}"
    every = f"every byte is as listed: {count} files, {size:.1f} MB"
    held = "statements: 2, each signed, none contradicts the bundle"
    trusted = f"signed by the trusted key {KEY.fingerprint}"
    assert install.describe(report).split("\n") == [trusted, every, about, held]
    for trust, first in (
        ("first use", f"signed by the key {KEY.fingerprint}, trusted here since its first use"),
        ("unknown", f"NOT VERIFIED: signed by the key {KEY.fingerprint}, which is not trusted on this machine"),
    ):
        assert install.describe(report._replace(trust=trust)).split("\n")[0] == first
    assert install.describe(report._replace(trust="unsigned", relied_on="")).startswith("NOT VERIFIED: not signed\n")
    wrong = report._replace(failures=("a", "b"), also=("k",), rebuilt=(Rebuilt("image x", ("1",), (), ()),))
    assert install.describe(wrong).split("\n") == [
        trusted,
        "NOT VERIFIED: 2 things are wrong",
        "the list is also signed by k",
        about,
        "image x: confirmed by 1",
    ]
    based = report.listing.entries[0]._replace(offset=-1, content=-1)
    fewer = report._replace(listing=report.listing._replace(entries=(based, *report.listing.entries[1:])))
    assert f"every byte is as listed: {count - 1} files" in install.describe(fewer)


@pytest.mark.parametrize(
    ("changes", "threshold", "allow", "code"),
    [
        ({}, None, False, 0),
        ({"failures": ("x",)}, None, True, 3),
        ({"trust": "unsigned"}, None, False, 4),
        ({"trust": "unsigned"}, None, True, 0),
        ({"trust": "unknown"}, None, True, 4),
        ({"trust": "first use"}, None, False, 0),
        ({}, 1, False, 4),
        ({"rebuilt": (Rebuilt("i", ("1",), (), ()),)}, 1, False, 0),
        ({"rebuilt": (Rebuilt("i", ("1",), ("2",), ()),)}, 2, False, 3),
    ],
)
def test_it_insists_on_whole_signed_and_confirmed_bundles(report, changes, threshold, allow, code):
    found = report._replace(**changes)
    if not code:
        install._insist(found, threshold, allow_unsigned=allow)
        return
    with pytest.raises(Refused) as error:
        install._insist(found, threshold, allow_unsigned=allow)
    assert error.value.code == code
    assert changes.get("failures", error.value.failures) == error.value.failures
    assert changes.get("trust") != "unknown" or KEY.fingerprint in error.value.message


@pytest.mark.parametrize(
    ("error", "code", "lines"),
    [
        (
            Refused(3, "a \x1b[31m", "do\nthat", [f"f{n}" for n in range(21)]),
            3,
            [r"error: a \x1b[31m", *[f"  f{n}" for n in range(20)], "  and 1 more", "-> do", "-> that"],
        ),
        (Refused(4, "b", "", [f"f{n}" for n in range(20)]), 4, ["error: b", *[f"  f{n}" for n in range(20)]]),
        (
            OSError(28, "full"),
            4,
            ["error: no space is left", "-> nothing is left half-installed; mend this and run the same command again"],
        ),
        (OSError(122, "quota"), 4, ["error: no space is left"]),
        (OSError(13, "denied"), 4, ["error: [Errno 13] denied"]),
        (KeyboardInterrupt(), 130, ["interrupted; nothing is left half-installed: the same command begins again"]),
        (
            ZeroDivisionError("x"),
            70,
            [
                "error: a defect of install.py (ZeroDivisionError): nothing is left half-installed",
                "-> please report it with the lines above",
            ],
        ),
        (None, 7, []),
    ],
)
def test_each_end_has_its_words_and_its_code(monkeypatch, capsys, error, code, lines):
    handlers, words = {}, []

    def run(given_words):
        words.append(given_words)
        if error is not None:
            raise error
        return 7

    monkeypatch.setattr(install.signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(install, "run", run)
    monkeypatch.setattr(sys, "argv", ["install.py", "b", "c"])
    with pytest.raises(SystemExit) as ended:
        install.main()
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == code and words == [["b", "c"]]
    assert said[-len(lines) :] == lines if code == 70 else said[: len(lines)] == lines
    assert code != 70 or said[0].startswith("Traceback")
    with pytest.raises(KeyboardInterrupt):
        handlers[signal.SIGTERM](15, None)


# --- Disks and steps


@pytest.mark.parametrize(("free", "enough"), [(3_000_000_000, True), (2_999_999_744, False)])
def test_room_is_asked_for_before_anything_is_written(monkeypatch, tmp_path, free, enough):
    monkeypatch.setattr(install.os, "statvfs", lambda _: SimpleNamespace(f_bavail=free // 256, f_frsize=256))
    if enough:
        install._check_room(tmp_path, 3_000_000_000)
    else:
        with pytest.raises(Refused, match=rf"{tmp_path} has 3\.0 GB free; 3\.0 GB are needed") as error:
            install._check_room(tmp_path, 3_000_000_000)
        assert error.value.code == 4


@pytest.mark.parametrize(
    ("flag", "for_running", "fine"), [(os.ST_NOEXEC, True, False), (os.ST_NOEXEC, False, True), (0, True, True)]
)
def test_a_disk_that_runs_no_program_is_refused_where_one_is_to_run(monkeypatch, tmp_path, flag, for_running, fine):
    monkeypatch.setattr(install.os, "statvfs", lambda _: SimpleNamespace(f_flag=flag | os.ST_RDONLY))
    if fine:
        install._check_disk(tmp_path, for_running=for_running)
    else:
        with pytest.raises(Refused, match=f"{tmp_path.parent} is mounted noexec"):
            install._check_disk(tmp_path, for_running=for_running)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["modes", "links", "full"])
def test_a_disk_that_keeps_no_modes_or_links_is_refused_and_a_full_one_is_told_as_such(monkeypatch, tmp_path, what):
    def refuse(*_):
        raise OSError(28 if what == "full" else 1, "not permitted")

    if what == "modes":
        monkeypatch.setattr(install.os, "fchmod", lambda *_: None)
        os.umask(0o077)
    else:
        monkeypatch.setattr(install.Path, "symlink_to", refuse)
    with pytest.raises(OSError if what == "full" else Refused) as error:
        install._check_disk(tmp_path, for_running=True)
    os.umask(0o022)
    if what != "full":
        assert error.value.code == 4 and f"the disk of {tmp_path.parent} keeps no modes" in error.value.message
        assert what == "modes" or error.value.message.endswith("or no links: not permitted")


@pytest.mark.parametrize("codes", [(0, 0), (1, 0), (3, 0), (0, 3), (0, 2), (0, -9)])
def test_an_installation_is_made_ready_by_two_programs_that_see_its_own_wheels_alone(monkeypatch, tmp_path, codes):
    monkeypatch.setattr(
        os, "environ", {"PATH": "/bin", "PIP_INDEX_URL": "x", "PYTHONPATH": "x", "VIRTUAL_ENV": "x", "HOME": "/h"}
    )
    started = []

    def run(command, **options):
        started.append((command, options))
        return SimpleNamespace(returncode=codes[len(started) - 1])

    monkeypatch.setattr(install.subprocess, "run", run)
    failed = next((place for place, code in enumerate(codes) if code), None)
    if failed is None:
        install._make_ready(tmp_path, "kept")
    else:
        with pytest.raises(Refused) as error:
            install._make_ready(tmp_path, "kept")
        assert error.value.code == (3 if codes[failed] == 3 else 4) and error.value.hint.startswith("kept; ")
        assert f"{started[failed][0][0]} ended with code {codes[failed]}" in error.value.message
    commands = [["./bootstrap", "--list"], [".venv/bin/python", "-m", "repro.packing.adopt"]]
    assert [command for command, _ in started] == commands[: 2 if failed is None else failed + 1]
    for command, options in started:
        assert (options["cwd"], options["stdin"], options["check"]) == (tmp_path, install.subprocess.DEVNULL, False)
        assert options["stdout"] == (install.subprocess.DEVNULL if command[0] == "./bootstrap" else None)
        assert options["env"] == {
            "PATH": "/bin",
            "HOME": "/h",
            "PYTHON": sys.executable,
            "PYTHONUTF8": "1",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": (tmp_path / "artifacts" / "wheels").as_uri(),
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_NO_CACHE_DIR": "1",
        }


def test_an_installation_beside_another_waits_for_nobody(tmp_path):
    again = install._alone(tmp_path)
    with install._alone(tmp_path), pytest.raises(Refused, match=f"another installation into {tmp_path}") as error:
        again.__enter__()
    assert error.value.code == 4
    with install._alone(tmp_path):
        pass
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ZeroDivisionError), install._alone(tmp_path):
        raise ZeroDivisionError
    assert len(os.listdir("/proc/self/fd")) == before


def installed(tmp_path: Path, *words: str) -> Path:
    path = tmp_path / "small.tar"
    if not path.exists():
        cases.pack(tmp_path)
    install.run([str(path), "--key", KEY.fingerprint.upper(), "--files-only", "--to", str(tmp_path / "site"), *words])
    return tmp_path / "site"


def test_what_is_installed_is_every_file_with_its_mode_and_the_list_and_is_remembered(tmp_path, config, capsys):
    os.umask(0o027)
    site = installed(tmp_path)
    os.umask(0o022)
    archive = Archive(tmp_path / "small.tar")
    archive.close()
    assert stat.S_IMODE(site.stat().st_mode) == 0o750
    assert (site / "artifacts/bundle" / LIST_NAME).read_bytes() == archive.envelope
    for item in cases.files():
        place = item.path[5:] if item.path.startswith("tree/") else f"artifacts/bundle/{item.path}"
        assert (site / place).read_bytes() == item.source
        assert stat.S_IMODE((site / place).stat().st_mode) == (0o755 if item.executable else 0o644)
    (made,) = settings.known_folders()
    assert (made.target, made.state, made.lies_at(site), made.place()) == (str(site), "files", True, site)
    assert sorted(os.listdir(tmp_path)) == ["config", "site", "small.tar"]
    said = capsys.readouterr().out
    assert f"installed: cd {site} && ./bootstrap reproduce --bs 8" in said
    installed(tmp_path)
    assert f"already installed in {site}: every listed file was verified again" in capsys.readouterr().out
    (site / "planted").write_text("x")
    (site / ".venv").mkdir()
    installed(tmp_path)
    said = capsys.readouterr().out
    assert "not covered by the list: planted: a file" in said and "not covered by the list: .venv (the" in said
    (config / "installations.json").unlink()
    with pytest.raises(Refused, match="holds more than this bundle") as error:
        installed(tmp_path)
    assert error.value.code == 2 and len(error.value.failures) == 2
    (site / "planted").unlink()
    (site / ".venv").rmdir()
    installed(tmp_path)
    (site / "bootstrap").write_text("changed")
    with pytest.raises(Refused, match="was changed since") as error:
        installed(tmp_path)
    assert (error.value.code, error.value.failures) == (
        3,
        ("bootstrap: its content was changed since it was installed",),
    )
    (site / "artifacts/bundle" / LIST_NAME).unlink()
    with pytest.raises(Refused, match="is not this bundle") as error:
        installed(tmp_path)
    assert error.value.code == 2


def test_verification_alone_needs_no_base_and_installs_nothing(tmp_path, capsys):
    path = cases.pack(tmp_path, base="a" * 64)
    assert install.run([str(path), "--key", KEY.fingerprint, "--verify-only"]) == 0
    assert install.run([str(path), "--first-use", "--verify-only"]) == 0
    with pytest.raises(Refused, match="a" * 64) as error:
        install.run([str(path), "--to", str(tmp_path / "site")])
    assert error.value.code == 4 and not (tmp_path / "site").exists()
    for words in (["--key", "x"], ["--key", "a" * 63]):
        with pytest.raises(Refused, match="64 hex digits"):
            install.run([str(path), *words])
    unsigned = cases.write_bundle(tmp_path / "u.tar", cases.files(None), cases.about(), None, cases.Silent())[0]
    capsys.readouterr()
    (tmp_path / "config" / "lstm-ctc-bundle" / "trusted-keys.json").unlink()
    assert install.run([str(unsigned), "--allow-unsigned", "--verify-only"]) == 4
    assert capsys.readouterr().out.startswith("NOT VERIFIED: not signed\n")


# --- What is remembered


MADE = {"token": "t", "device": 1, "inode": 2, "temporary": "/a", "target": "/b", "state": "files"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("[]", 0),
        (json.dumps([MADE, MADE]), 2),
        ("{}", 0),
        ("x", 0),
        (json.dumps([{**MADE, "more": 1}]), 0),
        (json.dumps([{**MADE, "device": "1"}]), 0),
        (json.dumps([MADE, {**MADE, "token": 1}]), 1),
        ("[1]", 0),
        (json.dumps([{"token": "t"}]), 0),
    ],
)
def test_what_installations_remember_is_read_as_far_as_it_is_such(config, text, found):
    assert settings.known_folders() == []
    config.mkdir(parents=True)
    (config / "installations.json").write_text(text)
    assert settings.known_folders() == [Made(**MADE)] * found


def test_a_folder_is_remembered_once_and_forgotten(config):
    one, two = Made(**MADE), Made(**{**MADE, "token": "u"})
    for made in (one, two, one._replace(state="ready")):
        settings.remember(made)
    assert settings.known_folders() == [two, one._replace(state="ready")]
    assert sorted(os.listdir(config)) == ["installations.json"] and stat.S_IMODE(config.stat().st_mode) == 0o700
    assert json.loads((config / "installations.json").read_text()) == [
        two._asdict(),
        one._replace(state="ready")._asdict(),
    ]
    settings.forget(two)
    assert settings.known_folders() == [one._replace(state="ready")]


def test_settings_lie_where_the_user_s_do(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/x")
    assert settings.settings_folder() == Path("/x/lstm-ctc-bundle")
    monkeypatch.setenv("XDG_CONFIG_HOME", "")
    monkeypatch.setenv("HOME", "/h")
    assert settings.settings_folder() == Path("/h/.config/lstm-ctc-bundle")

    def nobody():
        raise RuntimeError

    monkeypatch.setattr(settings.Path, "home", nobody)
    assert settings.settings_folder() == Path("/nonexistent/lstm-ctc-bundle")


def test_a_folder_is_known_again_by_place_inode_and_mark(tmp_path):
    made = settings.new_folder(tmp_path / "site")
    place = Path(made.temporary)
    assert place.parent == tmp_path and place.name.startswith(".site.installing.") and len(place.name) == 33
    assert stat.S_IMODE(place.stat().st_mode) == 0o700 and made.state == "unfinished" and len(made.token) == 32
    assert (place / "artifacts/bundle/made-here").read_text() == made.token + "\n"
    assert (made.device, made.inode) == (place.stat().st_dev, place.stat().st_ino) and settings.known_folders() == [
        made
    ]
    assert (
        made.lies_at(place)
        and not made.lies_at(tmp_path)
        and not made.lies_at(tmp_path / "none")
        and made.place() == place
    )
    assert not made._replace(token="x" * 32).lies_at(place) and not made._replace(inode=1).lies_at(place)
    assert not made._replace(device=made.device + 1).lies_at(place)
    place.rename(tmp_path / "site")
    assert made.lies_at(tmp_path / "site") and made.place() == tmp_path / "site"
    # killed before its inode was known: by its name alone, as long as nothing of anybody's is in it
    begun = made._replace(device=0, inode=0)
    assert not begun.lies_at(tmp_path / "site")
    place.mkdir()
    assert begun.lies_at(place)
    (place / "a" / "b").mkdir(parents=True)
    assert begun.lies_at(place)
    (place / "a" / "link").symlink_to("b")
    assert not begun.lies_at(place)
    (place / "a" / "link").unlink()
    (place / "a" / "file").write_text("x")
    assert not begun.lies_at(place)
    settings.mark_as_ready(tmp_path / "site")
    assert [each.state for each in settings.known_folders()] == ["unfinished", "ready"]


# --- Folders


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("x/__pycache__/y", "__pycache__ (compiled code)"),
        (".venv/x", ".venv (the Python environment)"),
        (".venv2/x", ""),
        ("artifacts", ""),
        ("artifacts/rootfs/x", "artifacts/rootfs (unpacked images)"),
        ("artifacts/store/x", "artifacts/store"),
        ("artifacts/oci/x", ""),
        ("artifacts/cache/x", "artifacts/cache"),
        ("artifacts/oci/.lock", "artifacts/oci/.lock"),
        ("data", ""),
        ("data/README.md", ""),
        ("data/demo/x", ""),
        ("data/TIMIT/x", "data/TIMIT"),
        ("data/\x1b", "data/\\x1b"),
        ("conf/site.toml", "conf/site.toml"),
        ("conf/other.toml", ""),
        (".ruff_cache/x", ".ruff_cache/x"),
        ("repro/x", ""),
        ("artifacts/received/x", ""),
        ("artifacts/wheels", ""),
        ("artifacts/bundle/x", ""),
    ],
)
def test_places_of_the_machine_are_told_from_what_a_list_speaks_for(path, place):
    assert folders._made_here(path) == place


def test_a_plain_file_below_a_folder_is_opened_and_nothing_else(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"12345")
    (tmp_path / "a" / "link").symlink_to("b")
    (tmp_path / "a" / "b" / "link").symlink_to("file")
    os.mkfifo(tmp_path / "a" / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    assert (
        folders.read_plain(tmp_path, "a/b/file", 5) == b"12345" and folders.read_plain(tmp_path, "a/b/file", 4) is None
    )
    for path in ("a/link/file", "a/b/link", "a/fifo", "a/b", "a/none", "none/a"):
        assert folders.open_plain(tmp_path, path) is None
        assert folders.read_plain(tmp_path, path, 9) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_more_than_a_thousand_extra_things_are_named_no_further(tmp_path, monkeypatch):
    site = installed(tmp_path)
    monkeypatch.setattr(folders, "_MOST_FAILURES", 3)
    for number in range(5):
        (site / f"x{number}").write_text("x")
    (site / "linked").symlink_to("x1")
    listing = folders.read_kept(site)
    compared = folders.compare_folder(site, listing)
    assert len(compared.extra) == 3 and compared.wrong == () == compared.not_covered
    assert all(line.endswith("that the list does not name") for line in compared.extra)
    assert folders.read_kept(tmp_path) is None


# --- Statements


def test_sigstore_bundles_and_keys_have_one_spelling():
    signed = envelope(cases.rebuild("a" * 64), KEY)
    ((signature,), document) = json.loads(signed)["signatures"], json.loads(signed)
    assert json.loads(statements.sigstore_bundle(signed)) == {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": KEY.fingerprint}, "tlogEntries": []},
        "dsseEnvelope": {**document, "signatures": [{"keyid": "", "sig": signature["sig"]}]},
    }
    assert statements.public_pem_of(public_key_of(KEY.public_pem)) == KEY.public_pem
    der = base64.b64decode("".join(KEY.public_pem.split("\n")[1:-2]))
    for other in (der + b"x", der[:-1], b"y" + der[1:], der[:11] + b"y" + der[12:], b""):
        pem = f"-----BEGIN PUBLIC KEY-----\n{base64.b64encode(other).decode()}\n-----END PUBLIC KEY-----\n"
        with pytest.raises(ValueError, match="not a PEM public key of Ed25519"):
            public_key_of(pem)


RESULTS = st.sampled_from(["PASSED", "WARNED", "FAILED"])


@given(st.sets(RESULTS), RESULTS)
def test_a_test_result_is_that_of_its_worst_test(outcomes, result):
    document = cases.rebuild("a" * 64)
    for word in ("PASSED", "WARNED", "FAILED"):
        document["predicate"][f"{word.lower()}Tests"] = ["rebuild"] if word in outcomes else []
    document["predicate"]["result"] = result
    statement = statements.Statement("n", "k", document, "s")
    worst = next((word for word in ("FAILED", "WARNED", "PASSED") if word in outcomes), "")
    assert statement.is_consistent() == (result == worst) and statement.result() == result
    assert statement.is_rebuild() == bool(outcomes) and statement.digests() == {"a" * 64: "image base (amd64)"}
    summary = {**document, "predicateType": statements.SUMMARY, "predicate": {"verificationResult": result}}
    assert statements.Statement("n", "k", summary, "s").is_consistent() == (result != "WARNED")


def image(letter: str):
    return {"image_id": f"sha256:{letter * 64}", "layers": [{"diff_id": f"sha256:{letter.upper().lower() * 63}0"}]}


def test_rebuilders_are_counted_by_image_and_whoever_contradicts_does_not_confirm():
    def said(who: str, digest: str, result: str, more: int = 0):
        document = cases.rebuild(digest, result)
        document["subject"] += document["subject"] * more
        return statements.Statement("n", who, document, "s")

    every = [
        said("k1", "a" * 64, "PASSED"),
        said("k2", "a" * 64, "PASSED"),
        said("k2", "a" * 63 + "0", "FAILED"),
        said("k3", "a" * 64, "WARNED"),
        said("k9", "a" * 64, "PASSED"),
        said("k4", "a" * 63 + "0", "PASSED"),
        said("k5", "a" * 64, "PASSED", more=1),
    ]
    (found,) = count_rebuilders([("amd64", "base", image("a"))], every, ["k5", "k4", "k3", "k2", "k1", "k1"])
    assert found == Rebuilt("image base (amd64)", ("k1",), ("k2",), ("k3", "k4", "k5"))


@pytest.mark.parametrize(
    ("found", "wanted", "place"),
    [
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 2}]}, ""),
        ({"a": [1, {"b": 2}]}, {"a": [1, {"b": 3}]}, "a[1].b"),
        ([1], [1, 2], "the whole"),
        ({"a": 1}, {"b": 1}, "a"),
        ({"a": 1}, {"a": True}, "a"),
        ({"a": None}, {}, ""),
        ([[0], 1], [[0], 1.0], "[1]"),
        (1, 2, "the whole"),
    ],
)
def test_the_first_difference_is_named_by_its_place(found, wanted, place):
    assert first_difference(found, wanted) == place


def test_a_lock_s_digest_is_of_what_it_locks_in_any_order():
    debs = {"architecture": "amd64", "debs": [{"path": "p/b.deb", "sha256": "2"}, {"path": "p/a.deb", "sha256": "1"}]}
    content = {"kind": "debs", "platform": "amd64", "files": [["a.deb", "1"], ["b.deb", "2"]]}
    digest = archives.hashlib.sha256(canonical(content)).hexdigest()
    assert (
        lock_digest("debs", debs) == lock_digest("debs", {**debs, "debs": debs["debs"][::-1], "suite": "x"}) == digest
    )
    wheels = {"architecture": "arm64", "python": "3.11", "wheels": [{"filename": "w", "sha256": "3"}]}
    content = {"kind": "wheels", "platform": "arm64 3.11", "files": [["w", "3"]]}
    assert lock_digest("wheels", wheels) == archives.hashlib.sha256(canonical(content)).hexdigest()

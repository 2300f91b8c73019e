"""Statements in and beside a bundle: each is signed and agrees with the bundle's files, or the bundle is refused."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from _record_cases import demo_record, record_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.locks.model import load_deb_lock, load_wheel_lock
from repro.packing import verify_bundle
from repro.packing.commands import verify_and_describe
from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import canonical
from repro.packing.installer.provenance import first_difference, image_statement, lock_digest, run_statement
from repro.packing.installer.rebuilders import count_rebuilders
from repro.packing.installer.statements import read_statements
from repro.packing.pack import _brought, _check_statements
from repro.packing.script import install_script
from repro.packing.statements import envelope, signed_files, statement_files
from repro.packing.verify import Rebuilders, verify_installed, write_files
from repro.record import record_bytes
from tests.forms import FULL
from tests.unit import _bundle_cases as cases
from tests.unit._forged_bundles import attested, audit, contradictions, packed

ROOT = Path(__file__).resolve().parents[2]
KEY = cases.signer().fingerprint
IMAGE = cases.images()["amd64"]["base"]


@pytest.fixture(autouse=True)
def _no_key_is_trusted_here(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def failures(path: Path, rebuilders: Rebuilders | None = None) -> str:
    return "\n".join(verify_bundle(path, [KEY], rebuilders or Rebuilders()).failures)


# --- what provenance says


def test_an_images_provenance_names_its_locks_and_the_commit():
    statement = image_statement("amd64", "base", IMAGE, "c" * 40)
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    assert statement["subject"][0]["digest"]["sha256"] == IMAGE["image_id"][7:]
    sources = {
        item["name"]: item["digest"] for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    }
    assert sources["repository"] == {"gitCommit": "c" * 40}
    assert sources["lock of debs:base"] == {"sha256": lock_digest("debs", cases.LOCK)}


def test_a_runs_provenance_names_what_it_took_and_gave():
    document = demo_record()
    document["images"] = {"base": "sha256:" + "1" * 64}
    document["data"]["fingerprint"], document["checkpoint"]["sha256"] = "2" * 64, "3" * 64
    document["stages"] = document["stages"][1:2]
    document["stages"][0]["code"], document["stages"][0]["outputs"]["digest"] = "5" * 64, "6" * 64
    data = record_bytes(record_of(document))
    statement = run_statement(json.loads(data), hashlib.sha256(data).hexdigest())
    subjects = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
    assert subjects == {"record.json": hashlib.sha256(data).hexdigest(), "output of score@8": "6" * 64}
    taken = {item["digest"]["sha256"] for item in statement["predicate"]["buildDefinition"]["resolvedDependencies"]}
    assert taken == {"1" * 64, "2" * 64, "3" * 64, "5" * 64}


@pytest.mark.parametrize("path", sorted((ROOT / "conf" / "locks").glob("[dw]*/*.json")), ids=lambda path: path.stem)
def test_the_digest_of_a_lock_is_the_same_with_the_standard_library_alone(path: Path):
    name, architecture = path.stem.split(".")
    load = load_deb_lock if path.parent.name == "debs" else load_wheel_lock
    assert lock_digest(path.parent.name, json.loads(path.read_bytes())) == load(ROOT, name, architecture).digest


# --- what a bundle carries


def test_what_a_sound_bundle_says_of_itself_is_read_and_agrees(tmp_path: Path):
    report = verify_bundle(cases.pack(tmp_path), [KEY])
    assert report.verified
    assert [(s.name, s.signer) for s in report.statements] == [("image-base.amd64", KEY), ("run-20260101T000000Z", KEY)]
    said = verify_and_describe(str(tmp_path / "small.tar"), KEY, Rebuilders(), first_use=False)
    assert "statements: 2, each signed, none contradicts the bundle" in said


def test_an_installed_folder_is_held_to_its_statements_too(tmp_path: Path):
    write_files(cases.pack(tmp_path), tmp_path / "site")
    assert len(verify_installed(tmp_path / "site", [KEY]).statements) == 2
    other = json.loads(canonical(cases.record()))
    other["data"]["fingerprint"] = "7" * 64
    write_files(packed(tmp_path, tree__artifacts__received__20260101T000000Z__record__json=None,
                       **{"tree/artifacts/received/20260101T000000Z/record.json": canonical(other)}),
                tmp_path / "other")  # fmt: skip
    (said,) = verify_installed(tmp_path / "other", [KEY]).failures
    assert "run-20260101T000000Z: it speaks of a record" in said


@pytest.mark.parametrize("case", sorted(contradictions()))
def test_what_contradicts_the_bundle_is_named_and_refused(tmp_path: Path, case: str):
    replaced, said = contradictions()[case]
    path = packed(tmp_path, **replaced)
    assert said in failures(path)
    (tmp_path / "install.py").write_bytes(install_script())
    done = subprocess.run(
        [sys.executable, "-I", "install.py", path.name, "--key", KEY, "--verify-only"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3 and said in done.stderr, done.stderr


def test_an_audit_of_this_bundles_run_is_believed(tmp_path: Path):
    sha256 = hashlib.sha256(canonical(cases.record())).hexdigest()
    assert failures(packed(tmp_path, **attested("audit", audit(sha256)))) == ""


def test_what_was_said_of_an_output_of_this_bundles_run_is_believed(tmp_path: Path):
    (stage,) = cases.record()["stages"]
    said = attested("explain", audit(stage["outputs"]["digest"]))
    assert failures(packed(tmp_path, **said)) == ""
    no_record = {"tree/artifacts/received/20260101T000000Z/record.json": b"[]"}
    assert "it speaks of record.json sha256 2e2e" in failures(packed(tmp_path, **said, **no_record))


def test_what_is_too_large_to_be_read_is_refused_and_never_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = cases.pack(tmp_path)
    with contextlib.closing(Archive(path)) as archive:
        sizes = {entry.path: entry.size_bytes for entry in archive.listing.entries}
    lock = "tree/conf/locks/debs/base.amd64.json"
    carried = sum(size for name, size in sizes.items() if name.startswith("attestations/"))
    for most, said in (
        (carried - 1, "attestations/run-20260101T000000Z.sigstore.json: it cannot be read, or is too large"),
        (sizes["images.json"] - 1, "images.json is not a list of images"),
        (sizes[lock] - 1, "attestations/image-base.amd64.dsse.json"),
    ):
        monkeypatch.setattr("repro.packing.installer.statements._MOST_STATEMENT_BYTES", most)
        assert said in failures(path)


def test_the_first_difference_is_that_of_two_values_or_of_two_types():
    assert first_difference({"a": [1, 2]}, {"a": [1, 3]}) == "a[1]"
    assert first_difference({"a": 1}, {"a": True}) == "a"
    assert first_difference({"a": 1}, {"b": 1}) == "a"
    assert first_difference([1], [1, 2]) == "the whole"
    assert first_difference({"a": [1.5]}, {"a": [1.5]}) == ""


# --- what lies beside it


def test_the_list_signed_once_more_is_trusted_by_that_key_and_the_first_signer_stays(tmp_path: Path):
    from repro.packing.resign import resign

    path = cases.pack(tmp_path)
    before = path.read_bytes()
    resign(path, cases.signer(2))
    assert path.read_bytes() == before
    report = verify_bundle(path, [cases.signer(2).fingerprint])
    officer = cases.signer(2).fingerprint
    assert report.verified and (report.signer, report.relied_on, report.also) == (KEY, officer, (KEY,))
    said = verify_and_describe(str(path), officer, Rebuilders(), first_use=False)
    assert f"signed by a trusted key: {officer}\nthe list is also signed by {KEY}\n" in said
    (tmp_path / "install.py").write_bytes(install_script())
    words = [sys.executable, "-I", "install.py", path.name, "--key", officer, "--verify-only"]
    told = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"signed by the trusted key {officer}\n") and f"the list is also signed by {KEY}\n" in told
    with pytest.raises(VerificationFailed, match="not by the key named"):
        verify_bundle(path, [cases.signer(3).fingerprint])


def test_a_list_signed_once_more_says_nothing_of_another_bundle(tmp_path: Path):
    from repro.packing.resign import resign

    (tmp_path / "other").mkdir()
    other = cases.pack(tmp_path / "other", name="other")
    folder = resign(other, cases.signer(2))
    path = cases.pack(tmp_path)
    folder.rename(path.with_name("small.tar.attestations"))
    with pytest.raises(VerificationFailed, match="not by the key named"):
        verify_bundle(path, [cases.signer(2).fingerprint])
    assert "it is of a kind that nothing here reads" in failures(path)


CHANGES = 1000 if FULL else 120


def test_every_changed_byte_beside_a_bundle_is_refused_and_its_file_named(tmp_path: Path):
    from repro.packing.resign import resign

    path = cases.pack(tmp_path)
    sha256 = hashlib.sha256(canonical(cases.record())).hexdigest()
    folder = cases.put_beside(
        path, {"audit": audit(sha256), "rebuild": cases.rebuild(IMAGE["image_id"])}, cases.signer(3)
    )
    resign(path, cases.signer(2))
    assert failures(path) == ""
    every = sorted(place for place in folder.rglob("*") if place.is_file())
    assert len(every) == 8
    chance = random.Random(16)
    for number in range(CHANGES):
        place = every[number % len(every)]
        sound = place.read_bytes()
        damaged = bytearray(sound)
        damaged[chance.randrange(len(damaged))] ^= chance.randrange(1, 256)
        place.write_bytes(damaged)
        assert place.name.rpartition("/")[2].partition(".")[0] in failures(path), (place, number)
        place.write_bytes(sound)


# --- carried in it


def carrying(tmp_path: Path, statements: dict[str, dict[str, Any]]) -> Path:
    """A bundle that was packed with `--attestations`, which holds what other keys signed."""
    (tmp_path / "theirs").mkdir()
    folder = cases.put_beside(tmp_path / "theirs" / "x.tar", statements, cases.signer(11))
    return cases.pack(tmp_path, [*cases.files(), *_brought(folder)])


def test_a_bundle_carries_what_rebuilders_and_auditors_signed_with_their_keys(tmp_path: Path):
    sha256 = hashlib.sha256(canonical(cases.record())).hexdigest()
    path = carrying(tmp_path, {"rebuild": cases.rebuild(IMAGE["image_id"]), "audit": audit(sha256)})
    _check_statements([path])
    report = verify_bundle(path, [KEY], Rebuilders(keys_file(tmp_path, 11)))
    assert report.verified and len(report.statements) == 4
    assert report.rebuilt[0].confirmed == (cases.signer(11).fingerprint,)
    assert [item.path for item in _brought(None)] == []


def test_a_bundle_that_whoever_receives_it_would_refuse_is_not_packed(tmp_path: Path):
    path = carrying(tmp_path, {"audit": audit("8" * 64)})
    with pytest.raises(VerificationFailed, match="nothing was packed") as caught:
        _check_statements([path])
    assert "speaks of record.json" in caught.value.detail and not path.exists()


# --- rebuilders

SEEDS = (11, 12, 13)
TRUSTED = {cases.signer(seed).fingerprint for seed in SEEDS}


def keys_file(folder: Path, *seeds: int) -> str:
    path = folder / "rebuilders.pem"
    path.write_text("".join(cases.signer(seed).public_pem for seed in seeds))
    return str(path)


def three(tmp_path: Path, *results: str) -> Path:
    path = cases.pack(tmp_path)
    for seed, result in zip(SEEDS, results):
        if result:
            cases.put_beside(path, {f"rebuild-{seed}": cases.rebuild(IMAGE["image_id"], result)}, cases.signer(seed))
    return path


@pytest.mark.parametrize(
    ("results", "threshold", "code", "liar"),
    [
        (("PASSED", "PASSED", "FAILED"), 2, 0, True),
        (("PASSED", "PASSED", "FAILED"), 3, 3, True),
        (("PASSED", "PASSED", "WARNED"), 3, 4, False),
        (("PASSED", "PASSED", ""), 3, 4, False),
        (("PASSED", "PASSED", "PASSED"), 3, 0, False),
        (("PASSED", "PASSED", "PASSED"), 4, 2, False),
        (("PASSED", "PASSED", "PASSED"), 0, 2, False),
    ],
)
def test_so_many_of_the_trusted_rebuilders_must_confirm(tmp_path: Path, results, threshold, code, liar):
    path, keys = three(tmp_path, *results), keys_file(tmp_path, *SEEDS)
    (tmp_path / "install.py").write_bytes(install_script())
    done = subprocess.run(
        [sys.executable, "-I", "install.py", path.name, "--key", KEY, "--verify-only", "--rebuilders", keys,
         "--threshold", str(threshold)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    asked = Rebuilders(keys, threshold)
    if code:
        with pytest.raises({2: UsageError, 3: VerificationFailed, 4: CouldNotVerify}[code]) as caught:
            verify_and_describe(str(path), KEY, asked, first_use=False)
        said = caught.value.diagnostics()
    else:
        said = verify_and_describe(str(path), KEY, asked, first_use=False)
    assert (f"contradicted by {cases.signer(13).fingerprint}" in said) == liar
    assert (f"contradicted by {cases.signer(13).fingerprint}" in done.stdout) == liar


def test_a_threshold_without_rebuilders_is_wrong_use(tmp_path: Path):
    path = cases.pack(tmp_path)
    with pytest.raises(UsageError, match="none are named"):
        verify_and_describe(str(path), KEY, Rebuilders("", 2), first_use=False)
    with pytest.raises(UsageError, match="no public key"):
        (tmp_path / "empty.pem").write_text("")
        verify_and_describe(str(path), KEY, Rebuilders(str(tmp_path / "empty.pem")), first_use=False)


def test_whoever_contradicts_a_layer_of_an_image_does_not_confirm_the_image(tmp_path: Path):
    path = three(tmp_path, "PASSED")
    layer = cases.rebuild(IMAGE["layers"][0]["diff_id"], "FAILED", "layer debs:base (amd64)")
    cases.put_beside(path, {"layer": layer}, cases.signer(SEEDS[0]))
    (found,) = verify_bundle(path, [KEY], Rebuilders(keys_file(tmp_path, *SEEDS))).rebuilt
    assert found.contradicted == (cases.signer(SEEDS[0]).fingerprint,) and not found.confirmed


HEX = st.integers(0, 2**256 - 1).map(lambda number: f"{number:064x}")
STATEMENTS = st.one_of(
    st.tuples(st.just("stranger"), st.just(IMAGE["image_id"]), st.sampled_from(["PASSED", "FAILED"])),
    st.tuples(st.just("unsigned"), st.just(IMAGE["image_id"]), st.sampled_from(["PASSED", "FAILED"])),
    st.tuples(st.just("forged"), st.just(IMAGE["image_id"]), st.sampled_from(["PASSED", "FAILED"])),
    st.tuples(st.just("another image"), HEX, st.sampled_from(["PASSED", "FAILED"])),
    st.tuples(st.just("again"), st.just(IMAGE["image_id"]), st.just("PASSED")),
)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STATEMENTS, min_size=10, max_size=10))
def test_a_thousand_attestations_of_no_worth_count_for_nothing(drawn):
    """One true confirmation, by the first key; all others are forged, replayed, of another image, or by nobody."""
    true = signed_files([("true", cases.rebuild(IMAGE["image_id"]))], cases.signer(11))
    files = dict(true)
    for number, (what, digest, result) in enumerate(drawn):
        name, said = f"odd-{number}", cases.rebuild(digest, result)
        if what == "stranger":
            files.update(signed_files([(name, said)], cases.signer(99)))
        elif what == "unsigned":
            files.update(statement_files(name, envelope(said, None)))
        elif what == "forged":  # signed by a stranger in the name of a trusted key
            stranger = cases.signer(98)
            forged = envelope(said, stranger).replace(
                stranger.fingerprint.encode(), cases.signer(12).fingerprint.encode()
            )
            files.update(statement_files(name, forged))
        elif what == "another image":
            files.update(signed_files([(name, said)], cases.signer(12)))
        else:
            files.update(statement_files(name, true["true.dsse.json"]))
    trusted = {cases.signer(seed).fingerprint: raw_key(seed) for seed in SEEDS}
    statements, _ = read_statements(files, files.get, trusted)
    (found,) = count_rebuilders([("amd64", "base", IMAGE)], statements, [*trusted, *trusted])
    assert found.confirmed == (cases.signer(11).fingerprint,)
    assert found.contradicted == ()
    assert set(found.silent) == {cases.signer(12).fingerprint, cases.signer(13).fingerprint}


def raw_key(seed: int) -> bytes:
    return cases.signer(seed).key.public_key().public_bytes_raw()


def test_attestations_of_no_worth_count_for_nothing_in_install_py_either(tmp_path: Path):
    """Three hundred, signed as they should be, so that the bundle stands: by strangers, again, or of another image."""
    path = three(tmp_path, "PASSED", "PASSED")
    folder = path.with_name("small.tar.attestations")
    again = {name: (folder / f"rebuild-11.{name}").read_bytes() for name in ("dsse.json", "sigstore.json")}
    chance = random.Random(16)
    said = {f"other-{n}": cases.rebuild(f"{chance.getrandbits(256):064x}") for n in range(100)}
    cases.put_beside(path, said, cases.signer(13))
    cases.put_beside(
        path, {f"stranger-{n}": cases.rebuild(IMAGE["image_id"], "FAILED") for n in range(200)}, cases.signer(99)
    )
    for number in range(100):
        for ending, data in again.items():
            (folder / f"again-{number}.{ending}").write_bytes(data)
    (tmp_path / "install.py").write_bytes(install_script())
    keys = keys_file(tmp_path, 11, 11, 12, 13, 12)
    words = [sys.executable, "-I", "install.py", path.name, "--key", KEY, "--verify-only", "--rebuilders", keys]
    for threshold, code in (("2", 0), ("3", 4)):
        done = subprocess.run(
            [*words, "--threshold", threshold], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert f"nothing said by {cases.signer(13).fingerprint}" in done.stdout

"""A bundle audited: its signature and bytes are claims of their own, and its runs are held to what it carries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from _audit_cases import make_run, stored
from _bundle_cases import Silent, files, pack, signer

from repro.audit.bundles import Given, verify_a_bundle
from repro.audit.claims import PROVEN, REFUTED, UNVERIFIED
from repro.base.errors import CouldNotVerify, UsageError, VerificationFailed
from repro.packing.signing import Signer
from repro.packing.verify import verify_bundle, write_files
from repro.packing.writer import Item, hashed

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_key_is_trusted_here(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / "config"))


def carried(folder: Path) -> list[Item]:
    """The run of the audit's tests as `bundle.pack` carries one, with the checkout that it needs."""
    evidence = make_run(folder)
    place = "tree/artifacts/received/20260101T000000Z"
    items = [Item.of_file(f"{place}/{path.name}", path) for path in sorted(evidence.run.iterdir())]
    for stage in evidence.record.stages:
        result = stored(folder, stage.key)
        name = stage.key.replace(":", "-")
        items += [
            Item.of_file(f"{place}/results/{name}/{path.relative_to(result).as_posix()}", path)
            for path in sorted(result.rglob("*"))
            if path.is_file()
        ]
    for path in sorted(evidence.blobs.iterdir()):
        items.append(Item.of_file(f"tree/artifacts/oci/blobs/sha256/{path.name}", path))
    for top in ("conf", "docker", "stages"):
        for path in sorted((ROOT / top).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                items.append(Item.of_file(f"tree/{path.relative_to(ROOT).as_posix()}", path))
    held = {item.path for item in items}
    others = [item for item in files() if "received" not in item.path and "attestations/" not in item.path]
    return items + [item for item in others if item.path not in held and item.path != "images.json"]


def audited(bundle: Path, tmp_path: Path, *keys: str):
    return verify_a_bundle(bundle, tmp_path / "scratch", Given(keys=keys))


def statuses(outcome) -> dict[str, str]:
    return {claim.key: claim.status for claim in outcome.claims}


def test_a_run_in_a_signed_bundle_is_proven_from_the_bundle_alone(tmp_path: Path):
    key: Signer = signer()
    bundle = pack(tmp_path, carried(tmp_path / "run"), key)
    outcome = audited(bundle, tmp_path, key.fingerprint)
    found = statuses(outcome)
    assert found["bundle-bytes"] == found["bundle-signature"] == PROVEN
    assert found["20260101T000000Z: symbols@4"] == found["20260101T000000Z: score@4"] == PROVEN
    assert found["20260101T000000Z: code"] == PROVEN
    assert outcome.of_status(REFUTED) == []
    assert not list((tmp_path / "scratch").iterdir())


def test_a_key_that_is_not_trusted_here_could_not_be_verified(tmp_path: Path):
    bundle = pack(tmp_path)
    outcome = audited(bundle, tmp_path)
    assert statuses(outcome)["bundle-bytes"] == PROVEN
    assert statuses(outcome)["bundle-signature"] == UNVERIFIED


def test_a_byte_changed_behind_the_list_is_refuted_and_the_runs_are_not_looked_at(tmp_path: Path):
    bundle = pack(tmp_path)
    data = bytearray(bundle.read_bytes())
    data[-3000] ^= 1
    bundle.write_bytes(bytes(data))
    outcome = audited(bundle, tmp_path, signer().fingerprint)
    assert statuses(outcome)["bundle-bytes"] == REFUTED
    assert "runs" not in statuses(outcome)
    assert isinstance(outcome.error(), VerificationFailed)


def test_a_bundle_without_a_run_says_so(tmp_path: Path):
    bundle = pack(tmp_path, [item for item in files() if "received" not in item.path and "/run-" not in item.path])
    outcome = audited(bundle, tmp_path, signer().fingerprint)
    assert statuses(outcome)["runs"] == UNVERIFIED
    assert isinstance(outcome.error(), CouldNotVerify)


def test_a_difference_is_audited_with_the_bundle_that_it_was_made_since(tmp_path: Path):
    items = carried(tmp_path / "run")
    (tmp_path / "earlier").mkdir()
    earlier = pack(tmp_path / "earlier", items)
    marked = [replace(item, in_base=item.path.startswith("tree/")) for item in hashed(items, Silent())]
    key = signer().fingerprint
    difference = pack(tmp_path, marked, base=verify_bundle(earlier, [key]).list_sha256)
    outcome = audited(difference, tmp_path, key)
    (claim,) = outcome.of_status(UNVERIFIED)
    assert "give the one whose list has sha256" in claim.findings[0]
    assert "--base" in claim.findings[0]
    given = Given(keys=[key], earlier=[earlier])
    outcome = verify_a_bundle(difference, tmp_path / "scratch", given)
    assert outcome.of_status(REFUTED) == []
    assert statuses(outcome)["20260101T000000Z: score@4"] == PROVEN
    data = earlier.read_bytes()
    earlier.write_bytes(data.replace(b'"lstm-ctc-bundle/record"', b'"lstm-ctc-bundle/recorD"'))
    outcome = verify_a_bundle(difference, tmp_path / "scratch", given)
    assert statuses(outcome)["bundle-files"] == REFUTED
    assert isinstance(outcome.error(), VerificationFailed)


def test_what_is_no_fingerprint_is_wrong_use(tmp_path: Path):
    with pytest.raises(UsageError, match="fingerprint"):
        audited(pack(tmp_path), tmp_path, "abc")


def installed(tmp_path: Path) -> Path:
    """The bundle of the audit's tests, its files written into a folder."""
    bundle = pack(tmp_path, carried(tmp_path / "run"))
    write_files(bundle, tmp_path / "installed")
    return tmp_path / "installed"


@pytest.mark.parametrize(
    "forged",
    ["requests.py", "conf/planted.toml", "stages/planted.py", "artifacts/received/forged/record.json",
     "artifacts/received/20260101T000000Z/results/corpus/out/extra"],
)  # fmt: skip
def test_what_the_list_of_an_installed_folder_does_not_name_is_refuted_by_name(tmp_path: Path, forged):
    root = installed(tmp_path)
    assert audited(root, tmp_path, signer().fingerprint).of_status(REFUTED) == []
    path = root / forged
    path.parent.mkdir(parents=True, exist_ok=True)
    record = root / "artifacts" / "received" / "20260101T000000Z" / "record.json"
    path.write_bytes(record.read_bytes() if path.name == "record.json" else b"x")
    outcome = audited(root, tmp_path, signer().fingerprint)
    named = forged.rpartition("/record.json")[0] or forged  # a folder that is not listed is named as a whole
    assert named in " ".join(outcome.of_status(REFUTED)[0].findings)


def test_what_runs_and_is_not_in_the_list_is_said_to_be_not_covered(tmp_path: Path):
    root = installed(tmp_path)
    for path in (".venv/lib/sitecustomize.py", "artifacts/rootfs/x"):
        (root / path).parent.mkdir(parents=True)
        (root / path).write_bytes(b"x")
    (claim,) = [claim for claim in audited(root, tmp_path, signer().fingerprint).claims if claim.key == "bundle-bytes"]
    said = " ".join([*claim.findings, *claim.evidence])
    assert ".venv" in said
    assert "artifacts/rootfs" in said

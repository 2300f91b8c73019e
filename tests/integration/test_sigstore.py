"""Sigstore's own verifier, from npm, accepts every statement of a bundle and of an audit, without a network."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from repro.audit import commands
from repro.audit.claims import Outcome, Rebuild
from repro.audit.page import write_page
from repro.base.paths import Paths
from repro.packing.installer.archive import Archive
from repro.packing.installer.statements import sigstore_bundle
from repro.packing.resign import resign
from tests.unit import _bundle_cases as cases

TOOL = Path(__file__).resolve().parents[1] / "sigstore"


@pytest.fixture(scope="module")
def tool(tmp_path_factory) -> Path:
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("no npm on this machine")
    folder = tmp_path_factory.mktemp("sigstore") / "tool"
    shutil.copytree(TOOL, folder, ignore=shutil.ignore_patterns("node_modules"))
    words = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode and "integrity" not in done.stderr.lower():
        pytest.skip(f"the verifier cannot be installed here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def statements(tmp_path_factory) -> Path:
    """All that this project signs: a bundle's list and statements, a second signature, an audit, a rebuild, and why two
    results differ."""
    folder = tmp_path_factory.mktemp("statements")
    key, path = cases.signer(), cases.pack(folder)
    archive = Archive(path)
    archive.close()
    place = resign(path, cases.signer(2))
    (place / "list.sigstore.json").write_bytes(sigstore_bundle(archive.envelope))
    for name, data in cases.attestations(key).items():
        (place / name).write_bytes(data)
    (place / "keys" / f"{key.fingerprint}.pem").write_text(key.public_pem)
    outcome = Outcome("verify", "a run", subjects={"record.json": "1" * 64})
    with outcome.examine("score@8", "a rate"):
        pass
    outcome.rebuilt.append(Rebuild("image base (amd64)", "1" * 64, "2" * 64, {}))
    write_page(outcome, folder)
    for side in "AB":
        (folder / side).mkdir()
        (folder / side / "result").write_text(side)
    asked = commands.Page(str(folder), cases.signer(3))  # signs the audit that lies there too
    commands.explain(Paths(TOOL), str(folder / "A"), str(folder / "B"), asked, lambda _: None)
    shutil.copytree(folder / "attestations", place, dirs_exist_ok=True)
    return place


def verified(tool: Path, folder: Path) -> dict[str, str]:
    files = sorted(map(str, folder.glob("*.sigstore.json")))
    alone = ["unshare", "-n"] if not subprocess.run(["unshare", "-n", "true"], check=False).returncode else []
    words = [*alone, "node", str(tool / "verify.js"), str(folder / "keys"), *files]
    done = subprocess.run(words, cwd=tool, capture_output=True, text=True, check=False)
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    assert len(lines) == len(files), done.stderr
    assert done.returncode == sum(word == "refused" for word, _ in lines)
    return {name.partition(":")[0]: word for word, name in lines}


def test_the_verifier_accepts_everything_that_is_signed(tool: Path, statements: Path):
    found = verified(tool, statements)
    assert set(found.values()) == {"accepted"} and len(found) == 9
    kinds = {name.partition(".")[0].partition("-")[0] for name in found}
    assert kinds == {"list", "image", "run", "verify", "rebuild", "explain"}


def test_cosign_accepts_everything_that_is_signed_and_refuses_it_of_another_file(statements: Path, tmp_path: Path):
    """Debian 14's package; 2.5.0 asks a server for its root of trust, even where it is given the key."""
    cosign = shutil.which("cosign")
    if cosign is None:
        pytest.skip("no cosign on this machine")
    alone = ["unshare", "-n"] if not subprocess.run(["unshare", "-n", "true"], check=False).returncode else []
    found = 0
    for path in sorted(statements.glob("*.sigstore.json")):
        document = json.loads(path.read_bytes())
        key = statements / "keys" / f"{document['verificationMaterial']['publicKey']['hint']}.pem"
        payload = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))
        digest = payload["subject"][0]["digest"]["sha256"]
        words = [*alone, cosign, "verify-blob-attestation", "--key", str(key), "--insecure-ignore-tlog", "--bundle",
                 str(path), "--type", payload["predicateType"], "--digestAlg", "sha256", "--digest"]  # fmt: skip
        home = {"HOME": str(tmp_path), "PATH": "/usr/bin"}
        for told, accepted in ((digest, True), ("f" * 64, False)):
            done = subprocess.run([*words, told], env=home, capture_output=True, text=True, check=False)
            assert (done.returncode == 0) is accepted, f"{path.name}: {done.stderr}"
        found += 1
    assert found == 9


def test_the_verifier_would_have_refused_a_changed_one(tool: Path, statements: Path, tmp_path: Path):
    shutil.copytree(statements, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("*.sigstore.json"):
        document = json.loads(path.read_bytes())
        payload = document["dsseEnvelope"]["payload"]
        document["dsseEnvelope"]["payload"] = payload[:40] + ("A" if payload[40] != "A" else "B") + payload[41:]
        path.write_text(json.dumps(document))
    assert set(verified(tool, tmp_path).values()) == {"refused"}

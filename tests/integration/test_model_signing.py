"""The OpenSSF's own tool verifies our signatures of models and refuses a changed byte; we verify its signatures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from _runs import ROOT

from repro.base.errors import VerificationFailed
from repro.packing import commands
from repro.run.model_signature import public_keys, verify_model

pytestmark = pytest.mark.slow
TOOL = """
import sys
from pathlib import Path
from model_signing import signing, verifying
model, signature, key = map(Path, sys.argv[2:])
if sys.argv[1] == "sign":
    signing.Config().use_elliptic_key_signer(private_key=key).sign(model, signature)
else:
    verifying.Config().use_elliptic_key_verifier(public_key=key).verify(model, signature)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An environment with the tool; it is not among our own requirements, as it brings thirty packages."""
    if sys.version_info < (3, 10):
        pytest.skip("the tool needs Python 3.10")
    folder = tmp_path_factory.mktemp("model-signing")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    words = [str(python), "-m", "pip", "install", "-q", "--no-compile", "--require-hashes", "-r"]
    done = subprocess.run(
        [*words, "requirements/model-signing.txt"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode and "hash" not in done.stderr.lower():
        pytest.skip(f"the tool cannot be installed here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return python


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A model as a file and as a folder, and a pair of keys."""
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "net.onnx").write_bytes(bytes(range(256)) * 50)
    (tmp_path / "model" / "deep" / "net.om").write_bytes(b"converted" * 500)
    curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]
    subprocess.run(["openssl", "genpkey", *curve, "-out", "key.pem"], cwd=tmp_path, check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"], cwd=tmp_path, check=True)
    (tmp_path / "key.pem").chmod(0o600)
    return tmp_path


def tool(python: Path, *words: object) -> subprocess.CompletedProcess[str]:
    """The tool, without a network where that can be arranged."""
    alone = ["unshare", "-n"] if not subprocess.run(["unshare", "-n", "true"], check=False).returncode else []
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run([*alone, str(python), "-c", TOOL, *map(str, words)], env=environment, capture_output=True,
                          text=True, check=False)  # fmt: skip


@pytest.mark.parametrize("model", ["model", "model/net.onnx"])
def test_each_verifies_what_the_other_signed_and_refuses_a_changed_byte(python: Path, place: Path, model: str):
    ours, theirs, public = place / "ours.sig", place / "theirs.sig", place / "public.pem"
    commands.sign_a_model(str(place / model), str(place / "key.pem"), str(ours))
    done = tool(python, "verify", place / model, ours, public)
    assert done.returncode == 0, done.stderr
    done = tool(python, "sign", place / model, theirs, place / "key.pem")
    assert done.returncode == 0, done.stderr
    assert verify_model(place / model, theirs, public_keys(public)).files
    assert verify_model(place / model, ours, public_keys(public)).files
    changed = place / "model" / "net.onnx"
    data = bytearray(changed.read_bytes())
    data[1000] ^= 1
    changed.write_bytes(data)
    assert "Signature mismatch" in tool(python, "verify", place / model, ours, public).stderr
    with pytest.raises(VerificationFailed):
        verify_model(place / model, theirs, public_keys(public))

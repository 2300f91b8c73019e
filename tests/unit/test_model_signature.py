"""Signatures of models: the same twice, refused where a byte changed, and a foreign one's signer in the record."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from repro.base.errors import CouldNotRun, CouldNotVerify, NotPlain, UsageError, VerificationFailed
from repro.base.paths import Paths
from repro.graph.cache import StatCache
from repro.packing import commands
from repro.packing.installer.listing import pae
from repro.packing.signing import load_model_key
from repro.run.inputs import find_checkpoint
from repro.run.model_signature import (
    _pae,
    hint_of,
    public_keys,
    read_signature,
    sign_model,
    signer_of_checkpoint,
    verify_model,
)


def private(seed: int = 1) -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(seed, ec.SECP256R1())


def pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


@pytest.fixture
def signed(tmp_path: Path) -> Path:
    """A model of several files, and its signature beside it."""
    model = tmp_path / "model"
    (model / "deep").mkdir(parents=True)
    (model / "net.onnx").write_bytes(b"network" * 100)
    (model / "deep" / "weights.pth").write_bytes(b"weights" * 100)
    (model / ".gitignore").write_text("ignored\n")
    (tmp_path / "model.sig").write_bytes(sign_model(model, private()))
    (tmp_path / "keys.pem").write_bytes(pem(private()) + pem(private(2)))
    return model


def test_the_same_model_signed_twice_by_one_key_is_the_same_bytes(signed: Path):
    again = sign_model(signed, private())
    assert again == (signed.parent / "model.sig").read_bytes() != sign_model(signed, private(2))
    said = verify_model(signed, signed.parent / "model.sig", public_keys(signed.parent / "keys.pem"))
    assert list(said.files) == ["deep/weights.pth", "net.onnx"] and said.signer == hint_of(private().public_key())


def test_what_is_signed_is_what_dsse_says():
    assert _pae(b"payload") == pae("application/vnd.in-toto+json", b"payload")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda model: (model / "net.onnx").write_bytes(b"other"), "net.onnx: changed"),
        (lambda model: (model / "net.onnx").unlink(), "net.onnx: missing"),
        (lambda model: (model / "more.bin").write_bytes(b""), "more.bin: not signed"),
    ],
)
def test_a_file_that_changed_went_or_came_is_named(signed: Path, change, said: str):
    change(signed)
    with pytest.raises(VerificationFailed) as caught:
        verify_model(signed, signed.parent / "model.sig", public_keys(signed.parent / "keys.pem"))
    assert said in caught.value.detail


def test_a_link_in_a_model_is_not_signed(signed: Path):
    (signed / "link").symlink_to("net.onnx")
    with pytest.raises(NotPlain):
        sign_model(signed, private())


def test_every_changed_byte_of_a_signature_is_refused(signed: Path):
    place, keys = signed.parent / "model.sig", public_keys(signed.parent / "keys.pem")
    sound = place.read_bytes()
    chance = random.Random(16)
    for _ in range(300):
        damaged = bytearray(sound)
        damaged[chance.randrange(len(sound))] ^= chance.randrange(1, 128)
        place.write_bytes(damaged)
        try:
            said = verify_model(signed, place, keys)
        except (VerificationFailed, CouldNotVerify):
            continue
        # What the specification leaves unsigned: the key's name in the envelope, and members that nobody reads.
        document = json.loads(place.read_bytes())
        assert document["dsseEnvelope"]["payload"] == json.loads(sound)["dsseEnvelope"]["payload"]
        assert said.signer == hint_of(private().public_key())


def test_a_signature_by_another_key_or_of_another_kind_could_not_be_verified(signed: Path, tmp_path: Path):
    (tmp_path / "other.pem").write_bytes(pem(private(3)))
    with pytest.raises(CouldNotVerify, match="not known here"):
        read_signature(tmp_path / "model.sig", public_keys(tmp_path / "other.pem"))
    (tmp_path / "model.sig").write_text('{"verificationMaterial": {"certificate": {"rawBytes": ""}}}')
    with pytest.raises(CouldNotVerify, match="by a certificate"):
        read_signature(tmp_path / "model.sig", public_keys(tmp_path / "other.pem"))


def test_keys_of_another_kind_are_wrong_use(tmp_path: Path):
    words = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(tmp_path / "ed.pem")]
    subprocess.run(words, check=True, capture_output=True)
    (tmp_path / "ed.pem").chmod(0o600)
    with pytest.raises(UsageError, match=r"not a key of P-256"):
        load_model_key(tmp_path / "ed.pem", {})
    with pytest.raises(CouldNotRun, match="no signing key") as caught:
        load_model_key(tmp_path / "none.pem", {})
    assert "P-256" in caught.value.hint
    (tmp_path / "none.pem").write_bytes(b"")
    with pytest.raises(UsageError, match="holds no public key"):
        public_keys(tmp_path / "none.pem")


def test_the_commands_sign_and_verify_a_file_and_a_folder(signed: Path, tmp_path: Path):
    key = tmp_path / "key.pem"
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(private().private_bytes(*form))
    key.chmod(0o600)
    for model, name in ((signed, signed / "model.sig"), (signed / "net.onnx", signed / "net.onnx.sig")):
        assert str(name) in commands.sign_a_model(str(model), str(key), "")
        name.rename(tmp_path / "kept")
        first = (tmp_path / "kept").read_bytes()
        commands.sign_a_model(str(model), str(key), "")
        assert name.read_bytes() == first
        assert "verified" in commands.verify_a_model(str(model), str(tmp_path / "keys.pem"), "")
    with pytest.raises(CouldNotVerify, match="there is no signature"):
        commands.verify_a_model(str(signed / "deep"), str(tmp_path / "keys.pem"), "")


# --- beside a user's checkpoint


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ctc_best_model.pth").write_bytes(b"weights")
    return tmp_path


def trust(checkout: Path) -> str:
    return find_checkpoint(Paths(checkout), "", StatCache(None)).trust


def test_the_signer_of_a_foreign_signature_stands_in_the_record(checkout: Path):
    model, signature = checkout / "data" / "ctc_best_model.pth", checkout / "data" / "ctc_best_model.pth.sig"
    assert "signed" not in trust(checkout)
    signature.write_bytes(sign_model(model, private()))
    assert "was not verified" in trust(checkout) and hint_of(private().public_key()) in trust(checkout)
    (checkout / "data" / "model-signers.pem").write_bytes(pem(private()))
    assert f"; signed by the P-256 key {hint_of(private().public_key())}" in trust(checkout)


def test_a_checkpoint_that_is_not_the_signed_one_is_refused(checkout: Path):
    model, signature = checkout / "data" / "ctc_best_model.pth", checkout / "data" / "ctc_best_model.pth.sig"
    (checkout / "data" / "model-signers.pem").write_bytes(pem(private()))
    signature.write_bytes(sign_model(model, private()))
    model.write_bytes(b"weightz")
    with pytest.raises(VerificationFailed, match="names another"):
        trust(checkout)


def test_a_signature_of_a_whole_folder_speaks_of_the_checkpoint_in_it(tmp_path: Path):
    (tmp_path / "model").mkdir()
    model = tmp_path / "model" / "mine.pth"
    model.write_bytes(b"mine")
    (tmp_path / "keys.pem").write_bytes(pem(private()))
    (tmp_path / "model" / "model.sig").write_bytes(sign_model(model.parent, private(), ["model.sig"]))
    sha256 = find_checkpoint(Paths(tmp_path), str(model), StatCache(None)).sha256
    assert signer_of_checkpoint(model, sha256, tmp_path / "keys.pem").startswith("signed by the P-256 key")
    other = tmp_path / "model" / "later.pth"
    other.write_bytes(b"later")
    assert signer_of_checkpoint(other, sha256, tmp_path / "keys.pem") == "model.sig beside it does not speak of it"

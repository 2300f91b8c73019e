"""The verifier that has only the standard library agrees with the library that signs, and with openssl."""

from __future__ import annotations

import hashlib
import shutil
import subprocess

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.base.errors import CouldNotRun, UsageError
from repro.packing.installer.ed25519 import ed25519_holds
from repro.packing.installer.listing import fingerprint_of, public_key_of
from repro.packing.signing import load_key, make_key
from tests.unit import _bundle_cases as cases

# RFC 8032, section 7.1: public key, message, signature.
VECTORS = [
    (
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
    (
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28d"
        "c027beceea1ec40a",
    ),
]
ORDER = 2**252 + 27742317777372353535851937790883648493


@pytest.mark.parametrize(("key", "message", "signature"), VECTORS)
def test_the_vectors_of_rfc_8032(key, message, signature):
    assert ed25519_holds(bytes.fromhex(key), bytes.fromhex(message), bytes.fromhex(signature))
    assert not ed25519_holds(bytes.fromhex(key), bytes.fromhex(message) + b"x", bytes.fromhex(signature))


def library_says(key: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


@settings(max_examples=60)
@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200), st.data())
def test_it_agrees_with_the_library_on_true_and_damaged_signatures(seed, message, data):
    private = Ed25519PrivateKey.from_private_bytes(seed)
    key, signature = private.public_key().public_bytes_raw(), private.sign(message)
    assert ed25519_holds(key, message, signature)
    whole = bytearray(key + signature + message)
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = bytes(whole[:32]), bytes(whole[96:]), bytes(whole[32:96])
    assert ed25519_holds(*damaged) is False
    assert library_says(*damaged) is False


def test_a_signature_with_the_order_added_is_another_spelling_and_refused():
    private = Ed25519PrivateKey.from_private_bytes(bytes(32))
    key, signature = private.public_key().public_bytes_raw(), private.sign(b"m")
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    assert not ed25519_holds(key, b"m", signature[:32] + scalar.to_bytes(32, "little"))


@pytest.mark.parametrize("point", ["01" + "00" * 31, "00" * 32, "ec" + "ff" * 30 + "7f",
                                   "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"])  # fmt: skip
def test_a_key_of_small_order_signs_nothing(point):
    key = bytes.fromhex(point)
    assert not ed25519_holds(key, b"any message", bytes([1]) + bytes(63))


@pytest.mark.parametrize("key", [b"", bytes(31), b"\xff" * 32, b"\x02" + bytes(31)])
def test_what_is_no_point_is_no_key(key):
    assert not ed25519_holds(key, b"", bytes(64))


# --- keys on disk


def test_a_key_is_made_for_its_owner_alone_and_never_overwritten(tmp_path):
    path = tmp_path / "keys" / "signing-key.pem"
    made = make_key(path, {})
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_key(path, {}).fingerprint == made.fingerprint
    before = path.read_bytes()
    with pytest.raises(UsageError, match="never overwritten"):
        make_key(path, {})
    assert path.read_bytes() == before


def test_a_passphrase_is_needed_where_one_was_set(tmp_path):
    path = tmp_path / "key.pem"
    made = make_key(path, {"BUNDLE_KEY_PASSPHRASE": "correct horse"})
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_key(path, {"BUNDLE_KEY_PASSPHRASE": "correct horse"}).fingerprint == made.fingerprint
    for environment in ({}, {"BUNDLE_KEY_PASSPHRASE": "wrong"}):
        with pytest.raises(CouldNotRun) as caught:
            load_key(path, environment)
        assert "BUNDLE_KEY_PASSPHRASE" in caught.value.hint


def test_a_key_that_others_can_read_is_not_used(tmp_path):
    path = tmp_path / "key.pem"
    make_key(path, {})
    path.chmod(0o644)
    with pytest.raises(UsageError, match="others"):
        load_key(path, {})


def test_a_missing_key_is_no_usage_error(tmp_path):
    with pytest.raises(CouldNotRun, match="no signing key"):
        load_key(tmp_path / "none.pem", {})


def test_the_public_key_reads_back_and_its_fingerprint_is_openssls():
    signer = cases.signer()
    assert fingerprint_of(public_key_of(signer.public_pem)) == signer.fingerprint
    if shutil.which("openssl"):
        der = subprocess.run(
            ["openssl", "pkey", "-pubin", "-outform", "DER"], input=signer.public_pem.encode(), capture_output=True,
            check=True,
        ).stdout  # fmt: skip
        assert hashlib.sha256(der).hexdigest() == signer.fingerprint

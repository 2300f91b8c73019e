"""The signed list and the trusted keys: whatever a signer or a damaged disk puts there, nothing odd is believed."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from repro.base.errors import UsageError, VerificationFailed
from repro.packing import trust_key, verify_bundle
from repro.packing.installer import trust
from repro.packing.installer.archive import Archive
from repro.packing.installer.listing import BLOCK_BYTES, LIST_NAME, PAYLOAD_TYPE, Refused, padding_bytes
from repro.packing.installer.trust import remember_key, trusted_keys
from repro.packing.verify import verify_installed
from tests.unit import _bundle_cases as cases
from tests.unit._forged_bundles import ODD_LISTS, ODD_NAMES, ODD_PAYLOADS, RESPELT, respell

KEY = cases.signer().fingerprint


@pytest.fixture(autouse=True)
def _no_trusted_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def refusal_of(path, keys=(KEY,)):
    with pytest.raises(VerificationFailed) as caught:
        verify_bundle(path, keys)
    return caught.value.message


@pytest.mark.parametrize("fault", [fault for fault in ODD_LISTS if fault not in ODD_NAMES])
def test_a_signed_list_that_is_not_as_it_must_be_is_refused(tmp_path, fault):
    said = refusal_of(cases.resigned(cases.pack(tmp_path), ODD_LISTS[fault], cases.signer()))
    assert said.startswith(LIST_NAME), said


def test_the_hands_of_these_tests_sign_a_sound_list_as_well(tmp_path):
    path = cases.resigned(cases.pack(tmp_path), lambda statement: None, cases.signer())
    assert verify_bundle(path, [KEY]).verified


@pytest.mark.parametrize("payload", ODD_PAYLOADS)
def test_an_unsigned_list_that_is_not_one_is_refused(tmp_path, payload):
    text = base64.b64encode(payload.encode()).decode()
    head = cases.recanonical({"payload": text, "payloadType": PAYLOAD_TYPE, "signatures": []})
    said = refusal_of(cases.replace_head(tmp_path / "x.tar", head, bytes(1024)), ())
    assert said.startswith(LIST_NAME) and said.isprintable()
    known = (
        "it is not built as a list is",
        "the list is not JSON",
        "whole number",
        "digits",
        "members too few or too many",
        "spelling",
    )
    assert any(words in said for words in known), "a text of Python's own, which no other verifier can give"
    assert not payload.startswith("11") or "a number of 2000000 digits" in said  # before it is parsed, on any Python


def test_a_list_larger_than_any_honest_one_is_not_read(tmp_path):
    path = tmp_path / "x.tar"
    cases.replace_head(path, b"x", b"")
    with open(path, "r+b") as stream:
        stream.write(cases.tar_header(LIST_NAME, 64 << 20, executable=False))
    assert "does not begin as a bundle does" in refusal_of(path, ())


@pytest.mark.parametrize("what", RESPELT)
def test_a_second_spelling_of_payload_or_signature_is_refused(tmp_path, what):
    path = cases.pack(tmp_path)
    archive = Archive(path)
    archive.close()
    document = json.loads(archive.envelope)
    rest = path.read_bytes()[BLOCK_BYTES + len(archive.envelope) + padding_bytes(len(archive.envelope)) :]
    respell(document, what)
    assert refusal_of(cases.replace_head(path, cases.recanonical(document), rest)).startswith(LIST_NAME)


# --- whose signature counts


@pytest.mark.parametrize(
    "content", ["[]", "{", '{"x": "pinned"}', '{"%s": "maybe"}' % ("a" * 64), "\xff", "[" * 100_000, "null"]
)
def test_a_damaged_trust_file_is_named_and_trusts_nobody(tmp_path, content):
    path = cases.pack(tmp_path)
    trust = tmp_path / "config" / "lstm-ctc-bundle" / "trusted-keys.json"
    trust.parent.mkdir(parents=True)
    trust.write_bytes(content.encode("latin-1"))
    with pytest.raises(UsageError, match=r"trusted-keys\.json is damaged"):
        verify_bundle(path, first_use=True)
    assert trust.read_bytes() == content.encode("latin-1")


def test_a_pinned_key_is_not_made_one_of_first_use(tmp_path):
    trust_key(KEY)
    for _ in range(2):
        assert verify_bundle(cases.pack(tmp_path), first_use=True).trust == "pinned"
    remember_key(KEY, "first use")
    assert trusted_keys() == {KEY: "pinned"}


def test_a_key_of_first_use_can_be_pinned():
    remember_key(KEY, "first use")
    trust_key(KEY)
    assert trusted_keys() == {KEY: "pinned"}


def test_of_two_first_uses_at_once_one_key_is_trusted(tmp_path, monkeypatch):
    """The other process remembers its key after this one has looked for known keys, and before it remembers its own."""
    check_bytes = trust.check_bytes

    def meanwhile(archive):
        remember_key("a" * 64, "first use")
        return check_bytes(archive)

    monkeypatch.setattr(trust, "check_bytes", meanwhile)
    with pytest.raises(Refused) as caught:
        trust.verify(cases.pack(tmp_path), trust.Asked(first_use=True))
    assert caught.value.code == 3 and trusted_keys() == {"a" * 64: "first use"}


def test_keys_remembered_at_the_same_time_are_all_kept():
    keys = [f"{number:064x}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: remember_key(key, "pinned"), keys))
    assert sorted(trusted_keys()) == keys


@pytest.mark.parametrize("key", ["abc", "", "zz" * 32, KEY + "0"])
def test_what_is_no_fingerprint_is_wrong_use(tmp_path, key):
    path = cases.pack(tmp_path)
    for ask in (verify_bundle, verify_installed):
        with pytest.raises(UsageError, match="fingerprint"):
            ask(path, [key])


def test_a_fingerprint_may_be_spelled_in_capitals_and_with_colons(tmp_path):
    spelled = ":".join(KEY[place : place + 2] for place in range(0, 64, 2)).upper()
    assert verify_bundle(cases.pack(tmp_path), [spelled]).trust == "pinned"

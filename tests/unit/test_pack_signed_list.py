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

KEY = cases.signer().fingerprint


@pytest.fixture(autouse=True)
def _no_trusted_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def refusal_of(path, keys=(KEY,)):
    with pytest.raises(VerificationFailed) as caught:
        verify_bundle(path, keys)
    return caught.value.message


def _set(*steps):
    """A change of one member of the signed list."""
    *above, last, value = steps

    def change(statement):
        for step in above:
            statement = statement[step]
        statement[last] = value

    return change


FILE = ("subject", 2)
NOTES = (*FILE, "annotations")
ABOUT = ("predicate",)


@pytest.mark.parametrize(
    ("fault", "change"),
    [
        ("negative size", _set(*NOTES, "size_bytes", -512)),
        ("a size that is a truth value", _set(*NOTES, "size_bytes", True)),
        ("a size that is a text", _set(*NOTES, "size_bytes", "8")),
        ("a size past any disk", _set(*NOTES, "size_bytes", 1 << 62)),
        ("a size of 4,001 digits", _set(*NOTES, "size_bytes", 10**4000)),
        ("a mode that is a number", _set(*NOTES, "executable", 1)),
        ("elsewhere as a number", _set(*NOTES, "in_base", 0)),
        ("a free annotation", _set(*NOTES, "note", "x")),
        ("a digest in capitals", _set(*FILE, "digest", "sha256", "A" * 64)),
        ("a digest too short", _set(*FILE, "digest", "sha256", "a" * 63)),
        ("a digest too long", _set(*FILE, "digest", "sha256", "a" * 65)),
        ("a digest with a line end", _set(*FILE, "digest", "sha256", "a" * 64 + "\n")),
        ("a digest that is a number", _set(*FILE, "digest", "sha256", 7)),
        ("no digest", _set(*FILE, "digest", {})),
        ("another digest alone", _set(*FILE, "digest", {"sha512": "a" * 128})),
        ("a second digest that nobody reads", _set(*FILE, "digest", "md5", "a" * 32)),
        ("a free member of a file", _set(*FILE, "uri", "x")),
        ("a file that is no object", _set(*FILE, "x")),
        ("files that are no list", _set("subject", 7)),
        ("files that are an object", _set("subject", {})),
        ("a file's name that is a number", _set(*FILE, "name", 7)),
        ("files larger than any disk", _set(*NOTES, "size_bytes", (1 << 53) - 1)),
        (
            "contents nested too deep",
            _set(*ABOUT, "contents", json.loads('{"licence_notes":{},"x":' + "[" * 70 + "]" * 70 + "}")),
        ),
        ("a free member of the list", _set("comment", "x")),
        ("a free member of the predicate", _set(*ABOUT, "comment", "x")),
        ("another format", _set(*ABOUT, "format", 2)),
        ("a format that is a truth value", _set(*ABOUT, "format", True)),
        ("another predicate", _set("predicateType", "urn:x")),
        ("another statement", _set("_type", "urn:x")),
        ("a negative part size", _set(*ABOUT, "part_size_bytes", -1)),
        ("a fraction", _set(*ABOUT, "unpacked_bytes", 0.5)),
        ("a name that climbs", _set(*ABOUT, "name", "../x")),
        ("a name that is a path", _set(*ABOUT, "name", "a/b")),
        ("a name that is an option", _set(*ABOUT, "name", "-x")),
        ("a hidden name", _set(*ABOUT, "name", ".x")),
        ("a base that is no digest", _set(*ABOUT, "base", "../x")),
        ("a commit that is a command", _set(*ABOUT, "commit", "; rm")),
        ("notes that are no texts", _set(*ABOUT, "contents", "licence_notes", {"cann": 1})),
    ],
)
def test_a_signed_list_that_is_not_as_it_must_be_is_refused(tmp_path, fault, change):
    said = refusal_of(cases.resigned(cases.pack(tmp_path), change, cases.signer()))
    assert said.startswith(LIST_NAME), said


def test_the_hands_of_these_tests_sign_a_sound_list_as_well(tmp_path):
    path = cases.resigned(cases.pack(tmp_path), lambda statement: None, cases.signer())
    assert verify_bundle(path, [KEY]).verified


@pytest.mark.parametrize(
    "payload",
    ["[" * 100_000, "{}", "[]", "null", '"x"', "1", "NaN", '{"_type":1e999}', "\ufeff{}", "1" * 2_000_000,
     '{"_type":"x","_type":"x"}', '{"predicate":"\\ud800"}'],
)  # fmt: skip
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


def _second_spelling(text):
    """The same bytes from another text: an unused bit of the last letter set, or more padding where there is none."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    stem = text.rstrip("=")
    return stem[:-1] + letters[letters.index(stem[-1]) + 1] + text[len(stem) :] if stem != text else text + "===="


def _respell(document, what):
    signature = document["signatures"][0]
    if what == "payload":
        document["payload"] = _second_spelling(document["payload"])
    elif what == "signature":
        signature["sig"] = _second_spelling(signature["sig"])
    elif what == "line end in the payload":
        document["payload"] = document["payload"][:8] + "\n" + document["payload"][8:]
    elif what == "signed twice":
        document["signatures"] *= 2
    else:
        signature["cert"] = "x"


@pytest.mark.parametrize("what", ["payload", "signature", "line end in the payload", "signed twice", "a free member"])
def test_a_second_spelling_of_payload_or_signature_is_refused(tmp_path, what):
    path = cases.pack(tmp_path)
    archive = Archive(path)
    archive.close()
    document = json.loads(archive.envelope)
    rest = path.read_bytes()[BLOCK_BYTES + len(archive.envelope) + padding_bytes(len(archive.envelope)) :]
    _respell(document, what)
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

"""The pieces of verify.html (digests, signatures, tar, JSON, texts) against published answers and against Python."""

from __future__ import annotations

import hashlib
import json
import random
import tarfile
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from repro.base.foreign import shown
from repro.packing.installer.archive import _odd_header
from repro.packing.installer.ed25519 import ed25519_holds
from repro.packing.installer.listing import Entry, canonical, parsed, tar_header
from repro.packing.page import verify_page
from tests.integration._pages import opened
from tests.unit.test_signing import VECTORS

# FIPS 180-4's examples: text -> SHA-256, SHA-512.
NIST = {
    "abc": (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e"
        "2a9ac94fa54ca49f",
    ),
    "": (
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81"
        "a538327af927da3e",
    ),
    "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        "204a8fc6dda82f0a0ced7beb8e08a41657c16ef468b228a8279be331a703c33596fd15c13b1b07f9aa1d3bea57789ca031ad85c7a71dd703"
        "54ec631238ca3445",
    ),
    "a" * 1_000_000: (
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
        "e718483d0ce769644e2e42c7bc15b4638e1f98b13b2044285632a803afa973ebde0ff244877ea60a4cb0432ce577c31beb009c5c2c49aa2e"
        "4eadb217ad8cc09b",
    ),
}
LENGTHS = [0, 1, 55, 56, 57, 63, 64, 65, 111, 112, 113, 127, 128, 129, 1000]
UNHEX = "const unhex = (text) => Uint8Array.from(text.match(/../g) || [], (pair) => parseInt(pair, 16));"


@pytest.fixture(scope="module")
def page(browser: Browser, tmp_path_factory: pytest.TempPathFactory):
    file = tmp_path_factory.mktemp("pieces") / "verify.html"
    file.write_bytes(verify_page())
    with opened(browser, file) as seen:
        yield seen.page
        seen.finish()


def test_sha_2_gives_the_published_answers_in_one_piece_and_in_many(page: Page):
    script = """([texts, lengths]) => {
      const {Sha256, Sha512, hex} = verifier;
      const inPieces = (data, step) => [Sha256, Sha512].map((kind) => {
        const state = new kind();
        for (let at = 0; at < data.length; at += step) state.update(data.subarray(at, at + step));
        return hex(state.digest());
      });
      const whole = (text) => inPieces(new TextEncoder().encode(text), 1 << 20);
      const pieces = (length) => [1, 7, 64, 127, 300].map((step) => inPieces(new Uint8Array(length).fill(90), step));
      return [texts.map(whole), lengths.map(pieces)];
    }"""
    texts, pieces = page.evaluate(script, [list(NIST), LENGTHS])
    assert list(map(tuple, texts)) == list(NIST.values())
    for length, found in zip(LENGTHS, pieces):
        data = b"Z" * length
        assert found == [[hashlib.sha256(data).hexdigest(), hashlib.sha512(data).hexdigest()]] * 5, length


def odd_signatures() -> list[tuple[str, str, str]]:
    """Signatures that do not hold, and those on which verifiers differ: other encodings, keys of small order."""
    key, message, signature = VECTORS[1]
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(bytes.fromhex(signature)[32:], "little")
    above = signature[:64] + (scalar + order).to_bytes(32, "little").hex()
    small = [
        "01" + "00" * 31,
        "00" * 32,
        "ec" + "ff" * 30 + "7f",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    ]
    large = ["ee" + "ff" * 30 + "7f", "ff" * 32, "02" + "00" * 31]
    odd = [
        (key, message + "00", signature),
        (key, message, above),
        (key, message, signature[:-2]),
        (key[:-2], message, signature),
    ]
    odd += [(key, message, "00" * 64), (VECTORS[0][0], message, signature)]
    return odd + [(other, message, "01" + "00" * 63) for other in small + large]


def test_ed25519_holds_where_pythons_does_and_the_browsers_agrees(page: Page):
    script = f"""async (cases) => {{
      {UNHEX}
      const found = [];
      for (const [key, message, signature] of cases.map((item) => item.map(unhex))) {{
        const ours = verifier.ed25519HoldsHere(key, message, signature);
        found.push([ours, await verifier.ed25519HoldsByBrowser(key, message, signature)]);
      }}
      return found;
    }}"""
    signatures = [*VECTORS, *odd_signatures()]
    wanted = [ed25519_holds(*map(bytes.fromhex, case)) for case in signatures]
    found = page.evaluate(script, [list(case) for case in signatures])
    assert [ours for ours, _ in found] == wanted and wanted == [True] * len(VECTORS) + [False] * len(odd_signatures())
    assert all(browsers in (True, None) for (_, browsers), holds in zip(found, wanted) if holds)


PATHS = ["a", "install.py", "x" * 100, "x" * 101, "tree/" + "y" * 235, "tree/\u00e9", "\U0001f600" * 40]
SIZES = [0, 1, 511, 512, 8**11 - 1, 8**11, 2**53 - 1]


def test_headers_are_those_that_python_writes(page: Page):
    cases = [(path, size, executable) for path in PATHS for size in SIZES for executable in (False, True)]
    script = (
        "(cases) => cases.map(([path, size, executable]) => verifier.hex(verifier.tarHeader(path, size, executable)))"
    )
    found = page.evaluate(script, [list(case) for case in cases])
    assert found == [tar_header(path, size, executable=executable).hex() for path, size, executable in cases]


def odd_headers() -> list[bytes]:
    """Headers of every kind of member, with fields that are odd and a checksum that fits."""
    chance = random.Random(20221101)
    fields = [
        b"",
        b"0000644",
        b"0o17",
        b"1_0",
        b"-7",
        b"+7 ",
        b" 7\t",
        b"8",
        b"1__0",
        b"\x80\x01",
        b"\xff\xfe",
        b"\xe9",
        b"_1",
        b"0o",
        b"\x1c7",
    ]
    headers = [bytes(512), b"x" * 512]
    for kind in b"01234567xgLKSVA\0\xff":
        for name in (
            b"tree/x",
            b"tree/x///",
            b"/",
            b"",
            b"\xff\xc3",
            b"it's",
            b"\xe2\x80\xae",
            b"\xef\xbb\xbfbom",
            b"n" * 100,
        ):
            headers.append(_header(name, kind, b"", 100, b"0000644"))
            headers.append(_header(name, kind, chance.choice([b"", b"prefix", b"p" * 155]), *_field(chance, fields)))
    headers += [bytes([*header[:500], 7, *header[501:]]) for header in headers[2:6]]  # the checksum does not fit
    return headers


def _field(chance: random.Random, fields: list[bytes]) -> tuple[int, bytes]:
    return chance.choice([100, 108, 116, 124, 136, 329, 337]), chance.choice(fields)


def _header(name: bytes, kind: int, prefix: bytes, place: int, field: bytes) -> bytes:
    block = bytearray(512)
    block[: len(name)] = name
    block[156] = kind
    block[257:265] = b"ustar\x0000"
    block[345 : 345 + len(prefix)] = prefix
    block[place : place + 8] = field[:8].ljust(8, b"\0")
    block[148:156] = b"%06o\0 " % tarfile.calc_chksums(bytes(block))[0]
    return bytes(block)


def test_odd_headers_are_told_as_python_tells_them(page: Page):
    script = f"""(headers) => {{
      {UNHEX}
      return headers.map((header) => verifier.oddHeader(unhex(header), {{path: "tree/x"}}));
    }}"""
    headers = odd_headers()
    wanted = [_odd_header(header, Entry("tree/x", "", 0, False, 0, 0)) for header in headers]
    assert len(set(wanted)) > 20 and len(headers) > 300
    assert page.evaluate(script, [header.hex() for header in headers]) == wanted


TEXTS = [
    "plain", "", "it's", 'a "b"', "it's \"both\"", "back\\slash", "\n\r\t\0\x7f", "\u00e9\u00a0\u00ad",
    "\u202e\u2066\u200b", "\u4e2d\u6587",
    "\U0001f600\U000e0001", "\ue000\ufffe\ufeff", "x" * 600, "\u2028\u2029\u3000",
]  # fmt: skip


def test_texts_of_strangers_are_spelt_out_as_python_does(page: Page):
    found = page.evaluate("(texts) => texts.map((text) => [verifier.quoted(text), verifier.shown(text)])", TEXTS)
    assert found == [[ascii(text), shown(text)] for text in TEXTS]


DOCUMENTS: list[Any] = [
    {"b": [1, -2, True, None, "x"], "a": {}}, [], "", {"\ue000": 1, "\U00010000": 2, "\u00e9": [[]]},
    {"__proto__": 1, "constructor": {"prototype": 2}, "10": 1, "9": 2}, 9007199254740993, -9007199254740993,
    "\x00\x1f\x7f\u2028\\\"/",
    [0.1, -2.5, 1.0, -0.0, 1e16, 123456789012345.6, 1e-4, 1.5e-5, 1e-7, 1e22, 5e-324, 1.7e308, 100.0],
]  # fmt: skip
NOT_JSON = [
    "", "{", "[1,]", '{"a":1,}', "01", "1.", "-", "+1", "'x'", '"\n"', '"\\x"', "nul", "[] []", "{1:2}", "\ufeff{}",
    '"\\u12"', "[" * 65 + "]" * 65, "[" * 100_000, '{"a":"\\', "\xa01", "1" * 20, "1.5", "1e3", "NaN", "-Infinity",
]  # fmt: skip
OTHER_WORDS = [
    "a number of 20 digits", "1.5 is not a whole number", "1e3 is not a whole number", "NaN is not a whole number",
    "-Infinity is not a whole number",
]  # fmt: skip


def test_json_is_read_and_written_as_python_does(page: Page):
    script = """([texts, odd]) => {
      const read = (text, whole) => verifier.parsed("it", new TextEncoder().encode(text), whole);
      const refused = (text) => { try { read(text, true); return false; } catch (error) { return error.message; } };
      return [texts.map((text) => verifier.canonical(read(text))), odd.map(refused)];
    }"""
    texts = [json.dumps(document, indent=1) for document in DOCUMENTS]
    written, refused = page.evaluate(script, [texts, NOT_JSON])
    assert [text.encode() for text in written] == [canonical(document) for document in DOCUMENTS]
    assert refused == ["it is not JSON"] * (len(NOT_JSON) - len(OTHER_WORDS)) + OTHER_WORDS
    for text, said in zip(NOT_JSON, refused):
        with pytest.raises(ValueError, match=said):
            parsed("it", text.encode(), whole_numbers=True)

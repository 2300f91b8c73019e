"""What must not leave a machine is taken out of a text wherever it stands; what a person needs to help is left."""

from __future__ import annotations

import string

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from repro.cli.redaction import Known, Redactor, triples_of

SENTENCES = ("The quick brown heron sat on grandmother's blue kettle", "Nobody paints seven crooked ladders")
DIGEST = "0123456789abcdef" * 4
KNOWN = Known(
    users=frozenset({"jdoe", "Zhang Wei", "wei.zhang"}),
    hosts=frozenset({"lab-node7", "lab-node7.physics.example"}),
    folders={"/home/jdoe/lstm": "<checkout>", "/home/jdoe": "<home>"},
    triples=triples_of(SENTENCES),
    digests=frozenset({DIGEST}),
)


def redact(text):
    return Redactor(KNOWN).text(text)


hexadecimal = st.text("0123456789abcdef", min_size=2, max_size=2)
word = st.text(string.ascii_lowercase, min_size=3, max_size=9)
number = st.integers(0, 255).map(str)
capitals = st.text(string.ascii_uppercase, min_size=6, max_size=10)
digits = st.text(string.digits, min_size=6, max_size=10)
PLANTED = {
    "an IPv4 address": st.tuples(number, number, number, number).map(".".join),
    "an IPv6 address": st.ip_addresses(v=6).map(str).filter(lambda text: len(text) > 6),
    "a MAC address": st.tuples(*[hexadecimal] * 6).map(":".join),
    "a MAC address with dashes": st.tuples(*[hexadecimal] * 6).map("-".join),
    "a user": st.sampled_from(["jdoe", "JDOE", "Zhang Wei", "wei.zhang"]),
    "a host": st.sampled_from(["lab-node7", "LAB-NODE7", "lab-node7.physics.example"]),
    "another host": word.map(lambda name: f"{name}9.secretlab.com"),
    "a mail address": word.map(lambda name: f"{name}.q@hospital.org"),
    "a web address": word.map(lambda name: f"https://{name}:pw@mirror.secretlab/x?y={name}"),
    "a path": st.tuples(word, word).map(lambda parts: f"/home/{parts[0]}q/{parts[1]}.txt"),
    "a path with spaces": st.tuples(word, word).map(lambda parts: f'"/mnt/{parts[0]} qq/{parts[1]}qq.wav"'),
    "a path below home": word.map(lambda name: f"~/{name}qq/x"),
    "a path of Windows": word.map(lambda name: f"C:\\Users\\{name}qq\\x"),
    "a path of the data": word.map(lambda name: f"data/{name}qq/x.zip"),
    "a serial number": st.tuples(capitals, digits).map("".join),
    "a serial number by its field": word.map(lambda name: f"Serial Number                  : q{name} {name}q"),
    "a die's number": digits.map(lambda text: f"VDie ID : {text} A1B2C3D4"),
    "an identifier": st.uuids().map(str),
    "a private key": st.text(string.ascii_letters, min_size=20, max_size=90).map(
        lambda text: f"-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----"
    ),
    "a key that is cut": word.map(lambda name: f"-----BEGIN OPENSSH PRIVATE KEY-----\nq{name}q{name}"),
    "a raw key": st.binary(min_size=32, max_size=32).map(bytes.hex),
    "a key's text": st.tuples(word, digits).map(lambda parts: f"aZ{parts[1]}" + parts[0] * 14),
    "a password": word.map(lambda name: f"BUNDLE_KEY_PASSPHRASE=q{name}q {name}"),
    "a token": word.map(lambda name: f'"access_token": "q{name}q"'),
    "a public key": word.map(lambda name: f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5{name} {name}qq"),
    "a speaker": st.tuples(st.sampled_from("fmFM"), st.text(string.ascii_letters, min_size=3, max_size=3)).map(
        lambda parts: "".join(parts) + "0"
    ),
    "an utterance": st.text(string.ascii_uppercase, min_size=3, max_size=3).map(lambda text: f"F{text}0_SX217"),
    "a sentence": st.sampled_from(SENTENCES),
    "a part of a sentence": st.sampled_from(["brown heron sat", "paints SEVEN crooked"]),
    "a line of a transcription": word.map(lambda name: f"\n0 46797 {name.capitalize()} q{name} zq{name}.\n"),
    "phones": st.lists(st.sampled_from(["sil", "ax-h", "iy", "dh", "kcl", "zh"]), min_size=4, max_size=9).map(" ".join),
}  # fmt: skip
FILLER = st.sampled_from(
    ["error: the batch", "driver 24.1.rc2.2", "score@8", "10:15:33", "", "5 of 12", "libc.so.6", "(see its log)", "->"]
)
BEFORE, AFTER = (
    st.sampled_from([" ", "\n", "\t", " '", ' "', " (", ", ", " = "]),
    st.sampled_from(["\n", " \n", "\n\n"]),
)


def pieces(secret):
    """What of a planted text must not be found: itself, and its parts that are not words of a form."""
    forms = {"serial", "number", "vdie", "id", "private", "public", "key", "begin", "end", "openssh", "access_token",
             "data", "bundle_key_passphrase", "home", "users", "https", "ssh-ed25519", "a1b2c3d4"}  # fmt: skip
    parts = [part for part in secret.replace("\n", " ").replace('"', " ").split(" ") if len(part) > 3]
    return [secret.strip(), *[part for part in parts if part.lower().strip(":-=") not in forms]]


@pytest.mark.parametrize("kind", PLANTED)
def test_what_is_planted_is_found_in_any_place(kind):
    @settings(max_examples=60)
    @given(st.data())
    def holds(data):
        secret, before, after = data.draw(PLANTED[kind]), data.draw(BEFORE), data.draw(AFTER)
        text = data.draw(FILLER) + before + secret + after + data.draw(FILLER)
        found = redact(text)
        for piece in pieces(secret):
            assert piece.lower() not in found.lower().replace("<", " ").replace("checkout>", ""), (text, found)

    holds()


@settings(max_examples=100)
@given(st.lists(st.one_of(*PLANTED.values(), FILLER), max_size=8), st.sampled_from([" ", "\n", ", "]))
@example(["/home/jdoe/lstm/artifacts/logs/x.log"], " ")
def test_a_redacted_text_stays_as_it_is_when_it_is_redacted_again(parts, between):
    once = redact(between.join(parts))
    assert redact(once) == once


@pytest.mark.parametrize(
    "text",
    [
        "| npu-smi 24.1.rc2.2               Version: 24.1.rc2.2 |",
        "driver 22.0.4, firmware 1.84.15.1.230, Python 3.11.2, libascend_hal.so",
        "stage measure@8 ended with exit code 3 after 12.5 s",
        "/usr/local/Ascend/driver/version.info: /dev/davinci0, /dev/hisi_hdc",
        "E10001: Value [x] for parameter [--soc_version] is invalid.",
        "dcmi model initialized failed, because the device is used. ret is -8020",
        f"image sha256:{DIGEST}",
        "Serial Number                  : NA",
        "torch 1.8.0+cpu, numpy 1.19.5, onnx 1.14.0, msgspec 0.21.1",
        "2026-11-28T10:15:33Z 0000:00:07.0",
        "repro/run/record.py line 12: stages.measure, docs/guide-lab.md",
        "data/sources/Ascend-cann-toolkit_6.3.RC1_linux-aarch64.run",
        "data/TIMIT: its counts are held against TIMIT's in every run",
        "1000*batchsize.mean(8)/NPU_compute_time.mean(13.755440711975098): 581.5880543206025",
    ],
)
def test_what_is_needed_to_help_is_left(text):
    redactor = Redactor(KNOWN)
    assert redactor.text(text) == text
    assert not redactor.counts


def test_folders_of_the_checkout_are_told_below_its_label():
    assert redact("see /home/jdoe/lstm/artifacts/logs/score@8.log") == "see <checkout>/artifacts/logs/score@8.log"
    assert redact("/home/jdoe/lstm/data/private study/x") == "<checkout>/<path> study/x"
    assert redact("'/home/jdoe/lstm/data/private study/x'") == "'<checkout>/<path>'"
    assert redact("/home/jdoe/lstm/data/TIMIT/TRAIN/DR1/FCJF0") == "<checkout>/data/TIMIT/<path>"
    assert redact("/home/jdoe/lstmx /usr/local/Ascend/../../home/q") == "<home>/<path> <path>"


def test_a_document_stays_one_and_keeps_whole_digests_only():
    raw = "ab" * 32
    redactor = Redactor(KNOWN)
    found = redactor.document({"sha256": raw, "trust": f"seen as {raw} by jdoe", "n": [1, None, True, "10.0.0.7"],
                               "/home/jdoe/x": 1})  # fmt: skip
    assert found == {"sha256": raw, "trust": "seen as <key> by <user>", "n": [1, None, True, "<address>"],
                     "<home>/<path>": 1}  # fmt: skip
    assert redactor.counts == {"key": 1, "user": 1, "address": 1, "path": 2}


def test_names_that_are_in_every_word_or_everybodys_are_left():
    assert Redactor(Known(users=frozenset({"a", "root"}))).text("a root of a tree") == "a root of a tree"

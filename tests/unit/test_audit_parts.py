"""The parts that an audit is made of, each by itself: what they read, what they compare, and what they say of it."""

from __future__ import annotations

import io
import math
import struct
import tarfile
from array import array
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.audit import agreement, beam, claims, labels, leaves, packages, parity, places, speed_checks, stage_files
from repro.audit import compare as comparing
from repro.audit.claims import (
    ATTESTED,
    CLAIMED,
    IF_RERUN,
    PROVEN,
    RECOMPUTED,
    REFUTED,
    RUN_AGAIN,
    UNVERIFIED,
    Examination,
    Outcome,
    Rebuild,
)
from repro.audit.page import sentence
from repro.audit.statements import rebuilds_of
from repro.audit.times import _enough, validity
from repro.base.errors import CouldNotRun, CouldNotVerify, VerificationFailed
from repro.record.stage_files import ProbeFile
from stages import compare as stage_compare
from stages.formats import arpa

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9, width=16) | st.text("ab", max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("xyz", min_size=1, max_size=2), inner, max_size=3)
    ),
    max_leaves=8,
)


# --- Leaves


def put_back(found):
    """A document from its leaves."""
    root: dict[str, object] = {}
    for path, value in found:
        steps = path.replace("[", ".[").strip(".").split(".")
        here = root
        for step in steps[:-1]:
            here = here.setdefault(step, {})
        here[steps[-1]] = value

    def built(node):
        if not isinstance(node, dict) or not node:
            return node
        inside = {step: built(value) for step, value in node.items()}
        if all(step.startswith("[") for step in inside):
            return [inside[f"[{number}]"] for number in range(len(inside))]
        return inside

    return built(root["top"])


@given(PLAIN)
def test_a_document_is_its_leaves(document):
    found = list(leaves.leaves(document, "top"))
    assert len({path for path, _ in found}) == len(found)
    assert put_back(found) == document
    assert leaves.differences(document, document, "top") == []


@given(PLAIN, PLAIN)
def test_differences_name_each_leaf_that_is_not_the_same_in_value_and_type(found, expected):
    theirs, ours = (dict(leaves.leaves(value, "top")) for value in (found, expected))
    said = leaves.differences(found, expected, "top")
    wrong = [
        name
        for name in sorted({*ours, *theirs})
        if name not in ours or name not in theirs or repr(ours[name]) != repr(theirs[name])
    ]
    zeros = [
        name
        for name in wrong
        if ours.get(name) == theirs.get(name) == 0.0 and {type(ours[name])} == {type(theirs[name])}
    ]
    assert [line.split(" is ")[0] for line in said] == [name for name in wrong if name not in zeros]
    for line in said:
        name = line.split(" is ")[0]
        assert ("is missing" in line) == (name not in theirs)
        assert ("there is no such value" in line) == (name not in ours)
        assert name not in ours or line.endswith(repr(ours[name])[:100])


@pytest.mark.parametrize(
    ("path", "observed"),
    [
        ("host.cpu", True),
        ("hosts.cpu", False),
        ("checkpoint.trust", True),
        ("checkpoint.sha256", False),
        ("engine.name", True),
        ("observations.steps[3].wall_s", True),
        ("stages[12].cached", True),
        ("stages[1].observations.wall_s", True),
        ("stages[1].code", False),
        ("results[0].cached", False),
    ],
)
def test_what_only_the_machine_saw_is_told_from_the_rest(path, observed):
    assert leaves.is_observation(path) is observed


def test_a_long_value_is_cut_in_a_sentence():
    (line,) = leaves.differences("a" * 98, "b" * 99, "x")
    assert line == f"x is '{'a' * 98}'; recomputed: '{'b' * 96}..."


# --- Agreement


def npy(values) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(values, "<f4"))
    return stream.getvalue()


def ark(*matrices) -> bytes:
    return b"".join(
        name
        + b" \0BFM \4"
        + struct.pack("<i", len(m))
        + b"\4"
        + struct.pack("<i", m.shape[1])
        + m.astype("<f4").tobytes()
        for name, m in matrices
    )


@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5))
def test_distances_of_arrays_are_numpy_s(seed, frames, classes):
    random = np.random.RandomState(seed)
    one = random.standard_normal((frames, 2, classes)).astype("<f4")
    two = (one + random.choice([0.0, 1e-3, 1.0], one.shape)).astype("<f4")
    found, bound = agreement.differ("a.npy", npy(one), npy(two))
    apart = np.abs(one.astype(float) - two.astype(float))
    changed = int((one.argmax(2) != two.argmax(2)).sum())
    assert found == agreement.Difference(apart.size, apart.max(), pytest.approx(apart.mean()), changed)
    assert bound is agreement.LOGPROBS
    assert str(found).endswith("best class") == bool(changed)
    close = agreement.closeness("a.npy", npy(one), npy(two))
    a, b = one.astype(float).ravel(), two.astype(float).ravel()
    assert close == {
        "cosine": pytest.approx(a @ b / np.sqrt((a @ a) * (b @ b))),
        "relative_euclidean": pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(a)),
        "max_abs": apart.max(),
    }


def test_arrays_of_nothing_and_of_zeros_are_close():
    zeros = np.zeros((1, 1, 2))
    assert agreement.closeness("a", npy(zeros), npy(zeros)) == {
        "cosine": 1.0,
        "relative_euclidean": 0.0,
        "max_abs": 0.0,
    }
    assert agreement.closeness("a", npy(zeros), npy(zeros + 1))["relative_euclidean"] == 0.0
    assert agreement.differ("a.bin", b"", b"")[0] == agreement.Difference(0, 0.0, 0.0)
    with pytest.raises(VerificationFailed, match=r"a\.npy: shapes \(1, 1, 2\) and \(1, 2, 1\)"):
        agreement.closeness("a.npy", npy(zeros), npy(zeros.transpose(0, 2, 1)))
    with pytest.raises(VerificationFailed, match="not finite"):
        agreement.closeness("a.npy", npy(zeros), npy(zeros * np.nan))


ONE, TWO = np.arange(6.0).reshape(2, 3), np.arange(4.0).reshape(2, 2)
GOOD = ark((b"A", ONE), (b"B", TWO))


@pytest.mark.parametrize(
    "data",
    [
        GOOD[:-1],
        GOOD[:12],
        GOOD + b"C",
        GOOD.replace(b"FM", b"DM"),
        GOOD.replace(b"\4\2\0\0\0\4\3", b"\4\xfe\xff\xff\xff\4\3"),
        GOOD.replace(b"\4\3", b"\5\3"),
        GOOD.replace(b"\4\3\0\0\0", b"\4\3\0\0\1"),
    ],
)
def test_an_archive_is_read_whole_or_refused(data):
    found = agreement.read_archive("a.ark", GOOD)
    assert found.fixed == [(b"A", 2, 3), (b"B", 2, 2)]
    assert list(found.values) == [*ONE.ravel(), *TWO.ravel()]
    assert agreement.read_archive("a.ark", b"") == agreement.Values([], array("f"))
    with pytest.raises(VerificationFailed, match=r"a\.ark is not an archive"):
        agreement.read_archive("a.ark", data)


@pytest.mark.parametrize(
    "text", ["", "[ 0 2 ]", "[ 1 2\n 3 ]", "[ 5 0\n 1 0 ]", "[ 5 0.5\n 1 0 ]", "[ 5 nan\n 1 0 ]", "[ x 1\n 1 0 ]"]
)
def test_statistics_need_two_rows_and_a_count(text):
    values = agreement.content_of("cmvn.txt", b" [\n -300 20 400\n 9e9 20 0 ]\n")
    assert (values.fixed, values.scale) == (400.0, (400.0, 400.0, 400.0, 9e9, 400.0, 400.0))
    assert agreement.content_of("cmvn.txt", b"[ 5 1\n 1 0 ]").fixed == 1.0
    with pytest.raises(VerificationFailed, match=r"cmvn\.txt holds no"):
        agreement.content_of("cmvn.txt", text.encode())


def test_a_kind_without_values_is_compared_by_its_bytes():
    for ask in (agreement.content_of, lambda name, data: agreement.differ(name, data, b"")):
        with pytest.raises(agreement.NoValues, match=r"x\.txt"):
            ask("x.txt", b"1")
    told = agreement.compare_bytes("x.txt", b"1", b"2", "equal everywhere")
    assert (told.name, told.verdict) == ("x.txt", agreement.DIFFERENT) and told.detail.endswith("; equal everywhere")
    assert agreement.compare_bytes("x.txt", b"1", b"2", "").verdict == agreement.OPEN
    assert agreement.compare_bytes("x.bin", b"1", b"2", "").verdict == agreement.DIFFERENT
    within = agreement.compare_bytes("x.bin", bytes(4), np.float32(1e-5).tobytes(), "")
    assert (
        within.verdict == agreement.WITHIN
        and "1 values, largest difference 1e-05, mean 1e-05; tolerance" in within.detail
    )


@given(st.binary(min_size=1, max_size=40), st.data())
def test_the_first_byte_that_differs_is_found(data, drawn):
    at = drawn.draw(st.integers(0, len(data) - 1))
    other = bytearray(data)
    other[at] ^= 0x80
    assert places._first_byte(data, bytes(other)) == at
    assert places._first_byte(data, data[:at]) == at
    told = places.first_place("x", data, bytes(other), {})
    assert told == f"byte {at}" or told.startswith(f"line {data[:at].count(10) + 1}: ")


def test_two_spellings_of_a_value_differ_by_a_byte():
    assert places.first_place("compare.json", b'{"a": 1.0}', b'{"a": 1.00}', {}) == "byte 9"
    assert places.first_place("compare.json", b'{"a": 1.0}', b'{"b": 1.0}', {}) == "byte 2"
    assert (
        places.first_place("compare.json", b'{"a": 1.0, "b": 2.5}', b'{"a": 1.0, "b": 2.25}', {})
        == "value 1: 2.5 and 2.25"
    )
    two = ark((b"A", ONE), (b"B", TWO + np.eye(2)))
    assert places.first_place("x.ark", GOOD, two, {}) == "utterance B, frame 0, value 0: 0 and 1"


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.integers(1, 2))
def test_figures_of_agreement_are_the_stage_s(seed, utterances):
    random = np.random.RandomState(seed)
    ours, theirs = parity._Sums(), stage_compare.Agreement()
    for _ in range(utterances):
        a, b = (np.log(random.dirichlet(np.ones(5), 195)).astype("<f4") for _ in range(2))
        theirs.add(a, b, 100)
        ours.changed += int((a[:100].argmax(1) != b[:100].argmax(1)).sum())
        for one, two in zip(a.tolist(), b.tolist()):
            ours.add(one, two)
    found, expected = ours.pair(utterances, 100 * utterances, 5), theirs.result()
    for name in ("max_abs", "cosine", "relative_euclidean", "kl", "rmse", "mean_relative"):
        assert getattr(found, name) == pytest.approx(expected[name], rel=1e-9, abs=1e-12), name
    for name in ("utterances", "frames", "scored_frames", "symbols_changed", "within_thresholds"):
        assert getattr(found, name) == expected[name], name
    assert parity.FORMULAS == stage_compare.FORMULAS
    assert (dict(parity.MINIMA), dict(parity.MAXIMA)) == (stage_compare.MINIMA, stage_compare.MAXIMA)


# --- The language model


NUMBERS = st.floats(-5, 0, width=16)


@given(
    st.dictionaries(st.sampled_from(["<s>", "</s>", "<unk>", "a", "b"]), st.tuples(NUMBERS, NUMBERS), min_size=1),
    st.dictionaries(st.tuples(st.sampled_from("ab"), st.sampled_from("ab")), NUMBERS),
    st.floats(0, 2, width=16),
)
def test_a_language_model_is_read_as_the_stage_reads_it(unigrams, bigrams, weight):
    lines = ["\\data\\", "ngram 1=9", "", "\\1-grams:"]
    lines += [f"{logp}\t{word}" + (f"\t{back}" if back else "") for word, (logp, back) in unigrams.items()]
    lines += ["\\2-grams:", *(f"{logp} {one} {two}" for (one, two), logp in bigrams.items()), "\\end\\"]
    ours = beam.read_language("\n".join(lines).encode(), ["a", "b"], weight, "lm")
    model = arpa.Bigram(unigrams, bigrams)
    following, ending = model.tables(["a", "b"], weight)
    assert np.array(ours.following) == pytest.approx(following) and ours.ending == pytest.approx(ending)
    assert ours.missing == model.missing(["a", "b"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\\1-grams:\n-1 a\n",
        "\\1-grams:\n\\end\\\n",
        "\\1-grams:\n1e7 a\n\\end\\",
        "\\1-grams:\n-1e7 a\n\\end\\",
        "\\1-grams:\nx a\n\\end\\",
        "\\1-grams:\n-1\n\\end\\",
        "\\1-grams:\n-1 a\n\\2-grams:\n-1 a\n\\end\\",
        "\\1-grams:\nnan a\n\\end\\",
        "\xff",
    ],
)
def test_what_is_no_language_model_is_refused_by_name(text):
    with pytest.raises(VerificationFailed, match=r"lm\.arpa is not an? "):
        beam.read_language(text.encode("latin-1"), ["a"], 1.0, "lm.arpa")
    beam.read_language(b"\\1-grams:\n1e6 a\n\\end\\", ["a"], 1.0, "lm.arpa")


@pytest.mark.parametrize(
    ("value", "fine"), [(1.0, True), (1.01, False), (float("nan"), False), (1000.0, False), (-1e9, True)]
)
def test_outputs_are_logarithms_of_probabilities(value, fine):
    frames = [[-0.5, value]]
    language = beam.Language([[0.0, 0.0]] * 2, [0.0] * 2, [])
    if fine:
        assert beam.search(frames, language, 2).underflowed == (value < -1000)
    else:
        with pytest.raises(VerificationFailed, match="no logarithms of probabilities"):
            beam.search(frames, language, 2)


# --- Files of stages


@pytest.mark.parametrize(
    ("read", "data", "found"),
    [
        (stage_files.read_lines, b" a \n\n b\n", ["a", "b"]),
        (stage_files.read_lines, b"a\xff", "x: it is not UTF-8 (byte 1)"),
        (stage_files.read_units, b"a\nb\n", ["a", "b"]),
        (stage_files.read_units, b"", "x: one phone"),
        (stage_files.read_units, b"a\na", "x: one phone"),
        (stage_files.read_units, b"a b", "x: one phone"),
        (stage_files.read_labels, b"u a b\nv\n", {"u": ("a", "b"), "v": ()}),
        (stage_files.read_labels, b"u a\nu b\n", "x: utterance u stands"),
        (stage_files.read_utterances, b"", ()),
        (stage_files.read_utterances, b"{}\n", "x, line 1"),
    ],
)
def test_texts_of_stages_are_read_or_refused_by_name(read, data, found):
    if isinstance(found, str):
        with pytest.raises(VerificationFailed) as error:
            read(data, "x")
        assert found in error.value.message + error.value.detail
    else:
        assert read(data, "x") == found


def test_rows_of_outputs_are_their_own():
    values = np.arange(195 * 3 * 2, dtype=float).reshape(195, 3, 2) / -2000
    outputs = stage_files.read_outputs(npy(values), 3, 2, "x")
    for row in range(3):
        assert [list(frame) for frame in outputs.frames(row, 4)] == values[:4, row].astype("<f4").tolist()
    for wrong, told in ((values[:, :2], "(195, 2, 2), not (195, 3, 2)"), (values + 2, "value 0 is 2.0")):
        with pytest.raises(VerificationFailed) as error:
            stage_files.read_outputs(npy(wrong), 3, 2, "x")
        assert told in error.value.message and error.value.message.startswith("x: ")
    for place, odd in ((7, np.nan), (1169, -np.inf), (0, np.inf)):
        wrong = values.copy()
        wrong.ravel()[place] = odd
        with pytest.raises(VerificationFailed, match=f"value {place} is "):
            stage_files.read_outputs(npy(wrong), 3, 2, "x")


# --- Labels and packages


FOLDING = "aa\taa\taa\nq\nax\tax\tah\n"


def test_a_corpus_is_what_its_label_files_say(tmp_path):
    for name, text in (("dev_spk.list", "fdev0\n"), ("test_spk.list", "MTST0\n"), ("phones.60-48-39.map", FOLDING)):
        (tmp_path / name).write_text(text)
    files = {
        "TRAIN/DR1/MTRN0/SX2.PHN": "0 1 aa\n",
        "TRAIN/DR1/MTRN0/SX1.PHN": "0 1 ax\n1 2 q\n2 3 ax\n",
        "train/dr1/fdev0/sx9.phn;1": "0 1 q\n",
        "TEST/FDEV0/SX3.PHN": "0 1 ax\n",
        "x/test/MTST0/sx4.Phn": "0 1 aa\n",
        "TEST/FOTH0/SX5.PHN": "0 1 aa\n",
        "TEST/FDEV0/SA1.PHN": "?",
        "TEST/FDEV0/SX6.WAV": "?",
        "TEST/.x/FDEV0/SX7.PHN": "?",
        "__MACOSX/TEST/FDEV0/SX7.PHN": "?",
        "TEST/FDEV0/SX8.PHN": "?",
        "SX1.PHN": "?",
    }
    given_files = [(path, text.encode) for path, text in files.items()]
    corpus = labels.read_corpus(iter(given_files), tmp_path, {"FDEV0_SX8"})
    assert corpus.phones == {
        "train": {"MTRN0_SX2": ("aa",), "MTRN0_SX1": ("ah", "ah"), "FDEV0_SX9": ()},
        "dev": {"FDEV0_SX3": ("ah",)},
        "test": {"MTST0_SX4": ("aa",)},
    }
    assert corpus.units() == ["ah", "aa"]
    counts = corpus.counts("train")
    assert (counts.speakers, counts.utterances, counts.phones) == (2, 3, 3)
    for text in ("0 1\n", "0 1 aa b\n", "0 1 zz\n"):
        with pytest.raises(VerificationFailed, match=r"TRAIN/X/S\.PHN: .* is no line of labels"):
            labels.read_corpus(iter([("TRAIN/X/S.PHN", text.encode)]), tmp_path, set())


def layer(folder: Path, members) -> Path:
    path = folder / "layer.tar"
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.DIRTYPE
            elif content.startswith("->"):
                member.type, member.linkname = tarfile.SYMTYPE, content[2:]
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO((content or "").encode()) if member.isreg() else None)
    return path


STATUS = "Package: libc6\nVersion: 2.36-9\n\nPackage: python3.11\nDescription: Package: x\nVersion: 1:3.11.2-6\n"


def test_databases_of_layers_are_read_and_joined(tmp_path):
    found = packages.read_layer(
        layer(
            tmp_path,
            [
                ("var/lib/dpkg/status", STATUS),
                ("var/lib/dpkg/status.d/x", "Package: x\nVersion: 1\n"),
                ("var/lib/dpkg/status.d/y/z", "Package: no\n"),
                ("usr/bin/python3", "->/usr/bin/python3.11"),
                ("opt/site-packages/Big_Wheel-1.0.dist-info", None),
                ("dist-packages/a-2.dist-info", None),
                ("dist-packages/b-3.dist-info/METADATA", "x"),
                ("packages/c-4.dist-info", None),
                ("usr/bin/python", "->python2"),
            ],
        ),
        "layer x",
    )
    assert found.debs() == {"libc6": "2.36-9", "python3.11": "1:3.11.2-6", "x": "1"}
    assert (found.wheels, found.python) == ({("big-wheel", "1.0"), ("a", "2")}, "python3.11")
    upper = packages.Databases({"var/lib/dpkg/status": "Package: libc6\nVersion: 9\n"}, {("a", "3")})
    whole = packages.joined([found, upper])
    assert whole.debs() == {"libc6": "9", "x": "1"} and whole.python == "python3.11"
    assert whole.wheels == {("big-wheel", "1.0"), ("a", "2"), ("a", "3")}
    (tmp_path / "layer.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(VerificationFailed, match="layer x is not a tar"):
        packages.read_layer(tmp_path / "layer.tar", "layer x")


def test_what_a_probe_says_is_held_to_the_databases():
    database = packages.Databases({"s": STATUS}, {("a", "2"), ("a", "3")}, "python3.11")
    debs = {"libc6": "2.36-9", "python3.11": "1:3.11.2-6"}
    probe = ProbeFile(
        python="3.11.2", implementation="CPython", glibc="2.36", wheels={"a": "3"}, debs=debs, found={}, simulator=False
    )
    assert packages.contradictions(probe, database) == ([], [])

    def told(**changes):
        values = {name: getattr(probe, name) for name in probe.__struct_fields__}
        return packages.contradictions(ProbeFile(**{**values, **changes}), database)

    assert told(python="3.11.3") == (["the probe says python 3.11.3; the image's packages have 3.11.2-6"], [])
    assert told(glibc="2.3")[0] == ["the probe says glibc 2.3; the image's packages have 2.36-9"]
    assert told(wheels={"a": "4", "b": "1"})[0] == [
        "the probe says wheel a 4; the layers hold 2, 3",
        "the probe says wheel b 1; the layers hold none",
    ]
    assert told(debs={"libc6": "2.36-9", "more": "1"})[0] == [
        "the probe says package more 1; the layers' database has none",
        "the probe says package python3.11 absent; the layers' database has 1:3.11.2-6",
    ]
    assert told(found={"z": "1", "atc": "8"}) == ([], ["atc: 8", "z: 1"])
    bare = packages.contradictions(probe, packages.Databases())
    assert bare[1] == [
        "python 3.11.2: no package of the image holds it",
        "glibc 2.36: no package of the image holds it",
    ]


# --- Claims and judgement


@pytest.mark.parametrize(
    ("kind", "wrong", "missing", "status"),
    [
        (RECOMPUTED, 0, 0, PROVEN),
        (RUN_AGAIN, 0, 0, PROVEN),
        (IF_RERUN, 0, 0, IF_RERUN),
        (ATTESTED, 0, 0, ATTESTED),
        (CLAIMED, 0, 0, CLAIMED),
        (RECOMPUTED, 1, 1, REFUTED),
        (ATTESTED, 0, 1, UNVERIFIED),
        (RECOMPUTED, 41, 0, REFUTED),
        (RECOMPUTED, 20, 30, REFUTED),
    ],
)
def test_a_claim_is_as_good_as_the_worst_of_its_findings(kind, wrong, missing, status):
    it = Examination(kind, [f"w{n}" for n in range(wrong)], [f"m{n}" for n in range(missing)], ["seen\x1b"], ["open"])
    claim = it.claim("key", "text")
    assert (claim.key, claim.text, claim.kind, claim.status) == ("key", "text", kind, status)
    every = [*it.wrong, *it.missing]
    expected = every if len(every) <= 40 else [*every[:40], f"and {len(every) - 40} more"]
    assert list(claim.findings) == expected and claim.open_to == ("open",)
    assert "\x1b" not in claim.evidence[0] and claim.evidence[0].startswith("seen")


def test_an_outcome_counts_what_holds_by_kind_and_ends_as_its_worst_claim():
    outcome = Outcome("verify", "x")
    assert (outcome.explanation(), outcome.error(), sentence(outcome)) == (
        "no claim holds",
        None,
        "Every claim holds: no claim holds.",
    )
    for kind in claims.KINDS:
        with outcome.examine(f"k {kind}", "holds", kind) as it:
            it.read(f"file of {kind}", "sha256:" + "a" * 64)
    assert outcome.explanation() == ", ".join(f"1 {kind}" for kind in claims.KINDS)
    assert set(outcome.looked_at.values()) == {"a" * 64} and len(outcome.looked_at) == 5
    for error, named in (
        (OSError(13, "denied", "file"), "file cannot be read: denied"),
        (OSError("odd"), "a file cannot be read: unknown"),
        (CouldNotRun("no engine", detail="a\nb"), "no engine (a; b)"),
        (KeyError("x"), "KeyError at test_audit_parts.py:"),
    ):
        with outcome.examine("gone", "is there", ATTESTED):
            raise error
        assert outcome.claims[-1].status == UNVERIFIED and named in outcome.claims[-1].findings[0]
    error = outcome.error()
    assert isinstance(error, CouldNotVerify) and "4 of 9 claims" in error.message and error.detail.count("gone: ") == 4
    assert (
        "4 of 9 claims could not be verified" in sentence(outcome)
        and outcome.holding(ATTESTED)[0].key == f"k {ATTESTED}"
    )
    with outcome.examine("bad", "is right") as it:
        it.wrong.append("is wrong")
    error = outcome.error()
    assert isinstance(error, VerificationFailed) and error.message == "refuted: is right: is wrong"
    assert error.detail.splitlines()[0] == "refuted: bad: is wrong" and len(error.detail.splitlines()) == 5
    document = outcome.as_json()
    assert (document["first_refuted"], document["counts"][REFUTED], document["kinds"][ATTESTED]) == ("bad", 1, 1)
    assert document["claims"][-1] == {
        "key": "bad",
        "claim": "is right",
        "kind": RECOMPUTED,
        "status": REFUTED,
        "findings": ["is wrong"],
        "evidence": [],
        "open_to": [],
    }


def test_each_digest_that_is_claimed_of_a_layer_is_a_rebuild_of_its_own():
    found = list(
        rebuilds_of(
            "layer x",
            "sha256:" + "a" * 64,
            ["sha256:" + "b" * 64, None, "sha256:" + "a" * 64, "sha256:" + "a" * 64],
            {"lock": "sha256:" + "c" * 64},
        )
    )
    assert found == [Rebuild("layer x", letter * 64, "a" * 64, {"lock": "c" * 64}) for letter in "ab"]
    assert [each.result for each in found] == ["PASSED", "FAILED"]
    assert [each.result for each in rebuilds_of("x", "", ["sha256:" + "b" * 64], {})] == ["WARNED"]


def judged(*tries):
    it = Examination()
    made = [
        (SimpleNamespace(median=1.0, interval_95=(0.98, 1.02), limit=0.05, verdict=verdict), 30 * 2**n)
        for n, verdict in enumerate(tries)
    ]
    speed_checks._judged(it, made, "zeros / speech")
    return it


@pytest.mark.parametrize(
    ("tries", "wrong", "missing", "evidence"),
    [
        (("honest",), 0, 0, 1),
        (("dishonest",), 1, 0, 0),
        (("undecided", "honest", "dishonest"), 0, 0, 2),
        (("undecided", "dishonest"), 1, 0, 1),
        (("undecided",) * 3, 0, 1, 3),
    ],
)
def test_the_first_try_that_decides_counts(tries, wrong, missing, evidence):
    it = judged(*tries)
    assert (len(it.wrong), len(it.missing), len(it.evidence)) == (wrong, missing, evidence)
    line = "zeros / speech: median 1.000, 95 % interval 0.980 to 1.020, limit 0.05 from 1, 30 rounds"
    assert (it.evidence or it.wrong)[0] == line + (": undecided" if tries[0] == "undecided" else "")
    assert not missing or "undecided in 3 tries, the last of 120 rounds" in it.missing[0]


@pytest.mark.parametrize(
    ("count", "total_s", "lacks"),
    [
        (100, 10.0, []),
        (99, 10.0, ["99 executions are too few"]),
        (100, 9.99, ["10.0 s of timed work", "--loop 200"]),
        (50, 1.0, ["50 executions", "1.0 s of timed work", "--loop 500"]),
        (100, 0.0, ["0.0 s", "--loop 1000000"]),
    ],
)
def test_a_figure_needs_so_many_executions_and_so_much_time(count, total_s, lacks):
    found, facts = _enough(count, total_s)
    assert facts == [f"{count} executions in {total_s:.1f} s"]
    assert all(word in " ".join(found) for word in lacks) and bool(found) == bool(lacks)


def test_a_mean_is_uncertain_as_its_interval_is_wide():
    times = [100.0, 130.0] * 60
    lacks, facts = validity(times)
    half = 1.96 * np.std(times, ddof=1) / math.sqrt(120) / 115
    assert lacks == [] and facts == [
        "120 executions in 13.8 s",
        f"mean 115.000 ms, its 95 % interval +- {100 * half:.2f} %",
    ]
    lacks, _ = validity([10.0, 400.0] * 60)
    assert "over 5 %" in lacks[0] and len(lacks) == 1
    assert validity([20_000.0])[1] == ["1 executions in 20.0 s"]


@pytest.mark.parametrize(
    ("names", "told"), [(["a"], "a"), (["a", "b", "c"], "a, b, c"), (list("abcde"), "a, b, c and 2 more")]
)
def test_a_few_names_stand_for_many(names, told):
    assert comparing._few(names) == told


@pytest.mark.parametrize(
    ("other", "wrong"), [("", ["x", "y"]), ("made on another device", ["x", "y"]), ("made on another device", [])]
)
def test_what_another_device_made_refutes_nothing(other, wrong):
    it = Examination(wrong=list(wrong))
    comparing._leave_open(it, other)
    assert it.wrong == ([] if other else wrong)
    assert it.missing == ([f"{other}; x", "y"] if other and wrong else [])

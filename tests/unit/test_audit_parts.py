"""The parts that an audit is made of, each by itself: what they read, what they compare, and what they say of it."""

from __future__ import annotations

import io
import struct
from array import array

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.audit import agreement, beam, leaves, parity, places, stage_files
from repro.base.errors import VerificationFailed
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

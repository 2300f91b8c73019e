"""What an audit reads of data sets and images, how it judges a claim, and what the whole ends as."""

from __future__ import annotations

import io
import math
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest

from repro.audit import claims, labels, packages, speed_checks
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


def layer(members) -> io.BytesIO:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if content is None:
                member.type = tarfile.DIRTYPE
            elif content.startswith("->"):
                member.type, member.linkname = tarfile.SYMTYPE, content[2:]
            else:
                member.size = len(content)
            archive.addfile(member, io.BytesIO((content or "").encode()) if member.isreg() else None)
    return io.BytesIO(tar.getvalue())


STATUS = "Package: libc6\nVersion: 2.36-9\n\nPackage: python3.11\nDescription: Package: x\nVersion: 1:3.11.2-6\n"


def test_databases_of_layers_are_read_and_joined():
    found = packages.read_layer(
        layer(
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
    with pytest.raises(VerificationFailed, match="layer x is not a tar"):
        packages.read_layer(io.BytesIO(b"no tar" * 200), "layer x")


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
        (KeyError("x"), "KeyError at test_audit_judging.py:"),
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

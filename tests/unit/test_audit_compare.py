"""Two runs held against each other, the page that an auditor signs, and how a command ends."""

from __future__ import annotations

import json
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _audit_cases import PATHS, RUN, SIZE, document_of, make_run, reopen, stage_of, stored, write_record

from repro.audit import commands, compare
from repro.audit.agreement import DIFFERENT, IDENTICAL, WITHIN, NoValues, closeness, compare_bytes, differ
from repro.audit.claims import ATTESTED, CLAIMED, DEFECT, PROVEN, REFUTED, UNVERIFIED, Outcome
from repro.audit.compare import Sides, compare_runs
from repro.audit.page import sentence, write_page
from repro.audit.places import first_place
from repro.audit.results import read_manifest
from repro.base.errors import CouldNotVerify, StageFailed, VerificationFailed
from repro.base.files import sha256_bytes
from repro.graph.digests import FileDigest, digest_of_files
from repro.graph.pipeline import ISA_EXACT


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("compared")
    make_run(folder)
    return folder


def compared(one: Path, two: Path, *, run_again: bool = False) -> Outcome:
    outcome = Outcome("compare", "A and B")
    compare_runs(outcome, Sides(reopen(one), reopen(two), run_again=run_again))
    return outcome


def changed(folder: Path, change) -> None:
    """Change the record alone."""
    evidence = reopen(folder)
    document = document_of(evidence)
    change(document)
    write_record(evidence.run, document)


def replaced(folder: Path, key: str, name: str, data: bytes) -> None:
    """Make the run one in which a stage gave another output, consistent in itself."""

    def change(document):
        stage = stage_of(document, key)
        stage["outputs"]["files"][name] = {"sha256": sha256_bytes(data), "size_bytes": len(data)}
        listed = {n: FileDigest(f["sha256"], f["size_bytes"]) for n, f in stage["outputs"]["files"].items()}
        stage["outputs"]["digest"] = digest_of_files(listed)

    path = stored(folder, key) / "out" / name
    path.chmod(0o644)
    path.write_bytes(data)
    changed(folder, change)


def on_another_processor(folder: Path) -> None:
    changed(folder, lambda document: document["host"].update(instruction_set="amd64 Maker"))


def moved_output(folder: Path, by: float) -> bytes:
    evidence = reopen(folder)
    data = evidence.file(evidence.stage(f"infer@{SIZE}"), "result/inputs_0_0.npy")
    header, values = data[:128], np.frombuffer(data[128:], dtype="<f4").copy()
    values[0] += by
    return header + values.tobytes()


@pytest.fixture
def other(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "other")
    return tmp_path / "other"


def test_two_equal_runs_agree_in_every_claim(sound: Path, other: Path):
    outcome = compared(sound, other)
    assert outcome.error() is None
    assert {claim.status for claim in outcome.claims} == {PROVEN, ATTESTED, CLAIMED}
    assert {claim.key for claim in outcome.of_status(CLAIMED)} == {"same-question", "same-environment", "figures"}
    outcome = compared(sound, other, run_again=True)
    assert {claim.status for claim in outcome.claims} == {PROVEN, ATTESTED}


@pytest.mark.parametrize(
    ("what", "change", "claim", "status"),
    [
        ("data", lambda d: d["data"].update(fingerprint="0" * 64), "same-question", REFUTED),
        ("weights", lambda d: d["checkpoint"].update(sha256="0" * 64), "same-question", REFUTED),
        ("batch sizes", lambda d: d["request"].update(batch_sizes=[8]), "same-question", REFUTED),
        ("decoder", lambda d: d["request"]["decode"].update(type="Beam"), "same-question", REFUTED),
        ("beam width", lambda d: d["request"]["decode"].update(beam_width=7), "same-question", REFUTED),
        ("language model", lambda d: d["request"]["decode"].update(lm_alpha=0.7), "same-question", REFUTED),
        ("split", lambda d: d["request"].update(split="test"), "same-question", REFUTED),
        ("bad utterances", lambda d: d["request"].update(skip_bad=True), "same-question", REFUTED),
        ("number format", lambda d: d["request"].update(precision="bf16"), "same-question", REFUTED),
        ("executions", lambda d: d["request"].update(loop=7), "same-question", REFUTED),
        ("an image", lambda d: d["images"].update(base="sha256:" + "0" * 64), "same-environment", REFUTED),
        ("an image less", lambda d: d["images"].pop("base"), "same-environment", REFUTED),
        ("a stage less", lambda d: d["stages"].remove(stage_of(d, "export")), "stage:export", UNVERIFIED),
        ("a file less", lambda d: stage_of(d, "corpus")["outputs"]["files"].pop("units"), "stage:corpus", REFUTED),
        ("another file", lambda d: stage_of(d, "corpus")["outputs"]["files"]["units"].update(sha256="0" * 64),
         "stage:corpus", REFUTED),
        ("other rates", lambda d: d["results"][0]["complete"].update(wer_percent=1.0), "figures", REFUTED),
        ("a result less", lambda d: d["results"].clear(), "figures", UNVERIFIED),
    ],
)  # fmt: skip
def test_what_differs_between_two_runs_never_agrees_whichever_is_first(sound, other, what, change, claim, status):
    changed(other, change)
    for one, two in ((sound, other), (other, sound)):
        assert {found.key: found.status for found in compared(one, two).claims}[claim] == status, what
    outcome = compared(sound, other, run_again=True)
    assert {found.key: found.status for found in outcome.claims}[claim.replace("stage:", "made:")] == status, what


@pytest.mark.parametrize(
    ("layers", "status"),
    [(("debs:base", "wheels:base", "debs:synth", "built:flite"), ATTESTED), (("debs:base", "debs:synth"), REFUTED)],
)
def test_images_of_two_architectures_have_the_layers_that_each_is_defined_to_have(
    sound, other, tmp_path, layers, status
):
    def with_synth(architecture: str, names):
        def change(document):
            document["host"]["architecture"] = architecture
            document["images"]["synth"] = f"sha256:{sha256_bytes(architecture.encode())}"
            entry = document["image_layers"]["base"][0]
            document["image_layers"]["synth"] = [{**entry, "name": name} for name in names]

        return change

    shutil.copytree(sound, tmp_path / "one")
    changed(tmp_path / "one", with_synth("amd64", ("debs:base", "wheels:base", "debs:synth")))
    changed(other, with_synth("arm64", layers))
    for one, two in ((tmp_path / "one", other), (other, tmp_path / "one")):
        assert {claim.key: claim.status for claim in compared(one, two).claims}["same-environment"] == status


def test_two_bare_records_prove_nothing(sound: Path, other: Path, tmp_path: Path):
    for name, folder in (("A", sound), ("B", other)):
        shutil.copytree(reopen(folder).run, tmp_path / name / "results" / "runs" / RUN)
    outcome = compared(tmp_path / "A", tmp_path / "B")
    assert outcome.of_status(PROVEN) == []
    assert outcome.of_status(REFUTED) == []
    stages = {claim.key for claim in outcome.of_status(CLAIMED) if claim.key.startswith("stage:")}
    assert len(stages) == len(reopen(sound).record.stages)
    assert [claim.key for claim in outcome.of_status(UNVERIFIED)] == ["bytes"]
    assert isinstance(outcome.error(), CouldNotVerify)


def test_bytes_that_are_not_those_of_their_own_record_are_refuted(sound: Path, other: Path):
    path = stored(other, "corpus") / "out" / "units"
    path.chmod(0o644)
    path.write_bytes(b"aa\n")
    assert [claim.key for claim in compared(sound, other).of_status(REFUTED)] == ["stage:corpus"]


def test_another_output_on_the_same_processor_is_refuted_with_where_and_how_much(sound: Path, other: Path):
    replaced(other, f"infer@{SIZE}", "result/inputs_0_0.npy", moved_output(sound, 1e-4))
    outcome = compared(sound, other)
    (claim,) = outcome.of_status(REFUTED)
    assert claim.key == f"stage:infer@{SIZE}"
    assert "result/inputs_0_0.npy: different" in claim.findings[0]
    assert "largest difference 0.0001" in claim.findings[0]


def test_on_another_processor_the_same_is_within_tolerance_and_twice_the_tolerance_is_not(sound: Path, other: Path):
    reference = f"reference@{SIZE}"
    replaced(other, reference, "result/inputs_0_0.npy", moved_output(sound, 1e-4))
    on_another_processor(other)
    assert compared(sound, other).error() is None
    replaced(other, reference, "result/inputs_0_0.npy", moved_output(sound, 2e-2))
    assert [claim.key for claim in compared(sound, other).of_status(REFUTED)] == [f"stage:{reference}"]


def test_the_first_stage_file_utterance_and_frame_that_differ_are_named(sound: Path, other: Path):
    on_another_processor(other)
    replaced(other, f"score@{SIZE}", "utterances.jsonl", b"{}\n")
    replaced(other, f"infer@{SIZE}", "result/inputs_0_0.npy", moved_output(sound, 1e-4))
    outcome = compared(sound, other)
    assert {claim.key for claim in outcome.of_status(REFUTED)} >= {f"stage:infer@{SIZE}", f"stage:score@{SIZE}"}
    evidence = reopen(sound)
    first = read_manifest(evidence, SIZE).utterances[0].id
    ((_, text),) = [fact for fact in outcome.facts if fact[0] == "first difference"]
    assert text.startswith(f"infer@{SIZE}, result/inputs_0_0.npy, utterance {first}, frame 0, class 0: ")
    (claim,) = [claim for claim in outcome.of_status(REFUTED) if claim.key == f"stage:score@{SIZE}"]
    assert "first at line 1: " in claim.findings[0]
    assert not [fact for fact in compared(sound, sound).facts if fact[0] == "first difference"]


def test_a_place_is_told_by_what_a_file_holds(tmp_path: Path):
    spoken = {(3, 1): "FAKS0_SX1"}
    values = np.zeros((4, 3), "<f4")
    moved = values.copy()
    moved[2, 1] = 1
    assert first_place("dev/fbank.ark", _ark(values), _ark(moved), {}) == "utterance ID, frame 2, value 1: 0 and 1"
    batch = np.zeros((2, 390, 243), "<f4")
    other = batch.copy()
    other[1, 5, 7] = 2
    told = first_place("bins/inputs_3.bin", batch.tobytes(), other.tobytes(), spoken)
    assert told == "utterance FAKS0_SX1, frame 5, value 7: 0 and 2"
    for known, row in (({}, "row 1, frame 5"), ({(0, 0): "FAKS0_SX1"}, "row 1, which is padding, frame 5")):
        assert row in first_place("bins/inputs_3.bin", batch.tobytes(), other.tobytes(), known)
    assert first_place("a.onnx", b"\xff\x00", b"\xff\x01", {}) == "byte 1"
    assert first_place("x.txt", b"a\nb c\n", b"a\nb d\n", {}) == "line 2: 'b c' and 'b d'"
    assert first_place("x.ark", b"short", b"shorter", {}).startswith("line 1: ")


def test_an_exact_stage_must_give_the_same_bytes_on_another_processor_too(sound: Path, other: Path):
    replaced(other, f"infer@{SIZE}", "result/inputs_0_0.npy", moved_output(sound, 1e-4))
    on_another_processor(other)
    assert [claim.key for claim in compared(sound, other).of_status(REFUTED)] == [f"stage:infer@{SIZE}"]


def test_a_file_without_a_bound_refutes_nothing_where_its_stage_is_inexact(sound: Path, other: Path, monkeypatch):
    inexact = {**compare.STAGES, "export": replace(compare.STAGES["export"], exactness=ISA_EXACT)}
    monkeypatch.setattr(compare, "STAGES", inexact)
    replaced(other, "export", "lstm_ctc.onnx", b"another graph")
    assert [claim.key for claim in compared(sound, other).of_status(REFUTED)] == ["stage:export"]
    on_another_processor(other)
    outcome = compared(sound, other)
    assert outcome.of_status(REFUTED) == []
    assert [claim.key for claim in outcome.of_status(UNVERIFIED)] == ["stage:export"]


def test_other_hypotheses_are_refuted_even_on_another_processor(sound: Path, other: Path):
    replaced(other, f"score@{SIZE}", "utterances.jsonl", b"{}\n")
    on_another_processor(other)
    assert {claim.key for claim in compared(sound, other).of_status(REFUTED)} == {f"stage:score@{SIZE}", "figures"}


def test_bytes_that_differ_and_are_not_here_could_not_be_verified(sound: Path, other: Path):
    replaced(other, f"infer@{SIZE}", "result/inputs_0_0.npy", moved_output(sound, 1e-4))
    shutil.rmtree(other / "results" / "store")
    outcome = compared(sound, other)
    assert outcome.of_status(REFUTED) == []
    assert isinstance(outcome.error(), CouldNotVerify)


def test_another_device_is_held_to_the_vendor_s_thresholds(sound: Path, other: Path):
    changed(other, lambda document: document["request"].update(device="npu"))
    outcome = compared(other, sound)
    claims = {claim.key: claim for claim in outcome.claims}
    assert claims[f"stage:infer@{SIZE}"].status == UNVERIFIED
    assert any("cosine 1.000000" in line for line in claims[f"stage:infer@{SIZE}"].evidence)
    replaced(other, f"infer@{SIZE}", "result/inputs_0_0.npy", moved_output(sound, 1e6))
    outcome = compared(other, sound)
    assert [claim.key for claim in outcome.of_status(REFUTED)] == [f"stage:infer@{SIZE}"]


def test_another_toolchain_leaves_open_what_differs_and_still_holds_outputs_to_the_thresholds(sound: Path, other: Path):
    replaced(other, f"infer@{SIZE}", "result/inputs_0_0.npy", moved_output(sound, 1e-4))

    def otherwise(document):
        document["request"]["pinned"] = ["export", "features", "reference"]
        document["images"]["kaldi"] = document["images"].pop("features")
        document["results"][0]["complete"]["wer_percent"] = 12.5

    changed(other, otherwise)
    outcome = compared(other, sound)
    claims = {claim.key: claim for claim in outcome.claims}
    assert outcome.of_status(REFUTED) == []
    for key in ("same-environment", "figures", f"stage:infer@{SIZE}"):
        assert claims[key].status == UNVERIFIED
        assert "made with other toolchains" in " ".join(claims[key].findings)
    assert claims["stage:corpus"].status == PROVEN
    replaced(other, f"infer@{SIZE}", "result/inputs_0_0.npy", moved_output(sound, 1e6))
    outcome = compared(other, sound)
    assert [claim.key for claim in outcome.of_status(REFUTED)] == [f"stage:infer@{SIZE}"]


def _ark(values) -> bytes:
    rows, columns = values.shape
    return b"ID \0BFM \4" + struct.pack("<i", rows) + b"\4" + struct.pack("<i", columns) + values.tobytes()


def test_every_kind_of_output_is_compared_by_value(tmp_path: Path):
    values = np.arange(6, dtype="<f4").reshape(2, 3)
    moved = values + np.float32(0.5)
    assert differ("a.ark", _ark(values), _ark(moved))[0].largest == 0.5
    assert differ("a.bin", values.tobytes(), moved.tobytes())[0].mean == 0.5
    assert differ("compare.json", b'{"a": 1.0, "n": 2}', b'{"a": 1.25, "n": 2}')[0].largest == 0.25
    for name, one, two in (
        ("compare.json", b'{"n": 2}', b'{"n": 3}'),
        ("compare.json", b'{"n": 2.0}', b'{"n": NaN}'),
        ("a.ark", _ark(values), _ark(values.T.copy())),
        ("a.ark", _ark(values), _ark(values)[:-1]),
        ("a.bin", b"\0" * 8, b"\0" * 4),
        ("a.bin", b"\0" * 4, np.float32("nan").tobytes()),
        ("cmvn.txt", b"[ 1 2 ]", b"[ 1 b ]"),
    ):
        with pytest.raises(VerificationFailed):
            differ(name, one, two)
    with pytest.raises(NoValues):
        differ("a.txt", b"1", b"2")
    np.save(tmp_path / "a.npy", values)
    same = (tmp_path / "a.npy").read_bytes()
    assert closeness("a.npy", same, same) == {"cosine": pytest.approx(1), "relative_euclidean": 0.0, "max_abs": 0.0}


def _cmvn(total: float, squares: float = 9e9) -> bytes:
    return f" [\n {total:.7g} 10 400\n {squares:.7g} 20 0 ]\n".encode()


@pytest.mark.parametrize(
    ("name", "one", "two", "verdict"),
    [
        ("a.bin", np.float32([0, 1]).tobytes(), np.float32([0, 1.00001]).tobytes(), WITHIN),
        ("a.bin", np.float32([0, 1]).tobytes(), np.float32([0, 1.00005]).tobytes(), DIFFERENT),  # its mean
        ("a.bin", np.zeros(1000, "<f4").tobytes(), np.eye(1, 1000, dtype="<f4").tobytes(), DIFFERENT),
        ("global_fbank_cmvn.txt", _cmvn(2.4e6), _cmvn(2.4e6 + 10), WITHIN),  # a sum: relative
        ("global_fbank_cmvn.txt", _cmvn(2.4e6), _cmvn(2.4e6 + 60), DIFFERENT),
        ("global_fbank_cmvn.txt", _cmvn(0.0), _cmvn(0.003), WITHIN),  # near zero: per summed frame
        ("global_fbank_cmvn.txt", _cmvn(0.0), _cmvn(0.05), DIFFERENT),
        ("global_fbank_cmvn.txt", _cmvn(1.0), _cmvn(1.0).replace(b"400", b"401"), DIFFERENT),
        ("compare.json", b'{"a": 1.0}', b'{"a": 1.009}', WITHIN),
        ("compare.json", b'{"a": 1.0}', b'{"a": 1.011}', DIFFERENT),
    ],
)
def test_each_kind_of_file_has_a_bound_of_its_own(name, one, two, verdict):
    assert compare_bytes(name, one, one, "").verdict == IDENTICAL
    assert compare_bytes(name, one, two, "").verdict == verdict
    assert compare_bytes(name, one, two, "equal everywhere").verdict == DIFFERENT


def test_refuted_and_not_verifiable_are_never_mixed_up():
    outcome = Outcome("verify", "a record")
    with outcome.examine("fine", "all is well") as it:
        it.evidence.append("seen")
    assert outcome.error() is None
    with outcome.examine("gone", "the file is there"):
        raise CouldNotVerify("it is not")
    with outcome.examine("unread", "the file can be read"):
        raise PermissionError(13, "no")
    assert isinstance(outcome.error(), CouldNotVerify)
    with outcome.examine("both", "nothing is wrong") as it:
        it.missing.append("something is missing")
        it.wrong.append("something is wrong")
    with outcome.examine("raised", "the bytes are right"):
        raise VerificationFailed("they are not", detail="one\ntwo")
    error = outcome.error()
    assert isinstance(error, VerificationFailed)
    assert "something is wrong" in error.message
    assert [claim.status for claim in outcome.claims] == [PROVEN, UNVERIFIED, UNVERIFIED, REFUTED, REFUTED]
    assert outcome.claims[-1].findings == ("they are not (one; two)",)
    for line in ("gone: it is not", "raised: they are not"):
        assert line in error.detail
    with outcome.examine("defect", "a defect of the audit proves and refutes nothing"):
        raise ZeroDivisionError
    assert outcome.claims[-1].status == UNVERIFIED
    assert DEFECT in outcome.claims[-1].findings[0]
    assert "test_audit_compare.py" in outcome.claims[-1].findings[0]


def test_the_page_says_every_claim_in_three_forms_and_no_text_becomes_markup(tmp_path: Path):
    outcome = Outcome("verify", "<script>alert(1)</script>")
    for status, raised in (
        (REFUTED, VerificationFailed("a | *b*")),
        (UNVERIFIED, StageFailed("</td>")),
        (PROVEN, None),
    ):
        with outcome.examine(status, f"claim of {status}") as it:
            it.evidence.append("<b>")
            if raised:
                raise raised
    write_page(outcome, tmp_path)
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_page(outcome, tmp_path)
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    document = json.loads(first["audit.json"])
    assert document["first_refuted"] == REFUTED
    counts = {status: number for status, number in document["counts"].items() if number}
    assert counts == {PROVEN: 1, REFUTED: 1, UNVERIFIED: 1}
    html, text = first["audit.html"].decode(), first["audit.md"].decode()
    assert "<script>" not in html
    assert "<b>" not in html
    assert r"a \| \*b\*" in text
    for page in (html, text):
        assert sha256_bytes(first["audit.json"]) in page
        assert all(f"claim of {status}" in page for status in (REFUTED, UNVERIFIED, PROVEN))
    assert sentence(outcome).startswith("Refuted: 1 of 3 claims, the first of them: claim of refuted")


def test_a_command_writes_its_page_says_the_counts_and_ends_as_the_outcome_demands(sound: Path, other: Path, tmp_path):
    said: list[str] = []
    runs = [str(reopen(folder).run) for folder in (sound, other)]
    commands.compare(PATHS, *runs, commands.Page(str(tmp_path / "page")), said.append)
    assert said[0].startswith("Every claim holds")
    assert all(f"{status}: " in said[1] for status in (PROVEN, ATTESTED, CLAIMED))
    replaced(other, f"score@{SIZE}", "utterances.jsonl", b"{}\n")
    with pytest.raises(VerificationFailed):
        commands.compare(PATHS, *runs, commands.Page(str(tmp_path / "page")), said.append)
    assert json.loads((tmp_path / "page" / "audit.json").read_bytes())["counts"][REFUTED] == 2

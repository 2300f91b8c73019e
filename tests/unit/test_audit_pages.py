"""What an audit says, whole: of a sound run, of one with nothing beside it, of forged ones, and of two runs.

Each page lies in audit_pages/, one line per fact. Digests and what changes with this checkout are left out. A change of
what an audit says shows there as a difference to read: `python -m tests.unit.test_audit_pages` writes the pages anew.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from _audit_cases import RUN, SIZE, audit, document_of, make_run, reopen, stage_of, stored, write_record

from repro.audit import images
from repro.audit.claims import Outcome
from repro.audit.compare import Sides, compare_runs, machine_of
from repro.audit.page import sentence
from repro.base.files import sha256_bytes
from repro.fetching import Cache
from repro.graph.digests import FileDigest, digest_of_files

PAGES = Path(__file__).with_name("audit_pages")
_LEFT_OUT = (
    (r"(?<![\w.])[0-9a-f]{12,64}\b", "#"),
    (r"  ! verdict\.(?!outcome).*\n", ""),  # in the words of the verdict, which has tests of its own
    (r"(formula is 'another'; recomputed:).*", r"\1 #"),
    (r"\d+ (components|metrics|values that|stages, computed)", r"# \1"),
    (r"made on: .*", "made on: #"),
    (r"(InRelease signed by).*", r"\1 #"),
    (r"/tmp/\S*|/\S*/pytest-\S*", "/#"),
)


def page_of(outcome: Outcome) -> str:
    """Everything that an outcome says, one line per fact."""
    document = outcome.as_json()
    lines = [f"{document['kind']} of {document['subject']}: {sentence(outcome)}", f"how known: {outcome.explanation()}"]
    lines += [f"{fact['name']}: {fact['value']}" for fact in document["facts"]]
    lines += [f"looked at: {name}" for name in document["looked_at"]]
    lines += [f"subject: {name}" for name in document["subjects"]]
    lines += [f"{name}: {count}" for name, count in document["counts"].items()]
    lines.append(f"first refuted: {document['first_refuted']}")
    for claim in document["claims"]:
        kind = "" if claim["kind"] == claim["status"] else f" ({claim['kind']})"
        lines += ["", f"{claim['key']}: {claim['claim']}", f"  {claim['status']}{kind}"]
        for mark, part in (("!", "findings"), ("=", "evidence"), ("?", "open_to")):
            lines += [f"  {mark} {line}" for line in claim[part]]
    text = "\n".join(lines) + "\n"
    for pattern, word in _LEFT_OUT:
        text = re.sub(pattern, word, text)
    return text


def with_everything(folder: Path) -> Outcome:
    return audit(folder, folder / "TIMIT", folder / "weights.pth")


def with_nothing_beside(folder: Path) -> Outcome:
    shutil.rmtree(folder / "results" / "blobs")
    shutil.rmtree(stored(folder, f"infer@{SIZE}"))
    (stored(folder, "corpus") / "out" / "units").unlink()
    (stored(folder, f"measure@{SIZE}") / "obs" / "measure.json").unlink()
    (folder / "results" / "runs" / RUN / "report.html").unlink()
    return audit(folder)


def changed(folder: Path, change: Callable[[Any], None]) -> None:
    evidence = reopen(folder)
    document = document_of(evidence)
    change(document)
    write_record(evidence.run, document)


def forge_record(document: Any) -> None:
    """Change a little of every part of a record."""
    result = document["results"][0]
    result["complete"]["edits"]["wer"] += 1
    result["complete"].update(cer_percent=1.5, cer_printed="1.5000")
    result["complete"]["confusions"][0]["count"] += 1
    result["published"]["wer_counts"]["insertions"] += 2
    result["throughput_utterances_per_s"] *= 1.01
    result["latency_ms"]["p99"] = 1.0
    result["comparison"]["torch_onnx"]["max_abs"] = 1.0
    document["verdict"]["outcome"] = "reproduced"
    document["metrics"]["cer_percent"]["formula"] = "another"
    document["toolchain"][0]["found"] = "9.9"
    document["data"]["fingerprint"] = "0" * 64
    document["checkpoint"]["sha256"] = "1" * 64
    document["request"].update(loop=7, split="test")
    document["observations"]["steps"].pop()
    document["observations"]["steps"][0]["key"] = "invented"
    document["observations"]["steps"][1].update(cached=True)
    document["observations"]["steps"][2].update(started_s=90.0)
    document["observations"]["phases"][0]["seconds"] = 99.0
    stage_of(document, "lm")["code"] = "2" * 64
    stage_of(document, "export")["fingerprint"] = "3" * 64
    stage_of(document, "corpus")["outputs"]["files"]["units"]["sha256"] = "4" * 64
    stage_of(document, "features")["outputs"]["files"]["more"] = {"sha256": "5" * 64, "size_bytes": 5}
    stage_of(document, f"convert@{SIZE}")["outputs"]["digest"] = "6" * 64
    stage_of(document, f"infer@{SIZE}")["image"] = "base"
    document["image_layers"]["base"][0]["diff_id"] = "sha256:" + "7" * 64
    document["image_layers"]["runtime"][-1]["size_bytes"] += 1
    document["images"]["features"] = "sha256:" + "8" * 64


def with_a_forged_record(folder: Path) -> Outcome:
    changed(folder, forge_record)
    run = folder / "results" / "runs" / RUN
    (run / "more.txt").write_text("planted")
    (run / "folder").mkdir()
    (run / "report.md").write_text("another")
    return with_everything(folder)


def replaced(folder: Path, key: str, name: str, change: Callable[[bytes], bytes]) -> None:
    """Let a stage have given another output, in the store as in the record."""
    path = stored(folder, key) / "out" / name
    data = change(path.read_bytes())
    path.chmod(0o644)
    path.write_bytes(data)

    def tell(document: Any) -> None:
        outputs = stage_of(document, key)["outputs"]
        outputs["files"][name] = {"sha256": sha256_bytes(data), "size_bytes": len(data)}
        listed = {n: FileDigest(f["sha256"], f["size_bytes"]) for n, f in outputs["files"].items()}
        outputs["digest"] = digest_of_files(listed)

    changed(folder, tell)


FORGED = (
    (f"score@{SIZE}", "utterances.jsonl", b'"in_published": true', b'"in_published": false'),
    (f"score@{SIZE}", "score.json", b'"beam_width": 10', b'"beam_width": 11'),
    (f"compare@{SIZE}", "compare.json", b'"utterances": 10', b'"utterances": 11'),
    (f"measure@{SIZE}", "summary.json", b'"zeros"', b'"ones"'),
    ("corpus", "units", b"aa\n", b"zz\n"),
    ("probe:base", "probe.json", b"1.26.4", b"1.26.5"),
)


def with_forged_results(folder: Path) -> Outcome:
    for key, name, old, new in FORGED:
        replaced(folder, key, name, lambda data, old=old, new=new: data.replace(old, new, 1))
    times = stored(folder, f"measure@{SIZE}") / "obs" / "measure.json"
    times.chmod(0o644)
    times.write_bytes(times.read_bytes().replace(b"100.0", b"101.0", 1))
    (folder / "TIMIT/TEST/DR1/FAKS0/SX1.PHN").write_text("0 100 aa\n")
    (folder / "weights.pth").write_bytes(b"others")
    return with_everything(folder)


def compared(one: Path, two: Path, *, run_again: bool) -> Outcome:
    outcome = Outcome("rerun" if run_again else "compare", "A and B")
    sides = Sides(reopen(one), reopen(two), "the run", "the rerun", run_again=run_again)
    outcome.fact("made on", machine_of(sides.one))
    compare_runs(outcome, sides)
    return outcome


def of_two_runs(*, run_again: bool) -> Callable[[Path], Outcome]:
    def compare(folder: Path) -> Outcome:
        other = folder.with_name("other")
        shutil.copytree(folder, other)
        replaced(other, f"infer@{SIZE}", "result/inputs_1_0.npy", lambda data: data[:-4] + b"\0\0\0\xc0")
        replaced(other, "corpus", "units", lambda data: data.replace(b"zh", b"sh").replace(b"z\n", b"y\n"))
        replaced(other, "features", "dev/fbank.ark", lambda data: data[:-4] + b"\0\0\x40\x41")
        (stored(other, "lm") / "out" / "lm_phone_bg.arpa").unlink()

        def tell(document: Any) -> None:
            document["request"].update(loop=50)
            document["results"][0]["complete"].update(wer_percent=1.0)
            document["results"][0]["throughput_utterances_per_s"] *= 1.5
            document["images"]["base"] = "sha256:" + "9" * 64
            document["stages"].remove(stage_of(document, "export"))

        changed(other, tell)
        return compared(folder, other, run_again=run_again)

    return compare


CASES: dict[str, Callable[[Path], Outcome]] = {
    "sound": with_everything,
    "nothing_beside": with_nothing_beside,
    "forged_record": with_a_forged_record,
    "forged_results": with_forged_results,
    "compared": of_two_runs(run_again=False),
    "rerun": of_two_runs(run_again=True),
}


@contextlib.contextmanager
def run_copied(sound: Path) -> Iterator[Path]:
    """A copy of the run. What this checkout has fetched of Debian's indexes shows nothing here."""
    with tempfile.TemporaryDirectory() as name, mock.patch.object(images, "Cache", lambda _: Cache(Path(name))):
        folder = Path(shutil.copytree(sound, Path(name) / "run"))
        for path in folder.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield folder


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sound")
    make_run(folder, "Beam")
    return folder


@pytest.mark.parametrize("case", CASES)
def test_an_audit_says_this_and_no_more(sound: Path, case: str):
    with run_copied(sound) as folder:
        found = page_of(CASES[case](folder))
    assert found.splitlines() == (PAGES / f"{case}.txt").read_text("utf-8").splitlines()


def write_pages() -> None:
    with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
        make_run(Path(name), "Beam")
        for case, make in CASES.items():
            with run_copied(Path(name)) as folder:
                (PAGES / f"{case}.txt").write_text(page_of(make(folder)), "utf-8")


if __name__ == "__main__":
    write_pages()

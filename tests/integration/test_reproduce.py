"""The main job in real containers: engines agree, nothing runs twice, killed runs lose nothing, two do no harm."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import jsonschema
import pytest
from _runs import (
    GOLDEN,
    QUICK,
    ROOT,
    command,
    copy_of,
    environment,
    output_digests,
    processes_using,
    record,
    reproduce,
    run,
)

from repro.base.paths import Paths
from repro.graph.store import fingerprint_of
from repro.record import read_record
from repro.run.engine_choice import probe_all
from tests.forms import FULL
from tests.unit._record_cases import record_of

KILLS = 50 if FULL else 10


@pytest.fixture(scope="module")
def usable() -> set[str]:
    return {found.name for found in probe_all(Paths.of_checkout({})) if found.usable}


@pytest.fixture(scope="module")
def sandbox_results(finished: Path, tmp_path_factory) -> Path:
    return copy_of(finished, tmp_path_factory.mktemp("sandbox") / "results")


def test_the_record_fits_its_schema_and_accounts_for_itself(sandbox_results: Path):
    document = record(sandbox_results)
    jsonschema.validate(document, json.loads((ROOT / "repro/record/record.schema.json").read_bytes()))
    assert record_of(document) == read_record((Paths(ROOT, sandbox_results).runs / "latest/record.json").read_bytes())
    for stage in document["stages"]:
        stored = Paths(ROOT, sandbox_results).store / stage["fingerprint"][:2] / stage["fingerprint"] / "result.json"
        assert fingerprint_of(json.loads(stored.read_bytes())["key"]) == stage["fingerprint"]


def test_nothing_is_called_reproduced_on_a_cpu_with_a_demo_checkpoint(sandbox_results: Path):
    document = record(sandbox_results)
    assert document["verdict"]["outcome"] == "not-comparable"
    reasons = "\n".join(document["verdict"]["reasons"])
    for word in ("CPU", "portable", "demo"):
        assert word in reasons
    assert document["engine"]["name"] == "sandbox"


def test_the_report_stands_alone(sandbox_results: Path):
    html = (Paths(ROOT, sandbox_results).runs / "latest" / "report.html").read_text()
    assert "<svg" in html
    for outside in ("src=", "<link", "@import", "url(http"):
        assert outside not in html


def test_a_second_run_runs_no_stage(sandbox_results: Path):
    first = record(sandbox_results)
    again = reproduce(sandbox_results, "--engine", "sandbox")
    assert [stage["key"] for stage in again["stages"] if not stage["cached"]] == []
    assert again["identity"] == first["identity"]


def test_a_plan_runs_nothing_and_says_why(sandbox_results: Path, tmp_path: Path):
    stored = run(sandbox_results, "reproduce", *QUICK, "--plan")
    assert stored.returncode == 0, stored.stderr
    assert all(line.endswith("stored") for line in stored.stdout.splitlines() if not line.startswith("layer"))
    fresh = run(tmp_path, "reproduce", *QUICK, "--plan")
    assert "corpus           run: never run before" in fresh.stdout
    assert "score@8          run unless its inputs come out as before" in fresh.stdout
    assert not Paths(ROOT, tmp_path).runs.exists()


def test_a_sweep_takes_what_is_stored_and_makes_only_what_differs(sandbox_results: Path, tmp_path: Path):
    asked = tmp_path / "decoders.toml"
    asked.write_text(
        f'[matrix]\ncheckpoints = ["demo"]\ndata = ["{GOLDEN / "TIMIT"}"]\nbatch_sizes = [8]\n'
        'decoders = ["Greedy", { type = "Beam", beam_width = 2, lm_alpha = 0.1 }]\n[run]\nloop = 2\n'
    )
    words = ("sweep", str(asked), "--engine", "sandbox", "--to", str(tmp_path / "page"))
    swept = run(sandbox_results, *words)
    assert swept.returncode == 0 and "Every one of 2 cells has its record" in swept.stdout, swept.stderr + swept.stdout
    assert "2 ran now" in swept.stdout, "the language model, and the scoring of Beam"
    document = json.loads((tmp_path / "page" / "sweep.json").read_bytes())
    greedy, beam = [
        json.loads((Paths(ROOT, sandbox_results).runs / cell["run"] / "record.json").read_bytes())
        for cell in document["cells"]
    ]
    assert greedy["identity"] == record(sandbox_results)["identity"] != beam["identity"]
    again = run(sandbox_results, *words)
    assert again.returncode == 0 and "0 ran now" in again.stdout, again.stderr + again.stdout


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_another_engine_forced_to_run_every_stage_gives_the_sandbox_s_bytes(
    engine: str, usable: set[str], finished: Path, tmp_path: Path
):
    if engine not in usable:
        pytest.skip(f"{engine} cannot be used on this machine")
    first = record(finished)
    document = reproduce(copy_of(finished, tmp_path / "results"), "--engine", engine, "--force")
    assert document["engine"]["name"] == engine
    assert [stage["key"] for stage in document["stages"] if stage["cached"]] == []
    assert output_digests(document) == output_digests(first)
    assert document["identity"] == first["identity"]


def test_one_stage_runs_with_what_it_needs_and_prints_its_folder(tmp_path: Path):
    done = run(tmp_path, "stage.batches", *QUICK, "--engine", "sandbox")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert sorted(path.name for path in (folder / "bins").iterdir()) == ["inputs_0.bin"]


def test_another_split_and_another_number_format_come_to_the_end(sandbox_results: Path):
    """As another decoder does in the sweep above."""
    plain = read_record((Paths(ROOT, sandbox_results).runs / "latest" / "record.json").read_bytes(), what="record.json")
    for split, words in (("test", ("--split", "test")), ("dev", ("--precision", "bf16"))):
        done = run(sandbox_results, "stage.score", *QUICK, *words, "--engine", "sandbox")
        if done.returncode == 2 and "bf16" in words:
            pytest.skip(f"the other split came to its end; {done.stderr}")
        assert done.returncode == 0, done.stderr
        out = Path(done.stdout.splitlines()[-1])
        assert out.parent.name != plain.stage("score@8").fingerprint
        scored = {json.loads(line)["id"] for line in (out / "utterances.jsonl").read_text("utf-8").splitlines()}
        labels = (GOLDEN / "data" / split / "phn_text").read_text("utf-8").splitlines()
        assert scored == {line.split()[0] for line in labels}


@pytest.mark.slow
def test_a_run_killed_at_random_moments_ends_as_one_that_was_not(sandbox_results: Path, tmp_path: Path):
    """kill -9, again and again; what was finished is kept, nothing stays behind, the identity is the same."""
    chance = random.Random(20261122)
    results, rounds = tmp_path / "killed-0", 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command("reproduce", *QUICK, "--engine", "sandbox"),
            cwd=ROOT,
            env=environment(results),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(timeout=chance.uniform(0.1, 5.0))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        deadline_s = time.monotonic() + 20
        while processes_using(results) and time.monotonic() < deadline_s:
            time.sleep(0.02)
        assert processes_using(results) == []
        if Paths(ROOT, results).runs.exists():  # it came to its end: check it, and be killed on from nothing
            _is_as_undisturbed(results, sandbox_results)
            rounds += 1
            results = tmp_path / f"killed-{rounds}"
    reproduce(results, "--engine", "sandbox")
    _is_as_undisturbed(results, sandbox_results)
    assert list((results / "tmp").iterdir()) == list((results / "store" / "locks").iterdir()) == []


def _is_as_undisturbed(results: Path, undisturbed: Path) -> None:
    if (Paths(ROOT, results).runs / "latest").exists():
        assert record(results)["identity"] == record(undisturbed)["identity"]
    assert not (results / "store" / "damaged").exists()
    assert not (results / "store" / "conflicts").exists()


def test_two_runs_at_once_do_not_harm_each_other(sandbox_results: Path, tmp_path: Path):
    both = [
        subprocess.Popen(
            command("reproduce", *QUICK, "--engine", "sandbox"),
            cwd=ROOT,
            env=environment(tmp_path),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        _, errors = process.communicate(timeout=3000)
        assert process.returncode == 0, errors
    runs = [path for path in Paths(ROOT, tmp_path).runs.iterdir() if path.name != "latest"]
    assert len(runs) == 2
    identities = [json.loads((path / "record.json").read_bytes())["identity"] for path in runs]
    assert identities[0] == identities[1] == record(sandbox_results)["identity"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--bs", "0"), 2, "--bs '0' is not a batch size"),
        (("--bs", "eight"), 2, "--bs 'eight' is not a batch size"),
        (("--data", "/not/there"), 2, "there is no such file or folder"),
        (("--checkpoint", "/not/there.pth"), 2, "there is no such file"),
        (("--device", "tpu"), 2, "--device tpu"),
        (("--engine", "lxc"), 2, "there is no engine 'lxc'"),
        (("--engine", "lxc", "--plan"), 2, "there is no engine 'lxc'"),
        (("--precision", "int8"), 2, "--precision 'int8' is not known"),
        (("--precision", "bf16", "--device", "npu"), 2, "--precision is the CPU's number format"),
        (("--decode", "Best"), 2, "--decode 'Best'"),
    ],
)
def test_wrong_use_is_said_in_one_line_and_exits_with_2(tmp_path: Path, words, code: int, said: str):
    done = run(tmp_path, "reproduce", *words)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bad_wave_names_the_utterance_and_skip_bad_counts_it(finished: Path, tmp_path: Path):
    results = copy_of(finished, tmp_path / "results")  # with the model, which no wave changes
    corpus = tmp_path / "TIMIT"
    shutil.copytree(ROOT / "tests" / "golden" / "TIMIT", corpus)
    wave = corpus / "TEST" / "DR4" / "FADG0" / "SX52.WAV"
    wave.write_bytes(wave.read_bytes()[:2000])
    words = ("--data", str(corpus), "--checkpoint", "demo", "--loop", "2", "--engine", "sandbox")
    refused = run(results, "reproduce", *words)
    assert refused.returncode == 4
    assert "FADG0_SX52" in refused.stderr
    skipped = run(results, "reproduce", *words, "--skip-bad")
    assert skipped.returncode == 0, skipped.stderr
    assert [item["utterance"] for item in record(results)["data"]["excluded"]] == ["FADG0_SX52"]


def test_a_checkpoint_that_runs_code_is_refused_and_runs_none(tmp_path: Path):
    (tmp_path / "evil.pth").write_bytes(b"cos\nsystem\n(S'touch /run/out/ran; touch /tmp/ran'\ntR.")
    done = run(
        tmp_path / "results", "stage.export", "--data", str(ROOT / "tests" / "golden" / "TIMIT"),
        "--checkpoint", str(tmp_path / "evil.pth"), "--engine", "sandbox",
    )  # fmt: skip
    assert done.returncode == 4
    assert "evil" in done.stderr or "checkpoint" in done.stderr
    assert not Path("/tmp/ran").exists()

"""Forged and malformed runs: each names the command that finds it; none is proven, none ends in a traceback.

The short form takes a share of each large group. `invoke test --full` takes all; docs/decisions/audit.md notes its last
result.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from _audit_cases import audit, document_of, make_readable_run, reopen
from _forgeries import (
    NOBODY,
    VERIFY,
    Forgery,
    lies,
    malformed_records,
    malformed_stage_files,
    odd_entries,
    of_record,
    other_code,
    other_leaf,
    settle,
    tampered_images,
)

from repro.audit import arithmetic, images, judgement, stages
from repro.audit.claims import DEFECT, IF_RERUN, PROVEN, REFUTED, UNVERIFIED, Claim, Outcome
from repro.audit.compare import Sides, compare_runs
from repro.audit.leaves import is_observation, leaves
from repro.audit.page import write_page
from tests.forms import FULL

SHORT_SHARE = 5  # the short form takes every fifth of a large group
INERT = {"request.decode.beam_width", "request.decode.lm_alpha"}  # of Beam alone; the identity covers them
LEAVES = 200 if FULL else 20


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return make_readable_run(tmp_path_factory.mktemp("sound"))


@pytest.fixture(autouse=True)
def _remembered(monkeypatch):
    """What no forgery can change is computed once: the checkout's code and locks, the drawing, the resampling."""
    known = {}

    def memory(function):
        def call(*arguments):
            key = (function.__name__, repr(arguments[:2]))
            if key not in known:
                known[key] = function(*arguments)
            return known[key]

        return call

    monkeypatch.setattr(stages, "_code_digest", memory(stages._code_digest))
    monkeypatch.setattr(arithmetic, "intervals_95", memory(arithmetic.intervals_95))
    monkeypatch.setattr(images, "_examine_chain", lambda *_: None)
    monkeypatch.setattr(images, "recipes_of", memory(images.recipes_of))
    monkeypatch.setattr(judgement, "_examine_reports", lambda *_: None)  # the forger draws them anew


def part_of(forgeries) -> list[Forgery]:
    chosen = list(forgeries)
    return chosen if FULL or len(chosen) < 4 * SHORT_SHARE else chosen[::SHORT_SHARE]


def audited(sound: Path, forgery: Forgery, place: Path) -> tuple[Path, dict[str, Claim], Outcome]:
    """A copy of the sound run, forged and audited; its page is written."""
    copy = place / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(sound, copy)
    forgery.change(copy)
    outcome = audit(copy, copy / "TIMIT", copy / "weights.pth")
    write_page(outcome, place / "page")
    assert not [finding for claim in outcome.claims for finding in claim.findings if DEFECT in finding], forgery.name
    return copy, {claim.key: claim for claim in outcome.claims}, outcome


def accused(outcome: Outcome, sound: Outcome) -> set[str]:
    """Claims that do not hold, and did of the sound run."""
    open_before = {claim.key for claim in sound.claims if claim.status in (REFUTED, UNVERIFIED)}
    return {claim.key for claim in outcome.claims if claim.status in (REFUTED, UNVERIFIED)} - open_before


def run_campaign(sound: Path, place: Path, forgeries: list[Forgery], capsys, name: str) -> None:
    before = audit(sound, sound / "TIMIT", sound / "weights.pth")
    counts: Counter[str] = Counter()
    wrong = []
    for forgery in forgeries:
        copy, claims, outcome = audited(sound, forgery, place)
        found = accused(outcome, before)
        if forgery.found_by == VERIFY:
            fits = bool(found) and forgery.claims <= found
        else:
            fits = not found and _left_open(copy, sound, forgery, claims)
        if not fits:
            wrong.append((forgery.name, sorted(found)))
        counts[forgery.found_by] += 1
    with capsys.disabled():
        told = ", ".join(f"{number} by {finder}" for finder, number in sorted(counts.items()))
        print(f"\n{name}: {len(forgeries)} runs, found: {told}; 0 proven, 0 tracebacks")
    assert wrong == []


def _left_open(copy: Path, sound: Path, forgery: Forgery, claims: dict[str, Claim]) -> bool:
    """Whether verify says of what it cannot find that it did not, and a rerun of the sound inputs finds it."""
    if forgery.found_by == NOBODY:
        return all(claims[key].status != PROVEN for key in ("observations", *(k for k in claims if k[:5] == "speed")))
    named = all(claims[key].status == IF_RERUN and claims[key].open_to for key in forgery.claims)
    outcome = Outcome("rerun", "a run")
    compare_runs(outcome, Sides(reopen(copy), reopen(sound), run_again=True))
    return named and forgery.claims <= {claim.key for claim in outcome.of_status(REFUTED)}


def test_malformed_records_are_findings_with_their_place(sound: Path, tmp_path: Path, capsys):
    forgeries = part_of(malformed_records(document_of(reopen(sound))))
    run_campaign(sound, tmp_path, forgeries, capsys, "malformed records")


def test_malformed_stage_files_are_findings_though_every_digest_fits(sound: Path, tmp_path: Path, capsys):
    run_campaign(sound, tmp_path, part_of(malformed_stage_files()), capsys, "malformed stage files")


def test_what_no_list_names_is_a_finding_by_name(sound: Path, tmp_path: Path, capsys):
    run_campaign(sound, tmp_path, part_of(odd_entries()), capsys, "odd entries")


def test_lies_that_fit_are_found_by_the_command_that_they_name(sound: Path, tmp_path: Path, capsys):
    run_campaign(sound, tmp_path, list(lies()), capsys, "lies that fit")


def test_tampered_layers_and_other_code_are_found(sound: Path, tmp_path: Path, capsys):
    forgeries = part_of([*tampered_images(), *other_code()])
    run_campaign(sound, tmp_path, forgeries, capsys, "images and code")


def changed_leaves(sound: Path) -> Iterator[Forgery]:
    document = document_of(reopen(sound))
    values = dict(leaves(document))
    chance = random.Random(20261128)
    paths = [
        path for path in values if not is_observation(path) and path not in INERT and not path.startswith("identity")
    ]
    for path in chance.sample(paths, LEAVES):
        value = other_leaf(values[path], chance)
        yield Forgery(f"leaf {path}", of_record(lambda d, p=path, v=value: set_leaf(d, p, v), fit=False), VERIFY)


def test_a_change_of_any_leaf_that_is_no_observation_is_found(sound: Path, tmp_path: Path, capsys):
    run_campaign(sound, tmp_path, list(changed_leaves(sound)), capsys, "changed leaves")


def test_a_sound_run_stays_sound_when_everything_is_made_to_fit_again(sound: Path, tmp_path: Path):
    """The forger's tool changes nothing by itself: what a lie is found by is the lie."""
    before = audit(sound, sound / "TIMIT", sound / "weights.pth")
    _, _, outcome = audited(sound, Forgery("nothing", settle, NOBODY), tmp_path)
    assert accused(outcome, before) == set()


def set_leaf(document, path, value):
    steps = path.replace("[", ".[").split(".")
    *parents, last = _joined(document, steps)
    target = document
    for step in parents:
        target = target[step]
    target[last] = value


def _joined(document, steps):
    """Path steps as keys and indexes; keys may hold dots (file names), so the document decides."""
    found, target, pending = [], document, ""
    for step in steps:
        if step.startswith("[") and not pending and isinstance(target, list):
            key = int(step[1:-1])
        else:
            pending = f"{pending}.{step}" if pending else step
            if not isinstance(target, dict) or pending not in target:
                continue
            key, pending = pending, ""
        found.append(key)
        target = target[key]
    assert not pending, steps
    return found

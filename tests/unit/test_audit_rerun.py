"""A rerun verifies first, takes nothing that was made before, and decides what verify cannot. Runs are played here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from _audit_cases import PATHS, RUN, SIZE, audit, make_readable_run, reopen
from _forgeries import _perfect, of_record

from repro.audit import rerun as module
from repro.audit import speed_checks
from repro.audit.claims import IF_RERUN, PROVEN, REFUTED, RUN_AGAIN, UNVERIFIED, Outcome
from repro.audit.rerun import Rerun, rerun
from repro.base.files import pretty_json
from repro.display.console import Console
from repro.run.cluster import ClusterOfRun


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return make_readable_run(tmp_path_factory.mktemp("rerun"))


@pytest.fixture
def run(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "copy")


@pytest.fixture
def runs(sound: Path, monkeypatch) -> list[SimpleNamespace]:
    """The runs that were made again, each by giving the sound run's outputs."""
    made: list[SimpleNamespace] = []

    def reproduce(options, fresh, console):
        made.append(SimpleNamespace(options=options, fresh=fresh, held=sorted(fresh.results.iterdir())))
        shutil.copytree(sound / "results" / "store", fresh.store)
        shutil.copytree(sound / "results" / "runs" / RUN, fresh.runs / RUN)
        (fresh.runs / "latest").symlink_to(RUN)

    monkeypatch.setattr(module, "reproduce", reproduce)
    monkeypatch.setattr(module, "examine_speeds", lambda *_: None)
    return made


def again(folder: Path, on: str = "local") -> Outcome:
    evidence = reopen(folder)
    evidence.paths = replace(PATHS, elsewhere=folder / "elsewhere")
    outcome = Outcome("rerun", "a run")
    how = Rerun(str(folder / "TIMIT"), str(folder / "weights.pth"), engine="sandbox", on=on)
    rerun(outcome, evidence, how, Console())
    return outcome


def test_a_rerun_holds_every_claim_of_verify_and_decides_what_verify_leaves_open(run: Path, runs):
    left_open = {claim.key for claim in audit(run, run / "TIMIT", run / "weights.pth").of_status(IF_RERUN)}
    assert f"made:infer@{SIZE}" in left_open
    outcome = again(run)
    assert outcome.of_status(REFUTED) == []
    assert {claim.key for claim in outcome.of_status(IF_RERUN)} == set()
    found = {claim.key: claim for claim in outcome.claims}
    assert len(found) == len(outcome.claims)
    assert all((found[key].kind, found[key].status) == (RUN_AGAIN, PROVEN) for key in left_open)
    assert {"identity", "verdict", "toolchain", f"score@{SIZE}", f"speed@{SIZE}"} <= set(found)


def test_nothing_that_was_made_before_is_taken(run: Path, runs):
    again(run)
    (made,) = runs
    assert made.held == []
    for place in (made.fresh.rootfs, made.fresh.store, made.fresh.code, made.fresh.temporary):
        assert made.fresh.results in place.parents
    assert PATHS.rootfs not in made.fresh.rootfs.parents
    assert not made.fresh.results.exists()


def test_on_a_cluster_no_node_takes_what_was_unpacked_before_and_none_keeps_it(run: Path, runs, monkeypatch):
    told: list[object] = []
    monkeypatch.setattr(module, "Session", lambda fresh, console, on: told.append(on))
    monkeypatch.setattr(module, "ClusterOfRun", lambda fresh, say: SimpleNamespace(forget=lambda: told.append(fresh)))
    assert again(run, "slurm").of_status(REFUTED) == []
    (made,) = runs
    assert made.options.on == "slurm" and told == ["slurm", made.fresh]
    (tmp := run / "conf").mkdir()
    (tmp / "site.toml").write_text(f'[slurm]\nshared = "/"\nlocal = "{run}/own"\n')
    site = ClusterOfRun(replace(made.fresh, root=run), print, {})
    assert site.settings.local == f"{run}/own.{made.fresh.nodes_mark}" and made.fresh.nodes_mark.startswith("rerun-")
    assert site.local.is_dir() and not PATHS.nodes_mark


def test_what_its_bytes_refute_is_not_run_again(run: Path, runs):
    def reproduced(document):
        document["verdict"].update(outcome="reproduced", reasons=[])

    of_record(reproduced)(run)
    outcome = again(run)
    assert runs == []
    assert "verdict" in {claim.key for claim in outcome.of_status(REFUTED)}
    assert ("not run again", "a claim is refuted by the bytes alone") in outcome.facts


def test_outputs_that_were_changed_together_are_refuted_and_this_machine_s_are_kept(run: Path, runs):
    _perfect(run, (f"infer@{SIZE}", f"reference@{SIZE}"))
    outcome = again(run)
    assert {f"made:infer@{SIZE}", f"made:reference@{SIZE}", "figures"} <= {c.key for c in outcome.of_status(REFUTED)}
    kept = dict(outcome.facts)["outputs of this machine"].split()[2]
    assert (run / "elsewhere" / "tmp" / kept / "results" / "store").is_dir()


def test_without_the_data_set_nothing_is_run(run: Path, runs):
    shutil.rmtree(run / "TIMIT" / "TEST")
    outcome = again(run)
    assert runs == []
    assert "inputs" in {claim.key for claim in outcome.of_status(UNVERIFIED)}


def judged(verdict: str) -> dict[str, object]:
    return {"interval_95": [0.8, 1.2], "limit": 0.1, "median": 1.0, "verdict": verdict}


def times(rounds: int, caching: str, content: str) -> bytes:
    three = [1.0] * rounds
    return pretty_json(
        {"batch_size": SIZE, "caching": judged(caching), "content": judged(content), "fresh_batches": 2,
         "rounds": rounds, "times_ms": {"zeros": three, "fresh": three, "repeated": three}}
    )  # fmt: skip


@pytest.fixture
def played(tmp_path: Path, monkeypatch):
    """Speed checks with scripted verdicts, one pair per try; returns what was found and the rounds asked for."""

    def play(*verdicts: tuple[str, str]):
        rounds_asked: list[int] = []

        def node_of(session, options, size, rounds):
            rounds_asked.append(rounds)
            return rounds

        def run(session, options, more):
            place = tmp_path / str(len(rounds_asked))
            place.mkdir(exist_ok=True)
            accuracy = {"batch_size": SIZE, "batches": ["a"], "equal": True, "outputs_compared": 3, "unequal": []}
            (place / "accuracy.json").write_bytes(pretty_json(accuracy))
            caching, content = verdicts[len(rounds_asked) - 1]
            (place / "honesty.json").write_bytes(times(rounds_asked[-1], caching, content))
            key, result = f"honesty@{SIZE}", SimpleNamespace(out=place, obs=place)
            return {key: SimpleNamespace(node=SimpleNamespace(key=key), result=result)}

        monkeypatch.setattr(speed_checks, "_honesty_node", node_of)
        monkeypatch.setattr(speed_checks, "_run", run)
        session = SimpleNamespace(console=Console())
        found = speed_checks._honesty(session, None, SIZE, 10)
        outcome = Outcome("rerun", "a run")
        speed_checks._examine_ratios(outcome, SIZE, [one for _, one in found])
        return {claim.key.partition("@")[0]: claim for claim in outcome.claims}, rounds_asked

    return play


def test_an_undecided_speed_check_is_made_again_with_twice_the_rounds_until_it_is_decided(played):
    found, rounds = played(("undecided", "honest"), ("undecided", "undecided"), ("honest", "undecided"))
    assert rounds == [10, 20, 40]
    assert found["no-caching"].status == found["no-shortcut"].status == PROVEN
    assert sum("undecided" in line for line in found["no-caching"].evidence) == 2


def test_a_dishonest_speed_is_refuted_at_once(played):
    found, rounds = played(("dishonest", "undecided"))
    assert rounds == [10]
    assert found["no-caching"].status == REFUTED


def test_what_stays_undecided_accuses_nobody_and_the_tries_are_told(played):
    found, rounds = played(*[("undecided", "undecided")] * 4)
    assert rounds == [10, 20, 40, 80]
    assert found["no-caching"].status == UNVERIFIED
    assert "undecided in 4 tries, the last of 80 rounds" in found["no-caching"].findings[0]

"""The speed checks of a rerun, told whole: what is claimed, in which kind, of which tries, and what is run for it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from _audit_cases import PATHS

from repro.audit import speed_checks
from repro.audit.claims import Claim, Outcome
from repro.audit.speed_checks import HONESTY
from repro.base.files import pretty_json
from repro.graph.pipeline import Node, Output, Request
from repro.run.options import Options
from repro.run.request import graph_of
from stages import measure

SIZE = 8
AGAIN = "run again here"
LONG = [100.0 + number % 3 for number in range(400)]  # 40 s


def times(caching: str, content: str, fresh: int = 2):
    def judged(verdict: str):
        return {"interval_95": [0.95, 1.05], "limit": 0.1, "median": 1.0, "verdict": verdict}

    each = {name: [1.0] for name in ("zeros", "fresh", "repeated")}
    return {"batch_size": SIZE, "caching": judged(caching), "content": judged(content), "fresh_batches": fresh,
            "times_ms": each}  # fmt: skip


def accuracy(compared: int = 3, *unequal: str, equal: bool | None = None):
    return {"batch_size": SIZE, "batches": ["a", "b"], "equal": not unequal if equal is None else equal,
            "outputs_compared": compared, "unequal": list(unequal)}  # fmt: skip


HONEST = accuracy(), times("honest", "honest")
UNDECIDED = accuracy(), times("undecided", "undecided")


@pytest.fixture
def play(monkeypatch, tmp_path: Path):
    """Make the speed checks with what `honesty` and `measure` give, try by try; the last is given again."""

    def run(honesty=(HONEST,), measured=(LONG,), loop: int = 50):
        ran: list[tuple[int, list[str], str]] = []
        said: list[str] = []
        given = {"honesty": list(honesty), "measure": list(measured)}

        def run_stages(of, options, more):
            assert of is session
            what = "honesty" if more else "measure"
            next_one = given[what].pop(0) if len(given[what]) > 1 else given[what][0]
            place = tmp_path / str(len(ran))
            place.mkdir()
            rounds = more[f"honesty@{SIZE}"].parameters["rounds"] if more else ""
            ran.append((options.request.loop, list(more), rounds))
            if more:
                files = {"accuracy.json": next_one[0], "honesty.json": {**next_one[1], "rounds": int(rounds)}}
            else:
                files = {"sustained.json": measure.sustained([next_one], SIZE)}
            for name, document in files.items():
                (place / name).write_bytes(pretty_json(document))
            result = SimpleNamespace(out=place, obs=place)
            return {f"{what}@{SIZE}": SimpleNamespace(node=SimpleNamespace(key=what), result=result)}

        monkeypatch.setattr(speed_checks, "_run", run_stages)
        session = SimpleNamespace(console=SimpleNamespace(say=said.append), paths=PATHS)
        outcome = Outcome("rerun", "a run")
        speed_checks.examine_speeds(outcome, Options(Request((SIZE,), loop=loop)), session, 10)
        return {claim.key: claim for claim in outcome.claims}, ran, said

    return run


def ratio(what: str, rounds: int) -> str:
    return f"{what}: median 1.000, 95 % interval 0.950 to 1.050, limit 0.10 from 1, {rounds} rounds"


def test_each_claim_of_an_honest_speed_is_told_whole(play):
    found, ran, said = play()
    assert list(found.values()) == [
        Claim(
            "timed-is-scored@8",
            "batch size 8: what is timed is what is scored: outputs of timed executions equal the scored ones",
            AGAIN, "proven here", (), ("3 outputs of 2 batches",),
        ),
        Claim(
            "no-caching@8", "batch size 8: repeated inputs are not faster than fresh ones", AGAIN, "proven here", (),
            (ratio("repeated / fresh", 10),),
        ),
        Claim(
            "no-shortcut@8", "batch size 8: zeros, which are timed, take as long as speech", AGAIN, "proven here", (),
            (ratio("zeros / speech", 10),),
        ),
        Claim(
            "own-speed-valid@8",
            "batch size 8: this machine's own throughput is averaged over enough executions and time", AGAIN,
            "proven here", (), found["own-speed-valid@8"].evidence,
        ),
    ]  # fmt: skip
    assert found["own-speed-valid@8"].evidence[-1] == "mean 100.998 ms, its 95 % interval +- 0.08 %"
    assert (ran, said) == ([(50, ["honesty@8"], "10"), (50, [], "")], [])


def test_undecided_ratios_are_tried_again_with_twice_the_rounds_and_each_try_is_told(play):
    found, ran, said = play([UNDECIDED, (accuracy(), times("honest", "undecided")), (accuracy(), times("x", "honest"))])
    assert [rounds for _, _, rounds in ran] == ["10", "20", "40", ""]
    again = "the speed checks of batch size 8 are undecided: again with {} rounds"
    assert said == [again.format(20), again.format(40)]
    first, second = found["no-caching@8"], found["no-shortcut@8"]
    assert first.evidence == (f"{ratio('repeated / fresh', 10)}: undecided", ratio("repeated / fresh", 20))
    assert second.evidence == (
        f"{ratio('zeros / speech', 10)}: undecided", f"{ratio('zeros / speech', 20)}: undecided",
        ratio("zeros / speech", 40),
    )  # fmt: skip
    assert first.status == second.status == "proven here"


def test_what_stays_undecided_could_not_be_verified(play):
    found, ran, _ = play([UNDECIDED])
    assert [rounds for _, _, rounds in ran] == ["10", "20", "40", "80", ""]
    claim = found["no-shortcut@8"]
    assert (claim.status, claim.findings) == (
        "could not verify",
        ("zeros / speech: undecided in 4 tries, the last of 80 rounds: run again on a quiet machine",),
    )
    assert claim.evidence[-1] == f"{ratio('zeros / speech', 80)}: undecided"


def test_with_no_fresh_batch_an_undecided_ratio_is_not_tried_again(play):
    found, ran, said = play([(accuracy(), times("undecided", "honest", fresh=0))])
    assert len(ran) == 2 and said == [] and found["no-caching@8"].status == "could not verify"


def test_a_dishonest_ratio_is_refuted_at_once(play):
    found, ran, said = play([(accuracy(), times("undecided", "dishonest"))])
    assert len(ran) == 2 and said == []
    assert (found["no-shortcut@8"].status, found["no-shortcut@8"].findings) == (
        "refuted", (ratio("zeros / speech", 10),),
    )  # fmt: skip
    assert found["no-caching@8"].status == "could not verify"


def test_outputs_that_are_not_those_scored_are_named_over_all_tries(play):
    found, _, _ = play([(accuracy(3, "b", "a"), times("undecided", "honest")), (accuracy(3, "c", "b"), HONEST[1])])
    claim = found["timed-is-scored@8"]
    assert (claim.status, claim.findings) == (
        "refuted", tuple(f"{name} differs from what the stage infer gave" for name in "abc"),
    )  # fmt: skip


@pytest.mark.parametrize("given", [accuracy(0), accuracy(3, equal=False), accuracy(0, equal=False)])
def test_a_comparison_of_nothing_or_one_that_contradicts_itself_verifies_nothing(play, given):
    found, _, _ = play([(given, HONEST[1])])
    assert (found["timed-is-scored@8"].status, found["timed-is-scored@8"].findings) == (
        "could not verify", ("no output was compared",),
    )  # fmt: skip


def test_where_the_stage_gives_nothing_readable_no_ratio_is_claimed(play):
    found, _, _ = play([({"equal": True}, HONEST[1])])
    assert list(found) == ["timed-is-scored@8", "own-speed-valid@8"]
    assert found["timed-is-scored@8"].status == "refuted"


@pytest.mark.parametrize(
    ("loop", "measured", "loops"),
    [
        (10, [[1000.0] * 10, LONG], [10, 100]),  # too few: a hundred at least
        (200, [[10.0] * 200, LONG], [200, 1200]),  # too short: by what 10 s take, and a fifth more
        (100, [[120.0, 10.0, 1500.0, 1.0] * 25, LONG], [100, 200]),  # disturbed: twice as many
    ],
)
def test_an_own_speed_is_measured_again_with_as_many_executions_as_it_lacks(play, loop, measured, loops):
    found, ran, said = play(measured=measured, loop=loop)
    assert [each for each, more, _ in ran if not more] == loops
    assert said == [f"the speed of batch size 8 is not decided: again with {loops[1]} executions"]
    assert found["own-speed-valid@8"].status == "proven here" and len(found["own-speed-valid@8"].evidence) >= 4


def test_an_own_speed_that_stays_too_short_is_told_with_its_tries(play):
    found, ran, said = play(measured=[[1.0] * 3], loop=3)
    claim = found["own-speed-valid@8"]
    assert claim.status == "could not verify" and claim.evidence[-1] == "4 tries" and claim.findings
    assert len(said) == 3 and [loop for loop, more, _ in ran if not more] == [3, 12000, 48000000, 192000000000]


def test_the_stage_honesty_is_given_model_batches_and_outputs_of_its_size():
    options = Options(Request((SIZE,), precision="bf16"))
    node = speed_checks._honesty_node(SimpleNamespace(paths=PATHS), options, SIZE, 12)
    inputs = {"model": Output("convert@8"), "batches": Output("batches@8"), "outputs": Output("infer@8")}
    assert node == Node("honesty@8", HONESTY, inputs, {"bs": "8", "rounds": "12", "precision": "bf16"}, SIZE)
    assert (HONESTY.name, HONESTY.whole_machine, HONESTY.host_bound, HONESTY.timeout_s) == ("honesty", True, True, 7200)
    plain = speed_checks._honesty_node(SimpleNamespace(paths=PATHS), Options(Request((SIZE,))), SIZE, 12)
    assert plain.parameters == {"bs": "8", "rounds": "12"}


def test_what_is_run_is_the_run_s_graph_and_what_is_asked_for_beside_it(monkeypatch):
    noted = []
    monkeypatch.setattr(speed_checks, "settle", lambda *given: noted.append(given) or "target")
    monkeypatch.setattr(speed_checks, "execute", lambda *given: noted.append(given) or SimpleNamespace(done="done"))
    session, options = SimpleNamespace(paths=PATHS, architecture="amd64"), Options(Request((SIZE,), loop=7))
    assert speed_checks._run(session, options, {"x": "node"}) == "done"
    assert noted[0] == (PATHS, "amd64", options)
    assert noted[1] == (session, options, "target", {**graph_of(options.request, PATHS), "x": "node"})

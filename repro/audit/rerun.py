"""`invoke audit.rerun`: a run verified, every stage run again here, and each output held to the record's.

Nothing that was made before is taken: the images are unpacked from layers that this audit hashed, the code is copied
from the checkout, and no stored result and no remembered digest is read. On a cluster that holds for its nodes too:
each unpacks into a folder of this rerun's own, which is removed afterwards.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from repro.audit.claims import IF_RERUN, REFUTED, RUN_AGAIN, UNVERIFIED, Examination, Outcome
from repro.audit.compare import Sides, compare_runs, compare_stages, machine_of
from repro.audit.evidence import Evidence, open_run
from repro.audit.speed_checks import examine_speeds
from repro.audit.stages import request_of
from repro.audit.verify import examine_run
from repro.base.files import sha256_bytes
from repro.base.paths import Paths, given_path
from repro.base.temporary import temporary_folder
from repro.display.console import Console
from repro.graph.cache import StatCache
from repro.graph.sources import digest_source
from repro.machine.facts import architecture
from repro.record.document import Host, Record
from repro.record.identity import same_everywhere
from repro.run.cluster import ClusterOfRun
from repro.run.inputs import DEMO, demo_checkpoint_path, find_data, users_checkpoint
from repro.run.options import LOCAL, SLURM, Options
from repro.run.record import stage_of
from repro.run.reproduce import engine_used, reproduce, run_steps
from repro.run.session import Session
from repro.run.target import PORTABLE, lacking_for_pinned

_CPU = "cpu"


@dataclass(frozen=True)
class Rerun:
    """How to run again.

    Attributes:
        data, checkpoint, engine, on: options as of `invoke reproduce`; '' looks in data/.
        fetch: whether the network may be used.
        rounds: of the speed checks.
        exact: only the stages that give the same bytes on every machine, so neither PyTorch's own run nor any timing.
    """

    data: str = ""
    checkpoint: str = ""
    engine: str = "auto"
    fetch: bool = True
    rounds: int = 30
    on: str = LOCAL
    exact: bool = False


@dataclass(frozen=True)
class FreshPaths(Paths):
    """A checkout's folders, with results and unpacked images of this audit's own."""

    @property
    def rootfs(self) -> Path:
        return self.results / "rootfs"

    @property
    def nodes_mark(self) -> str:
        return f"rerun-{sha256_bytes(str(self.results).encode())[:12]}"


def rerun(outcome: Outcome, evidence: Evidence, how: Rerun, console: Console) -> None:
    """Verify a run, then run everything that it asked for again, into a folder of its own, and compare the outputs.

    The folder is removed, unless something differs: then the outputs are kept, and the outcome says where. What is
    refuted by its bytes alone is not run again.
    """
    found: dict[str, Path | None] = {}
    with outcome.examine("inputs", "the data set and the checkpoint here are those of the record") as it:
        found = _inputs(it, evidence, how)
    inputs_are_here = not outcome.of_status(UNVERIFIED)
    examine_run(outcome, evidence, found.get("data"), found.get("checkpoint"))
    if outcome.of_status(REFUTED) or not inputs_are_here:
        why = "a claim is refuted by the bytes alone" if outcome.of_status(REFUTED) else "its inputs are not here"
        outcome.fact("not run again", why)
        return
    temporary = temporary_folder(evidence.paths.temporary, "rerun")
    try:
        results = temporary.path / "results"  # the folder itself is locked by this process
        results.mkdir()
        fresh = FreshPaths(evidence.paths.root, results)
        try:
            _run(outcome, evidence, fresh, found, how, console)
        finally:
            if how.on == SLURM:
                ClusterOfRun(fresh, console.say).forget()
        if outcome.of_status(REFUTED):
            kept = temporary.keep("rerun").name
            outcome.fact("outputs of this machine", f"kept in {kept} of the results' tmp folder")
    finally:
        temporary.close()


def _inputs(it: Examination, evidence: Evidence, how: Rerun) -> dict[str, Path | None]:
    record, paths = evidence.record, evidence.paths
    data = None
    if record.data.kind != DEMO:
        data = find_data(paths, how.data)
        _hold(it, data, "data set", record.data.fingerprint)
    if record.checkpoint.kind == DEMO:
        checkpoint: Path | None = demo_checkpoint_path(paths)
    else:
        checkpoint = given_path("--checkpoint", how.checkpoint) if how.checkpoint else users_checkpoint(paths)
    _hold(it, checkpoint, "checkpoint", record.checkpoint.sha256)
    return {"data": data, "checkpoint": checkpoint}


def _hold(it: Examination, place: Path | None, what: str, expected: str) -> None:
    if place is None or not place.exists():
        it.missing.append(f"the {what} is not here: give it with --{what.partition(' ')[0]} (the record: {expected})")
        return
    found = digest_source(place, StatCache(None), what)
    if found != expected:
        it.missing.append(f"the {what} here has the digest {found}, the record's {expected}: it is another one")
    it.evidence.append(f"{what}: {found}")


def _run(
    outcome: Outcome,
    evidence: Evidence,
    fresh: Paths,
    found: dict[str, Path | None],
    how: Rerun,
    console: Console,
) -> None:
    record = evidence.record
    request = replace(
        request_of(record, **found), device=_CPU, soc_version="", precision_mode="", num_devices=1, cann=""
    )
    lacking = list(lacking_for_pinned(evidence.paths, architecture(), request.pinned).values())
    if lacking:
        request = replace(request, pinned=())
    options = Options(
        request=request,
        data_option=str(found["data"] or DEMO),
        checkpoint_option=DEMO if record.checkpoint.kind == DEMO else str(found["checkpoint"]),
        engine=how.engine,
        toolchain=PORTABLE,
        pinned=request.pinned,
        fetch=how.fetch,
        on=how.on,
    )
    if how.exact:
        _exact_again(outcome, evidence, options, Session(fresh, console, how.on))
        return
    made: list[Evidence] = []
    with outcome.examine("run", "every stage runs again on this machine", RUN_AGAIN) as it:
        reproduce(options, fresh, console)
        again = open_run(fresh.runs / "latest", evidence.paths)
        made.append(again)
        _tell_how(it, again.record, how.on)
    if not made:
        return
    _hold_to(outcome, Sides(evidence, made[0], "the record", "this machine", run_again=True), lacking)
    examine_speeds(outcome, options, Session(fresh, console, how.on), how.rounds)


def _tell_how(it: Examination, again: Record, on: str) -> None:
    name, where = again.engine.name, "" if on == LOCAL else f", as jobs of {on}"
    it.evidence.append(f"engine {name}, {len(again.stages)} stages, none stored{where}")
    if name != "sandbox":
        it.open_to.append(
            f"what somebody changed in the image store of {name}; with --engine sandbox every image is unpacked from "
            "layers that were hashed"
        )


def _exact_again(outcome: Outcome, evidence: Evidence, options: Options, session: Session) -> None:
    """Run the stages that give the same bytes on every machine, and hold each to the record; the others stay claims
    that are true if they were run again."""
    record = evidence.record
    exact = set(same_everywhere(record.stages))
    stages = [stage for stage in record.stages if stage.key in exact]
    outcome.fact("not run again (--exact)", ", ".join(sorted({s.name for s in record.stages if s.key not in exact})))
    made: list[Evidence] = []
    with outcome.examine("run", "every exact stage runs again on this machine", RUN_AGAIN) as it:
        executed = run_steps(options, session, exact)
        pinned = tuple(options.request.pinned) or msgspec.UNSET
        again = msgspec.structs.replace(
            record,
            request=msgspec.structs.replace(record.request, device=_CPU, pinned=pinned, cann=msgspec.UNSET),
            engine=engine_used(executed.choice, executed.done),
            host=msgspec.convert(session.host(), Host),
            stages=tuple(stage_of(item) for item in executed.done.values()),
            results=(),
        )
        paths = session.paths
        made.append(replace(evidence, run=paths.runs, store=paths.store, record=again, _stored={}))
        _tell_how(it, again, options.on)
    if made:
        sides = Sides(evidence, made[0], "the record", "this machine", run_again=True)
        _name_machines(outcome, sides)
        _forget_what_was_open(outcome, {f"made:{key}" for key in exact})
        compare_stages(outcome, sides, stages)


def _name_machines(outcome: Outcome, sides: Sides) -> None:
    outcome.fact("the record was made on", machine_of(sides.one))
    outcome.fact("run again on", machine_of(sides.two))


def _hold_to(outcome: Outcome, sides: Sides, lacking: list[str]) -> None:
    """The claims that only a rerun decides take the place of those that were true if it came out so."""
    record = sides.one
    _name_machines(outcome, sides)
    if record.request.device != _CPU:
        with outcome.examine("device", "the record's device computes the same again") as it:
            it.missing.append(f"the record is of device {record.request.device}; this machine ran on its CPU")
    if record.request.pinned:
        with outcome.examine("pinned", "the record's pinned images run again", RUN_AGAIN) as it:
            it.missing += lacking
            it.evidence.append(f"pinned in the record: {', '.join(record.request.pinned)}")
    _forget_what_was_open(outcome, {f"made:{stage.key}" for stage in record.stages})
    compare_runs(outcome, sides)


def _forget_what_was_open(outcome: Outcome, keys: Collection[str]) -> None:
    """What a rerun decides is no longer true only if it is run again."""
    outcome.claims = [claim for claim in outcome.claims if claim.key not in keys or claim.status != IF_RERUN]

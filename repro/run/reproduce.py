"""`invoke reproduce`: from what a person asked to a record, a verdict and a report."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repro.base.errors import CouldNotRun, UsageError
from repro.base.files import pretty_json, remove_tree, write_atomic
from repro.base.paths import Paths
from repro.container.image import Image
from repro.container.job import Engine
from repro.display.console import Console
from repro.engines.npu_access import Access, access_for
from repro.graph.digests import StatCache
from repro.graph.keys import Keys, difference
from repro.graph.pipeline import (
    NPU_STAGES,
    PINNED_IMAGES,
    PRECISIONS,
    Node,
    Output,
    Request,
    StageDefinition,
    build_graph,
    closure,
)
from repro.graph.runner import Done, Preparation, Runner
from repro.graph.store import Result, Store, fingerprint_of
from repro.guide import toolchain
from repro.guide.published import Published
from repro.guide.verdict import is_excepted
from repro.images.archives import sources_of
from repro.images.rootfs import SANDBOX_IMAGE
from repro.machine import facts, npu
from repro.run import inputs, record
from repro.run.engine_when_needed import AUTO, EngineWhenNeeded, check_name
from repro.run.target import NPU, PINNED, Target, settle
from repro.run.target import PORTABLE as PORTABLE

if TYPE_CHECKING:
    from repro.run.engine_choice import Choice

PINNED_DEVIATING = "pinned-deviating"  # the pinned images, but something of the table is not as required
SIMULATOR = "npu-simulator"  # what stands in for an NPU in tests: no record calls it one
DEMO_CORPUS = "demo_corpus"
NO_ENGINE = "none"  # every result was stored
Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """The command line of a run, parsed.

    Attributes:
        engine: 'auto' or an engine's name.
        devices: NPU devices; none for the first idle chip.
        ascend_host: where the NPU is looked for: this host, but in tests.
    """

    request: Request
    data_option: str = ""
    checkpoint_option: str = ""
    engine: str = "auto"
    toolchain: str = "auto"
    devices: tuple[int, ...] = ()
    ascend_host: npu.Host = field(default_factory=npu.Host)
    force: bool = False
    fetch: bool = True


def _span(name: str, started_s: float, seconds: float) -> dict[str, Any]:
    """A part of a run as the record has it, to the millisecond."""
    return {"name": name, "started_s": round(started_s, 3), "seconds": round(seconds, 3)}


class Phases:
    """Where the time went, second by second, for the report. A phase may lie within another one."""

    def __init__(self) -> None:
        self.began_s = time.monotonic()
        self.items: list[dict[str, Any]] = []
        self.layers: list[dict[str, Any]] = []

    def layer(self, name: str, began_s: float, seconds: float) -> None:
        """Note that a layer was built, from `began_s` of the monotonic clock on."""
        self.layers.append(_span(name, began_s - self.began_s, seconds))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began_s = time.monotonic()
        try:
            yield
        finally:
            self.items.append(_span(name, began_s - self.began_s, time.monotonic() - began_s))

    def total_s(self) -> float:
        return round(time.monotonic() - self.began_s, 3)


@dataclass
class Session:
    """What every command that runs stages needs, made step by step and only as far as needed."""

    paths: Paths
    console: Console
    phases: Phases = field(default_factory=Phases)

    def __post_init__(self) -> None:
        self.architecture = facts.architecture()
        self.cache = StatCache(self.paths.results / "digests.sqlite")
        self.store = Store(self.paths.store, self.paths.temporary, self.cache)

    def images(self, names: Collection[str], *, fetch: bool) -> dict[str, Image]:
        """The images, fetched and built as far as they are missing."""
        from repro.images.build import build_images, files_needed

        wanted = sorted(names)
        with self.phases.phase("fetch"):
            needed = files_needed(self.paths, wanted, [self.architecture])
            if needed and fetch:
                from repro.fetching import fetch_files

                fetch_files(self.paths.root, needed.values())
        with self.phases.phase("build layers"):
            return build_images(
                self.paths, wanted, self.architecture, self.console.say, engine_for=self._engine_for,
                timed=self.phases.layer,
            )  # fmt: skip

    def _engine_for(self, toolchain: Image) -> Engine:
        from repro.run.engine_choice import compiling_engine  # clients of engines: a stored run needs none

        return compiling_engine(self.paths)(toolchain)

    def keys(self, images: Mapping[str, Image], accelerator: str = "") -> Keys:
        return Keys(self.paths.root, images, facts.machine(accelerator), self.cache)

    def engine(self, name: str, *, fetch: bool) -> Choice:
        """The engine asked for; what the sandbox itself is made of is brought first, for it may be the one."""
        check_name(name)
        if name in (AUTO, SANDBOX_IMAGE):
            self.images([SANDBOX_IMAGE], fetch=fetch)
        from repro.run.engine_choice import choose

        with self.phases.phase("choose engine"):
            choice = choose(name, self.paths)
        self.console.say(choice.sentence())
        return choice

    def engine_when_needed(self, name: str, *, fetch: bool) -> EngineWhenNeeded:
        """As `engine`, but chosen only when a stage really runs."""
        check_name(name)
        return EngineWhenNeeded(lambda: self.engine(name, fetch=fetch))

    def runner(self, engine: Engine, keys: Keys, access: Callable[[], Access] = Access) -> Runner:
        return Runner(
            engine=engine,
            keys=keys,
            store=self.store,
            code_folder=self.paths.code,
            log_folder=self.paths.logs,
            watcher=self.console,
            given=facts.given(),
            access=access,
            began_s=self.phases.began_s,
        )


def _check_request(options: Options) -> None:
    if options.request.decode not in ("Greedy", "Beam"):
        raise UsageError(f"--decode {options.request.decode!r} is not known", hint="Greedy or Beam")
    if options.request.split not in ("dev", "test"):
        raise UsageError(f"--split {options.request.split!r} is not known", hint="dev (the published set) or test")
    if options.request.precision not in PRECISIONS:
        raise UsageError(f"--precision {options.request.precision!r} is not known", hint=" or ".join(PRECISIONS))
    if options.request.on_npu and options.request.precision != PRECISIONS[0]:
        raise UsageError("--precision is the CPU's number format", hint="an NPU has --precision-mode, atc's option")
    if options.request.loop < 1:
        raise UsageError("--loop must be at least 1")


def probe_nodes(images: Collection[str]) -> dict[str, Node]:
    """A probe of each image: what is really in it."""
    return {
        f"probe:{name}": Node(f"probe:{name}", StageDefinition("probe", name), {}) for name in sorted(images)
    }  # fmt: skip


def aim(options: Options, session: Session) -> Target:
    """Toolchain and chips of a run; says what a person should know of the choice."""
    _check_request(options)
    request = options.request
    target = settle(
        session.paths, session.architecture, options.toolchain, request.device, options.devices, options.ascend_host
    )
    for line in target.said:
        session.console.say(line)
    return target


def resolve(
    options: Options, paths: Paths, cache: StatCache, target: Target | None = None
) -> tuple[Request, inputs.Checkpoint]:
    """The request with the user's data and checkpoint found, or the demo's, and with what `target` decides."""
    checkpoint = inputs.find_checkpoint(paths, options.checkpoint_option, cache)
    data = inputs.find_data(paths, options.data_option)
    request = replace(options.request, data=data, checkpoint=checkpoint.path)
    if target is not None:
        request = replace(
            request,
            pinned=target.pinned,
            soc_version=target.soc_version,
            num_devices=max(1, len(target.chips)),
            precision_mode=options.request.precision_mode,
        )
    return request, checkpoint


def graph_of(request: Request, paths: Paths) -> dict[str, Node]:
    """The whole graph of a request, probes included."""
    nodes = build_graph(request, paths.conf, inputs.demo_checkpoint_path(paths))
    return {**nodes, **probe_nodes({node.stage.image for node in nodes.values()})}


def plan(options: Options, paths: Paths, console: Console) -> list[str]:
    """What would run and why, a line a step; runs nothing and writes nothing but locks of what was looked at."""
    check_name(options.engine)
    session = Session(paths, console)
    target = aim(options, session)
    request, _ = resolve(options, paths, session.cache, target)
    nodes = graph_of(request, paths)
    from repro.images.build import describe_missing, known_images

    names = sorted({node.stage.image for node in nodes.values()})
    images = known_images(paths, names, session.architecture)
    lines = describe_missing(paths, names, session.architecture)
    keys = session.keys(images, target.accelerator)
    results: dict[str, Result] = {}
    for key, node in nodes.items():
        lines.append(f"{key:<16} {_plan_of(node, keys, session.store, results, options.force)}")
    return lines


def _plan_of(node: Node, keys: Keys, store: Store, results: dict[str, Result], force: bool) -> str:
    if node.stage.image not in keys.images:
        return f"run: image {node.stage.image} is not built yet"
    waiting = sorted({s.node for s in node.inputs.values() if isinstance(s, Output) and s.node not in results})
    if waiting:
        return "run unless its inputs come out as before: after " + ", ".join(waiting)
    key = keys.key(node, results)
    stored = store.load(fingerprint_of(key))
    if stored is not None:
        results[node.key] = stored
        if not force:
            return "stored"
        return "run again: --force (its result must come out the same)"
    last = store.folder / "last" / f"{node.key}.json"
    if not last.exists():
        return "run: never run before"
    old = store.path(last.read_text(encoding="ascii")) / "result.json"
    if not old.exists():
        return "run: its last result was removed"
    return "run: " + ", ".join(difference(json.loads(old.read_bytes())["key"], key))


def run_stages(options: Options, stage: str, paths: Paths, console: Console) -> list[Path]:
    """Run one stage, for every batch size asked for, with all that it needs; returns the out/ folders."""
    session = Session(paths, console)
    if stage in NPU_STAGES.values():
        options = replace(options, request=replace(options.request, device=NPU))
    single = options.toolchain == PINNED and stage in PINNED_IMAGES  # its own image is all that is asked for
    target = aim(replace(options, toolchain=PORTABLE) if single else options, session)
    request, _ = resolve(options, paths, session.cache, target)
    if single:
        request = replace(request, pinned=(stage,))
    if stage == DEMO_CORPUS:
        request = replace(request, data=None)
    if stage == "lm":
        request = replace(request, decode="Beam")
    nodes = graph_of(request, paths)
    targets = [key for key, node in nodes.items() if node.stage.name == stage]
    if not targets:
        raise UsageError(f"stage {stage} has no part in a run with --device {request.device}",
                         hint=f"there it is {NPU_STAGES.get(stage, 'left out')}")  # fmt: skip
    needed = closure(nodes, targets)
    done = _execute(session, options, target, needed, set(targets) if options.force else set()).done
    return [done[key].result.out for key in targets]


def collect_garbage(paths: Paths, say: Say) -> None:
    """Remove stored results that no run refers to: the runs in artifacts/runs are the roots."""
    roots: set[str] = set()
    for path in sorted(paths.runs.glob("*/record.json")):
        try:
            roots |= {stage["fingerprint"] for stage in json.loads(path.read_bytes())["stages"]}
        except (ValueError, KeyError, TypeError) as error:
            raise CouldNotRun(
                f"{path} cannot be read, so what it refers to is unknown: {error}", hint="remove that run's folder"
            ) from error
    removed = Store(paths.store, paths.temporary, StatCache(None)).collect_garbage(roots)
    say(f"{len(removed)} results removed, {len(roots)} kept for the runs in artifacts/runs")


@dataclass(frozen=True)
class _Executed:
    """What a run of the graph came to; `choice` is None where every result was stored, so that no engine was asked."""

    done: dict[str, Done]
    choice: Choice | None
    images: dict[str, Image]
    preparations: list[Preparation]


def _execute(
    session: Session, options: Options, target: Target, nodes: Mapping[str, Node], force: Collection[str]
) -> _Executed:
    engine = session.engine_when_needed(options.engine, fetch=options.fetch)
    of_engine = {SANDBOX_IMAGE} if options.engine in (AUTO, SANDBOX_IMAGE) else set()  # all in one download
    images = session.images({node.stage.image for node in nodes.values()} | of_engine, fetch=options.fetch)
    session.store.clean_up()

    def access() -> Access:
        facts = engine.chosen().availability.facts
        return access_for(target.npu, target.chips, options.ascend_host, engine.name, facts)

    with session.phases.phase("stages"):
        runner = session.runner(engine, session.keys(images, target.accelerator), access)
        done = runner.run(nodes, force)
    if DEMO_CORPUS in done:
        inputs.check_demo_corpus(session.paths.conf, session.architecture, done[DEMO_CORPUS].result)
    return _Executed(done, engine.choice, images, runner.preparations)


def _engine_part(choice: Choice | None, done: Mapping[str, Done]) -> dict[str, Any]:
    """The engine of this run; the limits are those under which the stored results were made."""
    limits: dict[str, str] = {}
    for item in done.values():
        limits.update(item.result.observations.get("limits", {}))
    if choice is None:
        return {"name": NO_ENGINE, "facts": {}, "limits": limits, "passed_over": []}
    return {
        "name": choice.engine.name,
        "facts": dict(choice.availability.facts),
        "limits": limits,
        "passed_over": [{"name": other.name, "reason": other.reason} for other in choice.passed_over],
    }


def reproduce(options: Options, paths: Paths, console: Console) -> dict[str, Any]:
    """Run everything that was asked, and write record and reports into a new folder of artifacts/runs.

    Returns:
        The record, its verdict included.
    """
    from repro.guide import published, verdict

    session = Session(paths, console)
    started_at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    target = aim(options, session)
    request, checkpoint = resolve(options, paths, session.cache, target)
    nodes = graph_of(request, paths)
    force = set(nodes) if options.force else set()
    executed = _execute(session, options, target, nodes, force)
    done, images = executed.done, executed.images
    used = {name: images[name] for name in sorted({node.stage.image for node in nodes.values()})}
    probes = {
        name: json.loads((done[f"probe:{name}"].result.out / "probe.json").read_bytes()) for name in used
    }  # fmt: skip
    corpus = json.loads((done["corpus"].result.out / "summary.json").read_bytes())
    data_kind = "demo" if request.data is None else ("timit" if corpus["timit"]["matches"] else "user")
    fingerprint = done["corpus"].result.key["inputs"]["data"]
    table = published.load_published(paths.conf / "published.toml")
    host_facts = {**facts.facts(), **npu.facts(target.npu, target.chips)}
    rows = toolchain.compare(toolchain.load_components(paths.conf), probes, npu.facts(target.npu, target.chips))
    if request.on_npu and (target.npu.simulator or any(probe["simulator"] for probe in probes.values())):
        request = replace(request, device=SIMULATOR)
    parts = record.Parts(
        request=request,
        toolchain_name=_toolchain_name(target, rows, host_facts, table),
        data_kind=data_kind,
        data_fingerprint=fingerprint,
        checkpoint=checkpoint,
        images=used,
        toolchain=rows,
        engine=_engine_part(executed.choice, done),
        host=host_facts,
        sources=sources_of(paths, used, session.architecture),
        observations={
            "started_at": started_at,
            "wall_s": session.phases.total_s(),
            "phases": session.phases.items,
            "steps": [
                {"key": k, "started_s": round(d.started_s, 3), "wall_s": round(d.seconds, 3), "cached": d.cached}
                for k, d in done.items()
            ],
            "layers": session.phases.layers,
            "preparations": [_span(p.image, p.started_s, p.seconds) for p in executed.preparations],
        },
    )
    document = record.make_record(parts, done)
    document["verdict"] = verdict.verdict(document, table)
    _write_run(paths, started_at, document)
    return document


def compatibility_table(paths: Paths, console: Console, engine: str) -> str:
    """Required and found of every component, by a probe of each image that is built here and of this host."""
    from repro.images.build import known_images
    from repro.images.definition import image_names

    session = Session(paths, console)
    components = toolchain.load_components(paths.conf)
    roles = {component.image for component in components} | set(PINNED_IMAGES.values())
    names = sorted(roles & set(image_names(paths.docker)))
    images = known_images(paths, names, session.architecture)
    found: dict[str, Any] = {}
    if images:
        choice = session.engine(engine, fetch=False)
        done = session.runner(choice.engine, session.keys(images)).run(probe_nodes(images))
        found = {
            name: json.loads((done[f"probe:{name}"].result.out / "probe.json").read_bytes()) for name in images
        }  # fmt: skip
    rows = toolchain.compare(components, found, npu.facts(npu.examine()))
    absent = [name for name in names if name not in images]
    note = f"not built here, so not probed: {', '.join(absent)}\n" if absent else ""
    return toolchain.describe(rows) + note


def _toolchain_name(target: Target, rows: list[dict[str, str]], host_facts: Mapping[str, Any], table: Published) -> str:
    """'pinned' only where every row of the compatibility table is as required, or excepted for this card."""
    if target.toolchain != PINNED:
        return PORTABLE
    wrong = toolchain.deviations(rows, lambda row: is_excepted(row, host_facts, table))
    return PINNED_DEVIATING if wrong else PINNED


def _write_run(paths: Paths, started_at: str, document: Mapping[str, Any]) -> None:
    """Write record, reports and crate into a new folder of runs/, which appears whole, and point `latest` at it."""
    from repro.report import write_report
    from repro.report.crate import write_crate

    paths.runs.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".new.", dir=paths.runs))
    try:
        folder = work / "run"
        folder.mkdir()
        write_atomic(folder / "record.json", pretty_json(document))
        write_report(document, folder)
        write_crate(document, folder)
        name = started_at.replace(":", "").replace("-", "")
        target = paths.runs / name
        number = 0
        while True:
            try:
                os.rename(folder, target)
                break
            except OSError:
                if not target.exists():
                    raise
                number += 1  # another run ended within the same second
                target = paths.runs / f"{name}-{number}"
    finally:
        remove_tree(work)
    _point_latest(paths, target)


def _point_latest(paths: Paths, folder: Path) -> None:
    temporary = paths.runs / f".latest.{os.getpid()}"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(folder.name)
    os.replace(temporary, paths.runs / "latest")

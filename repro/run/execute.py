"""Runs a graph in this session: images, engine, the NPU's devices, then the runner."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from repro.base.errors import CouldNotRun
from repro.container.image import Image
from repro.container.job import Availability
from repro.engines.npu_access import Access, access_for
from repro.graph.making import Done, Preparation
from repro.graph.pipeline import Node
from repro.graph.runner import Runner
from repro.images.coming import ComingImages
from repro.images.definition import load_definition
from repro.images.rootfs import SANDBOX_IMAGE
from repro.images.runnable import HINT, why_image_cannot_run
from repro.machine.watching import Subject
from repro.run import inputs
from repro.run.engine_when_needed import AUTO, EngineWhenNeeded
from repro.run.options import Options
from repro.run.session import Session
from repro.run.target import Target

if TYPE_CHECKING:
    from repro.run.engine_choice import Choice


@dataclass(frozen=True)
class Executed:
    """What a run of the graph came to; `choice` is None where every result was stored, so that no engine was asked.

    `failed` says by step what it failed of, where the run went on after that.
    """

    done: dict[str, Done]
    choice: Choice | Availability | None
    images: dict[str, Image]
    preparations: list[Preparation]
    failed: dict[str, BaseException] = field(default_factory=dict)


def cannot_run(session: Session, nodes: Mapping[str, Node], force: Collection[str]) -> dict[str, str]:
    """Why images of steps that have to run cannot run on this machine, by image.

    A step that this store has a result of may be taken from it, whatever this machine can run.
    """
    found = {}
    for node in nodes.values():
        if node.key in force or session.store.last_of(node.key) is None:
            why = why_image_cannot_run(load_definition(session.paths.docker, node.stage.image), session.host())
            if why:
                found[node.stage.image] = why
    return found


def check_machine(session: Session, nodes: Mapping[str, Node], force: Collection[str]) -> None:
    """Refuse what this machine cannot run, before anything is fetched.

    Raises:
        CouldNotRun: names the image and why.
    """
    for why in cannot_run(session, nodes, force).values():
        raise CouldNotRun(why, hint=HINT)


def execute(
    session: Session,
    options: Options,
    target: Target,
    nodes: Mapping[str, Node],
    force: Collection[str] = (),
    *,
    go_on: bool = False,
) -> Executed:
    """Bring every node to a result: images made as far as they are missing, the engine chosen when a stage runs.

    Args:
        session: of this command.
        options: engine, network, the NPU's host.
        target: whose chips are handed to stages of the NPU.
        nodes: each after its inputs.
        force: keys of nodes that run though a result is stored.
        go_on: a failed step ends only the steps that need it.
    """
    session.codes.read({node.stage.name for node in nodes.values()})  # before minutes of fetching: as it is now
    if session.cluster is not None:
        session.cluster.check_sources(nodes.values())
    check_machine(session, nodes, force)
    engine = session.engine_when_needed(options.engine, fetch=options.fetch)
    of_engine = {SANDBOX_IMAGE} if session.cluster or options.engine in (AUTO, SANDBOX_IMAGE) else set()
    wanted = dict.fromkeys([*sorted(of_engine), *(node.stage.image for node in nodes.values())])
    # An engine that cannot be used is named before minutes of fetching and building, where finding out needs no image.
    first = (lambda: None) if of_engine else engine.chosen
    images = session.images_coming(list(wanted), fetch=options.fetch, first=first)
    runner, chosen = _runner_for(session, options, target, images, engine)
    with session.phases.phase("stages"):
        failed: dict[str, BaseException] = {}
        if go_on:
            done, failed = runner.run_what_can(nodes, force)
        else:
            done = runner.run(nodes, force)
    if inputs.DEMO_CORPUS in done:
        inputs.check_demo_corpus(session.paths.conf, done[inputs.DEMO_CORPUS].result)
    return Executed(done, chosen(), images.finish(), runner.preparations, failed)


def _runner_for(
    session: Session, options: Options, target: Target, images: ComingImages, engine: EngineWhenNeeded
) -> tuple[Runner, Callable[[], Choice | Availability | None]]:
    """The runner with its executor, and what tells afterwards which engine was used."""
    keys = session.keys(images, target.accelerator)
    if session.cluster is not None:
        around = session.surroundings()
        executor = session.cluster.executor(
            images.finish(), keys, session.store, around, engine=options.engine, leave=options.leave
        )
        return Runner(executor, keys, session.store, around), executor.engine_used
    session.coming = images

    def access() -> Access:
        told = engine.chosen().availability.facts
        return access_for(target.npu, target.chips, options.ascend_host, engine.name, told)

    subject = Subject(target.npu, target.chips, options.ascend_host)
    return session.runner(engine, keys, access, subject, target.mounts), lambda: engine.choice

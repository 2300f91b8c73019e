"""From options to a graph: toolchain and chips, the user's data and checkpoint or the demo's, the nodes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from repro.base.paths import Paths
from repro.graph.cache import StatCache
from repro.graph.cann_images import host_cann, is_cann
from repro.graph.pipeline import Node, Request, StageDefinition, build_graph
from repro.run import inputs
from repro.run.options import Options, check_request
from repro.run.session import Session
from repro.run.target import Target, settle


def aim(options: Options, session: Session) -> Target:
    """Toolchain and chips of a run; says what a person should know of the choice."""
    check_request(options)
    target = settle(session.paths, session.architecture, options)
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
            cann=target.cann,
        )
    return request, checkpoint


def graph_of(request: Request, paths: Paths) -> dict[str, Node]:
    """The whole graph of a request, probes included."""
    nodes = build_graph(request, paths.conf, inputs.demo_checkpoint_path(paths))
    return {**nodes, **probe_nodes({node.stage.image for node in nodes.values()}, request.cann)}


def probe_nodes(images: Collection[str], cann: str = "") -> dict[str, Node]:
    """A probe of each image: what is really in it, and of the host's CANN where that is lent to it."""
    lent = {"cann": told} if (told := host_cann(cann)) else {}
    return {
        f"probe:{name}": Node(f"probe:{name}", StageDefinition("probe", name), {}, lent if is_cann(name) else {})
        for name in sorted(images)
    }

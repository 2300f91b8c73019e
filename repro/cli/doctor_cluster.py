"""`invoke doctor --on slurm`: what a cluster has and lacks for runs on it, line by line, and what to do."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repro.base import typed_json
from repro.base.errors import BundleError, UsageError
from repro.base.files import make_shared_folder
from repro.base.paths import Paths
from repro.base.temporary import temporary_folder
from repro.cli.doctor import DEVIATES, MISSING, OK, Line, examine, looked
from repro.cluster.look import Looked
from repro.cluster.resources import Cluster
from repro.cluster.slurm import Node
from repro.graph.pipeline import STAGES
from repro.machine import facts
from repro.run.cluster import ClusterOfRun
from repro.run.options import LOCAL, SLURM

_WITHIN_S = 30  # a node that is busy for longer is not looked at
_MOST_NODES = 64
_CLOCK_S = 2.0  # beside what the question takes
_LOCAL_BYTES = 8 * 1000**3  # of unpacked images


def examine_on(paths: Paths, engine: str, on: str) -> str:
    """`invoke doctor` for a run on this machine, or on the cluster too.

    Raises:
        UsageError: there is no such place, or no engine of that name.
    """
    if on not in (LOCAL, SLURM):
        raise UsageError(f"--on {on!r} is not known", hint="local, or slurm")
    return examine(paths, engine, {"cluster": lambda: cluster_lines(paths)} if on == SLURM else {})


def cluster_lines(paths: Paths) -> list[Line]:
    """Look at everything of a cluster; each node by a short job on it."""
    site: list[ClusterOfRun] = []

    def open_site() -> list[Line]:
        site.append(ClusterOfRun(paths, lambda _: None))
        shared = site[0].settings.shared
        return [Line(OK, "shared folder", shared or "none: files are carried through this host")]

    lines = looked("shared folder", open_site)
    if site:
        lines += looked("Slurm", lambda: _slurm_lines(site[0], paths))
    return lines


def _slurm_lines(site: ClusterOfRun, paths: Paths) -> list[Line]:
    lines = [Line(OK, "Slurm", site.slurm.version())]
    nodes = site.slurm.nodes(site.settings.partition)
    cluster = Cluster(site.settings, tuple(nodes), "")
    up = [node for node in nodes if node.up]
    lines.append(
        Line(OK, "nodes", f"{len(up)} of {len(nodes)} up")
        if up
        else Line(MISSING, "nodes", f"none of {len(nodes)} is up", "`sinfo -R` shows why", blocks=True)
    )
    lines += [Line(DEVIATES, f"node {node.name}", node.state, "`sinfo -R` shows why") for node in nodes if not node.up]
    lines += [_measure_line(site), _time_line(cluster), _gres_line(site, nodes)]
    make_shared_folder(paths.temporary)
    with temporary_folder(paths.temporary, "look") as folder:
        token, content = folder / "token", os.urandom(16).hex()
        token.write_text(content, encoding="ascii")
        with ThreadPoolExecutor(16) as pool:
            for found in pool.map(lambda node: node_lines(site, node, token, content), up[:_MOST_NODES]):
                lines += found
    return lines


def _measure_line(site: ClusterOfRun) -> Line:
    try:
        return Line(OK, "speeds are measured on", site.cluster.measure_on)
    except BundleError as error:
        return Line(MISSING, "speeds are measured on", error.message, error.hint, blocks=True)


def _time_line(cluster: Cluster) -> Line:
    longest = max((stage for stage in STAGES.values() if not stage.host_bound), key=lambda stage: stage.timeout_s)
    wanted, given = longest.timeout_s / 60, cluster.minutes(longest)
    if given >= wanted:
        return Line(OK, "time limit", f"{given} min for the longest stage")
    advice = (
        f"Slurm ends stage {longest.name} then, should it take longer: choose another partition, or raise `minutes`"
    )
    return Line(DEVIATES, "time limit", f"{given} min where {longest.name} may take {wanted:.0f}", advice)


def _gres_line(site: ClusterOfRun, nodes: list[Node]) -> Line:
    with_npu = [node.name for node in nodes if site.settings.gres in node.gres.replace("(", ":").split(":")]
    if with_npu:
        return Line(OK, "NPUs (gres)", f"{site.settings.gres} on {len(with_npu)} nodes")
    return Line(MISSING, "NPUs (gres)", f"no node has {site.settings.gres}", "not needed on the CPU; else set `gres`")


def node_lines(site: ClusterOfRun, node: Node, token: Path, content: str) -> list[Line]:
    """What a short job on a node found.

    Args:
        site: of the run.
        node: to look at.
        token: a file on the shared folder.
        content: what it holds.
    """
    what = f"node {node.name}"
    before_s = time.time()
    try:
        said = ask_node(site, node.name, token)
        found = typed_json.read(said, Looked, what=f"what {node.name} says")
    except BundleError as error:
        return [Line(DEVIATES, what, f"no job of ours ran there: {error.message}", error.detail or error.hint)]
    lines = []
    if found.token != content and not site.settings.carried:
        lines.append(Line(MISSING, what, f"does not see the shared folder {site.settings.shared}",
                          "mount it there under the same path, or leave the node out by partition or constraint",
                          blocks=True))  # fmt: skip
    apart_s = max(before_s - found.clock_s, found.clock_s - time.time())
    if apart_s > _CLOCK_S:
        lines.append(Line(DEVIATES, what, f"its clock is {apart_s:.0f} s away from this host's", "let both follow NTP"))
    if found.namespaces:
        lines.append(Line(MISSING, what, f"no user namespaces: {found.namespaces}",
                          "the sandbox needs them (user.max_user_namespaces); or use --engine docker"))  # fmt: skip
    if found.local or found.free_bytes < _LOCAL_BYTES:
        said_local = found.local or f"{found.free_bytes / 1e9:.1f} GB free for unpacked images"
        lines.append(Line(DEVIATES, what, said_local, "set `local` to a folder with 8 GB on the nodes' own disks"))
    if found.architecture != os.uname().machine:
        lines.append(Line(DEVIATES, what, f"a {found.architecture} machine, this host is {facts.architecture()}",
                          "leave it out by partition or constraint"))  # fmt: skip
    return lines or [Line(OK, what, f"Python {found.python}, {found.free_bytes / 1e9:.0f} GB free on its own disk")]


def ask_node(site: ClusterOfRun, name: str, token: Path) -> bytes:
    """Run the look on a node.

    Raises:
        CouldNotRun: no job started there within half a minute, or it ended badly.
    """
    options = [
        *site.settings.options(),
        f"--nodelist={name}",
        "--nodes=1",
        "--ntasks=1",
        "--mem=100M",
        "--time=2",
        "--quiet",
    ]
    options += [f"--immediate={_WITHIN_S}", "--job-name=lstm-ctc:doctor"]
    return site.on_node(options, ["--look", str(token), site.settings.local])

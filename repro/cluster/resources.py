"""What a job asks Slurm for, from the declaration of its stage."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from repro.base.errors import CouldNotRun
from repro.cluster.settings import Settings
from repro.cluster.slurm import Node
from repro.graph import pipeline

_AROUND_S = 15 * 60.0  # unpacking an image, and bringing the result in, beside the stage's own limit
_SHARE = 0.9  # of a node's memory: the rest is the kernel's, for file pages


@dataclass(frozen=True)
class Cluster:
    """The part of a cluster that jobs of a run may use.

    Attributes:
        nodes: of the partition, as Slurm shows them.
        measure_on: the node that speeds are measured on.
    """

    settings: Settings
    nodes: tuple[Node, ...]
    measure_on: str

    @property
    def usable(self) -> Sequence[Node]:
        """The nodes that jobs start on now; all, where that is none."""
        return [node for node in self.nodes if node.up] or self.nodes

    @property
    def cores(self) -> int:
        """Of the smallest node: a job that asks for them can start on every node."""
        return min(node.cores for node in self.usable)

    @property
    def memory_bytes(self) -> int:
        """What a job may ask for on every node."""
        return int(min(node.memory_bytes for node in self.usable) * _SHARE)

    def minutes(self, stage: pipeline.StageDefinition) -> int:
        """The time limit of a stage's job: its own limit and what is around it, but no more than the site allows."""
        limits = [node.limit_s / 60 for node in self.nodes if node.limit_s is not None]
        limits += [float(self.settings.minutes)] if self.settings.minutes else []
        return max(1, math.floor(min([math.ceil((stage.timeout_s + _AROUND_S) / 60), *limits])))


def choose_node(nodes: Sequence[Node], asked: str) -> str:
    """The node that speeds are measured on: the one asked for, else the first that is up.

    Raises:
        CouldNotRun: it is not one of the partition's nodes, or it is not up.
    """
    by_name = {node.name: node for node in nodes}
    if not asked:
        up = [node.name for node in nodes if node.up]
        if not up:
            states = ", ".join(f"{node.name} is {node.state}" for node in nodes) or "it has no nodes"
            raise CouldNotRun(f"no node of the partition is up: {states}", hint="`sinfo -R` shows why")
        return up[0]
    if asked not in by_name:
        raise CouldNotRun(
            f"measure_on names {asked}, which is no node of the partition", hint=f"nodes: {', '.join(by_name)}"
        )
    if not by_name[asked].up:
        raise CouldNotRun(
            f"{asked}, the node that speeds are measured on, is {by_name[asked].state}",
            hint="`sinfo -R` shows why; name another one as measure_on in [slurm] of conf/site.toml",
        )
    return asked


def resources(node: pipeline.Node, cluster: Cluster, excluded: Collection[str]) -> tuple[str, ...]:
    """Options of sbatch for one node of the graph.

    Args:
        node: of the graph.
        cluster: where it may run.
        excluded: nodes whose processor would give the result another key.
    """
    settings, stage = cluster.settings, node.stage
    options = [f"--time={cluster.minutes(stage)}", "--nodes=1", "--ntasks=1", "--requeue", "--open-mode=append"]
    options += settings.options()
    if stage.host_bound:
        options += ["--exclusive", "--mem=0", f"--nodelist={cluster.measure_on}"]
    else:
        memory_bytes = min(stage.memory_bytes, cluster.memory_bytes)
        options.append(f"--cpus-per-task={cluster.cores if stage.whole_machine else 1}")
        options.append(f"--mem={max(1, memory_bytes >> 20)}M")
        options += [f"--exclude={','.join(sorted(excluded))}"] if excluded else []
    if stage.accelerator:
        options.append(f"--gres={settings.gres}:{node.parameters.get('num-devices', '1')}")
    return tuple(options)

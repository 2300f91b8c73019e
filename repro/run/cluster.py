"""A run whose stages are Slurm's jobs: what has to be so before the first is submitted, and the executor for them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Union

from repro.base import typed_json
from repro.base.errors import CouldNotRun, UsageError, VerificationFailed
from repro.base.files import make_shared_folder, remove_tree, write_atomic
from repro.base.paths import Paths
from repro.base.values import Strict
from repro.cluster.carried import CarryingExecutor
from repro.cluster.executor import SlurmExecutor
from repro.cluster.kit import command, kit
from repro.cluster.local import own_folder
from repro.cluster.resources import Cluster, choose_node
from repro.cluster.settings import load_settings
from repro.cluster.slurm import Slurm
from repro.cluster.submitter import Place
from repro.cluster.task_file import written
from repro.container.image import Image
from repro.graph.keys import Keys
from repro.graph.making import Surroundings
from repro.graph.pipeline import Node, Source
from repro.graph.store import Store
from repro.images.rootfs import SANDBOX_IMAGE
from repro.machine import facts
from repro.run.engine_when_needed import AUTO

_FACTS_MINUTES = 10
_FORGET_WITHIN_S = 60


class NodeMachine(Strict, frozen=True):
    """See `repro.machine.facts.Machine`."""

    instruction_set: str
    identity: str
    accelerator: str = ""


class NodeFacts(Strict, frozen=True):
    """What a node is, as a job on it found; `as_booted` is Slurm's word for which boot that was."""

    machine: NodeMachine
    host: dict[str, Union[str, int]]
    as_booted: str = ""


class ClusterOfRun:
    """The cluster of one command.

    Args:
        paths: of the checkout, on the shared folder.
        say: lines that stay.

    Raises:
        UsageError: conf/site.toml names no shared folder, or the checkout or the results lie outside it.
    """

    def __init__(self, paths: Paths, say: Callable[[str], None], environ: Mapping[str, str] = os.environ) -> None:
        settings = load_settings(paths.conf / "site.toml", environ)
        mark = f".{paths.nodes_mark}" if paths.nodes_mark else ""
        self.settings = replace(settings, local=settings.local + mark)
        self._paths, self._say, self.root = paths, say, paths.root
        self.slurm = Slurm(say)
        if not self.settings.shared and not self.settings.carried:
            raise UsageError(
                "--on slurm: conf/site.toml names no folder that this host and the nodes share",
                hint='write `shared = "/the/folder"` into its [slurm], or `carried = true` where there is none: see '
                "conf/site.example.toml",
            )
        for what, path in (("the checkout", paths.root), ("the folder of results", paths.results)):
            self._require_shared(what, path)
        self.local = own_folder(Path(self.settings.local))

    def _require_shared(self, what: str, path: Path) -> None:
        if self.settings.carried:
            return
        shared = Path(self.settings.shared).resolve()
        if not path.resolve().is_relative_to(shared):
            raise UsageError(
                f"--on slurm: {what} lies outside the shared folder {shared}: {path}",
                hint="nodes see only what lies below it: move it there (for results: BUNDLE_RESULTS)",
            )

    @cached_property
    def cluster(self) -> Cluster:
        """The nodes that jobs may use, and the one that speeds are measured on.

        Raises:
            CouldNotRun: Slurm does not answer, or no node is up.
        """
        nodes = self.slurm.nodes(self.settings.partition)
        return Cluster(self.settings, tuple(nodes), choose_node(nodes, self.settings.measure_on))

    @cached_property
    def _facts(self) -> NodeFacts:
        """What the node is that speeds are measured on: asked once for each time that it was booted.

        Results that depend on a processor or a host have it in their key, so it is asked before anything runs.
        """
        name = self.cluster.measure_on
        told = self.slurm.node_facts(name)
        booted = f"{told.get('BootTime', '')} {told.get('CPUTot', '')}"
        kept = self._paths.results / "cluster" / "nodes" / f"{name}.json"
        try:
            known = typed_json.read(kept.read_bytes(), NodeFacts, what=str(kept))
            if known.as_booted == booted:
                return known
        except (OSError, VerificationFailed):
            pass  # asked anew
        self._say(f"asking {name} what it is, alone on it: speeds are measured there")
        options = [
            *self.settings.options(),
            f"--nodelist={name}",
            "--exclusive",
            "--nodes=1",
            "--ntasks=1",
            "--mem=0",
            "--quiet",
        ]
        options += [f"--cpus-per-task={told.get('CPUTot', '1')}", f"--time={_FACTS_MINUTES}"]
        said = self.on_node([*options, "--job-name=lstm-ctc:facts"], ["--facts"])
        found = typed_json.read(said, NodeFacts, what=f"what {name} says of itself")
        found = NodeFacts(machine=found.machine, host=found.host, as_booted=booted)
        make_shared_folder(kept.parent)
        write_atomic(kept, written(found))
        return found

    def on_node(self, options: Sequence[str], words: Sequence[str]) -> bytes:
        """Run `python -m repro.run.on_node WORDS` as a job of its own; what it printed.

        Args:
            options: of srun; they choose the node.
            words: see `repro.run.on_node`.

        Raises:
            CouldNotRun: it could not start, or ended badly.
        """
        module = ["repro.run.on_node", *words]
        if self.settings.carried:
            return self.slurm.srun(
                [*options, "--chdir=/"], command(self.settings.python, self.settings.local, module), kit()
            )
        return self.slurm.srun([*options, f"--chdir={self.root}"], [sys.executable, "-m", *module])

    def forget(self) -> None:
        """Remove the folders of `nodes_mark` on this host and on every node that is up."""
        for node in self.cluster.nodes:
            if node.up:
                options = [*self.settings.options(), f"--nodelist={node.name}", "--nodes=1", "--ntasks=1", "--quiet"]
                options += [f"--immediate={_FORGET_WITHIN_S}", "--mem=100M", "--time=5", "--job-name=lstm-ctc:forget"]
                try:
                    self.on_node(options, ["--forget", self.settings.local])
                except CouldNotRun as error:
                    self._say(f"{self.settings.local}.* stays on {node.name}: {error.message}")
        remove_tree(self.local)

    @property
    def machine(self) -> facts.Machine:
        """What results may depend on, of the node that speeds are measured on."""
        found = self._facts.machine
        return facts.Machine(found.instruction_set, found.identity, found.accelerator)

    @property
    def host(self) -> Mapping[str, str | int]:
        """Facts of that node for the record.

        Raises:
            CouldNotRun: it is of another architecture than this host.
        """
        found = self._facts.host
        if found.get("architecture") != facts.architecture():
            raise CouldNotRun(
                f"the nodes are {found.get('architecture')} machines, and this host is not",
                hint="start the command on a host of the nodes' architecture: it makes the images",
            )
        return found

    def executor(
        self, images: Mapping[str, Image], keys: Keys, store: Store, around: Surroundings, *, engine: str, leave: bool
    ) -> SlurmExecutor | CarryingExecutor:
        """The executor for one run.

        Args:
            images: the sandbox's among them.
            keys: as nodes have them, made of `machine`.
            store: which nodes use too.
            around: what the run has around it.
            engine: that runs stages on the nodes; 'auto' is the sandbox.
            leave: a person who interrupts leaves the jobs running.

        Raises:
            UsageError: jobs cannot be left running where this process carries their files.
        """
        carried = self.settings.carried
        if carried and leave:
            raise UsageError("--leave: no job goes on without this command where it carries the files",
                             hint="leave --leave out, or share a folder with the nodes")  # fmt: skip
        place = Place(
            python=self.settings.python if carried else sys.executable,
            root=self._paths.root,
            folder=self._paths.results / "cluster",
            engine=SANDBOX_IMAGE if engine == AUTO else engine,
            sandbox=images[SANDBOX_IMAGE],
            accelerator=keys.machine.accelerator,
            run=time.strftime("%Y-%m-%d-%H%M%S", time.gmtime()),
            leave=leave,
        )
        if carried:
            return CarryingExecutor(self.slurm, self.cluster, place, keys, store, around, self._say)
        return SlurmExecutor(self.slurm, self.cluster, place, keys, store, around, self._say)

    def check_sources(self, nodes: Iterable[Node]) -> None:
        """Hold what comes from outside the graph to lie on the shared folder.

        Raises:
            UsageError: names the input.
        """
        for node in nodes:
            for source in node.inputs.values():
                if isinstance(source, Source):
                    self._require_shared(source.name, source.path)

"""What a node's result depends on, as one key; its sha256 is the fingerprint."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repro.container.image import Image
from repro.graph.cache import StatCache
from repro.graph.code import Codes, StageCode
from repro.graph.pipeline import ISA_EXACT, Node, Output, Source
from repro.graph.sources import digest_source
from repro.graph.stage_job import STAGE_ENV
from repro.graph.store import Result
from repro.machine.facts import Machine

FORMAT = 1


@dataclass
class Keys:
    """Computes keys; remembers the digests of sources for the length of one run."""

    codes: Codes
    images: Mapping[str, Image]
    machine: Machine
    cache: StatCache
    _sources: dict[Path, str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def code(self, stage: str) -> StageCode:
        """The stage's code as this run sees it."""
        return self.codes.of(stage)

    def source_digest(self, source: Source) -> str:
        """The content digest of an input from outside the graph."""
        with self._lock:
            if source.path not in self._sources:
                self._sources[source.path] = digest_source(source.path, self.cache, source.name)
            return self._sources[source.path]

    def key(self, node: Node, results: Mapping[str, Result]) -> dict[str, Any]:
        """Everything that the node's result depends on; `results` holds those of the nodes before it."""
        inputs = {
            name: results[source.node].output_digest if isinstance(source, Output) else self.source_digest(source)
            for name, source in node.inputs.items()
        }
        key: dict[str, Any] = {
            "format": FORMAT,
            "stage": node.stage.name,
            "image": self.images[node.stage.image].config_digest,
            "code": self.code(node.stage.name).digest,
            "argv": list(node.argv()),
            "env": dict(STAGE_ENV),
            "inputs": inputs,
        }
        if node.stage.exactness == ISA_EXACT or node.stage.host_bound:
            key["instruction_set"] = self.machine.instruction_set
        if node.stage.host_bound:
            key["host"] = self.machine.identity
        if node.sample:
            key["sample"] = node.sample
        if node.stage.accelerator:
            key["accelerator"] = self.machine.accelerator
        return key


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """In words, what differs between two keys of one node: what made it run again."""
    reasons = [
        f"{word} changed"
        for name, word in (("image", "image"), ("code", "code of the stage"), ("env", "environment"),
                           ("format", "format of the store"), ("instruction_set", "processor's instruction set"),
                           ("host", "host or device"), ("sample", "number of the measurement"),
                           ("accelerator", "NPU, its driver or firmware"))
        if old.get(name) != new.get(name)
    ]  # fmt: skip
    if old.get("argv") != new.get("argv"):
        reasons.append("parameters changed")
    before, after = old.get("inputs", {}), new.get("inputs", {})
    reasons += [f"input {name} changed" for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    return reasons

"""One graph of many: steps that are the same in several graphs stand once in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from repro.graph.pipeline import Node, Output


@dataclass
class OneGraph:
    """The union of graphs.

    Attributes:
        nodes: by a name that is the step's own where it is the first of that name, else with a number: 'infer@8+2'.
        names: for each graph, the name here by the step's own.
    """

    nodes: dict[str, Node] = field(default_factory=dict)
    names: list[dict[str, str]] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """How many steps the graphs have together."""
        return sum(len(names) for names in self.names)


def one_graph_of(graphs: Sequence[Mapping[str, Node]]) -> OneGraph:
    """The union; what is one step in it has one stage, one command line, one sample and equal inputs.

    Args:
        graphs: each with every node after its inputs.
    """
    union, known = OneGraph(), dict[Any, str]()
    taken: dict[str, int] = {}
    for graph in graphs:
        names: dict[str, str] = {}
        for key, node in graph.items():
            inputs = {
                name: replace(source, node=names[source.node]) if isinstance(source, Output) else source
                for name, source in node.inputs.items()
            }
            same = (node.stage, node.argv(), node.batch_size, node.sample, tuple(sorted(inputs.items())))
            if same not in known:
                taken[key] = taken.get(key, 0) + 1
                known[same] = key if taken[key] == 1 else f"{key}+{taken[key]}"
                union.nodes[known[same]] = replace(node, key=known[same], inputs=inputs)
            names[key] = known[same]
        union.names.append(names)
    return union

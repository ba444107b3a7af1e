"""How many nodes local functions become when they are inlined, told before anybody inlines them.

Functions that call each other twice, thirty deep, are a small file and a billion nodes.
"""

from collections import Counter
from graphlib import CycleError, TopologicalSorter

import onnx

from mlcompress.errors import shorten

MOST_NODES = 2**20
"""Nodes of a graph whose functions are inlined."""

_Key = tuple[str, str, str]


def problems(model: onnx.ModelProto) -> list[str]:
    """One line when functions call themselves, or become more than MOST_NODES nodes."""
    bodies = {(f.domain, f.name, f.overload): _calls(f.node) for f in model.functions}
    sorter = TopologicalSorter(
        {key: [call for call in calls if call in bodies] for key, calls in bodies.items()}
    )
    try:
        order = list(sorter.static_order())
    except CycleError as error:
        names = dict.fromkeys(name for _, name, _ in error.args[1])
        return [f"functions that call themselves: {shorten(names)}"]
    sizes: dict[_Key, int] = {}
    for key in order:
        sizes[key] = _size(bodies[key], sizes)
    size = _size(_calls(model.graph.node), sizes) if bodies else 0
    if size > MOST_NODES:
        return [
            f"its functions become {size:,} nodes, more than {MOST_NODES:,}; export the model without them"
        ]
    return []


def _size(calls: "Counter[_Key]", sizes: dict[_Key, int]) -> int:
    return sum(count * sizes.get(call, 1) for call, count in calls.items())


def _calls(listed: "list[onnx.NodeProto]") -> "Counter[_Key]":
    """How often each op is written, sub-graphs included."""
    counts: Counter[_Key] = Counter()
    for node in listed:
        counts[node.domain, node.op_type, node.overload] += 1
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                counts += _calls(graph.node)
    return counts

"""Weights in the bodies of If, Loop and Scan.

A body may read what lies outside of it, so an initializer of a body can as well belong to the main graph.
Measured with onnxruntime 1.32, levels EXTENDED and ALL: a chain there is folded while the session is created,
and the matrix kernels in the body run on what it gives.
"""

from collections import Counter
from collections.abc import Callable, Iterator

import onnx_ir as ir

from mlcompress.graph.insert import Insertion


def initializers_inside(node: ir.Node) -> Iterator[ir.Value]:
    """Of all graphs in a node, those in their own nodes included, in graph order."""
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            inner = attribute.as_graph()
            yield from list(inner.initializers.values())
            for one in inner:
                yield from initializers_inside(one)


def lift(model: ir.Model, wanted: Callable[[ir.Value], bool]) -> list[str]:
    """Move the initializers of bodies that are `wanted` to the main graph, in place; gives their names.

    A name that is taken there gets a number. Values that a body gives back stay.
    """
    insertion, lifted = Insertion(model.graph), []
    inside = [value for node in model.graph for value in initializers_inside(node)]
    shared = Counter(str(value.name) for value in inside)
    for value in inside:
        home = value.graph
        if home is None or value.is_graph_output() or not wanted(value):
            continue
        name = str(value.name)
        del home.initializers[name]
        if shared[name] == 1:  # another branch may use the name for something else
            insertion.release(name)
        value.name = insertion.fresh(name)
        model.graph.register_initializer(value)
        lifted.append(str(value.name))
    return lifted

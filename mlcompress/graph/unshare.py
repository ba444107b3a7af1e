"""Undo the merging of equal tensors by exporters, so that each layer can be pruned and trained on its own.

Two biases that are equal (zeros, mostly) are often stored once. Pruning one layer would then cut the
other's. A matrix that several nodes read is a tie on purpose and stays shared. So do scalars, integers, and
the bias of a block that is applied several times: its readers share their other weights as well.
"""

import onnx_ir as ir

from mlcompress.graph.initializers import initializer, numbers
from mlcompress.graph.names import free


def unshare(model: ir.Model) -> None:
    """Give every reader of a merged float vector (one axis longer than 1) its own copy, in place.

    The first reader keeps the name; copies are called `<name>_1`, `<name>_2`, ... in graph order.
    """
    order = {node: index for index, node in enumerate(ir.traversal.RecursiveGraphIterator(model.graph))}
    taken = {str(value.name) for node in order for value in node.outputs}
    taken |= {
        str(value.name) for graph in model.graphs() for value in (*graph.inputs, *graph.initializers.values())
    }
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            if not _is_vector(value) or value.is_graph_output():
                continue
            readers = sorted({use.node for use in value.uses()}, key=order.__getitem__)
            if len(readers) > 1 and not _same_block(readers, value):
                for node in readers[1:]:
                    _give_copy(graph, value, node, free(str(value.name), taken))


def _is_vector(value: ir.Value) -> bool:
    is_float = value.dtype is not None and value.dtype.is_floating_point()
    return is_float and len([size for size in value.shape or () if size != 1]) == 1


def _same_block(readers: list[ir.Node], shared: ir.Value) -> bool:
    """Do the readers share all their other weights too (and at least one)?"""
    others = [
        {v for v in node.inputs if v is not None and v.is_initializer() and v is not shared}
        for node in readers
    ]
    weights = [{v for v in found if not _is_filler(v)} for found in others]
    return bool(weights[0]) and all(found == weights[0] for found in weights[1:])


def _is_filler(value: ir.Value) -> bool:
    """One number throughout, as in untrained scales and shifts: equal by accident."""
    array = numbers(value)
    return array.size < 2 or bool((array == array.flat[0]).all())


def _give_copy(graph: ir.Graph, value: ir.Value, node: ir.Node, name: str) -> None:
    made = initializer(graph, name, numbers(value))
    for index, read in enumerate(node.inputs):
        if read is value:
            node.replace_input_with(index, made)

"""Which numbers of a graph a recipe's `train.freeze` selects."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

import onnx_ir as ir

from mlcompress.graph.names import no_match

_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE, None}
"""None: the file does not say what a Constant in a body holds."""


def weights_matching(model: ir.Model, patterns: Sequence[str]) -> dict[str, list[ir.Value]]:
    """For each pattern the floating-point constants that it selects, in graph order; [] for none.

    A glob on the name of an initializer selects that one alone. A glob on the name of a node or of one of its
    outputs, or `op:Type`, selects all that the node computes with: initializers that it reads, also those
    that nodes without data (Transpose, DequantizeLinear) hand to it, and those of its bodies. A name that
    equals the pattern matches too.
    """
    stored = [value for graph in model.graphs() for value in graph.initializers.values()]
    found: dict[str, list[ir.Value]] = {}
    for pattern in patterns:
        chosen = [value for value in stored if _is(str(value.name), pattern)]
        for node in ir.traversal.RecursiveGraphIterator(model.graph):
            if _selects(node, pattern):
                chosen += _read(node)
        found[pattern] = [value for value in dict.fromkeys(chosen) if _dtype(value) in _FLOATS]
    return found


def unfrozen(model: ir.Model, patterns: Sequence[str]) -> list[str]:
    """One line for each pattern of `train.freeze` that selects nothing, with the nearest name."""
    lines = []
    for pattern, found in weights_matching(model, patterns).items():
        nodes = [node for node in ir.traversal.RecursiveGraphIterator(model.graph) if _selects(node, pattern)]
        if nodes and not found:
            lines.append(f"train.freeze: {pattern!r} matches no node that has weights; name another")
        elif not found:
            lines.append(no_match(model, pattern, "train.freeze"))
    return lines


def _is(name: str, pattern: str) -> bool:
    return name == pattern or fnmatchcase(name, pattern)


def _selects(node: ir.Node, pattern: str) -> bool:
    if pattern.startswith("op:"):
        return fnmatchcase(node.op_type, pattern[3:])
    return any(name and _is(name, pattern) for name in (node.name, *(value.name for value in node.outputs)))


def _read(node: ir.Node) -> Iterator[ir.Value]:
    """Constants behind the inputs of `node` and of the nodes inside it; a Constant node's own output."""
    if node.op_type == "Constant":
        yield node.outputs[0]
    for value in node.inputs:
        yield from _behind(value)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            for inner in attribute.as_graph():
                yield from _read(inner)


def _behind(value: ir.Value | None) -> Iterator[ir.Value]:
    if value is None:
        return
    maker = value.producer()
    if value.const_value is not None and maker is None:
        yield value
    elif maker is not None and _is_fixed(value):
        yield from _read(maker)


def _is_fixed(value: ir.Value | None) -> bool:
    """Whether `value` does not depend on what the graph is given."""
    if value is None:
        return True
    maker = value.producer()
    if maker is None:
        return value.const_value is not None
    bodies = any(attribute.type == ir.AttributeType.GRAPH for attribute in maker.attributes.values())
    return not bodies and all(_is_fixed(one) for one in maker.inputs)


def _dtype(value: ir.Value) -> ir.DataType | None:
    tensor = value.const_value
    return value.dtype if tensor is None else tensor.dtype

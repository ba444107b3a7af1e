"""Integer vectors that a graph computes from shapes. An entry is a number, a symbolic length, or unknown."""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import constant
from mlcompress.graph.operands import key, optional
from mlcompress.graph.shape_arguments import LONGEST, Size, integers, product, quotient, slice_ranges

Vectors = dict[str, list[Size]]
"""Value name -> entries; a scalar has one."""


def evaluate(graph: ir.Graph) -> Vectors:
    """Entries of every vector and scalar of the graph that comes from shapes and constants."""
    vectors: Vectors = {}
    for name, value in graph.initializers.items():
        numbers = constant(value)
        if (
            numbers is not None
            and numbers.ndim <= 1
            and numbers.size <= LONGEST
            and numbers.dtype.kind == "i"
        ):
            vectors[name] = [int(number) for number in numbers.reshape(-1)]
    for node in graph:
        found = _STEPS.get(key(node), _unknown)(node, vectors)
        if found is not None and node.outputs:
            vectors[node.outputs[0].name or ""] = found
    return vectors


def declared(value: ir.Value | None) -> list[Size] | None:
    """Lengths of the axes of a value as the graph says; None without a rank."""
    if value is None or value.shape is None:
        return None
    return [dim if isinstance(dim, int) else dim.value for dim in value.shape]


def _unknown(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    return None


def _first(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    value = optional(node, 0)
    return None if value is None else vectors.get(value.name or "")


def _shape(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    sizes = declared(optional(node, 0))
    if sizes is None:
        return None
    start, stop = node.attributes.get_int("start", 0), node.attributes.get_int("end", len(sizes))
    return sizes[start:stop]


def _reshape(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    target = integers(optional(node, 1))
    return _first(node, vectors) if target is not None and len(target) <= 1 else None


def _gather(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    entries, indices = _first(node, vectors), integers(optional(node, 1))
    if entries is None or indices is None or any(not -len(entries) <= i < len(entries) for i in indices):
        return None
    return [entries[index] for index in indices]


def _slice(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    entries, ranges = _first(node, vectors), slice_ranges(node)
    return None if entries is None or ranges is None or len(ranges) != 1 else entries[slice(*ranges[0][1:])]


def _concat(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    parts = [vectors.get(value.name or "") for value in node.inputs if value is not None]
    if any(part is None for part in parts):
        return None
    return [entry for part in parts for entry in part or ()]


def _cast(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    to = node.attributes.get_int("to", 0)
    return _first(node, vectors) if to in (ir.DataType.INT64.value, ir.DataType.INT32.value) else None


def _arithmetic(
    function: Callable[[int, int], int], named: Callable[[Size, Size], Size] = lambda a, b: None
) -> Callable[[ir.Node, Vectors], list[Size] | None]:
    """`named`: the result where one of the two is a symbolic length."""

    def step(node: ir.Node, vectors: Vectors) -> list[Size] | None:
        parts = [vectors.get(value.name or "") for value in node.inputs if value is not None]
        if len(parts) != 2 or parts[0] is None or parts[1] is None:
            return None
        return [
            _within(function(a, b)) if isinstance(a, int) and isinstance(b, int) else named(a, b)
            for a, b in zip(*_aligned(parts[0], parts[1]), strict=True)
        ]

    return step


def _aligned(*parts: Sequence[Size]) -> list[Sequence[Size]]:
    length = max(len(part) for part in parts)
    return [list(part) * length if len(part) == 1 else part for part in parts]


def _unequal(a: Size, b: Size) -> Size:
    """No length is negative: 0 (false) for a symbolic length and a negative number."""
    return (
        0
        if any(isinstance(one, int) and one < 0 for one in (a, b)) and a is not None and b is not None
        else None
    )


def _where(node: ir.Node, vectors: Vectors) -> list[Size] | None:
    parts = [vectors.get(value.name or "") for value in node.inputs if value is not None]
    if len(parts) != 3 or parts[0] is None or parts[1] is None or parts[2] is None:
        return None
    rows = zip(*_aligned(parts[0], parts[1], parts[2]), strict=True)
    return [(yes if test else no) if isinstance(test, int) else None for test, yes, no in rows]


def _within(number: int) -> int | None:
    """None for what would overflow: no axis has that length."""
    return number if abs(number) < 2**62 else None


def _divide(a: int, b: int) -> int:
    """Integer division as ONNX does it: towards zero."""
    return int(np.fix(a / b)) if b else 0


_STEPS: dict[str, Callable[[ir.Node, Vectors], list[Size] | None]] = {
    "Shape": _shape,
    "Reshape": _reshape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Cast": _cast,
    "Identity": _first,
    "Squeeze": _first,
    "Unsqueeze": _first,
    "Add": _arithmetic(lambda a, b: a + b),
    "Sub": _arithmetic(lambda a, b: a - b),
    "Mul": _arithmetic(lambda a, b: a * b, lambda a, b: product([a, b])),
    "Div": _arithmetic(_divide, lambda a, b: quotient([a], [b])),
    "Equal": _arithmetic(lambda a, b: int(a == b), _unequal),
    "Where": _where,
}

"""Shape arithmetic on Python numbers.

What is computed from `Shape` and integer constants, of rank 0 or 1, never becomes a tensor: it costs nothing,
stays out of autograd, and dynamic axes stay dynamic. A host value is an int or bool, or a list of them.
While torch.jit traces, lengths are tensors of rank 0, which must not be turned into Python numbers.
"""

import operator
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import Node, Run

Rule = Callable[[Node, Sequence[int | None]], tuple[Run, int] | None]
"""(node, rank of each input) -> run function and rank of the result; None: use the tensor form."""


def _divide(a: Any, b: Any) -> Any:
    """Towards zero, as ONNX divides integers."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return torch.div(a, b, rounding_mode="trunc")
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


ELEMENTWISE: dict[str, Run] = {
    "Abs": abs,
    "Add": operator.add,
    "And": lambda a, b: a and b,
    "Div": _divide,
    "Equal": operator.eq,
    "Greater": operator.gt,
    "GreaterOrEqual": operator.ge,
    "Identity": lambda a: a,
    "Less": operator.lt,
    "LessOrEqual": operator.le,
    "Max": lambda *values: _extreme(max, torch.maximum, values),
    "Min": lambda *values: _extreme(min, torch.minimum, values),
    "Mul": operator.mul,
    "Neg": operator.neg,
    "Not": operator.not_,
    "Or": lambda a, b: a or b,
    "Sub": operator.sub,
    "Where": lambda c, a, b: a if c else b,
}


def _extreme(of_numbers: Run, of_tensors: Run, values: Sequence[Any]) -> Any:
    if any(isinstance(value, Tensor) for value in values):
        return reduce(of_tensors, map(torch.as_tensor, values))
    return of_numbers(values)


def _whole(value: Any) -> Any:
    return value.long() if isinstance(value, Tensor) else int(value)


def _broadcast(function: Run) -> Run:
    """Apply to numbers and lists with the broadcasting of rank 0 and 1."""

    def run(*values: Any) -> Any:
        lengths = {len(value) for value in values if isinstance(value, list)}
        if not lengths:
            return function(*values)
        length = max(lengths) if 0 not in lengths else 0
        full = [
            value * length if isinstance(value, list) and len(value) == 1 else value
            for value in (value if isinstance(value, list) else [value] for value in values)
        ]
        return [function(*row) for row in zip(*full, strict=True)]

    return run


def _elementwise(function: Run) -> Rule:
    run = _broadcast(function)
    return lambda node, ranks: (run, max(rank or 0 for rank in ranks))


def _cast(node: Node, ranks: Sequence[int | None]) -> tuple[Run, int] | None:
    functions: dict[int, Run] = {6: _whole, 7: _whole, 9: bool}  # int32, int64, bool
    function = functions.get(node.attributes["to"])
    return None if function is None else (_broadcast(function), ranks[0] or 0)


def _gather(node: Node, ranks: Sequence[int | None]) -> tuple[Run, int] | None:
    if ranks[0] != 1 or node.attributes.get("axis", 0) not in (0, -1):
        return None
    if ranks[1] == 0:
        return lambda x, index: x[index], 0
    return lambda x, indices: [x[index] for index in indices], 1


def _slice(node: Node, ranks: Sequence[int | None]) -> tuple[Run, int] | None:
    if ranks[0] != 1 or node.opset < 10:
        return None
    return lambda x, start, end, axes=None, step=(1,): x[slice(start[0], end[0], (step or [1])[0])], 1


def _concat(node: Node, ranks: Sequence[int | None]) -> tuple[Run, int] | None:
    return lambda *lists: [item for part in lists for item in part], 1


def _squeeze(node: Node, ranks: Sequence[int | None]) -> tuple[Run, int] | None:
    return lambda x, axes=None: x[0] if isinstance(x, list) and len(x) == 1 else x, 0


def _unsqueeze(node: Node, ranks: Sequence[int | None]) -> tuple[Run, int] | None:
    return None if ranks[0] else (lambda x, axes=None: [x], 1)


def _reshape(node: Node, ranks: Sequence[int | None]) -> tuple[Run, int] | None:
    shape = node.constant(1)
    if shape is None or shape.numel() > 1:
        return None
    if shape.numel() == 0:
        return lambda x, shape: x[0] if isinstance(x, list) else x, 0
    return lambda x, shape: x if isinstance(x, list) else [x], 1


def _reduce(function: Callable[[list[int]], int]) -> Rule:
    def rule(node: Node, ranks: Sequence[int | None]) -> tuple[Run, int] | None:
        if ranks[0] != 1 or node.attributes.get("noop_with_empty_axes"):
            return None
        if node.attributes.get("keepdims", 1):
            return lambda x, axes=None: [function(x)], 1
        return lambda x, axes=None: function(x), 0

    return rule


def _product(values: list[int]) -> int:
    total = 1
    for value in values:
        total = total * value
    return total


RULES: dict[str, Rule] = {
    **{name: _elementwise(function) for name, function in ELEMENTWISE.items()},
    "Cast": _cast,
    "Concat": _concat,
    "Gather": _gather,
    "ReduceMax": _reduce(max),
    "ReduceMin": _reduce(min),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(sum),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}

SOURCES = {"Shape": 1, "Size": 0}
"""Ops that read a tensor and give a host value, with its rank."""

"""Weights that are not numbers: training that diverged leaves NaN, and every output behind it is NaN."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph import mapped
from mlcompress.graph.initializers import numbers
from mlcompress.graph.operands import key

_MULTIPLIED = {
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Gemm": (0, 1, 2),
    "MatMul": (0, 1),
    "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3),
    "RNN": (1, 2, 3),
    "BatchNormalization": (1, 2, 3, 4),
    "LayerNormalization": (1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
}
"""Inputs whose every number reaches the output. Rows of an embedding may go unread, masks add -inf."""
_CHUNK = 2**20


def problems(model: ir.Model) -> list[str]:
    """One line for each weight with a NaN that the graph is certain to multiply with."""
    found = []
    for value, reader in _weights(model).items():
        count = _count(numbers(value), np.isnan)
        if count:
            size = numbers(value).size
            found.append(
                f"tensor {value.name}: {count} of {size} numbers are NaN, and {reader.name} "
                f"({reader.op_type}) computes with all of them; export a model whose training did not diverge"
            )
    return found


def doubts(model: ir.Model) -> list[str]:
    """One line for each tensor that may be wrong: infinite weights, NaN where it may go unread."""
    weights = _weights(model)
    lines = [
        f"tensor {value.name}: infinite numbers in a weight of {reader.name} ({reader.op_type})"
        for value, reader in weights.items()
        if _count(numbers(value), np.isinf)
    ]
    others = [value for graph in model.graphs() for value in graph.initializers.values() if _is_float(value)]
    return lines + [
        f"tensor {value.name}: holds NaN"
        for value in others
        if value not in weights and _count(numbers(value), np.isnan)
    ]


def _weights(model: ir.Model) -> dict[ir.Value, ir.Node]:
    """Float initializers of the main graph in a slot of `_MULTIPLIED`, and a node that reads each."""
    found: dict[ir.Value, ir.Node] = {}
    for node in model.graph:
        for index in _MULTIPLIED.get(key(node), ()):
            value = node.inputs[index] if index < len(node.inputs) else None
            if value is not None and value.is_initializer() and _is_float(value):
                found.setdefault(value, node)
    return found


def _is_float(value: ir.Value) -> bool:
    return value.const_value is not None and value.const_value.dtype.is_floating_point()


def _count(array: NDArray[np.floating], test: np.ufunc) -> int:
    """How many elements pass; in pieces, so that no second tensor of the size is made."""
    flat = array.reshape(-1)
    count = sum(int(np.count_nonzero(test(flat[at : at + _CHUNK]))) for at in range(0, flat.size, _CHUNK))
    if flat.size > _CHUNK:
        mapped.forget()
    return count

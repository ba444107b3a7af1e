"""Running statistics of what flows between layers: one update a batch, memory of one batch."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph.columns import attribute, output_axis, to_columns
from mlcompress.graph.initializers import constant

Array = NDArray[np.float64]

POSITIONS = 512
"""Of one sample's feature map, evenly spread, for second moments."""
MOST_COLUMNS = 8192
"""Inputs of one output above which a layer's second moments take more than 512 MB."""


class Units:
    """Of the positions on one axis of a tensor: mean |a|, share that is not zero, and the mean of each
    sample."""

    def __init__(self, axis: int) -> None:
        self._axis, self._count = axis, 0
        self._size: Array | float = 0.0
        self._active: Array | float = 0.0
        self._pooled: list[Array] = []

    def update(self, values: np.ndarray) -> None:
        """Add one batch, its first axis being the samples."""
        moved = np.moveaxis(values, self._axis, -1).reshape(len(values), -1, values.shape[self._axis])
        self._count += moved.shape[0] * moved.shape[1]
        self._size = self._size + np.abs(moved).sum(axis=(0, 1), dtype=np.float64)
        self._active = self._active + np.count_nonzero(moved, axis=(0, 1))
        self._pooled.append(moved.mean(axis=1, dtype=np.float64))

    @property
    def mean_activation(self) -> Array:
        return np.asarray(self._size / self._count)

    @property
    def active_share(self) -> Array:
        return np.asarray(self._active / self._count)

    @property
    def pooled(self) -> Array:
        """[samples, positions]"""
        return np.concatenate(self._pooled)


class Squares:
    """Mean a^2 of the positions on one axis of a tensor."""

    def __init__(self, axis: int) -> None:
        self._axis, self._count = axis, 0
        self._sum: Array | float = 0.0

    def update(self, values: np.ndarray) -> None:
        moved = np.moveaxis(values, self._axis, -1).reshape(-1, values.shape[self._axis])
        self._count += len(moved)
        self._sum = self._sum + np.square(moved, dtype=np.float64).sum(axis=0)

    @property
    def mean(self) -> Array:
        return np.asarray(self._sum / self._count)


class Second:
    """Mean x x' over the columns that a Conv, Gemm or MatMul multiplies, [G, K, K]; its diagonal alone with
    `diagonal`, [G, K]."""

    def __init__(self, node: ir.Node, *, diagonal: bool = False) -> None:
        self._node, self._diagonal, self._count = node, diagonal, 0
        self._kernel = np.asarray(constant(node.inputs[1])).shape[2:] if node.op_type == "Conv" else ()
        self._sum: Array | float = 0.0

    def update(self, values: np.ndarray) -> None:
        columns = to_columns(self._node, values, self._kernel, POSITIONS * len(values)).astype(np.float64)
        self._count += columns.shape[2]
        more = np.square(columns).sum(axis=2) if self._diagonal else columns @ columns.transpose(0, 2, 1)
        self._sum = self._sum + more

    @property
    def mean(self) -> Array:
        return np.asarray(self._sum / self._count)


def obstacle(node: ir.Node) -> str | None:
    """Why what the weight of a node multiplies cannot be told; None where it can."""
    if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
        return f"the inputs of {node.op_type} are not observed, only those of Conv, Gemm and MatMul"
    source, weight = node.inputs[0], constant(node.inputs[1])
    if source is None or source.const_value is not None or weight is None:
        return "its weight is not the second input beside a computed first one"
    if node.op_type != "Conv" and weight.ndim != 2:
        return f"its weight has {weight.ndim} axes, 2 are needed"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "its input is transposed"
    return None


def columns(node: ir.Node) -> int:
    """K: inputs of one output."""
    shape = np.asarray(constant(node.inputs[1])).shape
    return int(np.prod(shape[1:])) if node.op_type == "Conv" else int(shape[1 - output_axis(node)])

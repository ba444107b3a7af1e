"""Running statistics of what flows between layers: one update a batch, memory of one batch."""

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.data.dataset import Dataset
from mlcompress.graph.columns import POSITIONS, attribute, columns, to_columns
from mlcompress.graph.initializers import constant
from mlcompress.measure.tapped import Statistic, fill

Array = NDArray[np.float64]
MOMENT_BYTES = 2**29
"""Second moments that are held at once: those of further layers are measured in further passes over the
samples. One layer of the most columns that are allowed has as many."""


def observe(model: ir.Model, seen: Iterable[tuple[str, Statistic]], data: Dataset) -> None:
    """Update each statistic with the tensor of its name over all samples; errors as of `tapped.track`."""
    by_value: dict[str, list[Statistic]] = {}
    for value, statistic in seen:
        by_value.setdefault(value, []).append(statistic)
    fill(model, by_value, data)


def portions(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    """The names in their order, in groups of at most `most` bytes; what is larger is a group alone."""
    groups: list[list[str]] = []
    left = 0
    for name, size in sizes.items():
        if not groups or size > left:
            groups.append([])
            left = most
        groups[-1].append(name)
        left -= size
    return groups


def moment_bytes(node: ir.Node) -> int:
    """Of a layer's second moments [G, K, K] in float64."""
    groups = attribute(node, "group", 1) if node.op_type == "Conv" else 1
    return 8 * groups * columns(node) ** 2


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

"""Layers of a graph from student features to the width of the teacher's (SimKD, Chen et al. 2022)."""

from math import prod, sqrt

import numpy as np
import onnx_ir as ir

from mlcompress.errors import ModelError
from mlcompress.graph.insert import Insertion

NAME = "simkd_projector"
_NARROWING = 2
"""The inner width is the teacher's divided by this, as published."""


class Projector:
    """Adds the layers to `graph`; `params` counts their numbers."""

    def __init__(self, graph: ir.Graph, seed: int) -> None:
        self.params = 0
        self._insertion = Insertion(graph)
        self._graph = graph
        self._rng = np.random.default_rng(seed)

    def project(self, own: ir.Value, taught: ir.Value, where: str) -> ir.Value:
        """A value of the shape of `taught`, computed from `own`.

        [B, C, H, W]: average pooling where the student's map is a multiple of the teacher's, then 1x1, 3x3
        and 1x1 convolutions, each with BatchNormalization and Relu; the last Relu only where the teacher has
        one. [B, N], [B, T, D]: a linear layer.

        Raises:
            ModelError: shapes that are not known or that these layers cannot join.
        """
        given, wanted = _shape(own), _shape(taught)
        told = f"{where}: student {own.name} {given} and teacher {taught.name} {wanted}"
        if len(given) != len(wanted) or len(given) not in (2, 3, 4):
            raise ModelError(f"{told}: no projector joins them; name maps, vectors or sequences in both")
        axis = 1 if len(given) == 4 else -1
        widths = given[axis], wanted[axis]
        if not all(isinstance(width, int) for width in widths):
            raise ModelError(f"{told}: the widths are not known; name tensors with static channels")
        if len(given) < 4:
            return self._linear(own, int(widths[0]), int(widths[1]))
        pooled = self._pool(own, given, wanted, told)
        inner = max(1, int(widths[1]) // _NARROWING)
        first = self._conv(pooled, int(widths[0]), inner, 1, relu=True)
        second = self._conv(first, inner, inner, 3, relu=True)
        maker = taught.producer()
        return self._conv(
            second, inner, int(widths[1]), 1, relu=maker is not None and maker.op_type == "Relu"
        )

    def _linear(self, value: ir.Value, given: int, wanted: int) -> ir.Value:
        """Glorot and Bengio 2010: uniform within sqrt(6 / (fan_in + fan_out)); bias 0."""
        bound = sqrt(6 / (given + wanted))
        weight = self._weight("weight", self._rng.uniform(-bound, bound, (given, wanted)))
        product = self._node("MatMul", [value, weight])
        return self._node("Add", [product, self._weight("bias", np.zeros(wanted))])

    def _pool(self, value: ir.Value, given: list[int | str], wanted: list[int | str], told: str) -> ir.Value:
        if given[2:] == wanted[2:]:
            return value
        lengths = list(zip(given[2:], wanted[2:], strict=True))
        if not all(isinstance(a, int) and isinstance(b, int) and a % b == 0 for a, b in lengths):
            raise ModelError(f"{told}: the student's map is no multiple of the teacher's; name a later one")
        sizes = [int(a) // int(b) for a, b in lengths]
        return self._node("AveragePool", [value], kernel_shape=sizes, strides=sizes)

    def _conv(self, value: ir.Value, given: int, wanted: int, size: int, *, relu: bool) -> ir.Value:
        """He et al. 2015: normal with std sqrt(2 / fan_in)."""
        shape = (wanted, given, size, size)
        weight = self._weight("weight", self._rng.normal(0, sqrt(2 / prod(shape[1:])), shape))
        made = self._node("Conv", [value, weight], kernel_shape=[size, size], pads=[size // 2] * 4)
        firsts = {"scale": np.ones, "bias": np.zeros, "mean": np.zeros, "var": np.ones}
        norms = [self._weight(name, first(wanted)) for name, first in firsts.items()]
        made = self._node("BatchNormalization", [made, *norms])
        return self._node("Relu", [made]) if relu else made

    def _weight(self, name: str, array: np.ndarray) -> ir.Value:
        self.params += array.size
        return self._insertion.constant(f"{NAME}.{name}", array.astype(np.float32))

    def _node(self, op: str, inputs: list[ir.Value], **attributes: int | float | list[int]) -> ir.Value:
        node = self._insertion.node(
            op,
            inputs,
            f"{NAME}_output",
            ir.DataType.FLOAT,
            attributes=attributes,  # type: ignore[arg-type]
        )
        self._graph.append(node)
        return node.outputs[0]


def _shape(value: ir.Value) -> list[int | str]:
    return [] if value.shape is None else [n if isinstance(n, int) else str(n) for n in value.shape]

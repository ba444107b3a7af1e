"""What is known about the values of a graph while the rules walk over it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.atoms import Atoms, Axis, Classes, Ids
from mlcompress.graph.shape_arguments import Size


@dataclass(frozen=True)
class Frozen:
    """Something that keeps channels from being removed."""

    node: str
    op: str
    reason: str


@dataclass(frozen=True)
class Use:
    """A node sums over a weight axis (`reads`), or makes its output axis from it (not `reads`)."""

    node: str
    op: str
    tensor: str | None
    """Initializer; None when both factors are computed."""
    axis: int
    value: str | None = None
    """The activation that is summed over, and its axis."""
    value_axis: int = 0
    reads: bool = True


class Trace:
    """Axes of every value seen so far, and the facts that rules record about them.

    Values are keyed by name, so that an analysis also fits a copy of the model.
    """

    def __init__(self, model: ir.Model) -> None:
        self.atoms = Atoms()
        self.axes: dict[str, list[Axis]] = {}
        self.weights: dict[str, list[Axis]] = {}
        """Axes of the initializers among them."""
        self._kept: dict[Frozen, list[Ids]] = {}
        self.uses: list[Use] = []
        self.kinds: list[tuple[Axis, str]] = []
        self.opset = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 1))

    # ------------------------------------------------------------ reading

    def rank(self, value: ir.Value) -> int | None:
        """Number of axes, as far as it is known."""
        if value.name in self.axes:
            return len(self.axes[value.name])
        return None if value.shape is None else len(value.shape)

    def of(self, value: ir.Value) -> list[Axis]:
        """Axes of a value of known rank; an initializer gets its atoms here, once."""
        name = value.name or ""
        if name not in self.axes:
            tensor = value.const_value
            if tensor is not None and value.is_initializer():
                self.axes[name] = [
                    self.atoms.fresh(n) if _trackable(tensor) else None for n in tensor.shape.numpy()
                ]
                self.weights[name] = self.axes[name]
                if value.is_graph_input():
                    self.freeze(
                        self.axes[name], Frozen(name, "input", "the caller may replace this initializer")
                    )
            else:
                self.axes[name] = [None] * (self.rank(value) or 0)
        return self.axes[name]

    def sizes(self, value: ir.Value) -> list[Size]:
        """Length of every axis; tracked axes are trusted over the declared shape."""
        axes = self.of(value)
        declared: list[Size] = [None] * len(axes)
        if value.shape is not None and len(value.shape) == len(axes):
            declared = [dim if isinstance(dim, int) else dim.value for dim in value.shape]
        return [size if axis is None else len(axis) for axis, size in zip(axes, declared, strict=True)]

    # ------------------------------------------------------------ recording

    def set(self, value: ir.Value, axes: Iterable[Axis]) -> None:
        """The axes of a node's output."""
        self.axes[value.name or ""] = [None if a is None or not (a >= 0).any() else a for a in axes]

    def freeze(self, axes: Iterable[Axis], why: Frozen) -> None:
        """Keep these axes whole."""
        for axis in axes:
            if axis is not None:
                self.atoms.freeze(axis)
                self._kept.setdefault(why, []).append(axis)

    def keep(self, node: ir.Node, axes: Iterable[Axis], reason: str) -> None:
        """`freeze` on behalf of a node."""
        self.freeze(axes, Frozen(node.name or "", node.op_type, reason))

    def opaque(self, node: ir.Node, reason: str) -> None:
        """Freeze everything that the node reads; its outputs are not tracked."""
        for value in node.inputs:
            if value is not None and (value.name in self.axes or self.rank(value) is not None):
                self.keep(node, self.of(value), reason)
        for value in node.outputs:
            if value.shape is not None:
                self.set(value, [None] * len(value.shape))

    def frozen(self, classes: Classes) -> list[Frozen]:
        """What kept weights from being removed; what kept only broadcast axes is of no interest."""
        owned = np.zeros(len(classes.root), dtype=np.bool_)
        for axis in (axis for axes in self.weights.values() for axis in axes if axis is not None):
            owned[classes.root[axis]] = True
        return [
            why
            for why, kept in self._kept.items()
            if any(owned[classes.root[axis[axis >= 0]]].any() for axis in kept)
        ]

    def reads(
        self, node: ir.Node, weight: ir.Value, axis: int, value: ir.Value | None, value_axis: int = 0
    ) -> None:
        """The node sums over `axis` of `weight`, which meets `value_axis` of `value`."""
        self._use(node, weight, axis, value, value_axis, reads=True)

    def makes(self, node: ir.Node, weight: ir.Value, axis: int) -> None:
        """The node's output axis comes from `axis` of `weight`."""
        self._use(node, weight, axis, None, 0, reads=False)

    def _use(
        self,
        node: ir.Node,
        weight: ir.Value,
        axis: int,
        value: ir.Value | None,
        value_axis: int,
        *,
        reads: bool,
    ) -> None:
        tensor = weight.name if weight.name in self.weights else None
        if tensor is None and not reads:
            return
        name = None if value is None else value.name
        self.uses.append(Use(node.name or "", node.op_type, tensor, axis, name, value_axis, reads))

    def broadcast(self, operands: Sequence[tuple[Sequence[Axis], Sequence[Size]]]) -> list[Axis]:
        """Axes of an elementwise result: aligned axes that are both longer than 1 go together."""
        rank = max((len(axes) for axes, _ in operands), default=0)
        result: list[Axis] = []
        for back in range(rank, 0, -1):
            aligned = [axes[-back] for axes, sizes in operands if back <= len(axes) and sizes[-back] != 1]
            for axis in aligned[1:]:
                self.atoms.unify(aligned[0], axis)
            result.append(aligned[0] if aligned else None)
        return result


def _trackable(tensor: ir.TensorProtocol) -> bool:
    """Weights, plain or quantised. 64-bit integers, booleans and strings are shapes, indices and masks."""
    return tensor.dtype not in (ir.DataType.INT64, ir.DataType.BOOL, ir.DataType.STRING)

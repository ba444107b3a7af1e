"""What a rewrite may ask about a removal in progress, and the two ways it may mend a shape argument."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph.dependency.atoms import Axis
from mlcompress.graph.initializers import constant, set_numbers
from mlcompress.graph.insert import Insertion
from mlcompress.graph.shape_arguments import pieces

Mask = NDArray[np.bool_]


class Cut:
    """A removal: which elements of every axis live on."""

    def __init__(self, model: ir.Model, classes: Mapping[str, Sequence[Axis]], dead: Mask) -> None:
        """`classes`: class ids of every axis by value name; `dead`: by class id."""
        self._classes = classes
        self._dead = dead
        self._insertion = Insertion(model.graph)
        self._graph = model.graph
        self.opset = model.graph.opset_imports.get("", model.graph.opset_imports.get("ai.onnx", 1))

    def live(self, value: ir.Value, axis: int) -> Mask | None:
        """Boolean mask over the axis as it was; None when nothing on it goes."""
        return self._mask(value.name or "", axis)

    def length(self, value: ir.Value, axis: int) -> int | None:
        """New length of an axis; None when nothing on it goes."""
        mask = self.live(value, axis)
        return None if mask is None else int(mask.sum())

    def size(self, name: str, axis: int) -> int:
        """Length of a tracked axis of a named value after the removal, changed or not."""
        mask = self._mask(name, axis)
        ids = self._classes[name][axis]
        return int(mask.sum()) if mask is not None else 0 if ids is None else len(ids)

    def _mask(self, name: str, axis: int) -> Mask | None:
        axes = self._classes.get(name, ())
        ids = axes[axis] if -len(axes) <= axis < len(axes) else None
        if ids is None:
            return None
        mask = (ids < 0) | ~self._dead[ids]
        return None if mask.all() else mask

    def rank(self, value: ir.Value) -> int:
        """Number of axes as far as the analysis knows the value, else 0."""
        return len(self._classes.get(value.name or "", ()))

    def touches(self, value: ir.Value) -> bool:
        """Whether any axis of the value gets shorter."""
        return any(self.live(value, axis) is not None for axis in range(self.rank(value)))

    def set_input(self, node: ir.Node, index: int, array: np.ndarray) -> None:
        """Give an input new constant numbers (see `Insertion.set_input`)."""
        old = node.inputs[index] if index < len(node.inputs) else None
        stem = f"{node.name}_{node.op_type}" if old is None or not old.name else old.name
        self._insertion.set_input(node, index, array, stem)

    def set_elements(self, node: ir.Node, index: int, changes: Mapping[int, int | None]) -> None:
        """Replace positive entries of a shape argument (None: leave alone); computed ones stay computed."""
        argument = node.inputs[index]
        parts = pieces(argument)
        if argument is None or all(length is None for length in changes.values()):
            return
        start, mended = 0, []
        for piece in parts:
            size = piece.shape[0] if piece.shape is not None and len(piece.shape) == 1 else 1
            mended.append(_replaced(piece, {place - start: length for place, length in changes.items()}))
            start += int(size) if isinstance(size, int) else 1
        if len(parts) == 1 and mended[0] is not None:
            self.set_input(node, index, mended[0])
        elif any(array is not None for array in mended):
            self._join(node, index, argument, parts, mended)

    def _join(
        self,
        node: ir.Node,
        index: int,
        argument: ir.Value,
        parts: Sequence[ir.Value],
        mended: Sequence[np.ndarray | None],
    ) -> None:
        """A Concat of its own for one reader, since others may want the old lengths."""
        values = [
            part if array is None else self._insertion.constant(part.name or "shape", array)
            for part, array in zip(parts, mended, strict=True)
        ]
        dtype = parts[0].dtype or ir.DataType.INT64
        stem = argument.name or "shape"
        made = self._insertion.node(
            "Concat", values, stem, dtype, shape=argument.shape, attributes={"axis": 0}
        )
        nodes = [made]
        if dtype != ir.DataType.INT64:
            to = {"to": ir.DataType.INT64.value}
            nodes.append(
                self._insertion.node(
                    "Cast", made.outputs, stem, ir.DataType.INT64, shape=argument.shape, attributes=to
                )
            )
        self._graph.insert_before(node, nodes)
        node.replace_input_with(index, nodes[-1].outputs[0])


def _replaced(piece: ir.Value, changes: Mapping[int, int | None]) -> np.ndarray | None:
    """New numbers of one constant piece of a shape argument; None when it stays as it is."""
    old = constant(piece)
    if old is None:
        return None
    new = old.copy()
    for place, length in changes.items():
        if length is not None and 0 <= place < len(new) and new[place] > 0:
            new[place] = length
    return None if np.array_equal(new, old) else new


def shorten(value: ir.Value, array: np.ndarray, masks: Sequence[Mask | None]) -> None:
    """Keep the live elements of an initializer that holds `array`: a fresh tensor under the same name."""
    for axis, mask in enumerate(masks):
        if mask is not None:
            array = np.compress(mask, array, axis=axis)
    set_numbers(value, np.ascontiguousarray(array))

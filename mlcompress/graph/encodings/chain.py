"""The nodes and initializers that decode the weights of one graph.

Files of small nets are full of names: values of a chain are called `w<weight>.<number>`, and small constants
(shapes, shifts, one, zero) are shared by all chains.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph import opset
from mlcompress.graph.encodings.codes import UnfitError
from mlcompress.graph.initializers import hold, numbers, set_numbers
from mlcompress.graph.insert import Insertion
from mlcompress.graph.pieces import tensor_bytes
from mlcompress.graph.session import LARGEST_FOLDED

Array = NDArray[Any]
_Key = tuple[str, tuple[int, ...], bytes]

FOUR_BITS_OPSET, TWO_BITS_OPSET = 21, 25
NEEDED = {
    ir.DataType.INT4: FOUR_BITS_OPSET,
    ir.DataType.UINT4: FOUR_BITS_OPSET,
    ir.DataType.INT2: TWO_BITS_OPSET,
    ir.DataType.UINT2: TWO_BITS_OPSET,
}
"""Operator set in which Cast knows a type."""
_OLDEST = {"BitShift": 11, "CumSum": 11, "ScatterElements": 11, "Mod": 10, "Min": 12}
"""Operator set that introduced an op, or its form for int32."""
_SHARED = 64
"""Bytes up to which a constant is worth looking for among those that exist."""


class Draft:
    """A chain that is not yet part of the graph: written to see how many bytes it takes."""

    def __init__(self, chains: "Chains") -> None:
        self._chains = chains
        self._count = 0
        self.nodes: list[ir.Node] = []
        self.initializers: list[ir.Value] = []
        self.shared: dict[_Key, ir.Value] = {}

    @property
    def opset(self) -> int:
        """Operator set that the chain may use: older ones lack some types."""
        return self._chains.opset

    def fresh(self) -> "Draft":
        """Another one, to try something with."""
        return Draft(self._chains)

    def constant(self, array: Array) -> ir.Value:
        """An initializer; small ones are the same value wherever the numbers are the same."""
        key = (str(array.dtype), array.shape, array.tobytes()) if array.nbytes <= _SHARED else None
        if key is not None:
            found = self._chains.shared.get(key) or self.shared.get(key)
            if found is not None:
                return found
        value = ir.Value(name=self._name())
        hold(value, np.asarray(array))
        self.initializers.append(value)
        if key is not None:
            self.shared[key] = value
        return value

    def op(self, op: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """The output of a new node. Raises UnfitError where the operator set has no such op."""
        if self.opset < (first := _OLDEST.get(op, 0)):
            raise UnfitError(f"{op} needs operator set {first}, the model has {self.opset}")
        name = self._name()
        # Without type or shape, which onnxruntime infers: a value_info entry per weight is 3 % of a small
        # net's file.
        made = ir.Value(name=name)
        converted = ir.convenience.convert_attributes(attributes)
        self.nodes.append(ir.Node("", op, inputs, converted, outputs=[made], name=name))
        return made

    def split(self, value: ir.Value, sizes: Sequence[int]) -> Sequence[ir.Value]:
        """Parts of a 1-D value."""
        outputs = [ir.Value(name=self._name()) for _ in sizes]
        lengths = self.constant(np.asarray(sizes, np.int64))
        self.nodes.append(ir.Node("", "Split", [value, lengths], outputs=outputs, name=outputs[0].name))
        return outputs

    def need(self, count: int, size: int = 4) -> None:
        """Raise UnfitError when `count` elements of `size` bytes are more than onnxruntime folds."""
        if count * size > LARGEST_FOLDED:
            raise UnfitError("a tensor of its chain has more than 1 GiB, which is not folded at load")

    def bytes(self) -> int:
        """What the chain adds to the file: messages, their tags and lengths."""
        sizes = [ir.serde.serialize_node(node).ByteSize() for node in self.nodes]
        tensors = (value.const_value for value in self.initializers)
        sizes += [tensor_bytes(tensor) for tensor in tensors if tensor is not None]
        return sum(size + 1 + _varint(size) for size in sizes)

    def discard(self) -> None:
        """Undo the draft: constants that are shared forget its nodes, and its own are freed at once."""
        for node in self.nodes:
            for index in range(len(node.inputs)):
                node.replace_input_with(index, None)

    def _name(self) -> str:
        self._count += 1
        return f"{self._chains.stem}.{self._count - 1}"


class Chains:
    """Chains of the main graph of a model, written one after the other.

    `highest`: the operator set that the model may be raised to for the sake of a type, if all of its nodes
    mean the same there; it is raised when such a chain becomes part of it.
    """

    def __init__(self, model: ir.Model, highest: int = FOUR_BITS_OPSET) -> None:
        self.insertion, self.shared = Insertion(model.graph), dict[_Key, ir.Value]()
        self.opset = model.opset_imports.get("", 1)
        if self.opset < highest and opset.obstacle(model, highest) is None:
            self.opset = highest
        self._model, self._index = model, 0
        self._prefix = _free_prefix(self.insertion)

    @property
    def stem(self) -> str:
        """Start of the names of the chain that is written next."""
        return f"{self._prefix}{self._index}"

    def draft(self) -> Draft:
        """A chain that may be thrown away."""
        return Draft(self)

    def commit(self, draft: Draft) -> None:
        """Make a draft part of the graph, before everything else."""
        graph = self.insertion.graph
        for value in draft.initializers:
            self.insertion.fresh(str(value.name))
            set_numbers(value, numbers(value))
            graph.register_initializer(value)
            if value.dtype is not None and (version := NEEDED.get(value.dtype)) is not None:
                opset.set_version(self._model, version)
        for node in draft.nodes:
            for value in node.outputs:
                self.insertion.fresh(str(value.name))
        self.insertion.at_start(draft.nodes)
        self.shared |= draft.shared
        self._index += 1


def _free_prefix(insertion: Insertion) -> str:
    prefix = "w"
    while any(insertion.is_taken(f"{prefix}{digit}") for digit in range(10)):
        prefix += "_"
    return prefix


def _varint(size: int) -> int:
    """Bytes of a length in protobuf."""
    return max(1, -(-size.bit_length() // 7))

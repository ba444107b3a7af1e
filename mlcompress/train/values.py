"""The values of a graph that exist before it runs: what is trained, what is a statistic, what is constant."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from mlcompress.graph.names import free
from mlcompress.train.kinds import ODD_KINDS, kind_of, output_kinds
from mlcompress.train.ops.node import Body, Node, walk
from mlcompress.train.plan import compile_plan
from mlcompress.train.steps import execute
from mlcompress.train.weights import weights

DECODED = 256
"""Elements from which a value is a decoded weight, not a scale or a shape."""


@dataclass(frozen=True)
class Graph:
    """A model as the executor sees it."""

    nodes: list[Node]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    sources: dict[str, ir.Value]
    """Where each tensor of the file is kept: an initializer, or the output of a Constant node."""
    constants: dict[str, Tensor]
    """Values that training does not change (shared with the nodes, which may add folded ones)."""
    trainable: dict[str, Tensor]
    statistics: dict[str, Tensor]
    """Running means and variances of BatchNormalization."""
    kinds: dict[str, int]


def read(model: ir.Model) -> Graph:
    """Names, constants and live nodes of `model`, which is not changed."""
    reader = _Reader(model.graph)
    reader.enter(model.graph)
    constants = reader.constants
    nodes = reader.nodes(model.graph, "")
    inputs = tuple(name for value in model.graph.inputs if (name := reader.names[value]) not in constants)
    outputs = tuple(reader.names[value] for value in model.graph.outputs)
    everything = [*walk(nodes)]
    statistics = {
        name: constants[name]
        for node in everything
        if node.op == "BatchNormalization"
        for name in node.inputs[3:5]
        if name in constants
    }
    trained = weights(everything, constants) - statistics.keys()
    trainable = {name: constants[name] for name in constants if name in trained}
    for name in [*trainable, *statistics]:
        del constants[name]
    return Graph(nodes, inputs, outputs, reader.sources, constants, trainable, statistics, reader.kinds)


class _Reader:
    """Takes graphs apart. Values of bodies get names of their own, so that one table holds all."""

    def __init__(self, graph: ir.Graph) -> None:
        self.opset = graph.opset_imports.get("", 1)
        self.names: dict[ir.Value | None, str] = {None: ""}
        self.taken: set[str] = set()
        self.sources: dict[str, ir.Value] = {}
        self.constants: dict[str, Tensor] = {}
        self.kinds: dict[str, int] = {}

    def enter(self, graph: ir.Graph) -> None:
        """Names and types of the values of `graph`; those of bodies follow when their node is read."""
        stored = [value for value in graph.initializers.values() if value.const_value is not None]
        for value in (*graph.inputs, *stored, *(value for node in graph for value in node.outputs)):
            if value not in self.names:
                name = "" if value.name == "" else free(value.name or "value", self.taken)
                self.names[value] = name
                kind = kind_of(value)
                if kind is not None:
                    self.kinds[name] = kind
        for value in stored:
            self._store(value, value.const_value)

    def nodes(self, graph: ir.Graph, path: str) -> list[Node]:
        """The live nodes but for constants, in order; `path` says where the graph is."""
        found = []
        for node in _live(graph):
            tensor = _constant(node) if node.op_type == "Constant" and node.domain == "" else None
            if tensor is not None:
                self._store(node.outputs[0], tensor)
            else:
                found.append(self._node(node, path))
        return found

    def _store(self, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
        name = self.names[value]
        if tensor is not None:
            self.sources[name], self.kinds[name] = value, int(tensor.dtype)
            if int(tensor.dtype) not in ODD_KINDS:
                self.constants[name] = to_torch(tensor)

    def _node(self, node: ir.Node, path: str) -> Node:
        outputs = tuple(
            self.names[value] if value.uses() or value.is_graph_output() else "" for value in node.outputs
        )
        op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"
        name = f"{path}{node.name or outputs[0]}"
        inputs = tuple(self.names[value] for value in node.inputs)
        attributes = {
            key: self._body(attribute.as_graph(), op, f"{name}/{key}/")
            if attribute.type == ir.AttributeType.GRAPH
            else _attribute(attribute)
            for key, attribute in node.attributes.items()
        }
        made = Node(op, name, self.opset, inputs, outputs, attributes, self.constants, self.kinds)
        if any(name and name not in self.kinds for name in outputs):  # the file does not state them all
            for name, kind in zip(outputs, self._output_kinds(made), strict=False):
                if name and kind is not None:
                    self.kinds.setdefault(name, kind)
        return made

    def _output_kinds(self, node: Node) -> list[int | None]:
        if node.bodies:
            body = next(iter(node.bodies.values()))
            return [self.kinds.get(name) for name in body.outputs[node.op == "Loop" :]]
        kinds = [self.kinds.get(name) for name in node.inputs]
        return output_kinds(node.op, node.opset, node.attributes, kinds, len(node.outputs))

    def _body(self, graph: ir.Graph, op: str, path: str) -> Body:
        self.enter(graph)
        return Body(
            nodes=tuple(self.nodes(graph, path)),
            inputs=tuple(self.names[value] for value in graph.inputs),
            outputs=tuple(self.names[value] for value in graph.outputs),
            hosted=2 if op == "Loop" else 0,
            shapes=tuple(
                None if value.shape is None else tuple(n if isinstance(n, int) else 0 for n in value.shape)
                for value in graph.outputs
            ),
        )


def to_torch(tensor: ir.TensorProtocol) -> Tensor:
    """A copy of an ONNX tensor. Types that torch lacks are widened: 4-bit to 8-bit."""
    array = tensor.numpy()
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    wider = {
        ir.DataType.INT4: np.int8,
        ir.DataType.UINT4: np.uint8,
        ir.DataType.INT2: np.int8,
        ir.DataType.UINT2: np.uint8,
    }
    return torch.from_numpy(np.array(array, dtype=wider.get(tensor.dtype, array.dtype), order="C"))


def to_ir(tensor: Tensor, name: str) -> ir.TensorProtocol:
    """The opposite, for the floating-point types that are trained."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return ir.tensor(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy(), name=name)
    return ir.tensor(tensor.numpy().copy(), name=name)


def fold(nodes: Sequence[Node], constants: dict[str, Tensor], keep_stored: bool = False) -> list[Node]:
    """Compute what depends on constants alone (integer weights behind DequantizeLinear, index tables) now.

    Adds the results to `constants` and gives the nodes that are left. `keep_stored` leaves what takes
    more bytes than it is decoded from to be decoded in every run.
    """
    left = []
    for node in nodes:
        node = node.inside(lambda body: replace(body, nodes=tuple(fold(body.nodes, constants, keep_stored))))
        known = all(name in constants for name in node.reads if name)
        if known and all(inner.op != "Dropout" for inner in walk([node])):
            outputs = [name for name in node.outputs if name]
            plan = compile_plan([node], outputs, constants)
            with torch.no_grad():
                values: dict[str, Any] = {**plan.literals, **{name: constants[name] for name in plan.tensors}}
                found = execute(plan, values, False, torch.device("cpu"))
            if keep_stored and _is_decoded(found.values(), [constants[name] for name in plan.tensors]):
                left.append(node)
            else:
                constants.update(found)
        else:
            left.append(node)
    return left


def _is_decoded(made: Collection[Tensor], read: Collection[Tensor]) -> bool:
    large = all(tensor.numel() >= DECODED for tensor in made)
    return large and sum(tensor.nbytes for tensor in made) > sum(tensor.nbytes for tensor in read)


def _live(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that outputs depend on, in order."""
    wanted = set(graph.outputs)
    live = []
    for node in reversed(graph):
        if not wanted.isdisjoint(node.outputs):
            live.append(node)
            wanted.update(_reads(node))
    return live[::-1]


def _reads(node: ir.Node) -> Iterator[ir.Value]:
    """Values that the node takes, also those that its bodies take."""
    yield from (value for value in node.inputs if value is not None)
    for attribute in node.attributes.values():
        if attribute.type == ir.AttributeType.GRAPH:
            body = attribute.as_graph()
            yield from body.outputs
            for inner in body:
                yield from _reads(inner)


def _constant(node: ir.Node) -> ir.TensorProtocol | None:
    """The tensor of a Constant node; None for the sorts that hold strings or sparse tensors."""
    (attribute,) = node.attributes.values()
    if attribute.name == "value":
        return attribute.as_tensor()
    kinds = {
        "value_int": np.int64,
        "value_ints": np.int64,
        "value_float": np.float32,
        "value_floats": np.float32,
    }
    kind = kinds.get(attribute.name)
    return None if kind is None else ir.tensor(np.array(attribute.value, kind))


def _attribute(attribute: ir.Attr) -> object:
    if attribute.type == ir.AttributeType.TENSOR:
        tensor = attribute.as_tensor()
        return tensor if int(tensor.dtype) in ODD_KINDS else to_torch(tensor)
    return list(attribute.value) if isinstance(attribute.value, tuple) else attribute.value

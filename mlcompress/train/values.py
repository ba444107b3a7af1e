"""The values of a graph that exist before it runs: what is trained, what is a statistic, what is constant."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from mlcompress.train.ops.node import Node
from mlcompress.train.plan import ODD_KINDS, compile_plan, execute

WEIGHTS: dict[str, tuple[int, ...]] = {
    "Add": (0, 1),
    "BatchNormalization": (1, 2),
    "Concat": tuple(range(16)),
    "Conv": (1, 2),
    "ConvTranspose": (1, 2),
    "Einsum": tuple(range(16)),
    "Gather": (0,),
    "Gemm": (0, 1, 2),
    "GroupNormalization": (1, 2),
    "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
    "Mul": (0, 1),
    "PRelu": (1,),
    "RMSNormalization": (1,),
}
"""Inputs, by position, at which a floating-point constant is a weight."""

PASSING = {
    "Cast", "CastLike", "DequantizeLinear", "Expand", "Flatten", "Identity", "QuantizeLinear", "Reshape",
    "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Ops through whose first input a weight may pass on its way."""

DEEPEST = 4
"""How many such ops may lie between."""

MASK = 1e4
"""An added constant with an element this large is an attention mask, not a bias."""


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
    graph = model.graph
    sources: dict[str, ir.Value] = {str(name): value for name, value in graph.initializers.items()}
    kinds = {str(value.name): int(value.dtype) for value in _values(graph) if value.dtype is not None}
    constants = {}
    for name, value in sources.items():
        if value.const_value is not None:
            kinds[name] = int(value.const_value.dtype)
            if kinds[name] not in ODD_KINDS:
                constants[name] = to_torch(value.const_value)
    outputs = tuple(str(value.name) for value in graph.outputs)
    live = _live(graph)
    nodes = []
    for node in live:
        if node.op_type == "Constant" and node.domain == "" and (tensor := _constant(node)) is not None:
            value = node.outputs[0]
            sources[str(value.name)], constants[str(value.name)] = value, to_torch(tensor)
            kinds[str(value.name)] = int(tensor.dtype)
        else:
            nodes.append(_node(node, graph.opset_imports.get("", 1), constants, kinds))
    inputs = tuple(str(value.name) for value in graph.inputs if value.name not in constants)
    statistics = {
        name: constants[name]
        for node in nodes
        if node.op == "BatchNormalization"
        for name in node.inputs[3:5]
        if name in constants
    }
    trained = weights(nodes, constants) - statistics.keys()
    trainable = {name: constants[name] for name in constants if name in trained}
    for name in [*trainable, *statistics]:
        del constants[name]
    return Graph(nodes, inputs, outputs, sources, constants, trainable, statistics, kinds)


def weights(nodes: Iterable[Node], constants: Mapping[str, Tensor]) -> set[str]:
    """Floating-point constants that reach a weight slot, directly or through ops that only move elements.

    Left out: single numbers that are added or multiplied (an epsilon, a factor), masks, and joined filler.
    """
    readers: defaultdict[str, list[tuple[Node, int]]] = defaultdict(list)
    for node in nodes:
        for index, name in enumerate(node.inputs):
            readers[name].append((node, index))

    def reaches(name: str, tensor: Tensor, depth: int) -> bool:
        for node, index in readers[name]:
            if index in WEIGHTS.get(node.op, ()) and _is_weight(node.op, tensor):
                return True
            passes = index == 0 and node.op in PASSING and depth < DEEPEST
            if passes and any(reaches(output, tensor, depth + 1) for output in node.outputs if output):
                return True
        return False

    return {
        name for name, tensor in constants.items() if tensor.is_floating_point() and reaches(name, tensor, 0)
    }


def _is_weight(op: str, tensor: Tensor) -> bool:
    if op in ("Add", "Mul"):
        return tensor.numel() > 1 and bool((tensor.abs() < MASK).all())
    if op == "Concat":
        return tensor.numel() > 1 and bool((tensor != tensor.reshape(-1)[0]).any())
    return tensor.dim() > 1 if op == "Gather" else True


def to_torch(tensor: ir.TensorProtocol) -> Tensor:
    """A copy of an ONNX tensor. Types that torch lacks are widened: 4-bit to 8-bit, uint16 to int32, ..."""
    array = tensor.numpy()
    if tensor.dtype == ir.DataType.BFLOAT16:
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    wider = {
        ir.DataType.INT4: np.int8,
        ir.DataType.UINT4: np.uint8,
        ir.DataType.INT2: np.int8,
        ir.DataType.UINT2: np.uint8,
        ir.DataType.UINT16: np.int32,
        ir.DataType.UINT32: np.int64,
        ir.DataType.UINT64: np.int64,
    }
    return torch.from_numpy(np.array(array, dtype=wider.get(tensor.dtype, array.dtype), order="C"))


def to_ir(tensor: Tensor, name: str) -> ir.TensorProtocol:
    """The opposite, for the floating-point types that are trained."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        return ir.tensor(tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16).copy(), name=name)
    return ir.tensor(tensor.numpy().copy(), name=name)


def fold(nodes: Sequence[Node], constants: dict[str, Tensor]) -> list[Node]:
    """Compute what depends on constants alone (integer weights behind DequantizeLinear, index tables) now.

    Adds the results to `constants` and gives the nodes that are left.
    """
    left = []
    for node in nodes:
        if all(name in constants for name in node.inputs if name) and node.op != "Dropout":
            outputs = [name for name in node.outputs if name]
            plan = compile_plan([node], outputs, constants)
            with torch.no_grad():
                values: dict[str, Any] = {**plan.literals, **{name: constants[name] for name in plan.tensors}}
                constants.update(execute(plan, values, False, torch.device("cpu")))
        else:
            left.append(node)
    return left


def _values(graph: ir.Graph) -> Iterable[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs


def _live(graph: ir.Graph) -> list[ir.Node]:
    """The nodes that outputs depend on, in order."""
    wanted = {id(value) for value in graph.outputs}
    live = []
    for node in reversed(graph):
        if any(id(value) in wanted for value in node.outputs):
            live.append(node)
            wanted.update(id(value) for value in node.inputs if value is not None)
    return live[::-1]


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


def _node(node: ir.Node, opset: int, constants: dict[str, Tensor], kinds: dict[str, int]) -> Node:
    outputs = tuple(
        str(value.name) if value.uses() or value.is_graph_output() else "" for value in node.outputs
    )
    return Node(
        op=node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}",
        name=node.name or outputs[0],
        opset=opset,
        inputs=tuple("" if value is None else str(value.name) for value in node.inputs),
        outputs=outputs,
        attributes={name: _attribute(attribute) for name, attribute in node.attributes.items()},
        constants=constants,
        kinds=kinds,
    )


def _attribute(attribute: ir.Attr) -> object:
    if attribute.type == ir.AttributeType.TENSOR:
        return to_torch(attribute.as_tensor())
    return list(attribute.value) if isinstance(attribute.value, tuple) else attribute.value

"""One node of constants, evaluated by onnxruntime; and what its result would weigh, before it is computed."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto

from mlcompress.graph.session import ORT_ERRORS, Level, session

_READABLE = {
    *(TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BOOL),
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
}
"""Element types that onnxruntime hands to numpy."""
_CARRIERS = {
    TensorProto.BFLOAT16: TensorProto.FLOAT,
    **{kind: TensorProto.FLOAT for name, kind in TensorProto.DataType.items() if name.startswith("FLOAT8E")},
    **{
        getattr(TensorProto, name): TensorProto.INT8
        for name in ("INT4", "INT2")
        if hasattr(TensorProto, name)
    },
    **{
        getattr(TensorProto, name): TensorProto.UINT8
        for name in ("UINT4", "UINT2")
        if hasattr(TensorProto, name)
    },
}
"""Other element types, and types that hold their numbers exactly."""
_SMALL = 1024
"""Elements of a constant that shape inference may look at."""
_MOST_INPUT = 2**30
"""Bytes of constants that are put into a one-node model."""


@dataclass(frozen=True)
class Forecast:
    """What ONNX says about a node's outputs without running it."""

    readable: bool
    """All element types are known and can be brought to numpy."""
    size: int | None
    """Bytes of all outputs together; None where a shape is unknown."""
    kinds: tuple[int, ...] = ()
    """Element types of the named outputs, in order."""


def forecast(node: ir.Node, opsets: dict[str, int]) -> Forecast:
    """Element types and bytes of the outputs of a node whose inputs are constants."""
    types, data = {}, {}
    for value in node.inputs:
        if value is not None and value.const_value is not None and value.name:
            tensor = value.const_value
            types[value.name] = onnx.helper.make_tensor_type_proto(int(tensor.dtype), tensor.shape.numpy())
            if tensor.size <= _SMALL:
                data[value.name] = ir.serde.serialize_tensor(tensor)
    if any(value is not None and value.name not in types for value in node.inputs):
        return Forecast(False, None)  # something before it is not computed yet
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
        found = onnx.shape_inference.infer_node_outputs(schema, ir.serde.serialize_node(node), types, data)
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError):
        return Forecast(False, None)
    names = [value.name for value in node.outputs if value.name]
    kinds = tuple(found[name].tensor_type.elem_type for name in names if name in found)
    if len(kinds) < len(names) or not all(kind in _READABLE or kind in _CARRIERS for kind in kinds):
        return Forecast(False, None)
    sizes = [_bytes(found[name].tensor_type) for name in names]
    return Forecast(True, None if None in sizes else sum(size or 0 for size in sizes), kinds)


def evaluate(
    node: ir.Node, opsets: dict[str, int], ir_version: int, kinds: Sequence[int]
) -> list[np.ndarray] | None:
    """The named outputs of a node of constants, in order; None where onnxruntime cannot run it.

    `kinds` are their element types, as `forecast` gives them.
    """
    reads = [value for value in node.inputs if value is not None]
    if node.op_type in ("Div", "Mod") and overflows(node):
        return None
    tensors = {str(value.name): value.const_value for value in reads if value.const_value is not None}
    if sum(tensor.nbytes for tensor in tensors.values()) > _MOST_INPUT:
        return None
    stored = []
    for name, tensor in tensors.items():
        stored.append(ir.serde.serialize_tensor(tensor))
        stored[-1].name = name
    named = [str(value.name) for value in node.outputs if value.name]
    nodes, results = _with_carriers(ir.serde.serialize_node(node), named, kinds)
    outputs = [onnx.ValueInfoProto(name=name) for name in results]
    graph = onnx.helper.make_graph(nodes, "constant", [], outputs, stored)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    try:
        arrays = session(model.SerializeToString(), Level.ORT_DISABLE_ALL).run(None, {})
    except ORT_ERRORS:
        return None
    if not _all_arrays(arrays):
        return None
    types = [ir.DataType(kind).numpy() if kind in _CARRIERS else None for kind in kinds]
    return [np.asarray(array, dtype=kind) for array, kind in zip(arrays, types, strict=True)]


def _with_carriers(
    node: onnx.NodeProto, named: Sequence[str], kinds: Sequence[int]
) -> tuple[list[onnx.NodeProto], list[str]]:
    """The node, and a Cast behind each output that numpy has no type for; the names to ask for."""
    nodes, results = [node], []
    for name, kind in zip(named, kinds, strict=True):
        results.append(name if kind not in _CARRIERS else f"{name}/carried")
        if kind in _CARRIERS:
            nodes.append(onnx.helper.make_node("Cast", [name], [results[-1]], to=_CARRIERS[kind]))
    return nodes, results


def overflows(node: ir.Node) -> bool:
    """Constants whose quotient has the least integer divided by -1: no result, and onnxruntime dies of it."""
    arrays = [value.const_value.numpy() for value in node.inputs if value is not None and value.const_value]
    if len(arrays) != 2 or arrays[0].dtype.kind != "i" or not arrays[0].size or not arrays[1].size:
        return False
    return bool(arrays[0].min() == np.iinfo(arrays[0].dtype).min and (arrays[1] == -1).any())


def _all_arrays(results: list[object]) -> bool:
    return all(isinstance(result, np.ndarray | np.generic | bool | int | float) for result in results)


def _bytes(kind: onnx.TypeProto.Tensor) -> int | None:
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    count: int = prod(dim.dim_value for dim in kind.shape.dim)
    return count * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).itemsize)

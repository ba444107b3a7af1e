"""One node of constants, evaluated by onnxruntime; and what its result would weigh, before it is computed."""

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
_SMALL = 1024
"""Elements of a constant that shape inference may look at."""
_MOST_INPUT = 2**30
"""Bytes of constants that are put into a one-node model."""


@dataclass(frozen=True)
class Forecast:
    """What ONNX says about a node's outputs without running it."""

    readable: bool
    """All element types are known and numpy has them."""
    size: int | None
    """Bytes of all outputs together; None where a shape is unknown."""


def forecast(node: ir.Node, opsets: dict[str, int]) -> Forecast:
    """Element types and bytes of the outputs of a node whose inputs are constants."""
    kinds, data = {}, {}
    for value in node.inputs:
        if value is not None and value.const_value is not None and value.name:
            tensor = value.const_value
            kinds[value.name] = onnx.helper.make_tensor_type_proto(int(tensor.dtype), tensor.shape.numpy())
            if tensor.size <= _SMALL:
                data[value.name] = ir.serde.serialize_tensor(tensor)
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
        found = onnx.shape_inference.infer_node_outputs(schema, ir.serde.serialize_node(node), kinds, data)
    except (onnx.defs.SchemaError, onnx.shape_inference.InferenceError):
        return Forecast(False, None)
    names = [value.name for value in node.outputs if value.name]
    if not all(name in found and found[name].tensor_type.elem_type in _READABLE for name in names):
        return Forecast(False, None)
    sizes = [_bytes(found[name].tensor_type) for name in names]
    return Forecast(True, None if None in sizes else sum(size or 0 for size in sizes))


def evaluate(node: ir.Node, opsets: dict[str, int], ir_version: int) -> list[np.ndarray] | None:
    """The named outputs of a node of constants, in order; None where onnxruntime cannot run it."""
    reads = [value for value in node.inputs if value is not None]
    tensors = {str(value.name): value.const_value for value in reads if value.const_value is not None}
    if sum(tensor.nbytes for tensor in tensors.values()) > _MOST_INPUT:
        return None
    stored = []
    for name, tensor in tensors.items():
        stored.append(ir.serde.serialize_tensor(tensor))
        stored[-1].name = name
    outputs = [onnx.ValueInfoProto(name=value.name) for value in node.outputs if value.name]
    graph = onnx.helper.make_graph([ir.serde.serialize_node(node)], "constant", [], outputs, stored)
    imports = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    try:
        results = session(model.SerializeToString(), Level.ORT_DISABLE_ALL).run(None, {})
    except ORT_ERRORS:
        return None
    return [np.asarray(result) for result in results] if _all_arrays(results) else None


def _all_arrays(results: list[object]) -> bool:
    return all(isinstance(result, np.ndarray | np.generic | bool | int | float) for result in results)


def _bytes(kind: onnx.TypeProto.Tensor) -> int | None:
    if not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
        return None
    count: int = prod(dim.dim_value for dim in kind.shape.dim)
    return count * int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).itemsize)

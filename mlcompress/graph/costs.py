"""What a model costs: parameters and multiply-accumulates, in all and by layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mlcompress.graph.macs import needed_values, node_macs
from mlcompress.graph.save import copy, fits_message, to_bytes
from mlcompress.graph.session import ORT_ERRORS, Level, session
from mlcompress.graph.shapes import at_shapes, example_feed, example_shapes
from mlcompress.graph.signature import signature

_NO_WEIGHTS: dict[str, tuple[int, ...]] = {
    "BatchNormalization": (3, 4),  # running statistics
    "Clip": (1, 2),
    "DequantizeLinear": (1, 2),
    "Dropout": (1,),
    "MatMulInteger": (2, 3),
    "ConvInteger": (2, 3),
    "MatMulNBits": (2, 3),
    "Pad": (2,),
    "QGemm": (1, 2, 4, 5, 7, 8),
    "QLinearConv": (1, 2, 4, 5, 6, 7),
    "QLinearMatMul": (1, 2, 4, 5, 6, 7),
    "QuantizeLinear": (1, 2),
    "Range": (0, 1, 2),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
}
"""Inputs that hold settings, not trained numbers."""
_INTEGER_WEIGHTS = {
    "DequantizeLinear",
    "MatMulInteger",
    "ConvInteger",
    "QLinearConv",
    "QLinearMatMul",
    "QGemm",
}
_INTEGER_WEIGHTS |= {"MatMulNBits", "DynamicQuantizeLSTM", "DynamicQuantizeMatMul"}
_LAYERS = {
    "Conv",
    "ConvTranspose",
    "Gemm",
    "MatMul",
    "LSTM",
    "GRU",
    "RNN",
    "Gather",
    "PRelu",
    "BatchNormalization",
}
_LAYERS |= {"LayerNormalization", "InstanceNormalization", "GroupNormalization"}
"""Ops whose weight counts even when it has a single element."""


@dataclass(frozen=True)
class Layer:
    """One node with weights, as `mlcompress inspect` lists it."""

    name: str
    op: str
    weight: str
    """Its largest initializer, looked up through DequantizeLinear, Transpose, Reshape and Cast."""
    weight_shape: tuple[int, ...]
    params: int
    """Trained numbers that it reads; a tied weight counts in each of its rows."""
    macs: int | None
    """None where a shape is unknown."""


def parameters(model: ir.Model) -> int:
    """How many trained numbers the model stores: weights, biases, scales and shifts, tied ones once.

    Not counted: running statistics, shapes and indices, quantisation scales and zero points, scalars of
    formulas.
    """
    return sum(_size(value) for value in _weights(model))


def nonzeros(model: ir.Model) -> int:
    """How many of `parameters` are not zero; meant for decoded weights."""
    tensors = (value.const_value for value in _weights(model))
    return sum(int(np.count_nonzero(tensor.numpy())) for tensor in tensors if tensor is not None)


def _weights(model: ir.Model) -> list[ir.Value]:
    return list(dict.fromkeys(value for node in _nodes(model) for value in _own_weights(node)))


def macs(model: ir.Model, batch: int = 1, shapes: Mapping[str, Sequence[int]] | None = None) -> int:
    """Multiply-accumulates of one run, dynamic axes filled in as by `example_shapes`.

    Both branches of an If and one pass of a Loop body are counted. A node inside such a body whose shapes
    are unknown until it runs is left out; `layers` shows None for it. Raises ModelError for shapes that do
    not fit.
    """
    return sum(count or 0 for count in _macs(model, batch, shapes).values())


def layers(model: ir.Model, batch: int = 1, shapes: Mapping[str, Sequence[int]] | None = None) -> list[Layer]:
    """One row for each node with weights or MACs, in graph order (sub-graphs included)."""
    counts = _macs(model, batch, shapes)
    rows = []
    for node in _nodes(model):
        if node.op_type in ("DequantizeLinear", "Transpose", "Reshape", "Cast"):
            continue  # a row for what reads them
        weights = [weight for value in node.inputs if value is not None for weight in _behind(value, node)]
        count = counts[str(node.name)]
        if weights or count:
            main = max(weights, key=_size, default=None)
            shape = () if main is None or main.shape is None else main.shape.numpy()
            size = sum(_size(value) for value in dict.fromkeys(weights))
            name = "" if main is None else str(main.name)
            rows.append(Layer(str(node.name), node.op_type, name, shape, size, count))
    return rows


def _nodes(model: ir.Model) -> list[ir.Node]:
    return list(ir.traversal.RecursiveGraphIterator(model.graph))


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.size


def _own_weights(node: ir.Node) -> list[ir.Value]:
    """Initializers that `node` itself reads and that hold trained numbers."""
    skipped = _NO_WEIGHTS.get(node.op_type, ())
    return [
        v for i, v in enumerate(node.inputs) if v is not None and i not in skipped and _is_trained(v, node)
    ]


def _is_trained(value: ir.Value, node: ir.Node) -> bool:
    if not value.is_initializer() or value.dtype is None:
        return False
    if not value.dtype.is_floating_point():
        return node.op_type in _INTEGER_WEIGHTS
    return _size(value) > 1 or (node.op_type in _LAYERS and bool(value.shape))


def _behind(value: ir.Value, reader: ir.Node) -> list[ir.Value]:
    """Trained initializers that reach `reader` at `value`, directly or through a conversion of a constant."""
    if value.is_initializer():
        return [value] if value in _own_weights(reader) else []
    node = value.producer()
    if node is None or node.op_type not in ("DequantizeLinear", "Transpose", "Reshape", "Cast"):
        return []
    source = node.inputs[0]
    return [] if source is None else _behind(source, node)


def _macs(model: ir.Model, batch: int, shapes: Mapping[str, Sequence[int]] | None) -> dict[str, int | None]:
    """MACs by node name."""
    inputs = example_shapes(signature(model), batch, shapes)
    static = at_shapes(model, inputs)
    nodes = _nodes(static)
    unknown = {
        v: None for node in nodes for v in needed_values(node) if v.shape is None or not v.shape.is_static()
    }
    measured = (
        _measured_shapes(model, inputs, [str(v.name) for v in unknown if v.graph is static.graph])
        if unknown
        else {}
    )

    def shape_of(value: ir.Value) -> tuple[int, ...]:
        if value in unknown:
            return measured[str(value.name)]
        return value.shape.numpy() if value.shape is not None else ()

    counts: dict[str, int | None] = {}
    for node in nodes:
        try:
            counts[str(node.name)] = node_macs(node, shape_of)
        except KeyError:
            counts[str(node.name)] = None
    return counts


def _measured_shapes(
    model: ir.Model, inputs: Mapping[str, Sequence[int]], names: Sequence[str]
) -> dict[str, tuple[int, ...]]:
    """Shapes that one run shows, where inference cannot tell (computed Reshape targets, contrib ops)."""
    if not fits_message(model):
        return {}
    probe = copy(model)
    known = {value.name for value in probe.graph.outputs}
    values = {value.name: value for node in probe.graph for value in node.outputs}
    added = [values[name] for name in names if name in values and name not in known]
    for value in added:
        value.shape = None
    probe.graph.outputs.extend(added)
    wanted = [str(value.name) for value in probe.graph.outputs]
    try:
        results = session(to_bytes(probe), Level.ORT_DISABLE_ALL).run(
            wanted, example_feed(signature(model), inputs)
        )
    except ORT_ERRORS:
        return {}
    return {name: result.shape for name, result in zip(wanted, results, strict=True)}

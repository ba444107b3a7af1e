"""Weights in fewer bits on disk, computed in float: int8 times a scale, or fp16. Both fold at load."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from mlcompress.graph.encodings import Codes, store
from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.graph.session import LARGEST_FOLDED
from mlcompress.quantize.integer import in_domain, output_axis
from mlcompress.quantize.weights import encode_int8

READERS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1,),
    "MatMul": (0, 1),
    "Gather": (0,),
    "Transpose": (0,),  # an embedding that is the output layer as well
    "LSTM": (1, 2),
    "GRU": (1, 2),
    "RNN": (1, 2),
}
"""Inputs that are weights. Other constants (masks, anchors, tables) may not survive 8 bits."""
SMALLEST = 256
"""Elements below which the ops of the decode chain cost as many bytes as they save."""
FP16_MAX = float(np.finfo(np.float16).max)


@dataclass
class Stored:
    """Which weights were stored in which form, and which were left as they are."""

    forms: dict[str, str] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)


def store_weights(
    model: ir.Model,
    form: str,
    names: Collection[str],
    *,
    per_channel: bool = True,
    keep: Collection[ir.Node] = (),
) -> Stored:
    """Store those float32 initializers of the main graph that `names` lists as `form` (int8, fp16 or plain),
    in place.

    int8 takes the weights of READERS, fp16 every tensor, each of SMALLEST elements or more. What a node of
    `keep` reads stays as it is.
    """
    result = Stored()
    if form == "plain":
        return result
    insertion = Insertion(model.graph)
    kept = {value for node in keep for value in node.inputs}
    for name in [name for name in model.graph.initializers if name in names]:
        value = model.graph.initializers[name]
        array = constant(value)
        if array is None or array.dtype != np.float32 or array.size < SMALLEST:
            continue
        if form == "int8" and (array.ndim < 2 or not value.uses()):
            continue
        reason = _obstacle(value, array, form, kept)
        if reason is not None:
            result.skipped.append({"name": name, "reason": reason})
            continue
        axes = channel_axes(value) if per_channel else ()
        store(insertion, value, encode_int8(array, axes) if form == "int8" else Codes(array), form)
        result.forms[name] = form
    return result


def channel_axes(weight: ir.Value) -> tuple[int, ...]:
    """The axes along which a weight has one scale each, by what reads it first.

    Conv: output channels. Gemm, MatMul: columns. Gather: rows. RNNs: direction and gate unit. Anything else:
    axis 0.
    """
    rank = len(weight.shape) if weight.shape is not None else 0
    use = next(iter(weight.uses()), None)
    if use is None:
        return (0,)
    if in_domain(use.node, ("MatMul",)):
        return (rank - 1,) if use.idx == 1 else (rank - 2,)
    if in_domain(use.node, ("Gemm",)) and use.idx == 1:
        return (output_axis(use.node),)
    if in_domain(use.node, ("ConvTranspose",)):
        return (1,)
    if in_domain(use.node, ("LSTM", "GRU", "RNN")):
        return (0, 1)
    return (0,)


def _obstacle(value: ir.Value, array: np.ndarray, form: str, kept: set[ir.Value | None]) -> str | None:
    if value in kept:
        return "kept in float by `skip` or for accuracy"
    if value.is_graph_output() or value.is_graph_input():
        return "it is an input or output of the graph"
    if form == "int8" and any(use.idx not in READERS.get(use.node.op_type, ()) for use in value.uses()):
        return "not only a weight: 8 bits may be too few for its other use"
    if 4 * array.size > LARGEST_FOLDED:
        return "more than 1 GiB decoded: onnxruntime would decode it at every run"
    if not np.isfinite(array).all():
        return "it holds NaN or infinity"
    if form == "fp16" and np.abs(array).max() > FP16_MAX:
        return "it holds values beyond 65504, the largest fp16 number"
    return None

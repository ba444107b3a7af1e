"""Weights in fewer bits on disk, computed in float: int8 times a scale, or fp16. Both fold at load."""

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from mlcompress.graph.encodings import LARGEST_FOLDED, Codes, store
from mlcompress.graph.insert import Insertion
from mlcompress.quantize.fuse import array_of
from mlcompress.quantize.integer import in_domain, output_axis
from mlcompress.quantize.weights import encode_int8

SMALLEST = 256
"""Elements below which the ops of the decode chain cost as many bytes as they save."""
FP16_MAX = float(np.finfo(np.float16).max)


@dataclass
class Stored:
    """Which weights were stored in which form, and which were left as they are."""

    forms: dict[str, str] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)


def store_weights(
    model: ir.Model, form: str, *, per_channel: bool = True, keep: Collection[ir.Node] = ()
) -> Stored:
    """Store float32 weights of the main graph as `form` (int8, fp16 or plain), in place.

    int8 takes tensors of two or more axes (matrices, kernels, embeddings), fp16 every tensor of SMALLEST elements.
    Weights that a node of `keep` reads stay as they are.
    """
    result = Stored()
    if form == "plain":
        return result
    insertion = Insertion(model.graph)
    kept = {value for node in keep for value in node.inputs}
    for value in list(model.graph.initializers.values()):
        array = array_of(value)
        if array is None or array.dtype != np.float32 or array.size < SMALLEST:
            continue
        if form == "int8" and array.ndim < 2:
            continue
        reason = _obstacle(value, array, form, kept)
        if reason is not None:
            result.skipped.append({"name": str(value.name), "reason": reason})
            continue
        axes = channel_axes(value) if per_channel else ()
        store(insertion, value, encode_int8(array, axes) if form == "int8" else Codes(array), form)
        result.forms[str(value.name).removesuffix("_replaced")] = form
    return result


def channel_axes(weight: ir.Value) -> tuple[int, ...]:
    """The axes along which a weight has one scale each, by what reads it first.

    Conv: output channels. Gemm, MatMul: columns. Gather: rows. RNNs: direction and gate unit. Anything else: axis 0.
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
    if 4 * array.size > LARGEST_FOLDED:
        return "more than 1 GiB decoded: onnxruntime would decode it at every run"
    if not np.isfinite(array).all():
        return "it holds NaN or infinity"
    if form == "fp16" and np.abs(array).max() > FP16_MAX:
        return "it holds values beyond 65504, the largest fp16 number"
    return None

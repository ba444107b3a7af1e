"""Weights in fewer bits in the file, computed in float: levels of a scheme, decoded at load."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from types import MappingProxyType

import numpy as np
import onnx_ir as ir

from mlcompress.graph.bodies import initializers_inside, lift
from mlcompress.graph.columns import output_axis
from mlcompress.graph.encodings import AUTO, Chains, Codes, UnfitError, highest_opset, store
from mlcompress.graph.initializers import constant
from mlcompress.graph.mapped import keep as keep_array
from mlcompress.graph.session import LARGEST_FOLDED
from mlcompress.quantize.dequantize import dequantize
from mlcompress.quantize.encode import encode
from mlcompress.quantize.integer import in_domain
from mlcompress.quantize.mixed import Mixed
from mlcompress.quantize.recipe_weights import Weights
from mlcompress.quantize.schemes import UNSCALED, schemes
from mlcompress.registry import Choice

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
    codes: dict[str, Codes] = field(default_factory=dict)
    """What the forms stand for, to check them against."""
    dequantized: dict[str, Codes] = field(default_factory=dict)
    """What DequantizeLinear makes at every inference, where the target is fast at that."""
    opset: int | None = None
    """The model's operator set before a form needed a newer one."""

    def add(self, other: "Stored") -> None:
        """Take over what was stored in a second pass over the same graph."""
        self.forms |= other.forms
        self.codes |= other.codes
        self.dequantized |= other.dequantized
        self.opset = other.opset if self.opset is None else self.opset
        self.skipped += other.skipped


def store_weights(
    model: ir.Model,
    storage: str,
    names: Collection[str],
    *,
    weights: Weights | None = None,
    keep: Collection[ir.Node] = (),
    scales: Mapping[str, np.ndarray] = MappingProxyType({}),
    target: str = "cpu",
) -> Stored:
    """Store float32 initializers in fewer bits, in place: those of the main graph that `names` lists, and
    those in bodies of If, Loop and Scan, which become initializers of the main graph.

    `storage`: an encoding, or `auto` for the smallest of each; `plain` changes nothing. fp16 and bf16 take
    every tensor, other schemes the weights of READERS, each of SMALLEST elements or more. What a node of
    `keep` reads, or has inside, stays as it is. `scales`: those of weights that are on their grid already, by
    name.
    `target` openvino: `auto` is DequantizeLinear where only MatMul and Gemm read.
    """
    result = Stored()
    if storage == "plain":
        return result
    result.opset = model.opset_imports.get("", 1)
    weights = weights or Weights()
    overall = _scheme(weights, storage)
    kept = {value for node in keep for value in (*node.inputs, *initializers_inside(node))}
    lifted = lift(model, partial(_is_worth_lifting, kept=kept, every=overall.default.name in UNSCALED))
    chains = Chains(model, highest_opset(storage))
    for name in [name for name in model.graph.initializers if name in names or name in lifted]:
        value = model.graph.initializers[name]
        array, scheme = constant(value), overall.of(name)
        if array is None or array.dtype != np.float32 or array.size < SMALLEST:
            continue
        if scheme.name not in UNSCALED and (array.ndim < 2 or not value.uses()):
            continue
        reason = _obstacle(value, array, scheme, kept)
        if reason is None:
            codes = _encoded(value, array, scheme, weights, scales.get(name))
            codes = replace(codes, stored=keep_array(codes.stored))
            if target == "openvino" and storage == AUTO and (form := dequantize(chains, value, codes)):
                result.forms[name], result.dequantized[name] = form, codes
                continue
            try:
                result.forms[name] = store(chains, value, codes, storage)
                result.codes[name] = codes
            except UnfitError as problem:
                reason = f"not to be stored as {storage}: {problem}"
        if reason is not None:
            result.skipped.append({"name": name, "reason": reason})
    result.skipped += _inside_bodies(model)
    return result


def scaled_weights(model: ir.Model, names: Collection[str], keep: Collection[ir.Node]) -> list[ir.Value]:
    """The weights to which `store_weights` gives levels and scales."""
    kept, scheme = {value for node in keep for value in node.inputs}, schemes.choose("int8")
    found = []
    for name in [name for name in model.graph.initializers if name in names]:
        value = model.graph.initializers[name]
        array = constant(value)
        if array is None or array.dtype != np.float32 or array.size < SMALLEST or array.ndim < 2:
            continue
        if value.uses() and _obstacle(value, array, scheme, kept) is None:
            found.append(value)
    return found


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


def _scheme(weights: Weights, storage: str) -> Mixed:
    """Encodings that are number formats bring their scheme with them."""
    if storage in UNSCALED:
        return Mixed(schemes.choose(storage), {})
    return Mixed(weights.chosen("weight_only"), weights.layers)


def _encoded(
    value: ir.Value, array: np.ndarray, scheme: Choice, weights: Weights, scales: np.ndarray | None
) -> Codes:
    axes = () if weights.granularity == "per_tensor" else channel_axes(value)
    block = weights.block if weights.granularity == "per_block" else None
    return encode(array, axes, scheme, symmetric=weights.symmetric, block=block, scales=scales)


def _obstacle(value: ir.Value, array: np.ndarray, scheme: Choice, kept: set[ir.Value | None]) -> str | None:
    if value in kept:
        return "kept in float by `skip` or for accuracy"
    if value.is_graph_output() or value.is_graph_input():
        return "it is an input or output of the graph"
    is_weight = all(
        use.idx in READERS.get(use.node.op_type, ()) or _adds_positions(use.node, use.idx)
        for use in value.uses()
    )
    if scheme.name not in UNSCALED and not is_weight:
        return "not only a weight: so few bits may be too few for its other use"
    if 4 * array.size > LARGEST_FOLDED:
        return "more than 1 GiB decoded: onnxruntime would decode it at every run"
    if not np.isfinite(array).all():
        return "it holds NaN or infinity"
    if scheme.name == "fp16" and np.abs(array).max() > FP16_MAX:
        return "it holds values beyond 65504, the largest fp16 number"
    return None


def _is_worth_lifting(value: ir.Value, kept: Collection[ir.Value | None], every: bool) -> bool:
    """A weight in a body that `store_weights` will store."""
    array = constant(value)
    if array is None or array.dtype != np.float32 or array.size < SMALLEST or value in kept:
        return False
    return every or (
        array.ndim >= 2
        and len(value.uses()) > 0
        and all(use.idx in READERS.get(use.node.op_type, ()) for use in value.uses())
    )


def _adds_positions(node: ir.Node, index: int) -> bool:
    """A Slice of rows that are added to what a Gather looks up: position embeddings."""
    if not in_domain(node, ("Slice",)) or index != 0:
        return False
    rows = node.outputs[0]
    return bool(rows.uses()) and all(
        in_domain(reader.node, ("Add",))
        and any(
            (maker := value.producer()) is not None and in_domain(maker, ("Gather",))
            for value in reader.node.inputs
            if value is not None
        )
        for reader in rows.uses()
    )


def _inside_bodies(model: ir.Model) -> list[dict[str, str]]:
    """Weights that belong to the body of an If, Loop or Scan."""
    return [
        {"name": str(value.name), "reason": "inside an If, Loop or Scan: left as it is"}
        for graph in model.graphs()
        if graph is not model.graph
        for value in graph.initializers.values()
        if value.dtype == ir.DataType.FLOAT
        and (tensor := value.const_value) is not None
        and tensor.size >= SMALLEST
    ]

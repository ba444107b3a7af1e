"""How a weight is stored in the file: an initializer, or a chain of ops that onnxruntime folds at load.

onnxruntime evaluates constant sub-graphs while it creates a session, so a chain costs bytes and load time,
never latency. Measured with 1.32: Cast, Mul and Gather fold, DequantizeLinear does not. An encoding is a
function `(insertion, name, codes) -> nodes`; the last node's output is the decoded weight.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mlcompress.graph.insert import Insertion
from mlcompress.graph.session import LARGEST_FOLDED
from mlcompress.registry import Registry

encodings = Registry("encoding")


@dataclass(frozen=True)
class Codes:
    """What is stored, and what it stands for.

    `stored` has the weight's shape; `scale` (float32, broadcast against it) is None where the stored numbers
    are the values themselves.
    """

    stored: np.ndarray
    scale: np.ndarray | None = None

    def values(self) -> np.ndarray:
        """The float32 weight that the file decodes to."""
        plain = self.stored.astype(np.float32)
        return plain if self.scale is None else plain * self.scale


@encodings
def plain(insertion: Insertion, name: str, codes: Codes) -> list[ir.Node]:
    """The float32 values themselves, in an initializer."""
    insertion.constant(name, codes.values())
    return []


@encodings
def fp16(insertion: Insertion, name: str, codes: Codes) -> list[ir.Node]:
    """IEEE half precision: Cast to float32 (folds at load; half the bytes)."""
    stored = insertion.constant(f"{name}_fp16", codes.values().astype(np.float16))
    return [_cast(insertion, name, stored)]


@encodings
def int8(insertion: Insertion, name: str, codes: Codes) -> list[ir.Node]:
    """Bytes times a scale per channel: Cast to float32, Mul (folds at load; a quarter of the bytes)."""
    if codes.scale is None:
        raise ValueError(f"{name}: int8 storage needs a scale")
    stored = insertion.constant(f"{name}_int8", codes.stored.astype(np.int8))
    scale = insertion.constant(f"{name}_scale", codes.scale.astype(np.float32))
    cast = _cast(insertion, f"{name}_float", stored)
    return [cast, insertion.node("Mul", [cast.outputs[0], scale], name, None)]


def store(insertion: Insertion, weight: ir.Value, codes: Codes, encoding: str) -> None:
    """Replace the initializer `weight` by a stored form; the decoded tensor keeps its name.

    Raises ValueError when `weight` is not an initializer of the graph or a decoded tensor is too large to be
    folded.
    """
    graph, name = insertion.graph, str(weight.name)
    if graph.initializers.get(name) is not weight:
        raise ValueError(f"{name} is not an initializer")
    if 4 * codes.stored.size > LARGEST_FOLDED and encoding != "plain":
        raise ValueError(f"{name}: a tensor of more than 1 GiB is not folded at load")
    del graph.initializers[name]
    weight.name = insertion.fresh(f"{name}_replaced")
    insertion.release(name)
    function: Callable[[Insertion, str, Codes], list[ir.Node]] = encodings[encoding]
    nodes = function(insertion, name, codes)
    decoded = nodes[-1].outputs[0] if nodes else graph.initializers[name]
    decoded.type, decoded.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(codes.stored.shape)
    ir.convenience.replace_all_uses_with(weight, decoded, replace_graph_outputs=True)
    insertion.at_start(nodes)


def _cast(insertion: Insertion, output: str, stored: ir.Value) -> ir.Node:
    """Without type or shape, which onnxruntime infers: a value_info entry per weight is 3 % of a small
    net's file."""
    return insertion.node("Cast", [stored], output, None, attributes={"to": int(ir.DataType.FLOAT)})

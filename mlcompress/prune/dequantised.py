"""What integer weights stand for, so that they can be ranked beside float ones."""

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.graph.initializers import constant, set_numbers


def for_ranking(model: ir.Model) -> ir.Model:
    """`model`, or a copy in which integer weights behind DequantizeLinear hold (x - zero) * scale as float32.

    The copy has the same names and shapes; it is read, never run. Scales per block are left out.
    """
    nodes = [node for node in model.graph if node.op_type == "DequantizeLinear" and _is_weight(node)]
    if not nodes:
        return model
    made = graph.copy(model)
    for node in nodes:
        set_numbers(made.graph.initializers[str(node.inputs[0].name)], _decoded(node))  # type: ignore[union-attr]
    return made


def _is_weight(node: ir.Node) -> bool:
    stored, scale = constant(node.inputs[0]), constant(node.inputs[1])
    return stored is not None and scale is not None and np.ndim(stored) > 1 and np.ndim(scale) < 2


def _decoded(node: ir.Node) -> np.ndarray:
    stored = np.asarray(constant(node.inputs[0]), np.float32)
    axis = node.attributes["axis"].as_int() if "axis" in node.attributes else 1

    def along(value: ir.Value | None) -> np.ndarray:
        numbers = np.asarray(constant(value), np.float32)
        if numbers.size == 1:
            return numbers.reshape(())
        return numbers.reshape([-1 if place == axis % stored.ndim else 1 for place in range(stored.ndim)])

    zero = along(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else np.float32(0)
    decoded: np.ndarray = (stored - zero) * along(node.inputs[1])
    return decoded

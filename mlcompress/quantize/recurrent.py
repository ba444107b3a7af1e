"""Dynamic INT8 for LSTM: com.microsoft's DynamicQuantizeLSTM, the one recurrent op with an integer kernel.

Inputs and hidden state are quantised at every step, gates and cell state stay float. W int8 [directions, I,
4 H] and R int8 [directions, H, 4 H] are turned, with symmetric scales [directions, 4 H]; onnxruntime 1.32
does not take zero points other than 0 with a scale per column.
"""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.quantize.fuse import attribute
from mlcompress.quantize.integer import in_domain
from mlcompress.quantize.mixed import Scheme, scheme_of
from mlcompress.quantize.weights import quantised

LSTM = ("LSTM",)
DOMAIN = "com.microsoft"
OP = "DynamicQuantizeLSTM"
SMALLEST_HIDDEN = 64
"""Integers / float, CPU time, one thread, batch 1, inputs as wide as the hidden state, 1 | 16 | 100 steps:
hidden 32: 1.12 | 1.13 | 1.10; 64: 1.04 | .78 | .68; 128: .87 | .58 | .53; 256: .50 | .36 | .34. onnxruntime
1.32.0, AMD EPYC (Zen 5); `benchmarks/compute_forms.py` measures it anew."""
_INPUTS = 8
"""Of LSTM; scales and zero points of W and R come after them."""
_NOT_TAKEN = ("layout", "output_sequence")
"""Attributes of LSTM that the other op has not: an obstacle where they mean something."""


def lstm_obstacle(node: ir.Node) -> str | None:
    """Why an LSTM must stay float, or None when it can run as dynamic integers."""
    for index, name in ((1, "W"), (2, "R")):
        array = constant(node.inputs[index])
        if array is None or array.dtype != np.float32:
            return f"its {name} is not constant float32 numbers"
    if attribute(node, "layout", 0):
        return "its batch comes first (layout 1), which the integer kernel has not"
    hidden = np.asarray(constant(node.inputs[2])).shape[-1]
    if hidden < SMALLEST_HIDDEN:
        return f"float: integers would not be faster with {hidden} hidden units"
    return None


def insert_lstm(
    model: ir.Model, allowed: Callable[[ir.Node], bool], *, per_channel: bool = True, scheme: Scheme = "int8"
) -> None:
    """Turn every allowed LSTM without an obstacle into DynamicQuantizeLSTM, in place."""
    insertion = Insertion(model.graph)
    weights: dict[ir.Value, list[ir.Value]] = {}
    for node in [n for n in model.graph if in_domain(n, LSTM) and allowed(n) and lstm_obstacle(n) is None]:
        node.resize_inputs(_INPUTS + 4)
        for index in (1, 2):
            weight = node.inputs[index]
            if weight is None:
                continue
            if weight not in weights:
                weights[weight] = _columns(insertion, weight, per_channel, scheme)
            codes, scale, zero = weights[weight]
            node.replace_input_with(index, codes)
            node.replace_input_with(_INPUTS + 2 * (index - 1), scale)
            node.replace_input_with(_INPUTS + 2 * (index - 1) + 1, zero)
        for name in _NOT_TAKEN:
            node.attributes.pop(name, None)
        node.domain, node.op_type, node.version = DOMAIN, OP, None
        model.opset_imports.setdefault(DOMAIN, 1)
    insertion.drop_unread()


def _columns(insertion: Insertion, weight: ir.Value, per_channel: bool, scheme: Scheme) -> list[ir.Value]:
    """int8 [directions, inputs, 4 H], scales and zero points [directions, 4 H] (or [directions])."""
    name = str(weight.name)
    turned = np.ascontiguousarray(np.asarray(constant(weight)).transpose(0, 2, 1))
    codes, steps = quantised(turned, (0, 2) if per_channel else (0,), scheme_of(scheme, name))
    scales = steps[:, 0, :] if per_channel else steps[:, 0, 0]
    return [
        insertion.constant(f"{name}_quantized", codes),
        insertion.constant(f"{name}_scale", scales),
        insertion.constant(f"{name}_zero_point", np.zeros(scales.shape, np.int8)),
    ]

"""`quantize.target`: the provider whose kernels decide how things are written."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.errors import UnsupportedError, shorten
from mlcompress.graph.encodings import Codes
from mlcompress.graph.initializers import initializer
from mlcompress.graph.session import Level, session
from mlcompress.graph.unused import remove_unused
from mlcompress.measure.session import Feeds

Target = Literal["cpu", "openvino"]

TOLERANCE = 1e-4
"""Of the largest output: the same numbers multiplied in float32, perhaps packed otherwise."""
REASONS: dict[str, str] = {
    "cpu": "cpu: weights are decoded by ops that onnxruntime folds while it creates a session; it would run "
    "DequantizeLinear at every inference",
    "openvino": "openvino: weights of MatMul and Gemm are written for DequantizeLinear (measured there: .02 "
    "to .06 of the CPU provider's time; Cast and Mul .77 to 1.10), MatMul as Q/DQ instead of MatMulInteger; "
    "activations stay uint8, since int8 was no faster (ResNet-18: .23 of 1.10 of fp32, uint8 .64 of .33)",
}
"""Why things are written as they are, for the card. onnxruntime-openvino 1.24 and the plugin beside
onnxruntime 1.32, a Xeon with AVX512-VNNI; products of 1024 x 1024, one run each."""
UNTIMED = (
    "quantize.target openvino: outputs were checked on the CPU provider, which is slow on DequantizeLinear; "
    "speed was not measured: `measure: {providers: [openvino]}` does where OpenVINO has a device"
)


def check_dequantized(model: ir.Model, codes: Mapping[str, Codes], feed: Feeds) -> None:
    """Compare what DequantizeLinear makes of weights, `codes` by their names, with (q - z) * s of numpy.

    The weights must have the same bits; the outputs of the graph as it is written (optimisation turned off)
    are within TOLERANCE of those of the same graph with numpy's numbers.

    Raises UnsupportedError where they do not.
    """
    if not codes:
        return
    tapped = graph.copy(model)
    made = {str(value.name): value for node in tapped.graph for value in node.outputs if value.name in codes}
    count = len(tapped.graph.outputs)
    tapped.graph.outputs.extend(made.values())
    found = session(graph.to_bytes(tapped), Level.ORT_DISABLE_ALL).run(None, dict(feed))
    pairs = zip(made, found[count:], strict=True)
    if other := [name for name, array in pairs if not np.array_equal(array, codes[name].values())]:
        raise UnsupportedError(
            f"quantize.target: DequantizeLinear makes other numbers of {shorten(other)}; use `target: cpu`"
        )
    wanted = session(graph.to_bytes(_plain(model, codes)), Level.ORT_DISABLE_ALL).run(None, dict(feed))
    if not all(_near(one, other) for one, other in zip(wanted, found[:count], strict=True)):
        raise UnsupportedError(
            "quantize.target: outputs are not those of the decoded weights; use `target: cpu`"
        )


def _plain(model: ir.Model, codes: Mapping[str, Codes]) -> ir.Model:
    made = graph.copy(model)
    values = [value for node in made.graph for value in node.outputs if value.name in codes]
    for value in values:
        name = str(value.name)
        value.name = f"{name}/decoded"
        numbers = initializer(made.graph, name, codes[name].values())
        ir.convenience.replace_all_uses_with(value, numbers)
    remove_unused(made)
    return made


def _near(one: np.ndarray, other: np.ndarray) -> bool:
    if one.dtype.kind != "f":
        return np.array_equal(one, other)
    return np.allclose(one, other, rtol=0, atol=TOLERANCE * max(1.0, float(np.abs(one).max(initial=0))))

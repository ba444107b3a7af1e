"""Bias correction: the mean error of a layer's output, per channel, goes into its bias."""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import constant
from mlcompress.quantize.integer import in_domain


def bias_place(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The node and input that hold the bias of a weighted node: its own, or those of the one Add behind a
    MatMul.

    A Conv or Gemm without a bias gets one there. None where there is no such place.
    """
    if node.op_type != "MatMul":
        return node, 2
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or not in_domain(uses[0].node, ("Add",)) or node.outputs[0].is_graph_output():
        return None
    add, place = uses[0].node, 1 - uses[0].idx
    bias, weight = constant(add.inputs[place]), constant(node.inputs[1])
    if bias is None or weight is None or bias.ndim > 1 or bias.size not in (1, weight.shape[-1]):
        return None
    return add, place


def correct(
    bias: np.ndarray | None,
    weight: np.ndarray,
    rounded: np.ndarray,
    clean: np.ndarray,
    noisy: np.ndarray,
) -> np.ndarray:
    """b' = b + c (W E[x] - V E[y]) per output channel (Nagel et al. 2019, on calibration data).

    x is what the float model's layer reads, y what the quantised one's does, with the errors of the layers
    before. c = max(0, 1 - e^2 / m^2) takes back what few samples cannot tell from chance (James and Stein
    1961): m is the mean over samples of the shift in brackets, e its standard error.

    Args:
        bias: float [N] or [1]; None for none.
        weight, rounded: W and V, [G, N / G, K]. clean, noisy: means of x and y for each sample, [S, G, K].

    Returns float32 [N].
    """
    shifts = np.einsum("gnk,sgk->sgn", weight, clean) - np.einsum("gnk,sgk->sgn", rounded, noisy)
    mean = shifts.mean(axis=0)
    error = shifts.var(axis=0, ddof=1) / len(shifts) if len(shifts) > 1 else np.zeros_like(mean)
    kept = np.clip(1 - error / np.maximum(mean**2, 1e-300), 0, 1)
    return np.asarray((0.0 if bias is None else bias.ravel()) + (kept * mean).ravel(), np.float32)

"""Multiply-accumulates (MACs) of single nodes, from shapes.

Conv: N O H' W' (I/g) k k; ConvTranspose: N I H W (O/g) k k; Gemm and MatMul: M N K (batched); LSTM, GRU, RNN:
steps x batch x directions x gates H x (I + H). Element-wise work and data movement are not counted.
"""

from collections.abc import Callable
from math import prod

import onnx_ir as ir

ShapeOf = Callable[[ir.Value], tuple[int, ...]]
"""Static shape of a value; raises KeyError where it is unknown."""


def node_macs(node: ir.Node, shape_of: ShapeOf) -> int:
    """MACs of one run of `node`, 0 where no matrices are multiplied. Raises KeyError for an unknown shape."""
    rule = _RULES.get(node.op_type)
    return 0 if rule is None else rule(node, shape_of)


def needed_values(node: ir.Node) -> list[ir.Value]:
    """Values whose shapes `node_macs` may ask for."""
    if node.op_type not in _RULES:
        return []
    return [value for value in (*node.inputs, *node.outputs) if value is not None and value.name]


def _result(node: ir.Node, shape_of: ShapeOf) -> tuple[int, ...]:
    return shape_of(next(value for value in node.outputs if value.name))


def _read(node: ir.Node, index: int, shape_of: ShapeOf) -> tuple[int, ...]:
    value = node.inputs[index]
    if value is None:
        raise KeyError(f"{node.name}: input {index}")
    return shape_of(value)


def _conv(weight: int) -> Callable[[ir.Node, ShapeOf], int]:
    return lambda node, shape_of: prod(_result(node, shape_of)) * prod(_read(node, weight, shape_of)[1:])


def _conv_transpose(node: ir.Node, shape_of: ShapeOf) -> int:
    return prod(_read(node, 0, shape_of)) * prod(_read(node, 1, shape_of)[1:])


def _gemm(node: ir.Node, shape_of: ShapeOf) -> int:
    transposed = node.attributes.get_int("transA", 0)
    return prod(_result(node, shape_of)) * _read(node, 0, shape_of)[0 if transposed else 1]


def _matmul(node: ir.Node, shape_of: ShapeOf) -> int:
    return prod(_result(node, shape_of)) * _read(node, 0, shape_of)[-1]


def _matmul_nbits(node: ir.Node, shape_of: ShapeOf) -> int:
    return prod(_result(node, shape_of)) * node.attributes.get_int("K", 0)


def _recurrent(node: ir.Node, shape_of: ShapeOf) -> int:
    """X [steps, batch, I] (any order of the first two), R [directions, gates H, H]."""
    steps, batch, inputs = _read(node, 0, shape_of)
    directions, gates, hidden = _read(node, 2, shape_of)
    return steps * batch * directions * gates * (inputs + hidden)


def _quantized_lstm(node: ir.Node, shape_of: ShapeOf) -> int:
    """com.microsoft DynamicQuantizeLSTM: W [directions, I, 4 H], R [directions, H, 4 H]."""
    steps, batch, inputs = _read(node, 0, shape_of)
    directions, hidden, gates = _read(node, 2, shape_of)
    return steps * batch * directions * gates * (inputs + hidden)


_RULES: dict[str, Callable[[ir.Node, ShapeOf], int]] = {
    "Conv": _conv(1),
    "FusedConv": _conv(1),
    "ConvInteger": _conv(1),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "QGemm": _gemm,
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "QLinearMatMul": _matmul,
    "MatMulNBits": _matmul_nbits,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
    "DynamicQuantizeLSTM": _quantized_lstm,
}

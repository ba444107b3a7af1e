"""Whole numbers: bits, and matrix products and convolutions of codes.

Codes of the executor's own quantisers are floats (see `quant`); products of codes are computed in float64,
where sums of products of 8-bit codes are exact, and stay there, so that gradients pass.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.conv import conv
from mlcompress.train.ops.node import DTYPES, UNSIGNED, Node, Refusal, Run, op, simple
from mlcompress.train.ops.quant import code_range, round_through, spread

Ints = Sequence[int]

simple(
    "A B",
    {
        "BitwiseAnd": torch.bitwise_and,
        "BitwiseOr": torch.bitwise_or,
        "BitwiseXor": torch.bitwise_xor,
    },
    more=UNSIGNED,
)
simple("X", {"BitwiseNot": lambda x: torch.bitwise_not(x.to(torch.int64)).to(x.dtype)}, more=UNSIGNED)


@op("BitShift", "X Y", more=UNSIGNED)
def bit_shift(node: Node, *, direction: str) -> Run:
    """Unsigned integers; bits that leave the type are lost."""
    if direction not in ("LEFT", "RIGHT"):
        raise Refusal(f"attribute direction={direction!r}")
    kind = node.kind(0)
    if kind is None:
        raise Refusal("data type not known")
    wanted = DTYPES[kind]

    def left(x: Tensor, y: Tensor) -> Tensor:
        return (x.to(torch.int64) << y.to(torch.int64)).to(wanted)

    def right(x: Tensor, y: Tensor) -> Tensor:
        whole, by = x.to(torch.int64), y.to(torch.int64)
        if wanted != torch.uint64:
            return (whole >> by).to(wanted)
        # an int64 shift copies the highest bit: take those copies away
        kept = torch.where(by == 0, -1, (1 << (64 - by)) - 1)
        return ((whole >> by) & kept).to(wanted)

    return left if direction == "LEFT" else right


def _centred(codes: Tensor, zero: Tensor | None, axis: int | None = None) -> Tensor:
    """Codes minus zero point, exact; a zero point per element belongs to `axis`."""
    exact = codes.to(torch.float64)
    if zero is None:
        return exact
    if zero.dim() == 1 and zero.numel() > 1 and axis is not None:
        return exact - spread(zero.to(torch.float64), codes, axis, 0)
    return exact - (zero.reshape(()) if zero.numel() == 1 else zero).to(torch.float64)


@op("MatMulInteger", "A B a_zero_point b_zero_point")
def matmul_integer(node: Node) -> Run:
    """Zero points: one, or one per row of A and per column of B."""

    def run(a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None) -> Tensor:
        return torch.matmul(_centred(a, a_zero, -2), _centred(b, b_zero, -1))

    return run


@op("ConvInteger", "x w x_zero_point w_zero_point")
def conv_integer(
    node: Node,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Run:
    """Pads are zeros after the zero point is taken off. The zero point of w: one, or one per filter."""
    product = conv(node, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)

    def run(x: Tensor, w: Tensor, x_zero: Tensor | None = None, w_zero: Tensor | None = None) -> Tensor:
        return product(_centred(x, x_zero), _centred(w, w_zero, 0))  # type: ignore[no-any-return]

    return run


@op("QLinearMatMul", "a a_scale a_zero_point b b_scale b_zero_point y_scale y_zero_point")
def qlinear_matmul(node: Node) -> Run:
    """Codes of the product, as floats."""
    low, high = code_range(node, 7, 0)

    def run(
        a: Tensor, sa: Tensor, za: Tensor, b: Tensor, sb: Tensor, zb: Tensor, sy: Tensor, zy: Tensor
    ) -> Tensor:
        product = torch.matmul(_centred(a, za, -2), _centred(b, zb, -1))
        rows = (
            sa.unsqueeze(-1)
            if sa.dim() == 1 and sa.numel() > 1
            else sa.reshape(-1)[0]
            if sa.dim() == 1
            else sa
        )
        y = product.to(sa.dtype) * rows * sb / sy
        return (round_through(y) + zy).clamp(low, high)

    return run


@op("QLinearConv", "x x_scale x_zero_point w w_scale w_zero_point y_scale y_zero_point B")
def qlinear_conv(
    node: Node,
    *,
    auto_pad: str = "NOTSET",
    dilations: Ints | None = None,
    group: int = 1,
    kernel_shape: Ints | None = None,
    pads: Ints | None = None,
    strides: Ints | None = None,
) -> Run:
    """Codes of the convolution, as floats. w: scale and zero point, one or one per filter; B has the scale
    x_scale * w_scale and zero point 0.
    """
    low, high = code_range(node, 7, 0)
    product = conv(node, auto_pad=auto_pad, dilations=dilations, group=group, pads=pads, strides=strides)

    def run(x: Tensor, sx: Tensor, zx: Tensor, w: Tensor, sw: Tensor, zw: Tensor, *rest: Any) -> Tensor:
        sy, zy, *bias = rest
        given = bias[0].to(torch.float64) if bias and bias[0] is not None else None
        whole: Tensor = product(_centred(x, zx), _centred(w, zw, 0), given)
        y = whole.to(sx.dtype) * (sx * spread(sw, whole, 1, 0) / sy)
        codes: Tensor = round_through(y) + zy
        return codes.clamp(low, high)

    return run


@op("DynamicQuantizeLinear", "x", outputs=3)
def dynamic_quantize_linear(node: Node) -> Run:
    """uint8 codes (as floats) of a range that spans the data and 0; scale (1 where all is 0); zero
    point.

    No gradient reaches scale and zero point.
    """

    def run(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        low, high = x.amin().detach().clamp(max=0), x.amax().detach().clamp(min=0)
        scale = torch.where(high == low, 1.0, (high - low) / 255)
        zero = torch.round(-low / scale).clamp(0, 255)
        codes = round_through(x / scale) + zero
        return codes.clamp(0, 255), scale, zero.to(torch.uint8)

    return run

"""QuantizeLinear and DequantizeLinear as fake quantisation.

    q = clip(round(x / scale) + zero_point, low, high)      round half to even
    y = (q - zero_point) * scale

Codes stay floating-point tensors inside the executor so that a gradient can pass, straight through: 1 where
the rounded code is inside [low, high], 0 outside (Bengio et al. 2013, arXiv:1308.3432). No gradient reaches
scales and zero points.
"""

from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, op

RANGES: dict[int, tuple[int, int]] = {
    2: (0, 255),
    3: (-128, 127),
    4: (0, 65535),
    5: (-32768, 32767),
    21: (0, 15),
    22: (-8, 7),
    25: (0, 3),
    26: (-2, 1),
}
"""TensorProto type number of the codes: smallest and largest code."""


def _spread(values: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """Scales or zero points shaped to broadcast to `x`: per tensor, per element of `axis`, or per block."""
    if block_size:
        return values.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


def _code_range(node: Node, output_dtype: int) -> tuple[int, int]:
    """Smallest and largest code: by the zero point's type, else the attribute, else uint8."""
    kind = node.kind(2) if node.has(2) else output_dtype or 2
    if kind not in RANGES:
        raise Refusal(f"codes of data type {kind}")
    return RANGES[kind]


@op("QuantizeLinear", "x y_scale y_zero_point")
def quantize_linear(
    node: Node,
    *,
    axis: int = 1,
    block_size: int = 0,
    output_dtype: int = 0,
    precision: int = 0,
    saturate: int = 1,
) -> Run:
    """Codes as floats. `saturate` only concerns 8-bit floats, which are refused."""
    if precision not in (0, node.kind(0)):
        raise Refusal(f"attribute precision={precision}")
    low, high = _code_range(node, output_dtype)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        y = x / _spread(scale, x, axis, block_size)
        q = y + (torch.round(y) - y).detach()  # exactly round(y), with the gradient of y
        if zero is not None:
            q = q + _spread(zero, x, axis, block_size)
        return q.clamp(low, high)

    return run


@op("DequantizeLinear", "x x_scale x_zero_point")
def dequantize_linear(node: Node, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0) -> Run:
    if output_dtype not in (0, node.kind(1)):
        raise Refusal(f"attribute output_dtype={output_dtype}")

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        q = x.to(scale.dtype)
        if zero is not None:
            q = q - _spread(zero, x, axis, block_size)
        return q * _spread(scale, x, axis, block_size)

    return run


class _FakeQuantize(torch.autograd.Function):
    """Both steps in one, with half the memory traffic of the two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Any, high: Any) -> Tensor:
        y = (x / scale).round_()
        ctx.save_for_backward((y >= low) & (y <= high))
        return y.clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


@op("fused.FakeQuantize", "x scale zero_point")
def fake_quantize(node: Node, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0) -> Run:
    """QuantizeLinear directly followed by its DequantizeLinear."""
    low, high = _code_range(node, output_dtype)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        first: Any = low
        last: Any = high
        if zero is not None:
            offset = _spread(zero, x, axis, block_size).to(x.dtype)
            first, last = low - offset, high - offset
        return _FakeQuantize.apply(x, _spread(scale, x, axis, block_size), first, last)  # type: ignore[no-any-return, no-untyped-call]

    return run

"""QuantizeLinear and DequantizeLinear as fake quantisation.

    q = clip(round(x / scale) + zero_point, low, high)      round half to even
    y = (q - zero_point) * scale

Graphs in half precision compute this in single, as onnxruntime does.

Codes stay floating-point tensors inside the executor so that a gradient can pass, straight through: 1 where
the rounded code is inside [low, high], 0 outside (Bengio et al. 2013, arXiv:1308.3432). Scales of a pair that
stays together can be trained (`fake`), zero points cannot.
"""

from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import HALF, Node, Refusal, Run, is_tracing, op

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
CODES = frozenset(RANGES)


def spread(values: Tensor, x: Tensor, axis: int, block_size: int) -> Tensor:
    """Scales or zero points shaped to broadcast to `x`: per tensor, per element of `axis`, or per block."""
    if block_size:
        return values.repeat_interleave(block_size, axis).narrow(axis, 0, x.shape[axis])
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


def round_through(y: Tensor) -> Tensor:
    """Exactly round(y), with the gradient of y."""
    return y + (torch.round(y) - y).detach()


def code_range(node: Node, zero_point: int, output_dtype: int) -> tuple[int, int]:
    """Smallest and largest code: by the type of the zero point (an input by its place), else the attribute,
    else uint8.
    """
    kind = node.kind(zero_point) if node.has(zero_point) else output_dtype or 2
    if kind not in RANGES:
        raise Refusal(f"codes of data type {kind}")
    return RANGES[kind]


@op("QuantizeLinear", "x y_scale y_zero_point", more=CODES)
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
    low, high = code_range(node, 2, output_dtype)
    half = node.kind(0) in HALF

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        if half:
            x, scale = x.float(), scale.float()
        y = x / spread(scale, x, axis, block_size)
        q = round_through(y)
        if zero is not None:
            q = q + spread(zero.to(q.dtype), x, axis, block_size)
        return q.clamp(low, high)

    return run


@op("DequantizeLinear", "x x_scale x_zero_point", more=CODES)
def dequantize_linear(node: Node, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0) -> Run:
    if output_dtype not in (0, node.kind(1)):
        raise Refusal(f"attribute output_dtype={output_dtype}")

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        q = x.to(scale.dtype)
        if zero is not None:
            q = q - spread(zero.to(q.dtype), x, axis, block_size)
        return q * spread(scale, x, axis, block_size)

    if node.kind(1) in HALF:
        return lambda x, scale, zero=None: run(x, scale.float(), zero).to(scale.dtype)
    return run


class _FakeQuantize(torch.autograd.Function):
    """Both steps in one, with half the memory traffic of the two."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Any, high: Any) -> Tensor:
        y = x / scale
        q = torch.round(y)
        inside = (q >= low) & (q <= high)
        q = q.clamp_(low, high)
        slope = q - y * inside if ctx.needs_input_grad[1] else None
        ctx.save_for_backward(inside, slope)
        ctx.shape = scale.shape
        return q * scale

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        inside, slope = ctx.saved_tensors
        by_scale = None if slope is None else (grads[0] * slope).sum_to_size(ctx.shape)
        return grads[0] * inside, by_scale, None, None


def fake(x: Tensor, scale: Tensor, low: Any, high: Any) -> Tensor:
    """clip(round(x / s), low, high) * s; `scale` broadcasts to `x`.

    dy/dx = 1 where the rounded number is inside [low, high], else 0. Where the scale is trained, dy/ds =
    round(x / s) - x / s inside, `low` or `high` outside (LSQ, Esser et al. 2020).
    """
    return _FakeQuantize.apply(x, scale, low, high)  # type: ignore[no-any-return, no-untyped-call]


@op("fused.FakeQuantize", "x scale zero_point", more=CODES)
def fake_quantize(node: Node, *, axis: int = 1, block_size: int = 0, output_dtype: int = 0) -> Run:
    """QuantizeLinear directly followed by its DequantizeLinear."""
    low, high = code_range(node, 2, output_dtype)

    def run(x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
        first: Any = low
        last: Any = high
        if zero is not None:
            offset = spread(zero.to(x.dtype), x, axis, block_size)
            first, last = low - offset, high - offset
        if is_tracing():  # a trace holds no Python functions
            steps = spread(scale, x, axis, block_size)
            return torch.round(x / steps).clamp(first, last) * steps
        return fake(x, spread(scale, x, axis, block_size), first, last)

    if node.kind(0) in HALF:
        return lambda x, scale, zero=None: run(x.float(), scale.float(), zero).to(scale.dtype)
    return run

"""Weights that a graph computes with while float ones are trained: on the grid of a few-bit scheme.

A scheme is a function `(weight, step) -> numbers on the grid`, of the shape of `weight`, with a gradient
straight through to the float weight. `step` broadcasts to it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.quant import fake

LARGEST = {"int8": 127, "int4": 7, "int2": 1, "ternary": 1, "binary": 1}
"""Scheme: its largest level; the smallest is the opposite."""
CLOSED = ("ternary", "binary")
"""Schemes whose scale follows from the weights at every step, by the formula of their paper."""


class _Through(torch.autograd.Function):
    """The second tensor, with the gradient of the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


class _Slower(torch.autograd.Function):
    """The tensor itself, its gradient times a factor."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor) -> Tensor:
        ctx.save_for_backward(factor)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0] * ctx.saved_tensors[0], None


def through(x: Tensor, value: Tensor) -> Tensor:
    """Exactly `value`, with the gradient of `x`."""
    return _Through.apply(x, value)  # type: ignore[no-any-return, no-untyped-call]


def learned(multiple: Tensor, first: Tensor, elements: float, largest: float) -> Tensor:
    """The step s = first * multiple, where the multiple is what an optimizer changes, beginning with 1.

    LSQ (Esser et al. 2020) trains s with its gradient times g = 1 / sqrt(elements * largest), so that steps
    and weights change alike, relative to their size. The gradient of the multiple is first * dL/ds * g /
    first^2: SGD then changes s as LSQ does, and Adam, whose steps do not depend on the size of gradients,
    changes s relative to its size.
    """
    factor = 1 / (first * first * (elements * largest) ** 0.5)
    slower: Tensor = _Slower.apply(multiple, factor)  # type: ignore[no-untyped-call]
    return first * slower


def uniform(scheme: str) -> Callable[[Tensor, Tensor], Tensor]:
    """clip(round(w / s), -top, top) * s."""
    top = LARGEST[scheme]
    return lambda weight, step: fake(weight, step, -top, top)


def _ternary(weight: Tensor, step: Tensor) -> Tensor:
    kept = weight.abs() > 0.7 * _mean(weight.abs(), step)
    return through(weight, (weight.sign() * kept * step).detach())


def _binary(weight: Tensor, step: Tensor) -> Tensor:
    return through(weight, torch.where(weight < 0, -step, step).detach())


FAKES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **{name: uniform(name) for name in ("int8", "int4", "int2")},
    "ternary": _ternary,
    "binary": _binary,
}


@torch.no_grad()
def closed_form(scheme: str, weight: Tensor, like: Tensor) -> Tensor:
    """The scale, shaped as `like`, of ternary (Li, Liu 2016) and binary weights (Rastegari et al. 2016).

    ternary: the mean of |w| over |w| > 0.7 mean|w|; binary: the mean of |w|.
    """
    size = weight.abs()
    mean = _mean(size, like)
    if scheme == "binary":
        return mean
    kept = size > 0.7 * mean
    return (size * kept).sum_to_size(like.shape) / kept.sum_to_size(like.shape).clamp(min=1)


def mean_size(weight: Tensor, like: Tensor) -> Tensor:
    """mean|w| of each group, shaped as `like`."""
    return _mean(weight.detach().abs(), like)


def _mean(size: Tensor, like: Tensor) -> Tensor:
    return size.sum_to_size(like.shape) / (size.numel() / like.numel())

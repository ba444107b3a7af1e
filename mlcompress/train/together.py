"""Batch statistics over the samples of all processes, so that several compute what one would."""

from typing import Any

import torch
from torch import Tensor


def is_shared() -> bool:
    """Whether this process trains with others."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


class _Sum(torch.autograd.Function):
    """Sum over the processes; the gradient is the sum of their gradients."""

    @staticmethod
    def forward(context: Any, mine: Tensor) -> Tensor:
        total = mine.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total)
        return total


def batch_norm(
    x: Tensor, mean: Tensor, var: Tensor, scale: Tensor, bias: Tensor, rate: float, epsilon: float
) -> Tensor:
    """`torch.nn.functional.batch_norm` in training mode, over the batches [B, C, ...] of all processes, which
    must be of one size; running statistics are moved by `rate`, the variance with n - 1.
    """
    axes = [axis for axis in range(x.ndim) if axis != 1]
    shape = [1, -1, *[1] * (x.ndim - 2)]
    processes = torch.distributed.get_world_size()
    wide = x.float()
    of_batch = _sum(wide.mean(axes)) / processes
    apart = wide - of_batch.view(shape)
    spread = _sum(apart.square().mean(axes)) / processes
    with torch.no_grad():
        samples = processes * x.numel() // x.shape[1]
        mean.lerp_(of_batch.to(mean.dtype), rate)
        var.lerp_((spread * samples / max(samples - 1, 1)).to(var.dtype), rate)
    normal = apart * torch.rsqrt(spread + epsilon).view(shape)
    return (normal * scale.view(shape) + bias.view(shape)).to(x.dtype)


def _sum(mine: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(mine)  # type: ignore[no-untyped-call]
    return total

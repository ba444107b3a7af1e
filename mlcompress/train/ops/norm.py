"""Normalisation."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train import together
from mlcompress.train.ops.node import TRAINING, Node, Refusal, Run, op


@op("BatchNormalization", "X scale B input_mean input_var", reserved=(TRAINING,))
def batch_normalization(
    node: Node, *, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0, spatial: int = 1
) -> Run:
    """Follows the executor's mode. ONNX momentum is the share that is kept: torch's is 1 - momentum.

    In training mode the running statistics are updated in place, the variance with n - 1, as torch does.
    """
    if training_mode:
        raise Refusal("attribute training_mode=1 (that belongs to the executor)")
    if not spatial:
        raise Refusal("attribute spatial=0")
    rate = 1.0 - momentum

    def run(training: bool, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        if training and together.is_shared():
            return together.batch_norm(x, mean, var, scale, bias, rate, epsilon)
        return F.batch_norm(x, mean, var, scale, bias, training, rate, epsilon)

    return run


@op("frozen.BatchNormalization", "X scale B input_mean input_var")
def frozen_batch_normalization(
    node: Node, *, epsilon: float = 1e-5, momentum: float = 0.9, training_mode: int = 0, spatial: int = 1
) -> Run:
    """By the running statistics in training mode too, which stay as they are. Refuses as the plain op."""
    batch_normalization(node, training_mode=training_mode, spatial=spatial)
    return lambda x, scale, bias, mean, var: F.batch_norm(x, mean, var, scale, bias, False, 0.0, epsilon)


@op("InstanceNormalization", "input scale B")
def instance_normalization(node: Node, *, epsilon: float = 1e-5) -> Run:
    return lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@op("LayerNormalization", "X Scale B", extra=2)
def layer_normalization(node: Node, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Run:
    """Over all axes from `axis` on; scale and bias broadcast to those. Mean and 1 / deviation are float32."""
    _stash(stash_type)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = x.shape[axis:]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            return F.layer_norm(x, shape, scale, bias, epsilon)
        y = F.layer_norm(x, shape, None, None, epsilon) * scale
        return y if bias is None else y + bias

    def run_with_statistics(x: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        dims = list(range(x.dim()))[axis:]
        variance, mean = torch.var_mean(x.to(torch.float32), dims, correction=0, keepdim=True)
        return run(x, *rest), mean, torch.rsqrt(variance + epsilon)

    return run if node.plain else run_with_statistics


@op("RMSNormalization", "X scale")
def rms_normalization(node: Node, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Run:
    """x / sqrt(mean(x^2) + epsilon) * scale over all axes from `axis` on."""
    _stash(stash_type)
    return lambda x, scale: F.rms_norm(x, x.shape[axis:], None, epsilon) * scale


@op("GroupNormalization", "X scale bias")
def group_normalization(node: Node, *, num_groups: int, epsilon: float = 1e-5, stash_type: int = 1) -> Run:
    """Scale and bias are per group before opset 21, per channel since."""
    _stash(stash_type)

    def run(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if node.opset < 21:
            repeats = x.shape[1] // num_groups
            scale, bias = scale.repeat_interleave(repeats), bias.repeat_interleave(repeats)
        return F.group_norm(x, num_groups, scale, bias, epsilon)

    return run


@op("MeanVarianceNormalization", "X")
def mean_variance_normalization(node: Node, *, axes: Sequence[int] = (0, 2, 3)) -> Run:
    """(x - mean) / (deviation + 1e-9) over `axes`"""
    dims = list(axes)

    def run(x: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(x, dims, correction=0, keepdim=True)
        return (x - mean) / (deviation + 1e-9)

    return run


@op("LpNormalization", "input")
def lp_normalization(node: Node, *, axis: int = -1, p: int = 2) -> Run:
    """x / (sum of |x|^p)^(1/p) along `axis`; zeros stay zeros."""
    if p not in (1, 2):
        raise Refusal(f"attribute p={p}")

    def run(x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
        return x / torch.where(length == 0, torch.ones_like(length), length)

    return run


@op("LRN", "X")
def local_response_normalization(
    node: Node, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Run:
    """x / (bias + alpha / size * sum of squares over `size` channels) ^ beta; an even window reaches one
    channel further up.
    """

    def run(x: Tensor) -> Tensor:
        edges = [0, 0] * (x.dim() - 2) + [(size - 1) // 2, size // 2]
        total = F.pad(x * x, edges).unfold(1, size, 1).sum(-1)
        return x / (bias + alpha / size * total) ** beta

    return run


def _stash(stash_type: int) -> None:
    """torch computes the statistics of half precision in float32 as well, which is stash type 1."""
    if stash_type != 1:
        raise Refusal(f"attribute stash_type={stash_type}")

"""Normalisation."""

import torch.nn.functional as F
from torch import Tensor

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
        return F.batch_norm(x, mean, var, scale, bias, training, rate, epsilon)

    return run


@op("InstanceNormalization", "input scale B")
def instance_normalization(node: Node, *, epsilon: float = 1e-5) -> Run:
    return lambda x, scale, bias: F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


@op("LayerNormalization", "X Scale B")
def layer_normalization(node: Node, *, axis: int = -1, epsilon: float = 1e-5, stash_type: int = 1) -> Run:
    """Over all axes from `axis` on; scale and bias broadcast to those."""
    _stash(stash_type)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = x.shape[axis:]
        if scale.shape == shape and (bias is None or bias.shape == shape):
            return F.layer_norm(x, shape, scale, bias, epsilon)
        y = F.layer_norm(x, shape, None, None, epsilon) * scale
        return y if bias is None else y + bias

    return run


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


@op("LpNormalization", "input")
def lp_normalization(node: Node, *, axis: int = -1, p: int = 2) -> Run:
    return lambda x: F.normalize(x, p=float(p), dim=axis, eps=1e-30)


@op("LRN", "X")
def local_response_normalization(
    node: Node, *, size: int, alpha: float = 1e-4, beta: float = 0.75, bias: float = 1.0
) -> Run:
    """x / (bias + alpha / size * sum of squares over `size` channels) ^ beta"""
    if size % 2 == 0:
        raise Refusal(f"attribute size={size} (torch centres even windows differently)")
    return lambda x: F.local_response_norm(x, size, alpha, beta, bias)


def _stash(stash_type: int) -> None:
    """torch computes the statistics of half precision in float32 as well, which is stash type 1."""
    if stash_type != 1:
        raise Refusal(f"attribute stash_type={stash_type}")

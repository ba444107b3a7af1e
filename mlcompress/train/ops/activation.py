"""Activation functions with attributes, softmax, dropout."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import TRAINING, Node, Refusal, Run, op, simple

simple(
    "X",
    {
        "HardSwish": F.hardswish,
        "Mish": F.mish,
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Softplus": F.softplus,
        "Softsign": F.softsign,
        "Tanh": torch.tanh,
    },
)


@op("LeakyRelu", "X")
def leaky_relu(node: Node, *, alpha: float = 0.01) -> Run:
    return lambda x: F.leaky_relu(x, alpha)


@op("ThresholdedRelu", "X")
def thresholded_relu(node: Node, *, alpha: float = 1.0) -> Run:
    return lambda x: F.threshold(x, alpha, 0.0)


@op("Elu", "X")
def elu(node: Node, *, alpha: float = 1.0) -> Run:
    return lambda x: F.elu(x, alpha)


@op("Celu", "X")
def celu(node: Node, *, alpha: float = 1.0) -> Run:
    return lambda x: F.celu(x, alpha)


@op("Selu", "X")
def selu(node: Node, *, alpha: float = 1.6732632423543772, gamma: float = 1.0507009873554805) -> Run:
    return lambda x: gamma * F.elu(x, alpha)


@op("HardSigmoid", "X")
def hard_sigmoid(node: Node, *, alpha: float = 0.2, beta: float = 0.5) -> Run:
    """clip(alpha x + beta, 0, 1)"""
    return lambda x: F.hardtanh(x * alpha + beta, 0.0, 1.0)


@op("Gelu", "X")
def gelu(node: Node, *, approximate: str = "none") -> Run:
    if approximate not in ("none", "tanh"):
        raise Refusal(f"attribute approximate={approximate!r}")
    return lambda x: F.gelu(x, approximate=approximate)


@op("Swish", "X")
def swish(node: Node, *, alpha: float = 1.0) -> Run:
    return F.silu if alpha == 1.0 else lambda x: x * torch.sigmoid(alpha * x)


@op("PRelu", "X slope")
def prelu(node: Node) -> Run:
    """x where x >= 0, slope x elsewhere; the slope broadcasts from the right."""

    def run(x: Tensor, slope: Tensor) -> Tensor:
        per_channel = slope.dim() == x.dim() - 1 and slope.shape[0] == slope.numel() == x.shape[1]
        if per_channel or slope.numel() == 1:
            return F.prelu(x, slope.reshape(-1))
        return torch.where(x >= 0, x, slope * x)

    return run


def _softmax(node: Node, axis: int | None, function: Run) -> Run:
    """Before opset 13 all axes from `axis` on are one."""
    if node.opset >= 13:
        dim = -1 if axis is None else axis
        return lambda x: function(x, dim)
    first = 1 if axis is None else axis
    return lambda x: function(x.flatten(first), -1).reshape(x.shape)


@op("Softmax", "input")
def softmax(node: Node, *, axis: int | None = None) -> Run:
    return _softmax(node, axis, torch.softmax)


@op("LogSoftmax", "input")
def log_softmax(node: Node, *, axis: int | None = None) -> Run:
    return _softmax(node, axis, torch.log_softmax)


@op("Dropout", "data ratio training_mode", host="training_mode", reserved=(TRAINING,))
def dropout(node: Node, *, ratio: float = 0.5, seed: int = 0) -> Run:
    """Drops in training mode of the executor only, whatever `training_mode` says.

    The ratio is an attribute before opset 12, an input since. `seed` is not used: the run seeds torch.
    """
    given = node.fixed(1, "ratio")
    share = ratio if given is None else float(given.item())
    if share == 0.0:
        return lambda training, x, *rest: x
    return lambda training, x, *rest: F.dropout(x, share, training)

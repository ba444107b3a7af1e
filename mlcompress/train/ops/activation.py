"""Activation functions with attributes, softmax, dropout."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import DTYPES, FLOAT16, TRAINING, Node, Refusal, Run, op, simple

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
        if node.opset < 7 and slope.dim() == 1:  # of old the slope belonged to the channels
            return F.prelu(x, slope)
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


def _softmax_of_half(x: Tensor, dim: int) -> Tensor:
    """Rounded after every step, as onnx defines it; torch rounds once, which can differ in the last bit."""
    shares = torch.exp(x - x.amax(dim, keepdim=True))
    return shares / shares.sum(dim, keepdim=True)


@op("Softmax", "input")
def softmax(node: Node, *, axis: int | None = None) -> Run:
    return _softmax(node, axis, _softmax_of_half if node.kind(0) == FLOAT16 else torch.softmax)


@op("LogSoftmax", "input")
def log_softmax(node: Node, *, axis: int | None = None) -> Run:
    return _softmax(node, axis, torch.log_softmax)


@op("Dropout", "data ratio training_mode", host="ratio training_mode", reserved=(TRAINING,), extra=1)
def dropout(node: Node, *, ratio: float = 0.5, seed: int = 0) -> Run:
    """Drops in training mode of the executor only, whatever a constant `training_mode` says.

    The ratio is an attribute before opset 12, an input since. `seed` is not used: the run seeds torch.
    The mask says what is kept.
    """
    node.fixed(2, "training_mode")
    known = node.constant(1) if node.has(1) else torch.tensor(ratio)
    kind = None if node.plain else node.kinds.get(node.outputs[1])

    def run(training: bool, x: Tensor, share: float | None = None, mode: Any = None) -> Any:
        chance = ratio if share is None else share
        if node.plain:
            return F.dropout(x, chance, training)
        kept = torch.ones_like(x, dtype=torch.bool)
        if training:
            kept = torch.rand(x.shape, device=x.device) >= chance
            x = x * kept / (1 - chance)
        return x, kept.to(DTYPES[kind or 9])

    if node.plain and known is not None and float(known) == 0.0:
        return lambda training, x, *rest: x
    return run


@op("SwiGLU", "A B")
def swiglu(node: Node, *, alpha: float = 1.0) -> Run:
    """A sigmoid(alpha A) B"""
    return lambda a, b: a * torch.sigmoid(alpha * a) * b

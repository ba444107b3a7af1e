"""Losses that are part of a graph."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mlcompress.train.ops.node import Node, Refusal, Run, op

NEVER = -(2**62)
"""A class that no target has, where `ignore_index` is left out (torch's default is -100)."""


def _checked(reduction: str) -> str:
    if reduction not in ("none", "mean", "sum"):
        raise Refusal(f"attribute reduction={reduction!r}")
    return reduction


def _loss(logs: Tensor, target: Tensor, weight: Tensor | None, reduction: str, ignored: int) -> Tensor:
    """Minus the logarithm of the target's class; the mean is over the weights of what counts.

    logs: [N, C, ...], target: [N, ...].
    """
    counts = target != ignored
    found = torch.where(counts, target, 0).long()
    loss = -logs.gather(1, found.unsqueeze(1)).squeeze(1)
    shares = counts.to(loss.dtype) if weight is None else F.embedding(found, weight[:, None])[..., 0] * counts
    loss = torch.where(counts, loss, 0.0) * shares
    if reduction == "none":
        return loss
    return loss.sum() if reduction == "sum" else loss.sum() / shares.sum()


@op("NegativeLogLikelihoodLoss", "input target weight")
def negative_log_likelihood(node: Node, *, ignore_index: int = NEVER, reduction: str = "mean") -> Run:
    kind = _checked(reduction)
    return lambda x, target, weight=None: _loss(x, target, weight, kind, ignore_index)


@op("SoftmaxCrossEntropyLoss", "scores labels weights", extra=1)
def softmax_cross_entropy(node: Node, *, ignore_index: int = NEVER, reduction: str = "mean") -> Run:
    """The loss, and the logarithms of the probabilities."""
    kind = _checked(reduction)

    def run(x: Tensor, target: Tensor, weight: Tensor | None = None) -> Any:
        logs = F.log_softmax(x, 1)
        loss = _loss(logs, target, weight, kind, ignore_index)
        return loss if node.plain else (loss, logs)

    return run

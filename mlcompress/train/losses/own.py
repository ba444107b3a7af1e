"""Losses that a student's own output teaches to its shallower layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mlcompress.train.losses.contrastive import Dim
from mlcompress.train.losses.entry import losses
from mlcompress.train.losses.logits import Temperature, soft

if TYPE_CHECKING:
    from torch import Tensor


@losses
def byot(
    student_logits: Tensor,
    labels: Tensor | None,
    head_logits: Sequence[Tensor],
    head_features: Sequence[Tensor],
    deepest_features: Tensor | None,
    *,
    alpha: Annotated[
        float, Field(ge=0, le=1, description="share of the output's probabilities; 1 needs no labels")
    ] = 0.1,
    beta: Annotated[float, Field(ge=0, description="of the distance to the features `deepest`")] = 0.07,
    temperature: Temperature = 3.0,
    dim: Dim = 128,
) -> Tensor:
    """Be your own teacher (BYOT, Zhang et al. 2019): a classifier on each tensor of the student that `heads`
    names learns from labels and from the student's own output z: sum over heads of (1 - alpha) * CE(z_i, y) +
    alpha * T^2 * KL(p(z/T) || p(z_i/T)) + beta * mean (F_i - F)^2; classifiers are trained and dropped.

    z_i [B, C] and F_i [B, D] are those of a head (see `adapters.ShallowHead`), F is `deepest` averaged over
    its positions; no gradient flows into z and F. Published: alpha 0.1, T 3, and 1e-6 times the sum over 128
    samples of 512 features, which is 0.07 times their mean. The output itself learns from other losses.
    """
    import torch
    from torch.nn import functional

    target = student_logits.detach()
    total = torch.zeros((), dtype=target.dtype, device=target.device)
    for logits in head_logits:
        if labels is not None:
            total = total + (1 - alpha) * functional.cross_entropy(logits, labels)
        total = total + alpha * soft(logits, target, temperature=temperature)
    if deepest_features is not None:
        for features in head_features:
            total = total + beta * functional.mse_loss(features, deepest_features.detach())
    return total

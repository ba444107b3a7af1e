"""Losses on how the samples of a batch lie to each other: features of any shape and width, no adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mlcompress.train.losses.entry import losses, weighted

if TYPE_CHECKING:
    from torch import Tensor

_SAME = 1e-12
"""Two samples are one when their squared distance is below this part of the mean squared distance; float32
leaves 1e-6 of it to rounding, float64 less than this."""


@losses
@weighted(3000.0)
def similarity(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Similarity preserving (SP, Tung and Mori 2019): squared difference of the Gram matrices F F^T [B, B],
    each row L2-normalised, sum / B^2; weight 3000 by default.
    """
    student, teacher = (_gram(x) for x in (student_features, teacher_features))
    return (student - teacher).square().mean()


def _gram(features: Tensor) -> Tensor:
    from torch.nn import functional

    flat = features.flatten(1)
    return functional.normalize(flat @ flat.T, dim=1)


@losses
def rkd(
    student_features: Tensor,
    teacher_features: Tensor,
    *,
    distance: Annotated[float, Field(ge=0, description="weight of the distances of pairs")] = 25.0,
    angle: Annotated[float, Field(ge=0, description="weight of the angles of triplets")] = 50.0,
) -> Tensor:
    """Relations (RKD, Park et al. 2019): distance * Huber of pair distances over their mean + angle * Huber
    of the cosines at each corner of each triplet; means over B^2 pairs and B^3 triplets.
    """
    from torch.nn import functional

    (student, student_cosines), (teacher, teacher_cosines) = (
        _geometry(x) for x in (student_features, teacher_features)
    )
    of_pairs = functional.smooth_l1_loss(student, teacher)
    return distance * of_pairs + angle * functional.smooth_l1_loss(student_cosines, teacher_cosines)


def _geometry(features: Tensor) -> tuple[Tensor, Tensor]:
    """Distances over their mean [B, B], and cosines [k, i, j] of the angle at k between i and j; 0 where two
    of the three are one sample.

    From inner products, <i - k, j - k> = G_ij - G_ik - G_jk + G_kk, because differences of all pairs take
    B^2 D numbers.
    """
    import torch

    flat = features.flatten(1)
    flat = flat - flat.mean(0)  # near the origin, where differences of inner products lose least
    gram = flat @ flat.T
    own = gram.diagonal()
    squares = (own[:, None] + own[None, :] - 2 * gram).clamp(min=0)
    limit = max(_SAME, 10 * torch.finfo(gram.dtype).eps)
    apart = (squares > limit * squares.mean()) & ~torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    distances = torch.where(apart, squares, 1.0).sqrt()
    inner = gram[None] - gram[:, :, None] - gram[:, None, :] + own[:, None, None]
    cosines = inner / (distances[:, :, None] * distances[:, None, :])
    cosines = torch.where(apart[:, :, None] & apart[:, None, :], cosines, 0.0)
    distances = torch.where(apart, distances, 0.0)
    return distances / (distances.sum() / apart.sum().clamp(min=1)).clamp(min=_SAME), cosines


@losses
@weighted(30000.0)
def pkt(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Probabilistic knowledge transfer (PKT, Passalis and Tefas 2018): p_t log(p_t / p_s), mean over B^2, of
    (1 + cosine) / 2 with each row summing to 1; weight 30000 by default; batches of 32 or more.
    """
    student, teacher = (_neighbours(x) for x in (student_features, teacher_features))
    return (teacher * ((teacher + 1e-7) / (student + 1e-7)).log()).mean()


def _neighbours(features: Tensor) -> Tensor:
    from torch.nn import functional

    unit = functional.normalize(features.flatten(1), dim=1)
    kernel = (unit @ unit.T + 1) / 2
    return kernel / kernel.sum(1, keepdim=True)

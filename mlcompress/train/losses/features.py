"""Losses that compare one value with another: outputs, or tensors inside the two graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from mlcompress.train.losses.entry import losses, weighted

if TYPE_CHECKING:
    from torch import Tensor

_TINY = 1e-12  # of a probability, before its logarithm


@losses
def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference to the teacher's values, mean over all elements; for regression and embeddings."""
    from torch.nn import functional

    return functional.mse_loss(student, teacher)


@losses
def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of the angle between student and teacher, each sample flattened; blind to scale."""
    from torch.nn import functional

    return 1.0 - functional.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1).mean()


@losses
@weighted(100.0)
def hint(adapted: Tensor, target_features: Tensor, mask: Tensor | None) -> Tensor:
    """Squared difference of features, mean over all elements, after an adapter of the student's where widths
    differ (FitNets, Romero et al. 2015): convolution maps, vectors, hidden states; weight 100 by default.

    [B, C, H, W] have a 1x1 convolution, larger maps are pooled to the smaller; [B, N] and [B, T, D] a linear
    layer. With a mask [B, T] the mean is over tokens that are no padding.
    """
    difference = (adapted - target_features).square()
    if mask is None:
        return difference.mean()
    return difference[mask].mean()


@losses
@weighted(1000.0)
def attention(student_features: Tensor, teacher_features: Tensor) -> Tensor:
    """Attention transfer (Zagoruyko and Komodakis 2017): mean squared difference of the maps mean_c F^2,
    flattened and L2-normalised, of F [B, C, H, W]; larger features are pooled to the smaller; weight 1000
    by default.
    """
    from torch.nn import functional

    from mlcompress.train.adapters import pooled

    student, teacher = (
        functional.normalize(x.square().mean(1).flatten(1))
        for x in pooled(student_features, teacher_features)
    )
    return (student - teacher).square().mean()


@losses
def self_attention(
    student_features: Tensor,
    teacher_features: Tensor,
    mask: Tensor | None,
    *,
    divergence: Annotated[
        Literal["kl", "mse"], Field(description="kl: of probabilities, after Softmax; mse: of any scores")
    ] = "kl",
) -> Tensor:
    """Attention maps [B, heads, T, T] of transformers, mean over samples, heads and queries: KL of the
    teacher's rows to the student's (MiniLM, Wang et al. 2020) or squared difference (TinyBERT, Jiao et al.
    2020); the mean over heads is compared where their numbers differ.

    With a mask [B, T] padding counts neither as query nor as key.
    """
    import torch

    if student_features.shape[1] != teacher_features.shape[1]:
        student_features, teacher_features = (
            x.mean(1, keepdim=True) for x in (student_features, teacher_features)
        )
    valid = torch.ones_like(student_features, dtype=torch.bool)
    if mask is not None:
        valid = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(student_features)
    if divergence == "mse":
        return (student_features - teacher_features).square()[valid].mean()
    logs = teacher_features.clamp(min=_TINY).log() - student_features.clamp(min=_TINY).log()
    return (teacher_features * logs * valid).sum() / valid.any(-1).sum()


@losses
def simkd(student: Tensor, teacher: Tensor) -> Tensor:
    """SimKD (Chen et al. 2022): squared difference to the teacher's features behind a projector in the
    student's graph, mean over all elements; the teacher's own head follows it, frozen.

    Projector (1x1, 3x3, 1x1 convolutions; a linear layer for vectors) and head are exported: the student
    grows, and the card says by how much.
    """
    from torch.nn import functional

    return functional.mse_loss(student, teacher)

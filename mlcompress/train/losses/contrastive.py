"""Losses that tell a sample's own teacher embedding from those of other samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mlcompress.train.losses.entry import losses, weighted

if TYPE_CHECKING:
    from torch import Tensor

    from mlcompress.train.memory import MemoryBank

Temperature = Annotated[float, Field(gt=0, description="divides the cosines")]
Dim = Annotated[int, Field(ge=1, description="width of both projections, which are trained, not exported")]


@losses
def contrastive(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    *,
    temperature: Temperature = 0.07,
    dim: Dim = 128,
) -> Tensor:
    """InfoNCE within the batch (van den Oord et al. 2018; CRD's form without a memory): cross-entropy of
    cos(s_i, t_j) / T over j with class i, of projected embeddings; no labels.
    """
    import torch
    from torch.nn import functional

    student, teacher = (functional.normalize(x, dim=1) for x in (student_embedding, teacher_embedding))
    own = torch.arange(len(student), device=student.device)
    return functional.cross_entropy(student @ teacher.T / temperature, own)


@losses
@weighted(0.8)
def crd(
    student_embedding: Tensor,
    teacher_embedding: Tensor,
    bank: MemoryBank,
    ids: Tensor,
    *,
    temperature: Temperature = 0.07,
    dim: Dim = 128,
    negatives: Annotated[
        int, Field(ge=1, description="other samples for each, drawn from the memory")
    ] = 16384,
    momentum: Annotated[float, Field(ge=0, lt=1, description="of the remembered embeddings")] = 0.5,
) -> Tensor:
    """Contrastive representation distillation (CRD, Tian et al. 2020): noise-contrastive estimation of
    `negatives` remembered embeddings of other samples, student against teacher and teacher against student;
    weight 0.8 by default; no labels.

    Per sample and side, with u = exp(cos / T) / Z, m = negatives and N samples:
    -log(u_0 / (u_0 + m / N)) - sum_k log((m / N) / (u_k + m / N)). Z = N * mean of the first batch's exp.
    """
    from torch.nn import functional

    student, teacher = (functional.normalize(x, dim=1) for x in (student_embedding, teacher_embedding))
    scores = bank.scores(student, teacher, ids, temperature=temperature, negatives=negatives)
    bank.remember(student, teacher, ids, momentum=momentum)
    own, other = (_nce(side, negatives / bank.samples) for side in scores)
    return own + other


def _nce(scores: Tensor, noise: float) -> Tensor:
    """[B, 1 + m], the positive first; `noise` = m / N."""
    positive = (scores[:, 0] / (scores[:, 0] + noise)).log()
    negative = (noise / (scores[:, 1:] + noise)).log().sum(1)
    return -(positive + negative).mean()

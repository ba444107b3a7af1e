"""Losses on class scores [B, C]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mlcompress.train.losses.entry import losses, weighted

if TYPE_CHECKING:
    from torch import Tensor

Temperature = Annotated[
    float, Field(gt=0, description="divides the logits: higher looks more at the small probabilities")
]
Share = Annotated[float, Field(ge=0)]


Confidence = Annotated[
    float,
    Field(ge=0, lt=1, description="samples whose largest probability (T 1) the teacher puts below count 0"),
]


@losses
def soft(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: Temperature = 4.0,
    confidence: Confidence = 0.0,
) -> Tensor:
    """The teacher's softened class probabilities (Hinton et al. 2015): T^2 * KL(p(t/T) || p(s/T)).

    T^2 keeps the size of the gradient about the same for every T. With `confidence` the mean is still over
    the whole batch, so that a batch of which few samples count weighs little (FixMatch, Sohn et al. 2020).
    """
    from torch.nn import functional

    student = functional.log_softmax(student_logits / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits / temperature, dim=1)
    if confidence == 0:
        return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
    each = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
    return (each * _is_sure(teacher_logits, confidence)).mean() * temperature**2


@losses
def pseudo(student_logits: Tensor, teacher_logits: Tensor, *, confidence: Confidence = 0.0) -> Tensor:
    """Cross-entropy with the teacher's most likely class in place of a label (Lee 2013): -log p_y of the
    student, y = argmax t.

    With `confidence` as FixMatch (Sohn et al. 2020): a mean over the whole batch, in which unsure samples are
    0. For unlabelled data; with labels `hard` is better.
    """
    from torch.nn import functional

    each = functional.cross_entropy(student_logits, teacher_logits.argmax(1), reduction="none")
    return (each * _is_sure(teacher_logits, confidence)).mean()


def _is_sure(teacher_logits: Tensor, confidence: float) -> Tensor:
    """[B], 1 where the teacher's largest probability is `confidence` or more, else 0."""
    largest = teacher_logits.softmax(1).amax(1)
    return (largest >= confidence).to(teacher_logits.dtype)


@losses
def hard(
    student_logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of the target spread over all classes")
    ] = 0.0,
) -> Tensor:
    """Cross-entropy with labels: -sum_c q_c log p_c, q = (1 - e) * label + e / C (Szegedy et al. 2016)."""
    from torch.nn import functional

    return functional.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)


@losses
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    *,
    temperature: Temperature = 4.0,
    alpha: Annotated[Share, Field(description="of the target class against the rest")] = 1.0,
    beta: Annotated[Share, Field(description="of the other classes among themselves")] = 8.0,
) -> Tensor:
    """KD in two parts (DKD, Zhao et al. 2022): T^2 * (alpha * TCKD + beta * NCKD), with TCKD the KL of
    [p_y, 1 - p_y] and NCKD the KL of softmax over the classes but y; three classes or more.

    Per sample KL = TCKD + (1 - p_y of the teacher) * NCKD. The gradient is large at first: fresh weights want
    a warm-up, such as `weight: {from: 0, to: 1, epochs: 20}` of 240.
    """
    from torch.nn import functional

    (own, own_rest), (other, other_rest) = (
        _decoupled(logits / temperature, target) for logits in (student_logits, teacher_logits)
    )
    of_target = functional.kl_div(own, other, reduction="batchmean", log_target=True)
    of_others = functional.kl_div(own_rest, other_rest, reduction="batchmean", log_target=True)
    return (alpha * of_target + beta * of_others) * temperature**2


def _decoupled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """log [p_y, 1 - p_y], [B, 2], and log softmax over the classes but y, [B, C - 1]."""
    import torch
    from torch.nn import functional

    samples, classes = logits.shape
    is_target = functional.one_hot(target, classes).bool()
    rest = logits[~is_target].reshape(samples, classes - 1)
    parts = torch.stack([logits[is_target], rest.logsumexp(1)], dim=1)
    return functional.log_softmax(parts, dim=1), functional.log_softmax(rest, dim=1)


@losses
@weighted(9.0)
def logit_std(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Temperature = 2.0) -> Tensor:
    """`soft` on standardised logits, (z - mean) / std of each sample (Sun et al. 2024): blind to shift and
    scale; weight 9 by default, and sensitive to it and to T.
    """
    student, teacher = _standardised(student_logits), _standardised(teacher_logits)
    value: Tensor = soft(student, teacher, temperature=temperature)
    return value


def _standardised(logits: Tensor) -> Tensor:
    return (logits - logits.mean(1, keepdim=True)) / (logits.std(1, keepdim=True) + 1e-7)


@losses
def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: Temperature = 1.0,
    beta: Annotated[Share, Field(description="of each sample's classes")] = 1.0,
    gamma: Annotated[Share, Field(description="of each class over the batch")] = 1.0,
) -> Tensor:
    """Correlation with the teacher's probabilities (DIST, Huang et al. 2022): T^2 * (beta * (1 - Pearson over
    rows) + gamma * (1 - Pearson over columns)) of softmax(z / T); batches of 32 or more.
    """
    student, teacher = ((logits / temperature).softmax(1) for logits in (student_logits, teacher_logits))
    of_rows, of_columns = 1 - _pearson(student, teacher), 1 - _pearson(student.T, teacher.T)
    return (beta * of_rows + gamma * of_columns) * temperature**2


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    """Correlation of the rows, mean over them."""
    from torch.nn import functional

    one, other = (x - x.mean(1, keepdim=True) for x in (one, other))
    return functional.cosine_similarity(one, other, dim=1, eps=1e-8).mean()

"""What several teachers say to one loss, as one answer.

Probabilities are averaged, not logits: a mean of logits is a geometric mean of the distributions, in which
the teacher with the largest scale speaks loudest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from mlcompress.errors import ModelError
from mlcompress.train.batches import TorchBatch
from mlcompress.train.labels import distribution

Combine = Literal["mean", "weighted", "confidence", "learned"]


@dataclass(frozen=True)
class Source:
    """Where one teacher's answer is found, and how its classes are ordered."""

    key: str
    file: str
    columns: tuple[int, ...] = ()
    """The teacher's class for each of the student's; () where they are the same."""


@dataclass(frozen=True)
class Panel:
    """Call it with the teachers' values by key and the batch; it gives one tensor of the shape of each.

    Class scores [B, C] at temperature T become T * log(sum_k w_k softmax(t_k / T)), whose softmax at T is the
    weighted mean of the probabilities. Values that are no class scores become sum_k w_k v_k.
    """

    sources: tuple[Source, ...]
    where: str
    temperature: float | None = None
    """That the loss divides class scores by; None for values that are none."""
    weights: tuple[float, ...] | None = None
    """One for each source, sum 1; None: those of `confidence`."""

    @property
    def is_confident(self) -> bool:
        """Whether each sample weighs the teachers by itself."""
        return self.weights is None and len(self.sources) > 1

    def __call__(self, taught: Mapping[str, Tensor], batch: TorchBatch) -> Tensor:
        """Raises ModelError where the teachers' answers differ in shape."""
        answers = self.answers(taught)
        if len(answers) == 1:
            return answers[0]
        stacked = torch.stack(answers)
        if self.weights is None:
            weights = confidence(stacked, self._labels(batch, stacked.shape[-1]))
        else:
            weights = stacked.new_tensor(self.weights)
        weights = weights.reshape(*weights.shape, *[1] * (stacked.ndim - weights.ndim))
        if self.temperature is None:
            return (weights * stacked).sum(0)
        logs = functional.log_softmax(stacked / self.temperature, dim=-1)
        return self.temperature * torch.logsumexp(logs + weights.log(), dim=0)

    def answers(self, taught: Mapping[str, Tensor]) -> list[Tensor]:
        """Of each source, its classes in the student's order. Raises as a call does."""
        answers = [_ordered(taught[source.key].float(), source.columns) for source in self.sources]
        self._check(answers)
        return answers

    def _labels(self, batch: TorchBatch, classes: int) -> Tensor | None:
        labels = batch.labels
        if labels is None or labels.is_floating_point() or labels.ndim != 1:
            return None
        return distribution(batch, classes, self.where)

    def _check(self, answers: Sequence[Tensor]) -> None:
        first = self.sources[0]
        for source, answer in zip(self.sources, answers, strict=True):
            if answer.shape != answers[0].shape:
                raise ModelError(
                    f"{self.where}: {source.file} answers {list(answer.shape)}, {first.file}"
                    f" {list(answers[0].shape)}; map its classes in `distill.teachers.each`"
                )


def confidence(logits: Tensor, labels: Tensor | None) -> Tensor:
    """[K, B]: w_k = (1 - softmax_k(CE_k)) / (K - 1), K teachers, each sample by itself (CA-MKD, Zhang et al.
    2022); the entropy of the teacher takes the place of its cross-entropy CE_k where there are no labels.

    logits [K, B, C], labels int64 [B] or class probabilities [B, C].
    """
    if labels is None:
        logs = functional.log_softmax(logits, dim=2)
        doubt = -(logs.exp() * logs).sum(2)
    else:
        doubt = torch.stack([functional.cross_entropy(one, labels, reduction="none") for one in logits])
    return (1 - doubt.softmax(0)) / (len(logits) - 1)


def _ordered(value: Tensor, columns: tuple[int, ...]) -> Tensor:
    return value[:, torch.tensor(columns, device=value.device)] if columns else value

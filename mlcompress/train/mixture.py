"""Weights of several teachers from labels: the mixture of their probabilities that explains the labels best.

A linear opinion pool (Genest and Zidek 1986) whose weights have the largest likelihood. They are found before
training, from the teachers' answers alone: weights trained along with the student would move to the teacher
that it can copy most easily.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch.nn import functional

from mlcompress.context import Context
from mlcompress.data.dataset import Dataset
from mlcompress.errors import DataError, RecipeError
from mlcompress.train.batches import to_torch
from mlcompress.train.ensemble import Ensemble
from mlcompress.train.labels import distribution
from mlcompress.train.losses import LossEntry
from mlcompress.train.panel import Panel, Source
from mlcompress.train.terms import check_logits

_BATCH = 256
_GAP = 1e-6
"""Nats: how far the mean log-likelihood may be from the largest possible."""
_STEPS = 100_000
_WHERE = "distill.teachers.combine: learned"


@dataclass(frozen=True)
class Fitted:
    """An ensemble with its weights, and what the card says of them."""

    ensemble: Ensemble
    facts: dict[str, Any]


def mixture_weights(likelihoods: NDArray[np.float64]) -> NDArray[np.float64]:
    """[K], sum 1: w that maximises mean_n log sum_k w_k p_k(y_n), for log p_k(y_n) [K, N].

    Expectation-maximisation from equal weights, w_k <- mean_n w_k p_k(y_n) / sum_j w_j p_j(y_n) (Dempster et
    al. 1977): no step lowers the likelihood, which is concave in w, so there is no other maximum to end in.
    With g_k = mean_n p_k(y_n) / sum_j w_j p_j(y_n) the maximum is at most log(max_k g_k) above: it stops at
    1e-6. Samples of which every p_k is 0 are left out.

    Raises:
        DataError: no sample is left, or the weights have not settled after 100,000 steps.
    """
    likelihoods = _possible(likelihoods)
    ratios = np.exp(likelihoods - likelihoods.max(axis=0))  # a factor of each sample, which w does not see
    weights: NDArray[np.float64] = np.full(len(ratios), 1 / len(ratios))
    for _ in range(_STEPS):
        gains = (ratios / (weights @ ratios)).mean(axis=1)
        if np.log(gains.max()) < _GAP:
            return weights
        weights = weights * gains  # sums to 1 again
    told = ", ".join(f"{weight:.4g}" for weight in weights)
    raise DataError(
        f"{_WHERE}: not settled after {_STEPS} steps, at [{told}]; give weights with `combine: weighted`"
    )


def _possible(likelihoods: NDArray[np.float64]) -> NDArray[np.float64]:
    """Without the samples of which every p_k is 0: their likelihood is 0 for every w."""
    kept = likelihoods[:, likelihoods.max(axis=0) > -np.inf]
    if not kept.size:
        raise DataError(f"{_WHERE}: no teacher gives any label a probability above 0; check the labels")
    return kept


def learn_weights(
    ensemble: Ensemble, losses: Sequence[LossEntry], student: ir.Model, context: Context, threads: int
) -> Fitted:
    """Find the weights that each of `losses` gives the teachers it asks, where `combine` is `learned`.

    They come from the labels of the validation data, which teachers that were trained on the training data
    have not seen; where it has none from those of the training data. Probabilities are those at temperature
    1. Losses that ask the same outputs share weights.

    Raises:
        DataError: neither has class numbers, or a teacher gives NaN.
        RecipeError: every loss asks one teacher. UnsupportedError: outputs that are no class scores. Others
            as `Ensemble.resolve`.
    """
    panels = _panels(ensemble, losses, student)
    held, data, name = _labelled(ensemble, context)
    rows, found = [], dict[tuple[Source, ...], tuple[float, ...]]()
    for sources, panel in panels.items():
        likelihoods = _possible(_likelihoods(held, panel, data, threads))
        weights = mixture_weights(likelihoods)
        found[sources] = tuple(float(weight) for weight in weights)
        rows.append(
            {
                "teachers": [source.file for source in sources],
                "outputs": [source.key.partition(":")[2] for source in sources],
                "weights": list(found[sources]),
                "left_out": len(data) - likelihoods.shape[1],
                "cross_entropy": {
                    "each": [float(-one.mean()) if np.isfinite(one).all() else None for one in likelihoods],
                    "equal": _cross_entropy(likelihoods, np.full(len(weights), 1 / len(weights))),
                    "learned": _cross_entropy(likelihoods, weights),
                },
            }
        )
    facts = {"learned": rows, "learned_on": {"data": name, "samples": len(data)}}
    return Fitted(replace(ensemble, learned=found), facts)


def check_learned(
    ensemble: Ensemble, losses: Sequence[LossEntry], student: ir.Model, context: Context, threads: int
) -> None:
    """Raise what `learn_weights` would, as far as two samples show it."""
    held, data, _ = _labelled(ensemble, context)
    first = data.subset(np.arange(min(2, len(data))))
    for panel in _panels(ensemble, losses, student).values():
        _likelihoods(held, panel, first, threads)


def _panels(
    ensemble: Ensemble, losses: Sequence[LossEntry], student: ir.Model
) -> dict[tuple[Source, ...], Panel]:
    """The losses that ask several teachers, one for each set of outputs."""
    panels: dict[tuple[Source, ...], Panel] = {}
    for number, entry in enumerate(losses):
        panel = ensemble.resolve(entry, student, f"distill.losses[{number}] ({entry.name})").panel
        if panel is not None and len(panel.sources) > 1:
            panels.setdefault(panel.sources, panel)
    if not panels:
        raise RecipeError(
            f"{_WHERE}: every loss asks one teacher; leave `combine` out, or name more `teachers`"
        )
    return panels


def _labelled(ensemble: Ensemble, context: Context) -> tuple[Ensemble, Dataset, str]:
    """The teachers on samples with labels, these samples, and their name."""
    own = [one for one in ensemble.teachers if one.train is not None]
    validation, train = context.validation, context.train
    if validation is not None and validation.has_classes and all(one.validation for one in own):
        held = tuple(replace(one, train=one.validation) for one in ensemble.teachers)
        return replace(ensemble, teachers=held), validation, "data.validation"
    if train is not None and train.has_classes:
        return ensemble, train, "data.train"
    raise DataError(f"{_WHERE} needs class numbers, and no samples have them")


def _likelihoods(ensemble: Ensemble, panel: Panel, data: Dataset, threads: int) -> NDArray[np.float64]:
    """log p_k(y_n) [K, N] of the panel's teachers."""
    running = ensemble.start([source.key for source in panel.sources], threads=threads)
    columns = []
    for one in data.batches(_BATCH):
        batch = to_torch(one)
        answers = panel.answers(running(batch))
        check_logits(answers[0], panel.sources[0].file, panel.where)
        labels = distribution(batch, answers[0].shape[1], panel.where)
        logs = functional.log_softmax(torch.stack(answers).double(), dim=2)
        columns.append(logs[:, torch.arange(len(labels)), labels].numpy())
    likelihoods: NDArray[np.float64] = np.concatenate(columns, axis=1)
    for source, one in zip(panel.sources, likelihoods, strict=True):
        if np.isnan(one).any():
            raise DataError(
                f"{_WHERE}: {source.file} gives NaN on {np.isnan(one).sum()} of {one.size} samples;"
                " mend or leave out this teacher"
            )
    return likelihoods


def _cross_entropy(likelihoods: NDArray[np.float64], weights: NDArray[np.float64]) -> float:
    highest = likelihoods.max(axis=0)
    return float(-(highest + np.log(weights @ np.exp(likelihoods - highest))).mean())

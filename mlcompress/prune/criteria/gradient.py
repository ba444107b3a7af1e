"""Criteria that look at how the loss answers to the weights. L is the cross-entropy to the labels, else to
the original's classes; docs/prune.md says more."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlcompress.prune.criteria.group import Samples, Scores, Slices, criteria, mean


@criteria
def gradient(gradients: Slices, *, samples: Samples = 512) -> Scores:
    """sum |dL/dw| over the unit, mean over the tensors and over batches: what the loss is steep in (Mozer
    and Smolensky, "Skeletonization", 1989)."""
    return mean([part.sum(axis=1) for part in gradients])


@criteria
def taylor(squared_products: Slices, *, samples: Samples = 512) -> Scores:
    """(sum of w dL/dw over the unit)^2, mean over the tensors and over batches: the squared change of the
    loss to first order when the unit goes (Molchanov et al., "Importance Estimation", 2019)."""
    return mean([np.asarray(part) for part in squared_products])


@criteria
def fisher(slices: Slices, squared_gradients: Slices, *, samples: Samples = 256) -> Scores:
    """1/2 sum of w^2 E[(dL/dw)^2] over the unit, E over single samples, mean over the tensors: the change of
    the loss to second order with the diagonal of the Fisher information (LeCun et al. 1990; Theis et al.,
    "Faster gaze prediction", 2018)."""
    pairs = zip(slices, squared_gradients, strict=True)
    return mean([(np.square(part) * squares).sum(axis=1) / 2 for part, squares in pairs])


@criteria
def snip(slices: Slices, gradients: Slices, *, samples: Samples = 512) -> Scores:
    """sum |w dL/dw| over the unit, mean over the tensors and over batches (Lee et al., "SNIP", 2019)."""
    pairs = zip(slices, gradients, strict=True)
    return mean([(np.abs(part) * steep).sum(axis=1) for part, steep in pairs])


@criteria
def movement(
    movements: Slices,
    *,
    share: Annotated[float, Field(gt=0, lt=1, description="of the epochs, before the first cut")] = 0.5,
) -> Scores:
    """-sum over training steps of w dL/dw, summed over the unit, mean over the tensors: what training moves
    away from zero stays (Sanh et al., "Movement Pruning", 2020). Needs `finetune`; what is gone stays
    gone."""
    return mean([part.sum(axis=1) for part in movements])

"""Criteria that look at what the next layer reads. Of a single weight: |w| times the score of its input."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlcompress.prune.criteria.group import Array, Samples, Scores, criteria
from mlcompress.prune.criteria.magnitude import entropy_of


@criteria
def activation(mean_activation: Array, *, samples: Samples = 512) -> Scores:
    """Mean |a| of the unit over samples and positions (Molchanov et al., "Pruning Convolutional Neural
    Networks", 2017)."""
    return np.asarray(mean_activation)


@criteria
def apoz(active_share: Array, *, samples: Samples = 512) -> Scores:
    """1 - the average percentage of zeros of the unit's activation (Hu et al., "Network Trimming", 2016)."""
    return np.asarray(active_share)


@criteria
def entropy(
    pooled: Array,
    *,
    samples: Samples = 512,
    bins: Annotated[int, Field(ge=2, le=4096, description="of the histogram over a unit's range")] = 32,
) -> Scores:
    """-sum p log2 p over the histogram of the unit's activation, pooled over positions, one number a sample
    (Luo and Wu, "An Entropy-based Pruning Method", 2017): what hardly varies goes."""
    low, high = pooled.min(axis=0), pooled.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    places = np.minimum((pooled - low) / spread * bins, bins - 1).astype(np.int64)
    return entropy_of(places.T, bins)

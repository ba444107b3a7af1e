"""The criterion that knows nothing."""

import numpy as np

from mlcompress.prune.criteria.group import Scores, criteria


@criteria
def random(units: int, rng: np.random.Generator) -> Scores:
    """A seeded draw from [0, 1): the baseline that every criterion should beat."""
    return rng.random(units)

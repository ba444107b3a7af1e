"""How much a residual block matters: the samples at its two ends in, one number per sample out.

Adding a score is adding one function here.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlcompress.registry import Registry

layer_scores = Registry("layer score")

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Flow:
    """Samples at the two ends of a block, `[samples, elements]`: x and x + f(x)."""

    entry: Array
    exit: Array


@layer_scores
def influence(flow: Flow) -> Array:
    """1 - cos(x, x + f(x)) of each sample: block influence (Men et al., "ShortGPT", 2024), over all elements
    of a sample instead of each token's."""
    lengths = np.linalg.norm(flow.entry, axis=1) * np.linalg.norm(flow.exit, axis=1)
    return np.asarray(1 - (flow.entry * flow.exit).sum(axis=1) / np.maximum(lengths, 1e-30))


@layer_scores
def change(flow: Flow) -> Array:
    """|f(x)| / |x + f(x)| of each sample: how much of what comes out the branch has added (as the relative
    change in Gromov et al., "The Unreasonable Ineffectiveness of the Deeper Layers", 2024, with norms)."""
    added = np.linalg.norm(flow.exit - flow.entry, axis=1)
    return np.asarray(added / np.maximum(np.linalg.norm(flow.exit, axis=1), 1e-30))

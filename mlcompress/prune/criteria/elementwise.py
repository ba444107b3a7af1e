"""Criteria that weigh a layer's weights by what they multiply."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlcompress.prune.criteria.group import Array, Samples, Scores, Slices, criteria, mean
from mlcompress.prune.criteria.reconstruction import damped


@criteria
def wanda(readers: Slices, input_norms: Slices, *, samples: Samples = 128) -> Scores:
    """|w_ij| * sqrt(mean x_j^2), ranked in each output row (Sun et al., "Wanda", 2023). Of a channel: the
    norm of |w| |x| over the weights that read it."""
    pairs = zip(readers, input_norms, strict=True)
    return mean([np.sqrt(np.square(part * norms).sum(axis=1)) for part, norms in pairs])


@criteria
def sparsegpt(
    weight: Array,
    second: Array,
    *,
    samples: Samples = 128,
    damping: Annotated[float, Field(gt=0, le=1, description="of the mean second moment")] = 0.01,
    block: Annotated[
        int, Field(ge=1, le=4096, description="columns of which the lowest are chosen together")
    ] = 128,
) -> Scores:
    """(w_ij / U_jj)^2, U the upper Cholesky factor of H^-1, H = E[x x'] + damping; the weights that stay then
    make up for those that go, column by column (Frantar and Alistarh, "SparseGPT", 2023). Single weights
    only.

    `weight` [N, K] and `second` [K, K] give [N, K]; prune/obs.py has the update.
    """
    return np.asarray(np.square(weight / np.diag(upper_factor(second, damping))))


def upper_factor(second: Array, damping: float) -> Array:
    """Upper triangular U with U' U = H^-1. Inputs that are always zero get H_jj = 1."""
    ready = second.astype(np.float64)
    dead = np.diag(ready) == 0
    ready = damped(ready, damping)
    ready[dead, dead] = 1.0
    # H = R R' with R upper, from the Cholesky factor of H turned around; then U = R^-1.
    upper = np.linalg.cholesky(ready[::-1, ::-1])[::-1, ::-1]
    return np.asarray(np.triu(np.linalg.inv(upper)))

"""Criteria that look at the weights alone."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlcompress.prune.criteria.group import Array, Scores, Slices, criteria, mean


@criteria
def l2(slices: Slices) -> Scores:
    """Mean over the tensors of the unit's L2 norm: sqrt(sum w^2), producers and consumers alike.

    The group form of magnitude pruning (Fang et al., "DepGraph", 2023), with the root taken.
    """
    return mean([np.sqrt(np.square(part).sum(axis=1)) for part in slices])


@criteria
def l1(slices: Slices) -> Scores:
    """Mean over the tensors of the unit's L1 norm: sum |w|, producers and consumers alike.

    The group form of Li et al., "Pruning Filters for Efficient ConvNets", 2017.
    """
    return mean([np.abs(part).sum(axis=1) for part in slices])


@criteria
def l2_first(producers: Slices) -> Scores:
    """L2 norm of the weights that produce the unit: sqrt(sum w^2) (He et al., "Soft Filter Pruning",
    2018)."""
    return mean([np.sqrt(np.square(part).sum(axis=1)) for part in producers])


@criteria
def l1_first(producers: Slices) -> Scores:
    """L1 norm of the weights that produce the unit: sum |w| (Li et al., "Pruning Filters", 2017)."""
    return mean([np.abs(part).sum(axis=1) for part in producers])


@criteria
def lamp(slices: Slices) -> Scores:
    """m_u^2 / sum of m_v^2 over the units v of the family with m_v >= m_u, m the L2 norm (Lee et al.,
    "Layer-Adaptive Sparsity for the Magnitude-based Pruning", 2021): ranked over all layers as it is."""
    squares: Scores = np.square(l2(slices))
    order = np.argsort(squares, kind="stable")
    beyond = np.cumsum(squares[order][::-1])[::-1]
    scores: Scores = np.empty(len(squares))
    scores[order] = squares[order] / np.maximum(beyond, np.finfo(float).tiny)
    return scores


@criteria
def bn_scale(scales: Slices) -> Scores:
    """Mean |gamma| of the batch norms on the unit (Liu et al., "Network Slimming", 2017). Channels only."""
    return mean([np.abs(part).mean(axis=1) for part in scales])


@criteria
def fpgm(producers: Slices) -> Scores:
    """Sum over the family of the distances |w_u - w_v| between the filters that make the units: what lies
    near the geometric median can be replaced by the others (He et al., "FPGM", 2019). Channels only."""
    filters = np.concatenate([part.reshape(len(part), -1) for part in producers], axis=1)
    sizes = np.square(filters).sum(axis=1)
    squares = sizes[:, None] + sizes[None] - 2 * filters @ filters.T
    np.fill_diagonal(squares, 0)
    total: Scores = np.sqrt(np.maximum(squares, 0)).sum(axis=1)
    return total


@criteria
def weight_entropy(
    slices: Slices,
    *,
    bins: Annotated[int, Field(ge=2, le=4096, description="of the histogram over a tensor's range")] = 32,
) -> Scores:
    """-sum p log2 p over the histogram of the unit's weights (Shannon 1948), mean over the tensors; of a
    single weight -log2 p of its bin: what is common tells least."""
    return mean([_surprise(part, bins) for part in slices])


def _surprise(part: Array, bins: int) -> Scores:
    low, high = part.min(), part.max()
    places = np.minimum((part - low) / ((high - low) or 1.0) * bins, bins - 1).astype(np.int64)
    if part.shape[1] == 1:
        share = np.bincount(places[:, 0], minlength=bins) / len(part)
        return np.asarray(-np.log2(share[places[:, 0]]))
    return entropy_of(places, bins)


def entropy_of(places: Array, bins: int) -> Scores:
    """Bits of the histogram of each row of bin numbers, [units, k] -> [units]."""
    counts = np.zeros((len(places), bins))
    np.add.at(counts, (np.arange(len(places))[:, None], places), 1)
    share = counts / places.shape[1]
    return np.asarray(-(share * np.log2(np.where(share > 0, share, 1))).sum(axis=1))

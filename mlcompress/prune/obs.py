"""Single weights go, and those that stay make up for them: the column sweep of SparseGPT.

Row by row the error of a layer is (w - v) H (w - v)', H the second moments of its inputs. Columns are fixed
from the left; what a column loses, those on its right take over at once, which is optimal while they are free
(Frantar and Alistarh 2023; for one weight the update of Hassibi and Stork, "Optimal Brain Surgeon", 1993).
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from mlcompress.prune.masks import highest, n_of_m

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Chooser = Callable[[Array, slice], Mask]
"""(scores of some columns, which columns) -> True where a weight stays."""


def sweep(rows: Array, factor: Array, choose: Chooser, chunk: int) -> tuple[Array, Mask]:
    """Weights [N, K] with zeros, and where they stay.

    Args:
        factor: upper triangular U [K, K] with U' U = H^-1.
        choose: asked for each `chunk` columns, when all before them are final.
    """
    left, kept, width = rows.copy(), np.ones(rows.shape, bool), rows.shape[1]
    for first in range(0, width, chunk):
        last = min(first + chunk, width)
        at = slice(first, last)
        kept[:, at] = choose(np.square(left[:, at] / np.diag(factor)[at]), at)
        errors = np.empty((len(rows), last - first))
        for i in range(first, last):
            stays = np.where(kept[:, i], left[:, i], 0.0)
            error = (left[:, i] - stays) / factor[i, i]
            left[:, i:last] -= error[:, None] * factor[i, i:last]
            left[:, i] = stays
            errors[:, i - first] = error
        left[:, last:] -= errors @ factor[at, last:]
    return left, kept


def sharing(ratio: float) -> Chooser:
    """The lowest share of each chunk goes."""

    return lambda scores, at: highest(scores, ratio)


def pattern(n: int, m: int) -> Chooser:
    """`n` of `m` successive columns stay in each row; the chunk is a multiple of m."""
    return lambda scores, at: n_of_m(scores, n, m)


def given(mask: Mask) -> Chooser:
    """What was chosen before."""
    return lambda scores, at: mask[:, at]

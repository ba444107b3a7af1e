"""What a layer reads, as first and second moments: all that fitting its weights needs, whatever the data
set's size.

With weights V instead of W, a layer that reads Y errs by |(W - V) Y|^2 = tr((W - V) Y Y' (W - V)'): Y Y',
K x K and summed over the samples, stands for all activations.
"""

import numpy as np

Array = np.ndarray
_LEAST_SPREAD = 1e-3


class Gram:
    """Sums over positions of one layer's columns: float X and quantised Y, [G, K, M] in each update."""

    def __init__(self) -> None:
        self.count = 0
        self._first: Array | float = 0.0
        self._second: Array | float = 0.0
        self._clean: list[Array] = []
        self._noisy: list[Array] = []

    def update(self, clean: Array, noisy: Array, samples: int = 1) -> None:
        """Add one batch: what the float model reads, and what the quantised one does, at the same positions.

        `samples`: into how many the positions divide, in equal runs.
        """
        groups, inputs, positions = noisy.shape
        self.count += positions
        self._first = self._first + noisy.sum(axis=2, dtype=np.float64)
        self._second = self._second + (noisy @ noisy.transpose(0, 2, 1)).astype(np.float64)
        parts = samples if positions % samples == 0 else 1
        for kept, columns in ((self._clean, clean), (self._noisy, noisy)):
            shape = (groups, inputs, parts, positions // parts)
            kept.append(columns.reshape(shape).mean(axis=3, dtype=np.float64).transpose(2, 0, 1))

    def means(self) -> tuple[Array, Array]:
        """Mean columns of X and of Y for each sample, float64 [samples, G, K]."""
        return np.concatenate(self._clean), np.concatenate(self._noisy)

    def hessian(self, *, centred: bool, damping: float) -> Array:
        """Y Y' / M + d I, float64 [G, K, K], positive definite; d is `damping` of the diagonal's mean.

        `centred`: without the share of the means, which a corrected bias takes up. Where next to nothing is
        left then (one sample, or all alike) d is `damping` of a thousandth of what was there: the rest is
        rounding of float32 sums, of either sign.
        """
        second = np.asarray(self._second) / self.count
        size = _mean_of_diagonal(second)
        if centred:
            mean = np.asarray(self._first) / self.count
            second = second - mean[:, :, None] * mean[:, None, :]
            size = np.maximum(_mean_of_diagonal(second), _LEAST_SPREAD * size)
        added = np.where(size > 0, damping * size, 1.0)
        return np.asarray(second + added[:, None, None] * np.eye(second.shape[1]))


def _mean_of_diagonal(second: Array) -> Array:
    """Of each group."""
    return np.asarray(np.einsum("gkk->g", second) / second.shape[1])

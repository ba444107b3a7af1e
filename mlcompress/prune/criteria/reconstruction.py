"""Criteria that ask what a layer's output loses when the rest is fitted anew."""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlcompress.prune.criteria.group import Array, Layer, Samples, Scores, criteria


@criteria
def reconstruction(
    layers: tuple[Layer, ...],
    *,
    samples: Samples = 128,
    damping: Annotated[float, Field(gt=0, le=1, description="of the mean second moment")] = 0.01,
) -> Scores:
    """Greedy least squares: units leave one by one, each the one whose loss costs the layers that read it
    least when their other weights are fitted anew; the score is the share of the outputs' energy that is lost
    by then (ThiNet, Luo et al. 2017, by exact elimination as in Hassibi and Stork, "OBS", 1993).

    Cost of unit u: tr(W_u [H^-1]_uu^-1 W_u'), H = E[x x'] + damping. Channels only.
    """
    fits = [_Fit(layer, damping) for layer in layers]
    units = layers[0].weight.shape[1]
    left, scores, lost = list(range(units)), np.zeros(units), 0.0
    while left:
        costs = sum(fit.costs(left) for fit in fits)
        place = int(np.argmin(costs))
        unit = left.pop(place)
        lost += float(costs[place])  # type: ignore[index]
        scores[unit] = lost / len(fits)
        for fit in fits:
            fit.remove(unit)
    return scores


class _Fit:
    """One layer that is fitted anew after each unit that leaves."""

    def __init__(self, layer: Layer, damping: float) -> None:
        outputs, self._units, self._size = layer.weight.shape
        self._weight = layer.weight.reshape(outputs, -1).astype(np.float64)
        second = damped(layer.second, damping)
        self._energy = max(float(np.einsum("ni,ij,nj->", self._weight, second, self._weight)), 1e-300)
        self._inverse = np.linalg.inv(second)

    def costs(self, left: list[int]) -> Array:
        """Share of the energy that each unit of `left` takes along."""
        inverse = self._inverse.reshape(self._units, self._size, self._units, self._size)
        blocks = inverse[left, :, left, :]
        rows = self._weight.reshape(-1, self._units, self._size)[:, left].transpose(1, 2, 0)
        return np.asarray(np.einsum("ukn,ukn->u", rows, np.linalg.solve(blocks, rows)) / self._energy)

    def remove(self, unit: int) -> None:
        """Set the unit's weights to zero and fit the others, by block elimination."""
        at = slice(unit * self._size, (unit + 1) * self._size)
        gain = np.linalg.solve(self._inverse[at, at], self._inverse[at])
        self._weight = self._weight - self._weight[:, at] @ gain
        self._inverse = self._inverse - self._inverse[:, at] @ gain
        self._weight[:, at] = 0
        self._inverse[at, at] = np.eye(self._size)  # away from 0, so that it can be solved with


def damped(second: Array, damping: float) -> Array:
    """H + d I, d a share of the mean of the diagonal (1 where all is zero): positive definite."""
    size = float(np.mean(np.diag(second)))
    return np.asarray(second + (damping * size if size > 0 else 1.0) * np.eye(len(second)), np.float64)

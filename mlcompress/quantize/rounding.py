"""Which of the two neighbouring codes a weight becomes: each rounding is a function of weights and second
moments.

Positional arguments: `steps` float64 [G, N, K], weights divided by their scales; `hessian` float64 [G, K,
K], positive definite, the second moments of what the layer reads; `levels`, the codes that the scheme has,
in rising order. The result has the shape of `steps` and holds levels. The error that counts is E H E' per
row, E = steps - codes. What is exactly 0 stays 0 where that is a level: pruned weights stay pruned.
"""

from typing import Annotated

import numpy as np
from pydantic import Field

from mlcompress.quantize.levels import widening
from mlcompress.registry import Choice, Registry

roundings = Registry("rounding")
Array = np.ndarray

UNIFORM = {"int8": 127, "int4": 7, "int2": 1, "ternary": 1}
"""Largest level of the schemes that use every integer up to it."""
BLOCK = 128
"""Columns that GPTQ finishes before it passes their error on to the rest."""


@roundings
def nearest(steps: Array, hessian: Array, levels: Array) -> Array:
    """q = the level next to w / s: every weight for itself, no samples needed."""
    if len(levels) == levels[-1] - levels[0] + 1:
        return np.asarray(np.clip(np.rint(steps), levels[0], levels[-1]))
    return np.asarray(levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, steps)], np.float64)


@roundings
def gptq(
    steps: Array, hessian: Array, levels: Array, *, block: Annotated[int, Field(ge=1, le=4096)] = BLOCK
) -> Array:
    """e = (w_i - q_i) / U_ii, w_j -= e U_ij for all j > i, U the upper Cholesky factor of H^-1 (Frantar et
    al. 2023).

    Columns are rounded one by one, those with the largest second moment first; what each loses, the later
    ones make up for. `block`: columns after which errors are passed on to the rest at once.
    """
    order = np.argsort(-np.einsum("gkk->gk", hessian), axis=1, kind="stable")
    left = np.take_along_axis(steps, order[:, None, :], axis=2).copy()
    turned = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None, :], 2)
    factor = _upper_factor_of_inverse(turned)
    codes, width = np.empty_like(left), left.shape[2]
    pruned = (left == 0) & (0 in levels)
    for first in range(0, width, block):
        last = min(first + block, width)
        errors = np.empty((*left.shape[:2], last - first))
        for i in range(first, last):
            codes[:, :, i] = np.where(pruned[:, :, i], 0.0, nearest(left[:, :, i], hessian, levels))
            error = (left[:, :, i] - codes[:, :, i]) / factor[:, None, i, i]
            left[:, :, i:last] -= error[:, :, None] * factor[:, None, i, i:last]
            errors[:, :, i - first] = error
        left[:, :, last:] -= errors @ factor[:, first:last, last:]
    result = np.empty_like(codes)
    np.put_along_axis(result, np.broadcast_to(order[:, None, :], codes.shape), codes, axis=2)
    return result


@roundings
def adaround(
    steps: Array,
    hessian: Array,
    levels: Array,
    *,
    iterations: Annotated[int, Field(ge=10, le=100000)] = 500,
    strength: Annotated[float, Field(gt=0, le=10)] = 0.3,
    rate: Annotated[float, Field(gt=0, le=1)] = 0.05,
) -> Array:
    """min over v of E H E' + l sum(1 - |2h(v) - 1|^b), q = floor + h(v), h = clip(1.2 sigmoid(v) - .1, 0,
    1) (Nagel et al. 2020).

    Adam at `rate` on v; b falls from 20 to 2, which drives every h to 0 or 1; `strength` is l. The layer's
    own error is a quadratic form, so its gradient 2 E H is exact over all samples and needs no batches.
    """
    index = np.clip(np.searchsorted(levels, steps, side="right") - 1, 0, len(levels) - 2)
    low, gap = levels[index].astype(np.float32), (levels[index + 1] - levels[index]).astype(np.float32)
    wanted = ((np.clip(steps, levels[0], levels[-1]) - low) / gap).astype(np.float32)
    beyond = (low + gap * wanted - steps).astype(np.float32)  # what clipping loses, whatever is chosen
    unit = np.float32(np.mean(gap**2))
    matrix = hessian / np.maximum(np.einsum("gkk->g", hessian) / hessian.shape[1], 1e-300)[:, None, None]
    matrix = matrix.astype(np.float32)
    value = np.clip((wanted + 0.1) / 1.2, 0.01, 0.99)
    v = np.log(value / (1 - value))
    first, second = np.zeros_like(v), np.zeros_like(v)
    for step in range(1, iterations + 1):
        sigmoid = 1 / (1 + np.exp(-v))
        h = np.clip(1.2 * sigmoid - 0.1, 0, 1)
        gradient = 2 * (((h - wanted) * gap + beyond) @ matrix) * gap / unit
        done = max(0.0, (step / iterations - 0.2) / 0.8)
        if done > 0:
            power = 2 + 9 * (1 + np.cos(np.pi * done))
            away = 2 * h - 1
            gradient -= strength * 2 * power * np.abs(away) ** (power - 1) * np.sign(away)
        gradient *= 1.2 * sigmoid * (1 - sigmoid) * ((h > 0) & (h < 1))
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        v -= rate * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    chosen = low + gap * (np.clip(1.2 / (1 + np.exp(-v)) - 0.1, 0, 1) >= 0.5)
    return np.where((steps == 0) & (0 in levels), 0.0, chosen.astype(np.float64))


def code_levels(scheme: Choice | str, codes: Array) -> Array:
    """The int8 codes that a scheme may use, float64 in rising order; of tables: those that `codes` use."""
    name = scheme if isinstance(scheme, str) else scheme.name
    if name in UNIFORM:
        largest = UNIFORM[name]
        return np.arange(-largest, largest + 1) * float(widening(largest))
    return np.unique(codes).astype(np.float64)


def _upper_factor_of_inverse(matrix: Array) -> Array:
    """Upper triangular U with U' U = H^-1, per group."""
    # H = R R' with R upper, from the Cholesky factor of H turned around; then U = R^-1.
    upper = np.linalg.cholesky(matrix[:, ::-1, ::-1])[:, ::-1, ::-1]
    return np.asarray(np.triu(np.linalg.inv(upper)))

"""Gives layers back to float, worst first, until a limit on the metric holds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from mlcompress import console
from mlcompress.errors import UnsupportedError

Build = Callable[[Sequence[str]], ir.Model]
TRIES = 16


def give_back(
    rank: Callable[[], Sequence[str]],
    build: Build,
    evaluate: Callable[[ir.Model], float],
    holds: Callable[[float], bool],
) -> tuple[list[str], list[float]]:
    """As few of the worst layers as make `holds(metric)` true by their return to float.

    `rank()`: layer names, worst first; asked for only when it is needed. `build(names)`: the graph with
    these in float. The shortest run from the worst on is found by bisection, as if the metric rose with
    every layer given back; then up to TRIES of its layers, the least bad first, are made integers again
    where the limit holds without them. The answer itself is always measured. Gives the names and all
    metrics measured. Raises UnsupportedError when the limit does not hold even with all of them in float.
    """
    measured: dict[int, float] = {}
    ranked: Sequence[str] = ()

    def good(count: int) -> bool:
        measured[count] = evaluate(build(ranked[:count]))
        return holds(measured[count])

    if good(0):
        return [], list(measured.values())
    ranked = rank()
    if not good(len(ranked)):
        raise UnsupportedError(
            f"quantize.accuracy: the metric is {measured[len(ranked)]:.4g} even with every layer in float; "
            "loosen the limit, or check data.evaluate and `storage`"
        )
    bad, enough = 0, len(ranked)
    with console.progress("give layers back") as advance:
        while enough - bad > 1:
            middle = (bad + enough) // 2
            bad, enough = (bad, middle) if good(middle) else (middle, enough)
            advance(1)
    found, metrics = list(ranked[:enough]), list(measured.values())
    for name in ranked[: enough - 1][::-1][:TRIES]:  # without the last one the run did not hold
        fewer = [other for other in found if other != name]
        metrics.append(evaluate(build(fewer)))
        if holds(metrics[-1]):
            found = fewer
    return found, metrics


def signal_to_noise(reference: np.ndarray, other: np.ndarray) -> float:
    """10 log10(sum r^2 / sum (r - o)^2) in dB; infinite for equal arrays."""
    signal = float(np.sum(reference.astype(np.float64) ** 2))
    noise = float(np.sum((reference.astype(np.float64) - other) ** 2))
    if noise == 0:
        return float("inf")
    return 10 * float(np.log10(max(signal, 1e-30) / noise))


def worst_first(ratios: Mapping[str, float]) -> list[str]:
    """Layer names by signal-to-noise ratio, lowest first; equal ones in their given order."""
    return sorted(ratios, key=lambda name: ratios[name])

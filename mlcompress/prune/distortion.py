"""What a model's answers lose when one family alone becomes narrower."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mlcompress import console, graph
from mlcompress.data.dataset import Dataset
from mlcompress.data.samples import batches
from mlcompress.errors import DataError, UnsupportedError
from mlcompress.graph.session import session
from mlcompress.prune.amounts import Ranked

BATCH = 32
FLOATS = ("tensor(float)", "tensor(double)", "tensor(float16)")
Curve = list[tuple[int, float]]
"""Width and damage, the greatest width first; damage never falls."""


@dataclass(frozen=True)
class Families:
    """What an allocation chooses from."""

    ranked: list[Ranked]
    trial: Callable[[Mapping[str, int]], ir.Model]
    """The graph with these families cut to these widths."""
    original: ir.Model
    data: Dataset | None


def curves(families: Families, samples: int, choices: int) -> dict[str, Curve]:
    """Family name -> its damage at up to `choices` widths, on the first `samples` of the data.

    Damage: mean over the float outputs of sum (y - y0)^2 / sum y0^2 over all their elements; infinite where y
    is not finite or has another shape. Raises DataError without samples, UnsupportedError without float
    outputs.
    """
    data = families.data
    if data is None:
        raise DataError("prune.allocation: sensitivity compares outputs on samples; add `data.calibration`")
    some = data.subset(np.arange(min(samples, len(data))))
    reference = _outputs(families.original, some)
    found: dict[str, Curve] = {}
    widths = {family.name: _widths(family, choices) for family in families.ranked}
    with console.progress("sensitivity", sum(map(len, widths.values()))) as advance:
        for name, tried in widths.items():
            curve, worst = [], 0.0
            for width in tried:
                worst = max(worst, _distance(reference, _outputs(families.trial({name: width}), some)))
                curve.append((width, worst))
                advance(1)
            found[name] = curve
    return found


def _widths(family: Ranked, choices: int) -> list[int]:
    """Allowed widths below the present one, the greatest first, about evenly spread."""
    units = len(family.scores)
    steps = {family.keep(units * (1 - k / choices)) for k in range(1, choices + 1)}
    return sorted((width for width in steps if width < units), reverse=True)


def _outputs(model: ir.Model, data: Dataset) -> list[np.ndarray]:
    run = session(graph.to_bytes(model))
    wanted = [output.name for output in run.get_outputs() if output.type in FLOATS]
    if not wanted:
        raise UnsupportedError(
            "prune.allocation: sensitivity compares float outputs, and this model has none; use"
            " `allocation: global`"
        )
    parts = [run.run(wanted, dict(batch.inputs)) for batch in batches(model, data, BATCH)]
    return [np.concatenate([np.ravel(part[n]) for part in parts]).astype(float) for n in range(len(wanted))]


def _distance(reference: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> float:
    ratios = [
        np.square(given - wanted).sum() / max(np.square(wanted).sum(), 1e-30)
        if given.shape == wanted.shape and np.isfinite(given).all()
        else np.inf
        for wanted, given in zip(reference, other, strict=True)
    ]
    return float(np.mean(ratios))

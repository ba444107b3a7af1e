"""How much each layer costs: the model with that layer alone as integers, on real samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import onnx_ir as ir

from mlcompress import console, graph
from mlcompress.context import Context
from mlcompress.data.samples import batches
from mlcompress.errors import DataError
from mlcompress.measure.tapped import tapped_session
from mlcompress.quantize.accuracy import signal_to_noise
from mlcompress.quantize.calibrated import Calibrated, calibrate
from mlcompress.quantize.integer import WEIGHTED, lay_out
from mlcompress.quantize.judge import drop, judge
from mlcompress.quantize.recipe import QuantizeRecipe

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset

SAMPLES = 16
"""Of the calibration data, for the ratio: noise of 8 bits is the same kind of number on every sample."""


class Row(TypedDict):
    """One layer; `drop` is None without samples to judge on."""

    node: str
    op: str
    snr_db: float
    drop: float | None


def sensitivity(model: ir.Model, recipe: QuantizeRecipe, context: Context) -> list[Row]:
    """Every layer that can run as integers, the most costly first.

    `snr_db`: signal-to-noise ratio of the model's outputs with this layer alone as integers (plain
    rounding, static), on calibration samples. `drop`: metric of the float model minus metric then, on
    `data.validation`, else on `data.evaluate`; None where there is neither.

    Raises DataError without calibration data.
    """
    data = context.calibration
    if data is None or len(data) == 0:
        raise DataError(
            "data.calibration: sensitivity is measured on samples; add `data: {calibration: ...}`"
        )
    kept = frozenset(graph.skipped_nodes(model, recipe.skip))
    ready = calibrate(model, recipe.quantize, kept, data)
    names = [str(node.name) for node in lay_out(ready.base.graph, ready.allowed).nodes]
    noise = output_noise(ready, names, data)
    metric, _ = judge(recipe, context, model)
    before = metric(model) if metric is not None else None
    ops = {str(node.name): node.op_type for node in ready.base.graph}
    rows: list[Row] = []
    for name, ratio in noise.items():
        after = metric(ready.build([name], "plain")[0]) if metric is not None else None
        lost = None if before is None or after is None else drop(recipe, before, after)
        rows.append({"node": name, "op": ops[name], "snr_db": round(ratio, 3), "drop": lost})
    return sorted(rows, key=lambda row: row["snr_db"])


def output_noise(ready: Calibrated, names: Sequence[str], data: "Dataset") -> dict[str, float]:
    """Signal-to-noise ratio in dB of the outputs with each weighted node alone as integers, in the given
    order.
    """
    weighted = {str(node.name) for node in ready.base.graph if node.op_type in WEIGHTED}
    some = data.subset(np.arange(min(SAMPLES, len(data))))
    feeds = [batch.inputs for batch in batches(ready.base, some, SAMPLES)]
    reference = _outputs(ready.base, feeds)
    wanted = [name for name in names if name in weighted]
    found = {}
    with console.progress("sensitivity", len(wanted)) as advance:
        for name in wanted:
            found[name] = signal_to_noise(reference, _outputs(ready.build([name], "plain")[0], feeds))
            advance(1)
    return found


def _outputs(model: ir.Model, feeds: Sequence[dict[str, np.ndarray]]) -> np.ndarray:
    """All floating-point outputs over all feeds, as one flat array."""
    session = tapped_session(model, [str(value.name) for value in model.graph.outputs])
    arrays = [array for feed in feeds for array in session.run(None, feed)]
    return np.concatenate([array.ravel() for array in arrays if array.dtype.kind == "f"])

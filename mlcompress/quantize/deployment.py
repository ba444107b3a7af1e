"""How far the written graph is from the one that was trained, with and without onnxruntime's optimisation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.data.samples import take
from mlcompress.graph.session import Level, session
from mlcompress.quantize.accuracy import signal_to_noise

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset
    from mlcompress.train.executor import Executor

SAMPLES = 64
LEVELS = {"unoptimised": Level.ORT_DISABLE_ALL, "optimised": Level.ORT_ENABLE_ALL}


def gaps(model: ir.Model, executor: "Executor", data: "Dataset") -> dict[str, dict[str, Any]]:
    """Differences of onnxruntime's float outputs from the executor's, on up to 64 samples, by level.

    `largest`: share of the output's range; `snr_db`: None where they are equal; `same_class`: share of rows
    with the same largest number. Sums in another order move single values by one step, which later layers
    see.
    """
    from mlcompress.train.qat import outputs

    feed = take(model, data, min(SAMPLES, len(data)))
    wanted = {name: array for name, array in outputs(executor, feed).items() if array.dtype.kind == "f"}
    found = {}
    for name, level in LEVELS.items():
        run = session(graph.to_bytes(model), level).run(list(wanted), dict(feed))
        found[name] = _gap(wanted, dict(zip(wanted, run, strict=True)))
    return found


def _gap(wanted: Mapping[str, np.ndarray], given: Mapping[str, np.ndarray]) -> dict[str, Any]:
    largest, ratios, same = 0.0, [], []
    for name, reference in wanted.items():
        span = float(np.ptp(reference)) if reference.size else 0.0
        largest = max(largest, float(np.abs(given[name] - reference).max(initial=0.0)) / (span or 1.0))
        ratios.append(signal_to_noise(reference, given[name]))
        if reference.ndim > 1 and reference.shape[-1] > 1:
            same.append(float(np.mean(reference.argmax(-1) == given[name].argmax(-1))))
    worst = min(ratios, default=float("inf"))
    gap: dict[str, Any] = {"largest": largest, "snr_db": None if np.isinf(worst) else worst}
    return gap | ({"same_class": min(same)} if same else {})

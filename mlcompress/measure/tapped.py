"""Statistics of tensors inside a model over samples: one pass through onnxruntime, memory of one batch.

onnxruntime's own histogram calibrators keep every activation: 4 GB at 128 images of 224 x 224.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from mlcompress import console, graph
from mlcompress.data.padding import find_mask, real
from mlcompress.data.samples import batches, take
from mlcompress.errors import DataError
from mlcompress.graph.session import ORT_ERRORS, reason, session

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset

BATCH_BYTES = 32 * 2**20
"""Activations of the observed tensors that one run may return."""


class Statistic(Protocol):
    """What is known of one tensor so far."""

    def update(self, values: np.ndarray) -> None:
        """Add one batch."""


S = TypeVar("S", bound=Statistic)


def track(model: ir.Model, names: Iterable[str], data: "Dataset", kind: Callable[[], S]) -> dict[str, S]:
    """Statistics of the named tensors (graph inputs or node outputs, float32) over all samples of `data`.

    `kind` makes one for each tensor. Positions that a mask leaves out (`padding.find_mask`) do not count.
    Where a fixed batch is not full, its last sample counts more than once.
    Raises DataError when a tensor holds NaN or infinity, or the model cannot be run on a sample.
    """
    seen = {name: kind() for name in dict.fromkeys(names)}
    fill(model, {name: [statistic] for name, statistic in seen.items()}, data)
    return seen


def fill(model: ir.Model, seen: Mapping[str, Sequence[Statistic]], data: "Dataset") -> None:
    """Update the statistics of each named tensor over all samples of `data`; otherwise as `track`."""
    if not seen:
        return
    inputs = {value.name for value in model.graph.inputs}
    tapped = [name for name in seen if name not in inputs]
    ready = tapped_session(model, tapped or [str(value.name) for value in model.graph.outputs])
    outputs = [output.name for output in ready.get_outputs()]
    try:
        _run(ready, outputs, model, data, seen)
    except ORT_ERRORS as error:
        raise DataError(
            f"data.calibration: the model cannot be run on these samples: {reason(error)}"
        ) from error


def _run(
    ready: ort.InferenceSession,
    outputs: list[str],
    model: ir.Model,
    data: "Dataset",
    seen: Mapping[str, Sequence[Statistic]],
) -> None:
    masked = find_mask(model, data)
    with console.progress("calibrate", len(data)) as advance:
        for batch in batches(model, data, _batch_size(ready, model, data)):
            arrays = dict(zip(outputs, ready.run(outputs, batch.inputs), strict=True)) | batch.inputs
            mask = None if masked is None else batch.inputs[masked]
            for name, statistics in seen.items():
                if not np.isfinite(arrays[name]).all():
                    raise DataError(
                        f"data.calibration: tensor {name!r} holds NaN or infinity; check the transforms"
                    )
                for part in real(arrays[name], mask):
                    for statistic in statistics:
                        statistic.update(part)
            advance(len(np.unique(batch.ids)))


def tapped_session(model: ir.Model, names: Iterable[str]) -> ort.InferenceSession:
    """A one-threaded session whose only outputs are the named tensors; the model is not changed."""
    tapped = graph.copy(model)
    values = {value.name: value for node in tapped.graph for value in node.outputs}
    tapped.graph.outputs.clear()
    tapped.graph.outputs.extend(values[name] for name in names)
    graph.remove_unused(tapped)  # onnxruntime would run what no output needs
    return session(graph.to_bytes(tapped))


def _batch_size(ready: ort.InferenceSession, model: ir.Model, data: "Dataset") -> int:
    """Samples that keep the returned activations within BATCH_BYTES."""
    one = ready.run(None, take(model, data, 1))
    return int(max(1, min(64, BATCH_BYTES // max(1, sum(array.nbytes for array in one)))))

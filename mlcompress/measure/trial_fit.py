"""Many trial cuts of one model, each fitted to what is left, at one pass over the samples."""

import numpy as np
import onnx_ir as ir

from mlcompress.data.dataset import Dataset
from mlcompress.data.padding import find_mask
from mlcompress.data.samples import batches
from mlcompress.graph.columns import POSITIONS, to_columns
from mlcompress.measure.moments import Moments, Tap, counting
from mlcompress.measure.refit import BATCH, Lost, bias_of, kernel, rows_of, shared_weights, solve


class TrialFit:
    """Fits as `refit` does, but as if all that a layer still reads were as it was in `before`.

    That holds for the first layers that read what goes. The outputs are then W X + b of inputs X that are
    known: the moments of X alone fit every cut. They are kept for the layers of one trial, K x K float64
    each, and taken anew when a trial has others.
    """

    def __init__(self, before: ir.Model, data: Dataset) -> None:
        self._before, self._data = before, data
        self._masked = find_mask(before, data)
        self._shared = shared_weights(before)
        self._moments: dict[str, Moments] = {}

    def __call__(self, model: ir.Model, what: Lost) -> None:
        """Fit the layers of `model`, which is `before` without what is lost, in place."""
        names = [name for name in what.readers if name not in self._shared]
        if any(name not in self._moments for name in names):
            self._moments = self._observe(names)
        for node in model.graph:
            if node.name in names:
                size = int(np.prod(kernel(node), initial=1))
                columns = (what.readers[node.name][:, None] * size + np.arange(size)).reshape(-1)
                solve(node, self._moments[node.name].part(what.kept.get(node.name, slice(None)), columns))

    def _observe(self, names: list[str]) -> dict[str, Moments]:
        nodes = [node for node in self._before.graph if node.name in names]
        tap = Tap(self._before, [node.inputs[0] for node in nodes], self._data.name)
        found = {str(node.name): Moments(0, rows_of(node).shape[1]) for node in nodes}
        for batch in batches(self._before, self._data, BATCH):
            mask = None if self._masked is None else batch.inputs[self._masked]
            values = tap(batch.inputs)
            for node in nodes:
                read = counting(values[str(node.inputs[0].name)], mask)  # type: ignore[union-attr]
                columns = to_columns(node, read, kernel(node), POSITIONS * len(batch.ids))[0]
                found[str(node.name)].update(columns, np.zeros((0, columns.shape[1])))
        for node in nodes:
            found[str(node.name)].follow(rows_of(node), bias_of(node))
        return found

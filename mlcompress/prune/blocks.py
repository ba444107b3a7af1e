"""Depth: whole residual branches leave the graph, x + f(x) becomes x."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress import graph
from mlcompress.data.dataset import Dataset
from mlcompress.data.samples import batches
from mlcompress.errors import DataError
from mlcompress.graph.dependency.blocks import Block, blocks, bypass, left_alone
from mlcompress.graph.session import session
from mlcompress.prune.layer_scores import Array, Flow, layer_scores
from mlcompress.registry import Choice

BATCH = 32
MOST = 512
"""Samples that the scores are measured on; means over them hardly move after that."""


class Layers:
    """The removable blocks of one model over the steps of a schedule. Shares refer to those of the start.

    Args:
        skip: names of nodes whose blocks stay.
    """

    def __init__(self, model: ir.Model, score: Choice, skip: Collection[str], data: Dataset | None) -> None:
        if data is None:
            raise DataError(
                "prune.layer_score: compares both ends of a layer on samples; add `data.calibration`"
            )
        self._model, self._skip = model, frozenset(skip)
        self._score, self._data = score, data.subset(np.arange(min(MOST, len(data))))
        self.original = [block.name for block in blocks(model, self._skip)]
        self.skipped = left_alone(model, self._skip)
        """Of the card: residual sums whose branch stays, and why."""

    def scores(self) -> dict[str, float]:
        """Name of each block that is left -> mean score over the samples, the sum's name standing for it."""
        left = blocks(self._model, self._skip)
        score = layer_scores.bind(self._score)
        found: dict[str, list[Array]] = {block.name: [] for block in left}
        for values in _values(self._model, left, self._data) if left else ():
            for block in left:
                flow = Flow(_rows(values[block.entry]), _rows(values[block.exit]))
                found[block.name].append(score(flow))
        return {name: float(np.concatenate(parts).mean()) for name, parts in found.items()}

    def prune(self, ratio: float | None, threshold: float | None = None) -> dict[str, float]:
        """Remove the lowest blocks in place until `ratio` of the original ones are gone, or those below the
        threshold; returns the scores of what went."""
        scores = self.scores()
        lowest = sorted(scores, key=lambda name: (scores[name], self.original.index(name)))
        if ratio is None:
            gone = [name for name in lowest if scores[name] < (threshold or 0.0)]
        else:
            wanted = int(np.floor(ratio * len(self.original) + 0.5))
            gone = lowest[: max(0, wanted - (len(self.original) - len(scores)))]
        bypass(self._model, [block for block in blocks(self._model, self._skip) if block.name in gone])
        return {name: scores[name] for name in gone}


def _values(
    model: ir.Model, found: Sequence[Block], data: Dataset
) -> Iterator[Mapping[str, NDArray[np.float32]]]:
    """The values at both ends of every block, batch by batch."""
    tapped = graph.copy(model)
    wanted = list(dict.fromkeys(name for block in found for name in (block.entry, block.exit)))
    made = {str(value.name): value for node in tapped.graph for value in node.outputs}
    given = {str(value.name) for value in (*tapped.graph.inputs, *tapped.graph.outputs)}
    tapped.graph.outputs.extend(made[name] for name in wanted if name not in given)
    run, names = session(graph.to_bytes(tapped)), [name for name in wanted if name in made]
    for batch in batches(model, data, BATCH):
        yield {**batch.inputs, **dict(zip(names, run.run(names, dict(batch.inputs)), strict=True))}


def _rows(values: NDArray[np.float32]) -> Array:
    return values.reshape(len(values), -1).astype(np.float64)

"""Structured pruning: whole channels, heads and hidden units leave the graph, with everything that depends
on them."""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph.dependency import Analysis, Family, analyse, remove
from mlcompress.graph.dependency.widths import multiple
from mlcompress.prune import amounts
from mlcompress.prune.amounts import Ranked
from mlcompress.prune.criteria import Group, criteria
from mlcompress.prune.dequantised import for_ranking
from mlcompress.prune.recipe import PruneSection


class Channels:
    """The removable units of one model over the steps of a schedule.

    Shares always refer to the units that each family had before the first step.

    Args:
        skip: names of nodes whose output channels stay.
    """

    def __init__(
        self, model: ir.Model, section: PruneSection, skip: Collection[str], rng: np.random.Generator
    ) -> None:
        self._model, self._section, self._skip, self._rng = model, section, frozenset(skip), rng
        analysis = analyse(model, skip=self._skip)
        self.original = {family.name: family.units for family in analysis.families}
        self.skipped = _skipped(analysis, section)
        scored, allowed = for_ranking(model), [f for f in analysis.families if _is_allowed(f, section)]
        self._allowed = {family.name for family in allowed if _group(scored, family, rng).slices}
        self.skipped += [
            {"name": family.name, "reason": "no float weights to rank its channels by; prune the float model"}
            for family in allowed
            if family.name not in self._allowed
        ]

    @property
    def families(self) -> int:
        """How many families may lose units."""
        return len(self._allowed)

    def prune(self, ratio: float | None) -> None:
        """Remove the lowest units in place until `ratio` of the original ones are gone, or those below the
        threshold."""
        analysis = analyse(self._model, skip=self._skip)
        families = [family for family in analysis.families if family.name in self._allowed]
        scored = for_ranking(self._model)
        ranked = [self._rank(scored, family) for family in families]
        keep = self._amounts(ranked, ratio)
        dead = {
            family.name: _lowest(family.scores, len(family.scores) - keep[family.name]) for family in ranked
        }
        remove(self._model, analysis, {name: units for name, units in dead.items() if len(units)})

    def widths(self) -> dict[str, list[int]]:
        """Family name -> units before the first step and now."""
        now = {family.name: family.units for family in analyse(self._model, skip=self._skip).families}
        return {name: [units, now.get(name, 1)] for name, units in self.original.items()}

    def _rank(self, scored: ir.Model, family: Family) -> Ranked:
        score = criteria.bind(self._section.criterion)
        original = self.original[family.name]
        rounded_to = multiple(original, conv=family.conv, round_to=self._section.round_to)
        return Ranked(family.name, score(_group(scored, family, self._rng)), rounded_to, original)

    def _amounts(self, ranked: list[Ranked], ratio: float | None) -> Mapping[str, int]:
        if ratio is None:
            return amounts.below(ranked, self._section.threshold or 0.0)
        return (
            amounts.local(ranked, ratio) if self._section.scope == "local" else amounts.global_(ranked, ratio)
        )


def _group(model: ir.Model, family: Family, rng: np.random.Generator) -> Group:
    """The weights of a family, producers first: matrices, and the scales of batch norms, which decide how
    much a channel
    counts. Biases and running statistics go with their channel but have no say: they are no magnitudes."""
    scales = {
        str(node.inputs[1].name)
        for node in model.graph
        if node.op_type == "BatchNormalization" and node.inputs[1]
    }
    parts = []
    for member in family.members:
        tensor = model.graph.initializers[member.tensor].const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        if len(tensor.shape) > 1 or member.tensor in scales:
            parts.append((member.reads, family.slices(model, member).astype(np.float64)))
    parts.sort(key=lambda part: part[0])
    first = sum(not reads for reads, _ in parts)
    slices = tuple(part for _, part in parts)
    return Group(slices, first or len(slices), rng)


def _lowest(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Ids of the `count` lowest scores, ascending; ties fall in order of position."""
    return np.sort(np.argsort(scores, kind="stable")[: max(0, count)])


def _is_allowed(family: Family, section: PruneSection) -> bool:
    return not family.soft or section.inexact == "allow"


def _skipped(analysis: Analysis, section: PruneSection) -> list[dict[str, str]]:
    inexact = [
        {"name": family.name, "reason": f"{family.reason}; `prune.inexact: allow` removes it all the same"}
        for family in analysis.families
        if not _is_allowed(family, section)
    ]
    return analysis.left_alone() + inexact

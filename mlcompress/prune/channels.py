"""Structured pruning: whole channels, heads and hidden units leave the graph, with everything that depends
on them."""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress import graph
from mlcompress.graph.dependency import Analysis, Family, analyse, remove
from mlcompress.graph.dependency.widths import multiple
from mlcompress.measure.refit import Lost, lost
from mlcompress.measure.trial_fit import TrialFit
from mlcompress.prune import amounts
from mlcompress.prune.amounts import Ranked
from mlcompress.prune.criteria import COMPARABLE, Group, rank
from mlcompress.prune.dequantised import for_ranking
from mlcompress.prune.material import Material
from mlcompress.prune.observed_channels import Fields, in_portions, lacking, measure, weights_of
from mlcompress.prune.recipe import PruneSection


class Channels:
    """The removable units of one model over the steps of a schedule.

    Shares always refer to the units that each family had before the first step.

    Args:
        skip: names of nodes whose output channels stay.
    """

    def __init__(
        self, model: ir.Model, material: Material, skip: Collection[str], rng: np.random.Generator
    ) -> None:
        section = material.recipe.prune
        self.model, self._section, self._skip, self._rng = model, section, frozenset(skip), rng
        self._material = material
        analysis = analyse(model, skip=self._skip)
        self.original = {family.name: family.units for family in analysis.families}
        self.skipped = _skipped(analysis, section)
        scored, allowed = for_ranking(model), [f for f in analysis.families if _is_allowed(f, section)]
        criterion = section.criterion.name
        reasons = {family.name: lacking(criterion, scored, analysis, family) for family in allowed}
        self._allowed = {name for name, reason in reasons.items() if reason is None}
        self.skipped += [{"name": name, "reason": reason} for name, reason in reasons.items() if reason]

    @property
    def families(self) -> int:
        """How many families may lose units."""
        return len(self._allowed)

    def prune(self, share: float, wanted: Mapping[str, int] | None = None) -> Lost:
        """Remove the lowest units in place until `share` of what is to go is gone: towards the `wanted`
        widths, else towards the recipe's ratio, or those below its threshold; what the layers lose."""
        ranked = self.ranked()
        return _cut(self.model, self._skip, ranked, self._keep(ranked, share, wanted))

    def doomed(
        self, share: float, wanted: Mapping[str, int] | None
    ) -> tuple[list[Family], list[NDArray[np.bool_]]]:
        """The families and, for each, [units] True for what `prune` would remove now. Nothing is removed."""
        ranked = self.ranked()
        keep, families = self._keep(ranked, share, wanted), {f.name: f for f in self._families()}
        masks = []
        for family in ranked:
            mask = np.zeros(len(family.scores), bool)
            mask[_lowest(family.scores, len(family.scores) - keep[family.name])] = True
            masks.append(mask)
        return [families[family.name] for family in ranked], masks

    def _keep(self, ranked: list[Ranked], share: float, wanted: Mapping[str, int] | None) -> dict[str, int]:
        section = self._section
        if wanted is not None:
            return amounts.towards(ranked, wanted, share)
        if section.ratio is None:
            return amounts.below(ranked, section.threshold or 0.0)
        choose = amounts.local if section.scope == "local" else amounts.global_
        return choose(ranked, section.ratio * share)

    def ranked(self) -> list[Ranked]:
        """The families that may lose units, with the scores that their units have now."""
        scored, analysis = for_ranking(self.model), analyse(self.model, skip=self._skip)
        families = [family for family in analysis.families if family.name in self._allowed]
        ranked: list[Ranked] = []
        for some in in_portions(self._section.criterion.name, self.model, analysis, families):
            fields = measure(self.model, scored, analysis, some, self._material)
            ranked += [self._rank(scored, family, fields[family.name]) for family in some]
        return ranked

    def unranked(self) -> list[Ranked]:
        """The families that may lose units, before anything is known of these."""
        return [self._ranked(family, np.zeros(family.units)) for family in self._families()]

    def matrices(self) -> list[str]:
        """Names of the weights that the units are ranked by."""
        scored = for_ranking(self.model)
        return list(dict.fromkeys(m.tensor for f in self._families() for m in weights_of(scored, f)))

    def _families(self) -> list[Family]:
        families = analyse(self.model, skip=self._skip).families
        return [family for family in families if family.name in self._allowed]

    def trial(self, ranked: list[Ranked], keep: Mapping[str, int], fit: TrialFit | None = None) -> ir.Model:
        """A copy without the lowest units of each family, but for as many as `keep` says of it; what is left
        is fitted, if by `fit`."""
        model = graph.copy(self.model)
        what = _cut(model, self._skip, ranked, keep)
        if fit is not None:
            fit(model, what)
        return model

    def widths(self) -> dict[str, list[int]]:
        """Family name -> units before the first step and now."""
        now = {family.name: family.units for family in analyse(self.model, skip=self._skip).families}
        return {name: [units, now.get(name, 1)] for name, units in self.original.items()}

    def _rank(self, scored: ir.Model, family: Family, fields: Fields) -> Ranked:
        return self._ranked(family, rank(self._section.criterion, _group(scored, family, self._rng, fields)))

    def _ranked(self, family: Family, scores: NDArray[np.float64]) -> Ranked:
        original = self.original[family.name]
        rounded_to = multiple(original, conv=family.conv, round_to=self._section.round_to)
        comparable = self._section.criterion.name in COMPARABLE
        return Ranked(family.name, scores, rounded_to, original, comparable)


def _cut(model: ir.Model, skip: Collection[str], ranked: list[Ranked], keep: Mapping[str, int]) -> Lost:
    dead = {f.name: _lowest(f.scores, len(f.scores) - keep[f.name]) for f in ranked if f.name in keep}
    dead = {name: units for name, units in dead.items() if len(units)}
    analysis = analyse(model, skip=skip)
    what = lost(model, analysis, dead)
    remove(model, analysis, dead)
    return what


def _group(model: ir.Model, family: Family, rng: np.random.Generator, fields: Fields) -> Group:
    members = weights_of(model, family)
    slices = tuple(family.slices(model, member).astype(np.float64) for member in members)
    first = sum(not member.reads for member in members)
    return Group(slices, first or len(slices), rng, **fields)


def _lowest(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Ids of the `count` lowest scores, ascending; ties fall in order of position."""
    return np.sort(np.argsort(scores, kind="stable")[: max(0, count)])


def _is_allowed(family: Family, section: PruneSection) -> bool:
    return _is_meant(family, section) and (not family.soft or section.inexact == "allow")


def _is_meant(family: Family, section: PruneSection) -> bool:
    """By the granularity: every family, or those of one kind."""
    kind = {"head": "head", "hidden": "width"}.get(section.granularity, family.kind)
    return family.kind == kind


def _skipped(analysis: Analysis, section: PruneSection) -> list[dict[str, str]]:
    inexact = [
        {"name": family.name, "reason": f"{family.reason}; `prune.inexact: allow` removes it all the same"}
        for family in analysis.families
        if _is_meant(family, section) and not _is_allowed(family, section)
    ]
    return analysis.left_alone() + inexact

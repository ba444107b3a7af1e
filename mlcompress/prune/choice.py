"""Which single weights and kernels stay."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress.graph.initializers import numbers
from mlcompress.prune.criteria import Group, rank
from mlcompress.prune.criteria.elementwise import upper_factor
from mlcompress.prune.masks import back, by_row, highest, n_of_m, rows, together
from mlcompress.prune.material import Material
from mlcompress.prune.obs import given, pattern, sharing, sweep
from mlcompress.prune.observed_elements import in_portions, measure, reader
from mlcompress.prune.recipe import PruneSection
from mlcompress.prune.recovery import Masks


@dataclass(frozen=True)
class Chosen:
    """What goes."""

    masks: Masks
    weights: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Those that stay, where they make up for the others."""


def choose(
    model: ir.Model, names: Sequence[str], material: Material, share: float, rng: np.random.Generator
) -> Chosen:
    """Which weights stay: those of the highest scores. `share` of the recipe's ratio goes; with `threshold` a
    weight stays if its score reaches it; for l1 and l2 the score of a weight is |w|. What is zero goes first:
    it costs nothing, and what went at an earlier step is not exchanged for something else.
    The model stays as it is.
    """
    section = material.recipe.prune
    if section.criterion.name == "sparsegpt":
        return _swept(model, names, material, share)
    fields = measure(model, names, material)
    scores = {
        name: _zeros_first(model, name, _scores(model, name, section, fields[name], rng)) for name in names
    }
    nodes = {name: reader(model, name) for name in names}
    kept = _kept(scores, nodes, section, share)
    shapes = {name: numbers(model.graph.initializers[name]).shape for name in names}
    return Chosen({name: _as_weight(mask, shapes[name]) for name, mask in kept.items()})


def _scores(
    model: ir.Model,
    name: str,
    section: PruneSection,
    given: Mapping[str, np.ndarray],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Of the units of a weight: in its own shape, or [outputs, inputs] of kernels."""
    weight = numbers(model.graph.initializers[name]).astype(np.float64)
    shape = weight.shape[:2] if section.granularity == "kernel" else weight.shape
    units = int(np.prod(shape))
    if "scores" in given:  # of the inputs that the weights multiply
        return np.asarray((np.abs(weight) * given["scores"]).reshape(units, -1).sum(axis=1).reshape(shape))
    fields: dict[str, Any] = {key: (array.reshape(units, -1),) for key, array in given.items()}
    if "squared_products" in given:
        fields = {"squared_products": (given["squared_products"].reshape(units),)}
    group = Group((weight.reshape(units, -1),), 1, rng, **fields)
    return rank(section.criterion, group).reshape(shape)


def _zeros_first(model: ir.Model, name: str, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """The scores with -inf for units that are zero altogether."""
    is_zero = ~numbers(model.graph.initializers[name]).reshape(scores.size, -1).any(axis=1)
    return np.where(is_zero.reshape(scores.shape), -np.inf, scores)


def _kept(
    scores: Mapping[str, NDArray[np.float64]],
    nodes: Mapping[str, ir.Node],
    section: PruneSection,
    share: float,
) -> Masks:
    ratio = (section.ratio or 0.0) * share
    if section.granularity == "n:m":
        n, m = section.n_of_m
        return {
            name: _in_rows(nodes[name], values, lambda rows: n_of_m(rows, n, m))
            for name, values in scores.items()
        }
    if section.ratio is None:
        return {name: values >= (section.threshold or 0.0) for name, values in scores.items()}
    if section.criterion.name == "wanda" and section.granularity == "element":
        return {
            name: _in_rows(nodes[name], values, lambda rows: by_row(rows, ratio))
            for name, values in scores.items()
        }
    if section.scope == "local":
        return {name: highest(values, ratio) for name, values in scores.items()}
    return together(scores, ratio)


def _in_rows(
    node: ir.Node, scores: NDArray[np.float64], choose_in: Callable[[np.ndarray], np.ndarray]
) -> NDArray[np.bool_]:
    return np.asarray(back(node, choose_in(rows(node, scores)), scores.shape))


def _as_weight(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Masks of kernels, for each of their weights."""
    return np.broadcast_to(mask.reshape(*mask.shape, *[1] * (len(shape) - mask.ndim)), shape).copy()


def _swept(model: ir.Model, names: Sequence[str], material: Material, share: float) -> Chosen:
    """SparseGPT, layer by layer and group by group of a Conv."""
    section = material.recipe.prune
    options = section.criterion.options()
    nodes = {name: reader(model, name) for name in names}
    weights = {name: numbers(model.graph.initializers[name]).astype(np.float64) for name in names}
    parts = {name: rows(nodes[name], weight) for name, weight in weights.items()}
    groups = in_portions(model, names)
    held = measure(model, names, material) if len(groups) == 1 else None

    def moments() -> Iterator[tuple[str, NDArray[np.float64]]]:
        """Of each layer, as many at a time as may be held."""
        for some in groups:
            fields = held or measure(model, some, material)
            yield from ((name, fields[name]["second"]) for name in some)

    chunk, choosers = (
        options["block"],
        {name: [sharing((section.ratio or 0.0) * share)] * len(parts[name]) for name in names},
    )
    if section.granularity == "n:m":
        n, m = section.n_of_m
        chunk, choosers = m, {name: [pattern(n, m)] * len(parts[name]) for name in names}
    elif section.ratio is None or section.scope == "global":
        scores = {
            name: np.stack(
                [
                    rank(section.criterion, Group((), 0, np.random.default_rng(0), weight=one, second=second))
                    for one, second in zip(parts[name], seconds, strict=True)
                ]
            )
            for name, seconds in moments()
        }
        kept = _kept(scores, nodes, section, share)
        choosers = {name: [given(one) for one in kept[name]] for name in names}
    masks, fitted = {}, {}
    for name, seconds in moments():
        done = [
            sweep(one, upper_factor(second, options["damping"]), chooser, chunk)
            for one, second, chooser in zip(parts[name], seconds, choosers[name], strict=True)
        ]
        shape = weights[name].shape
        fitted[name] = back(nodes[name], np.stack([new for new, _ in done]), shape)
        masks[name] = back(nodes[name], np.stack([stays for _, stays in done]), shape)
    return Chosen(masks, fitted)

"""Which samples decide how many layers stay float: not those that the result is judged on, if it can be
helped.
"""

from collections.abc import Callable, Sequence

import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import DataError
from mlcompress.measure import accuracy
from mlcompress.metrics import HIGHER_IS_BETTER
from mlcompress.quantize.accuracy import give_back
from mlcompress.quantize.recipe import QuantizeRecipe

Metric = Callable[[ir.Model], float]

SAME_SAMPLES = (
    "quantize.accuracy: data.evaluate, which the result is judged on, also chose its layers, so its metric "
    "is flattered; give `data: {validation: {path: FILE.npz}}`"
)


def judge(recipe: QuantizeRecipe, context: Context, reference: ir.Model) -> tuple[Metric | None, list[str]]:
    """The recipe's metric of a graph on `data.validation`; without that on `data.evaluate`, with a warning.

    `reference`: the float model that metrics such as cosine compare with. None where there are no samples.
    """
    data, evaluate = context.validation, context.evaluate
    if data is not None and len(data) > 0:
        original = graph.to_bytes(reference)

        def validated(model: ir.Model) -> float:
            return accuracy.evaluate(graph.to_bytes(model), data, recipe.evaluate, reference=original).value

        return validated, []
    if evaluate is None or evaluate(reference) is None:
        return None, []

    def evaluated(model: ir.Model) -> float:
        value = evaluate(model)
        return float("nan") if value is None else value

    return evaluated, [SAME_SAMPLES]


def drop(recipe: QuantizeRecipe, before: float, after: float) -> float:
    """How much worse `after` is."""
    return before - after if HIGHER_IS_BETTER[recipe.evaluate.metric] else after - before


def hold_accuracy(
    recipe: QuantizeRecipe,
    context: Context,
    model: ir.Model,
    rank: Callable[[], Sequence[str]],
    build: Callable[[Sequence[str]], ir.Model],
) -> tuple[list[str], list[float], list[str]]:
    """Layers to give back for `quantize.accuracy`, the metrics measured on the way, and warnings.

    Raises DataError when there are no samples to measure on, UnsupportedError when the limit cannot hold.
    """
    limit = recipe.quantize.accuracy
    if limit is None:
        return [], [], []
    metric, warnings = judge(recipe, context, model)
    if metric is None:
        raise DataError(
            "data.validation: quantize.accuracy needs samples to measure on; "
            "add `data: {validation: {path: FILE.npz}}`"
        )
    before = metric(model)

    def holds(value: float) -> bool:
        if limit.max_drop is not None:
            return drop(recipe, before, value) <= limit.max_drop
        return limit.min_metric is None or value >= limit.min_metric

    returned, metrics = give_back(rank, build, metric, holds)
    return returned, metrics, warnings if returned else []

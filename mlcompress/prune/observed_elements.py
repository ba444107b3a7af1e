"""What criteria ask of single weights and kernels: arrays of each weight's own shape."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from mlcompress.errors import UnsupportedError, shorten
from mlcompress.graph.columns import MOST_COLUMNS, columns, from_rows, obstacle, to_rows
from mlcompress.graph.initializers import numbers
from mlcompress.prune import inputs
from mlcompress.prune.criteria import ACTIVATIONS, GRADIENTS, INPUTS, criteria, needs
from mlcompress.prune.inputs import Second, Units, observe
from mlcompress.prune.material import Material

Fields = dict[str, np.ndarray]
"""Name of a Group's field -> array of the weight's shape; `second` [G, K, K]."""


def reader(model: ir.Model, name: str) -> ir.Node:
    """The first node of the main graph that reads a weight."""
    uses = {use.node for use in model.graph.initializers[name].uses()}
    return next(node for node in model.graph if node in uses)


def lacking(criterion: str, model: ir.Model, name: str) -> str | None:
    """Why a weight cannot be ranked by a criterion; None where it can."""
    wanted = needs(criterion)
    if not wanted & (ACTIVATIONS | INPUTS):
        return None
    node = reader(model, name)
    reason = obstacle(node)
    if reason is None and "second" in wanted and columns(node) > MOST_COLUMNS:
        reason = f"{columns(node)} inputs, at most {MOST_COLUMNS} for second moments"
    return None if reason is None else f"criterion {criterion}: {reason}"


def in_portions(model: ir.Model, names: Sequence[str]) -> list[list[str]]:
    """Groups of weights whose second moments together take at most `MOMENT_BYTES`."""
    sizes = {name: inputs.moment_bytes(reader(model, name)) for name in names}
    return inputs.portions(sizes, inputs.MOMENT_BYTES)


def measure(model: ir.Model, names: Sequence[str], material: Material) -> dict[str, Fields]:
    """Weight name -> what the recipe's criterion asks for beside weights."""
    choice = material.recipe.prune.criterion
    wanted = needs(choice.name)
    if "movements" in wanted:
        return {n: {"movements": material.movements.get(n, np.zeros(_shape(model, n)))} for n in names}
    if wanted & GRADIENTS:
        return _gradients(model, names, material, wanted)
    if wanted & ACTIVATIONS:
        return _input_scores(model, names, material)
    if wanted & INPUTS:
        return _inputs(model, names, material, wanted)
    return {name: {} for name in names}


def _gradients(
    model: ir.Model, names: Sequence[str], material: Material, wanted: frozenset[str]
) -> dict[str, Fields]:
    weights = {name: numbers(model.graph.initializers[name]).astype(float) for name in names}
    sums: dict[str, np.ndarray | float] = dict.fromkeys(names, 0.0)
    kernels = material.recipe.prune.granularity == "kernel"
    field = next(name for name in sorted(wanted) if name in GRADIENTS)
    count = 0

    def add(steep: Mapping[str, np.ndarray]) -> None:
        nonlocal count
        count += 1
        for name, array in steep.items():
            if field == "squared_products":
                product = weights[name] * array
                more = np.square(product.sum(axis=tuple(range(2, product.ndim))) if kernels else product)
            else:
                more = np.square(array, dtype=float) if field == "squared_gradients" else np.abs(array)
            sums[name] = sums[name] + more

    known = material.pass_gradients(model, names, add)
    if missing := [name for name in names if name not in known]:
        raise UnsupportedError(
            f"prune.criterion {material.recipe.prune.criterion.name}: no gradient reaches {shorten(missing)};"
            " name their nodes in `skip`"
        )
    return {name: {field: np.asarray(sums[name] / count)} for name in names}


def _input_scores(model: ir.Model, names: Sequence[str], material: Material) -> dict[str, Fields]:
    """`activation`: the criterion's score of the input that each weight multiplies."""
    choice = material.recipe.prune.criterion
    nodes = {name: reader(model, name) for name in names}
    seen = {name: Units(1 if node.op_type == "Conv" else -1) for name, node in nodes.items()}
    observe(model, [(_source(node), seen[name]) for name, node in nodes.items()], material.observed())
    found = {}
    for name, node in nodes.items():
        score = criteria.bind(choice)(**{field: getattr(seen[name], field) for field in needs(choice.name)})
        weight = numbers(model.graph.initializers[name])
        rows = to_rows(node, weight)
        kernel = int(np.prod(weight.shape[2:])) if node.op_type == "Conv" else 1
        found[name] = {
            "scores": _spread(node, np.repeat(score.reshape(len(rows), -1), kernel, axis=1), weight)
        }
    return found


def _inputs(
    model: ir.Model, names: Sequence[str], material: Material, wanted: frozenset[str]
) -> dict[str, Fields]:
    nodes = {name: reader(model, name) for name in names}
    seen = {name: Second(node, diagonal="second" not in wanted) for name, node in nodes.items()}
    observe(model, [(_source(node), seen[name]) for name, node in nodes.items()], material.observed())
    if "second" in wanted:
        return {name: {"second": seen.pop(name).mean} for name in names}
    return {
        name: {
            "input_norms": _spread(node, np.sqrt(seen[name].mean), numbers(model.graph.initializers[name]))
        }
        for name, node in nodes.items()
    }


def _spread(node: ir.Node, inputs: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """[G, K], a number for each input of an output, as an array of the weight's shape."""
    rows = to_rows(node, weight)
    return from_rows(node, np.broadcast_to(inputs[:, None, :], rows.shape), weight.shape)


def _source(node: ir.Node) -> str:
    source = node.inputs[0]
    if source is None:
        raise ValueError(f"{node.name} reads nothing")
    return str(source.name)


def _shape(model: ir.Model, name: str) -> tuple[int, ...]:
    return numbers(model.graph.initializers[name]).shape

"""What criteria ask of families of channels: which weights they are, and what was measured of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress.graph.columns import MOST_COLUMNS, columns, obstacle, to_rows
from mlcompress.graph.dependency import Analysis, Family
from mlcompress.graph.dependency.families import Member
from mlcompress.graph.initializers import constant, numbers
from mlcompress.prune import inputs
from mlcompress.prune.criteria import ACTIVATIONS, GRADIENTS, Layer, needs
from mlcompress.prune.inputs import Second, Squares, Units, observe
from mlcompress.prune.material import Material

Fields = dict[str, Any]
"""Of a Group."""


def weights_of(model: ir.Model, family: Family) -> list[Member]:
    """The weights that count, producers first: matrices, and the scales of batch norms, which decide how much
    a channel counts. Biases and running statistics go with their channel but have no say: they are no
    magnitudes."""
    scales = _scales(model)
    parts = []
    for member in family.members:
        tensor = model.graph.initializers[member.tensor].const_value
        if tensor is None or not tensor.dtype.is_floating_point():
            continue
        if len(tensor.shape) > 1 or member.tensor in scales:
            parts.append(member)
    return sorted(parts, key=lambda member: member.reads)


def _scales(model: ir.Model) -> set[str]:
    """Names of the scales of batch norms."""
    norms = [node for node in model.graph if node.op_type == "BatchNormalization"]
    return {str(scale.name) for node in norms if (scale := node.inputs[1]) is not None}


def lacking(criterion: str, model: ir.Model, analysis: Analysis, family: Family) -> str | None:
    """Why a family cannot be ranked by a criterion; None where it can."""
    wanted = needs(criterion)
    if not weights_of(model, family):
        return "no float weights to rank its channels by; prune the float model"
    if "scales" in wanted and not any(m.tensor in _scales(model) for m in weights_of(model, family)):
        return (
            "no unfolded BatchNormalization scales its channels; use criterion l2, or export without folding"
        )
    if wanted & ACTIVATIONS and not _readers(model, analysis, family):
        return "no layer reads its channels one by one, so they are not observed; use criterion l2"
    if "input_norms" in wanted and not any(r.tensor for r in _readers(model, analysis, family)):
        return "no weight reads its channels; use criterion l2"
    if "layers" in wanted and not _fitted(model, analysis, family):
        return (
            f"no Conv (of one group), Gemm or MatMul of at most {MOST_COLUMNS} inputs reads its channels;"
            " use criterion l2"
        )
    return None


def in_portions(
    criterion: str, model: ir.Model, analysis: Analysis, families: Sequence[Family]
) -> list[list[Family]]:
    """Groups of families to `measure` one after the other: one, but for second moments of layers, of which
    at most `MOMENT_BYTES` are held at once."""
    if "layers" not in needs(criterion):
        return [list(families)]
    by_name = {family.name: family for family in families}
    sizes = {  # the sums and what a family takes of them
        family.name: 2 * sum(inputs.moment_bytes(node) for node, _ in _fitted(model, analysis, family))
        for family in families
    }
    return [[by_name[name] for name in names] for names in inputs.portions(sizes, inputs.MOMENT_BYTES)]


def measure(
    model: ir.Model, scored: ir.Model, analysis: Analysis, families: Sequence[Family], material: Material
) -> dict[str, Fields]:
    """Family name -> what the recipe's criterion asks for beside weights.

    `scored`: `model`, or its copy with decoded weights.
    """
    wanted = needs(material.recipe.prune.criterion.name)
    fields: dict[str, Fields] = {family.name: {} for family in families}
    if "scales" in wanted:
        for family in families:
            members = [m for m in weights_of(scored, family) if m.tensor in _scales(scored)]
            fields[family.name]["scales"] = tuple(family.slices(scored, m).astype(float) for m in members)
    if "movements" in wanted:
        for family in families:
            fields[family.name]["movements"] = tuple(
                _rows(family, member, material.movements[member.tensor].astype(float))
                if member.tensor in material.movements
                else np.zeros((family.units, 1))
                for member in weights_of(scored, family)
            )
    if wanted & GRADIENTS:
        _add_gradients(fields, model, scored, families, material, wanted)
    if wanted & ACTIVATIONS:
        _add_activations(fields, model, analysis, families, material)
    if "input_norms" in wanted:
        _add_norms(fields, model, analysis, families, material)
    if "layers" in wanted:
        _add_layers(fields, model, analysis, families, material)
    return fields


# ---------------------------------------------------------------- gradients


def _add_gradients(
    fields: Mapping[str, Fields],
    model: ir.Model,
    scored: ir.Model,
    families: Sequence[Family],
    material: Material,
    wanted: frozenset[str],
) -> None:
    members = {family.name: weights_of(scored, family) for family in families}
    weights = {m.tensor: numbers(scored.graph.initializers[m.tensor]) for ms in members.values() for m in ms}
    sums = {name: np.zeros(array.shape) for name, array in weights.items()}
    products = {f.name: [np.zeros(f.units) for _ in members[f.name]] for f in families}
    count = 0

    def add(steep: Mapping[str, np.ndarray]) -> None:
        nonlocal count
        count += 1
        for name, array in steep.items():
            sums[name] += np.square(array, dtype=float) if "squared_gradients" in wanted else np.abs(array)
        if "squared_products" in wanted:
            for family in families:
                for place, member in enumerate(members[family.name]):
                    if member.tensor in steep:
                        product = weights[member.tensor].astype(float) * steep[member.tensor]
                        products[family.name][place] += np.square(_rows(family, member, product).sum(axis=1))

    material.pass_gradients(model, list(weights), add)
    name = "squared_gradients" if "squared_gradients" in wanted else "gradients"
    for family in families:
        slices = [_rows(family, member, sums[member.tensor] / count) for member in members[family.name]]
        fields[family.name][name] = tuple(slices)
        fields[family.name]["squared_products"] = tuple(p / count for p in products[family.name])


def _rows(family: Family, member: Member, array: np.ndarray) -> np.ndarray:
    """What each unit has in an array of a weight's shape, [units, k]."""
    return np.moveaxis(array, member.axis, 0)[member.index].reshape(family.units, -1)


# ---------------------------------------------------------------- activations


@dataclass(frozen=True)
class _Reader:
    """A layer that reads a family, and where in its input the units are."""

    node: str
    tensor: str | None
    axis: int
    value: str
    value_axis: int
    units: np.ndarray
    """[positions on the axis], the unit of each, -1 for what is no unit of the family."""

    def per_unit(self, values: np.ndarray, count: int) -> np.ndarray:
        """[..., positions] -> [..., units]: the mean over the positions of each unit."""
        known = np.flatnonzero(self.units >= 0)
        share = np.zeros((len(self.units), count))
        share[known, self.units[known]] = 1
        return np.asarray(values @ (share / np.maximum(share.sum(axis=0), 1)))


def _readers(model: ir.Model, analysis: Analysis, family: Family) -> list[_Reader]:
    unit_of = np.full(analysis.classes + 1, -1)
    unit_of[family.classes] = np.arange(family.units)
    made = {value.name: value for node in model.graph for value in node.outputs}
    made |= {value.name: value for value in model.graph.inputs}
    found = []
    for use in analysis.uses:
        axes = analysis.axes.get(use.value or "")
        value = made.get(use.value)
        if not use.reads or axes is None or use.value is None or value is None:
            continue
        ids = axes[use.value_axis]
        if ids is None or (value.dtype is not None and not value.dtype.is_floating_point()):
            continue
        units = np.where(ids >= 0, unit_of[ids], -1)
        if len(np.unique(units[units >= 0])) == family.units:
            found.append(
                _Reader(use.node, use.tensor, use.axis, use.value, use.value_axis % len(axes), units)
            )
    return found


def _add_activations(
    fields: Mapping[str, Fields],
    model: ir.Model,
    analysis: Analysis,
    families: Sequence[Family],
    material: Material,
) -> None:
    first = {family.name: _readers(model, analysis, family)[0] for family in families}
    seen = {(r.value, r.value_axis): Units(r.value_axis) for r in first.values()}
    observe(model, [(value, found) for (value, _), found in seen.items()], material.observed())
    for family in families:
        reader = first[family.name]
        units = seen[reader.value, reader.value_axis]
        for name in ("mean_activation", "active_share", "pooled"):
            fields[family.name][name] = reader.per_unit(getattr(units, name), family.units)


def _add_norms(
    fields: Mapping[str, Fields],
    model: ir.Model,
    analysis: Analysis,
    families: Sequence[Family],
    material: Material,
) -> None:
    readers = {family.name: _readers(model, analysis, family) for family in families}
    seen = {(r.value, r.value_axis): Squares(r.value_axis) for rs in readers.values() for r in rs if r.tensor}
    observe(model, [(value, found) for (value, _), found in seen.items()], material.observed())
    for family in families:
        norms = {
            (r.tensor, r.axis): np.sqrt(r.per_unit(seen[r.value, r.value_axis].mean, family.units))[:, None]
            for r in readers[family.name]
            if r.tensor
        }
        members = [member for member in weights_of(model, family) if member.reads]
        fields[family.name]["input_norms"] = tuple(
            norms.get((member.tensor, member.axis), np.zeros((family.units, 1))) for member in members
        )


# ---------------------------------------------------------------- layers to fit


def _fitted(model: ir.Model, analysis: Analysis, family: Family) -> list[tuple[ir.Node, Member]]:
    """The layers that read a family as columns of a matrix product, and their weights."""
    nodes = {node.name: node for node in model.graph}
    members = {(member.tensor, member.axis): member for member in weights_of(model, family) if member.reads}
    found = []
    for reader in _readers(model, analysis, family):
        node, member = nodes[reader.node], members.get((str(reader.tensor), reader.axis))
        if member is None or obstacle(node) is not None or columns(node) > MOST_COLUMNS:
            continue
        weight = node.inputs[1]
        if weight is not None and weight.name == member.tensor and len(to_rows(node, numbers(weight))) == 1:
            found.append((node, member))
    return found


def _add_layers(
    fields: Mapping[str, Fields],
    model: ir.Model,
    analysis: Analysis,
    families: Sequence[Family],
    material: Material,
) -> None:
    layers = {family.name: _fitted(model, analysis, family) for family in families}
    seen = {node: Second(node) for found in layers.values() for node, _ in found}
    read = [(str(node.inputs[0].name), second) for node, second in seen.items()]  # type: ignore[union-attr]
    observe(model, read, material.observed())
    for family in families:
        fields[family.name]["layers"] = tuple(
            _layer(node, member, seen[node].mean[0]) for node, member in layers[family.name]
        )


def _layer(node: ir.Node, member: Member, second: np.ndarray) -> Layer:
    """Columns in the order of the units, the others left out."""
    weight = np.asarray(constant(node.inputs[1]), np.float64)
    kernel = int(np.prod(weight.shape[2:])) if node.op_type == "Conv" else 1
    at = (member.index[:, :, None] * kernel + np.arange(kernel)).reshape(len(member.index), -1)
    rows = to_rows(node, weight)[0]
    order = at.reshape(-1)
    return Layer(rows[:, order].reshape(len(rows), *at.shape), second[np.ix_(order, order)])

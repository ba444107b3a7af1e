"""What goes together when channels, heads or whole layers are pruned, and what each unit costs."""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mlcompress import checkpoint, graph
from mlcompress.errors import UserError
from mlcompress.graph.dependency import Family, analyse
from mlcompress.graph.dependency.blocks import Block, blocks
from mlcompress.recipe.sections import ModelSection

Facts = dict[str, Any]


def group_facts(path: Path, spec: ModelSection | None = None, *, no_code: bool = False) -> Facts:
    """`families`, `layers` and `frozen` for `mlcompress inspect --groups`.

    Costs are per unit: what one unit alone takes with it of the parameters, and of the MACs of layers with
    weights at batch 1 (None where shapes are unknown). Raises UserError as loading does.
    """
    model = checkpoint.load(path, spec, no_code=no_code)
    analysis = analyse(model)
    macs = _macs(model)
    return {
        "families": [_family(family, model, macs) for family in analysis.families],
        "layers": [_block(block, macs) for block in blocks(model)],
        "frozen": [{"node": item.node, "op": item.op, "reason": item.reason} for item in analysis.frozen],
    }


def _macs(model: ir.Model) -> dict[str, int] | None:
    """Weight -> MACs of the layers that multiply by it."""
    try:
        layers = graph.layers(model)
    except UserError:
        return None
    found: dict[str, int] = {}
    for layer in layers:
        found[layer.weight] = found.get(layer.weight, 0) + (layer.macs or 0)
    return found


def _family(family: Family, model: ir.Model, macs: Mapping[str, int] | None) -> Facts:
    cut: dict[str, list[tuple[int, int]]] = {}
    for member in family.members:
        cut.setdefault(member.tensor, []).append((member.axis, member.index.shape[1]))
    shapes = {name: _shape(model.graph.initializers[name]) for name in cut}
    trained = shapes.keys() - _statistics(model)
    lost = {name: 1 - prod(1 - k / shapes[name][axis] for axis, k in axes) for name, axes in cut.items()}
    return {
        "name": family.name,
        "kind": family.kind,
        "units": family.units,
        "exact": not family.soft,
        "reason": family.reason,
        "members": [
            {
                "tensor": member.tensor,
                "axis": member.axis,
                "each": member.index.shape[1],
                "reads": member.reads,
            }
            for member in family.members
        ],
        "params_per_unit": round(sum(lost[name] * prod(shapes[name]) for name in trained)),
        "macs_per_unit": None
        if macs is None
        else round(sum(share * macs.get(name, 0) for name, share in lost.items())),
    }


def _statistics(model: ir.Model) -> set[str]:
    """Running means and variances, which are no trained numbers."""
    norms = [node for node in model.graph if node.op_type == "BatchNormalization"]
    return {str(value.name) for node in norms for value in node.inputs[3:5] if value is not None}


def _shape(value: ir.Value) -> Sequence[int]:
    return [] if value.const_value is None else [int(size) for size in value.const_value.shape.numpy()]


def _block(block: Block, macs: Mapping[str, int] | None) -> Facts:
    return {
        "name": block.name,
        "from": block.entry,
        "to": block.exit,
        "nodes": len(block.nodes),
        "params": block.params,
        "macs": None if macs is None else sum(macs.get(name, 0) for name in block.tensors),
    }

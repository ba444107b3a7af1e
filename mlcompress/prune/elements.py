"""Unstructured pruning: single weights become zero. The graph keeps its shape."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import numbers, set_numbers
from mlcompress.prune.choice import Chosen
from mlcompress.prune.masks import no_rows
from mlcompress.prune.observed_elements import lacking, reader
from mlcompress.prune.recipe import PruneSection

WEIGHT_INPUTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "LSTM": 1, "GRU": 1, "RNN": 1}
"""Which input of an op holds its weight matrix; recurrent ops have a second one, R, right after."""
LARGE = 64
"""Elements from which a tensor that stays as it is is worth a line in the card."""


def prunable(model: ir.Model, skip: Collection[str]) -> list[str]:
    """Names of the float weight matrices, in graph order, without those that a node in `skip` reads."""
    names: dict[str, None] = {}
    for node in model.graph:
        if node.op_type not in WEIGHT_INPUTS:
            continue
        first = WEIGHT_INPUTS[node.op_type]
        last = first + (2 if node.op_type in ("LSTM", "GRU", "RNN") else 1)
        candidates = node.inputs[:2] if node.op_type == "MatMul" else node.inputs[first:last]
        for value in candidates:
            if (
                value is not None
                and value.const_value is not None
                and value.name
                and value.const_value.dtype.is_floating_point()
                and not any(use.node.name in skip for use in value.uses())
            ):
                names[value.name] = None
    return list(names)


def left_alone(model: ir.Model, names: Collection[str], skip: Collection[str]) -> list[dict[str, str]]:
    """Weights that are not in `names`, those in bodies of If, Loop and Scan too, and why.

    Only what has two axes longer than 1: all else is a bias or a scale.
    """
    found = []
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or value.name in names or tensor.size < LARGE:
                continue
            if sum(size != 1 for size in tensor.shape) < 2:
                continue
            readers = [use.node for use in value.uses()]
            is_inner = any(node.graph is not model.graph for node in readers)
            if reason := _reason(readers, tensor, is_inner, skip):
                found.append({"name": str(value.name), "reason": reason})
    return found


def _reason(
    readers: list[ir.Node], tensor: ir.TensorProtocol, is_inner: bool, skip: Collection[str]
) -> str | None:
    if is_inner:
        return "read inside an If, Loop or Scan: left as it is"
    if any(node.name in skip for node in readers):
        return "`skip` names its node"
    ops = ", ".join(sorted({node.op_type for node in readers}))
    if not tensor.dtype.is_floating_point():
        is_weight = any(word in ops for word in ("Dequantize", "Integer", "QLinear"))
        told = f"holds {tensor.dtype.name.lower()} numbers: prune the float model it was made from"
        return told if is_weight else None
    return f"read by {ops}: only weight matrices of layers lose single weights" if ops else None


def rankable(
    model: ir.Model, names: Collection[str], section: PruneSection
) -> tuple[list[str], list[dict[str, str]]]:
    """Those of `names` that granularity and criterion are defined for, and why the others are not."""
    found, left = [], []
    for name in names:
        node, shape = reader(model, name), numbers(model.graph.initializers[name]).shape
        reason = lacking(section.criterion.name, model, name)
        if section.granularity == "kernel" and not (
            node.op_type in ("Conv", "ConvTranspose") and int(np.prod(shape[2:])) > 1
        ):
            reason = "it has no kernels of more than one weight; use granularity element"
        elif (section.granularity == "n:m" or _by_row(section)) and (why := no_rows(node, name, len(shape))):
            reason = f"{section.granularity}: {why}"
        if reason is None:
            found.append(name)
        else:
            left.append({"name": name, "reason": reason})
    return found, left


def _by_row(section: PruneSection) -> bool:
    return section.granularity == "element" and section.criterion.name == "wanda"


def apply(model: ir.Model, chosen: Chosen) -> None:
    """Set the weights that do not stay to zero, and the others to what makes up for them."""
    for name, mask in chosen.masks.items():
        value = model.graph.initializers[name]
        weight = numbers(value)
        stays = chosen.weights[name].astype(weight.dtype) if name in chosen.weights else weight
        set_numbers(value, np.where(mask, stays, weight.dtype.type(0)))

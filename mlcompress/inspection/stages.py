"""What each stage could do with a graph, found by the very functions that decide it when the stage runs."""

from collections.abc import Callable
from math import prod
from typing import Any

import onnx_ir as ir

from mlcompress import graph
from mlcompress.errors import UserError
from mlcompress.graph.dependency import Analysis, Family, analyse
from mlcompress.graph.initializers import constant
from mlcompress.graph.shapes import at_shapes
from mlcompress.prune import elements
from mlcompress.quantize import placement
from mlcompress.quantize.cast import READERS, SMALLEST
from mlcompress.quantize.dynamic import DYNAMIC, dynamic_obstacle
from mlcompress.quantize.fuse import PER_CHANNEL_OPSET, fold_batch_norm, fold_gemm_factors, raise_opset
from mlcompress.quantize.integer import in_domain, lay_out, obstacle
from mlcompress.quantize.modes import float_reasons
from mlcompress.quantize.refuse import refuse_quantised
from mlcompress.train import torchscript
from mlcompress.train.executor import unsupported

Facts = dict[str, Any]


def stage_facts(model: ir.Model) -> Facts:
    """`families`, `frozen`, `cannot_train` and `stages`: each `possible` or `why_not`, and its own facts."""
    analysis = analyse(model)
    blockers = unsupported(model)
    return {
        "families": [_family(family, model) for family in analysis.families],
        "frozen": [{"node": item.node, "op": item.op, "reason": item.reason} for item in analysis.frozen],
        "cannot_train": blockers,
        "stages": {
            "distill": _distill(analysis, blockers),
            "prune channels": _channels(analysis),
            "prune elements": _elements(model),
            "quantize static": _told(_static, model),
            "quantize dynamic": _told(_dynamic, model),
            "quantize weight_only": _told(_weight_only, model),
            "write TorchScript": _told(_torchscript, model),
        },
    }


def _family(family: Family, model: ir.Model) -> Facts:
    tensors = [model.graph.initializers[member.tensor] for member in family.members]
    owned = sum(
        family.units * member.index.shape[1] * prod(_without(tensor, member.axis))
        for member, tensor in zip(family.members, tensors, strict=True)
    )
    return {
        "name": family.name,
        "kind": family.kind,
        "units": family.units,
        "exact": not family.soft,
        "reason": family.reason,
        "params": owned,
        "tensors": list(dict.fromkeys(member.tensor for member in family.members)),
    }


def _without(value: ir.Value, axis: int) -> list[int]:
    shape = [] if value.const_value is None else list(value.const_value.shape.numpy())
    return shape[:axis] + shape[axis + 1 :]


def _stage(why_not: list[str], **own: Any) -> Facts:
    return {"possible": not why_not, "why_not": why_not, **own}


def _told(facts: Callable[[ir.Model], Facts], model: ir.Model) -> Facts:
    try:
        return facts(model)
    except UserError as problem:
        return _stage(
            [
                line.removeprefix("model: ").removeprefix("cannot write TorchScript: ")
                for line in problem.lines
            ]
        )


def _distill(analysis: Analysis, blockers: list[str]) -> Facts:
    units = sum(family.units for family in analysis.families)
    return _stage(
        blockers,
        student="narrowed from this graph" if units else "a file (--student): nothing here can be narrowed",
        narrowable_units=units,
    )


def _channels(analysis: Analysis) -> Facts:
    exact = [family for family in analysis.families if not family.soft]
    why = [] if analysis.families else ["no channel can be removed; see what keeps them"]
    if analysis.families and not exact:
        why = ["every family is inexact; `prune.inexact: allow` removes them all the same"]
    return _stage(
        why,
        families=len(analysis.families),
        exact_families=len(exact),
        units=sum(family.units for family in exact),
        frozen=len(analysis.left_alone()),
    )


def _elements(model: ir.Model) -> Facts:
    names = elements.prunable(model, ())
    sizes = [constant(model.graph.initializers.get(name)) for name in names]
    count = sum(array.size for array in sizes if array is not None)
    return _stage([] if names else ["no float weight matrix"], tensors=len(names), weights=count)


def _ready(model: ir.Model) -> ir.Model:
    """A copy, prepared as quantisation does. Raises UnsupportedError for a quantised one."""
    refuse_quantised(model)
    base = graph.copy(model)
    fold_batch_norm(base)
    fold_gemm_factors(base)
    return base


def _static(model: ir.Model) -> Facts:
    """Placement by the rules, at the shapes of a made-up input; a run takes those of its samples."""
    base = raise_opset(_ready(model), PER_CHANNEL_OPSET)
    able = [str(node.name) for node in lay_out(base.graph, lambda node: True).nodes]
    sizes = _sizes(base)
    try:
        integer = placement.rules(base.graph, lambda node: True, sizes)
    except KeyError:  # a length that only samples tell
        integer = None
    left = float_reasons(base.graph, able if integer is None else integer, (), (), obstacle)
    why = [] if able else [f"no Conv, Gemm or MatMul can run as integers{_first(left)}"]
    return _stage(why, can_run_as_integers=len(able), by_the_rules=_count(integer), left_in_float=_rows(left))


def _dynamic(model: ir.Model) -> Facts:
    base = _ready(model)
    able = [str(n.name) for n in base.graph if in_domain(n, DYNAMIC) and dynamic_obstacle(n) is None]
    left = float_reasons(base.graph, able, (), (), dynamic_obstacle)
    why = [] if able else [f"no Gemm, MatMul or LSTM can run as integers{_first(left)}"]
    return _stage(why, can_run_as_integers=len(able), left_in_float=_rows(left))


def _weight_only(model: ir.Model) -> Facts:
    base = _ready(model)
    found = {}
    for value in base.graph.initializers.values():
        array = constant(value)
        reads = all(use.idx in READERS.get(use.node.op_type, ()) for use in value.uses())
        if (
            array is not None
            and array.dtype == "float32"
            and array.size >= SMALLEST
            and array.ndim > 1
            and reads
        ):
            found[str(value.name)] = array.size
    return _stage(
        [] if found else [f"no float32 weight of {SMALLEST} elements or more"],
        tensors=len(found),
        weights=sum(found.values()),
    )


def _torchscript(model: ir.Model) -> Facts:
    torchscript.refuse(model)
    return _stage([])


def _sizes(model: ir.Model) -> dict[str, float]:
    """Elements of every value of known length, at batch 1."""
    signature = graph.signature(model)
    shaped = at_shapes(model, graph.example_shapes(signature))
    values = [*shaped.graph.inputs, *(value for node in shaped.graph for value in node.outputs)]
    return {
        str(value.name): float(prod(value.shape.numpy()))
        for value in values
        if value.shape is not None and value.shape.is_static()
    }


def _first(left: dict[str, str]) -> str:
    return "".join(f" ({name}: {reason})" for name, reason in list(left.items())[:1])


def _count(names: list[str] | None) -> int | None:
    return None if names is None else len(names)


def _rows(left: dict[str, str]) -> list[Facts]:
    return [{"node": name, "reason": reason} for name, reason in left.items()]

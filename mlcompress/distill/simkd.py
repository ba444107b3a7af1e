"""SimKD's student: its own layers up to a tensor, a projector, and the teacher's head behind it.

Chen et al. 2022, "Knowledge Distillation with the Reused Teacher Classifier", section 3.2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

from mlcompress import graph
from mlcompress.distill.projector import Projector
from mlcompress.errors import ModelError, RecipeError, UnsupportedError
from mlcompress.graph.insert import Insertion
from mlcompress.train.losses import LossEntry
from mlcompress.train.terms import resolve

HEAD = "simkd_head"


@dataclass(frozen=True)
class Graft:
    """What the larger student means for training and card."""

    losses: Sequence[LossEntry]
    frozen: list[str] = field(default_factory=list)
    """Initializers of the teacher's head."""
    description: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def graft(student: ir.Model, teacher: ir.Model, losses: Sequence[LossEntry], seed: int) -> Graft:
    """Give `student`, in place, projector and head if there is a `simkd` among the losses.

    Raises:
        RecipeError: a tensor that a graph does not have; two `simkd`.
        ModelError: features that no projector joins.
        UnsupportedError: a head that cannot be cut off the teacher.
    """
    places = [number for number, entry in enumerate(losses) if entry.name == "simkd"]
    if not places:
        return Graft(losses)
    where = f"distill.losses[{places[-1]}] (simkd)"
    if len(places) > 1:
        raise RecipeError(f"{where}: a student has one head; name simkd once")
    term = resolve(losses[places[0]], student, teacher, where)
    twin = graph.copy(teacher)
    graph.infer_shapes(twin)
    graph.infer_shapes(student)
    _check_opsets(student, twin, where)
    before = graph.parameters(student)
    own, taught = _value(student, term.student), _value(twin, term.teacher)
    projector = Projector(student.graph, seed)
    projected = projector.project(own, taught, where)
    frozen = _move_head(twin, taught, student, projected, where)
    graph.remove_unused(student)
    entries = list(losses)
    entries[places[0]] = term.entry.model_copy(update={"student": str(projected.name)})
    head = sum(_size(student.graph.initializers[name]) for name in frozen)
    told = {"params_before": before, "projector_params": projector.params, "head_params": head}
    after = graph.parameters(student)
    grows = (
        f"{where}: the student grows from {before:,} to {after:,} parameters: projector and teacher's head"
    )
    return Graft(entries, frozen, {"simkd": told}, [grows])


def _move_head(
    twin: ir.Model, taught: ir.Value, student: ir.Model, projected: ir.Value, where: str
) -> list[str]:
    """Move what lies between `taught` and the outputs of `twin` behind `projected`; its initializers."""
    head = _head(twin, taught, where)
    weights = list(
        dict.fromkeys(v for node in head for v in node.inputs if v is not None and v.is_initializer())
    )
    inputs = {value.name: value for value in student.graph.inputs}
    for value in twin.graph.inputs:
        value.replace_all_uses_with(inputs[value.name])
    taught.replace_all_uses_with(projected)
    insertion = Insertion(student.graph)
    for value in weights:
        del twin.graph.initializers[str(value.name)]
        value.name = insertion.fresh(f"{HEAD}.{value.name}")
        student.graph.register_initializer(value)
    outputs = list(twin.graph.outputs)
    twin.graph.outputs.clear()
    twin.graph.remove(head)
    for node in head:
        node.name = insertion.fresh(f"{HEAD}/{node.name}")
        for value in node.outputs:
            if value not in outputs and value.name:
                value.name = insertion.fresh(f"{HEAD}/{value.name}")
    for old in student.graph.outputs:
        old.name = insertion.fresh(f"{old.name}_before_{HEAD}")
    student.graph.outputs[:] = outputs
    student.graph.extend(head)
    return [str(value.name) for value in weights]


def _head(twin: ir.Model, taught: ir.Value, where: str) -> list[ir.Node]:
    """The nodes that the outputs need behind `taught`, in order."""
    needed: set[ir.Node] = set()
    waiting = [value for value in twin.graph.outputs if value is not taught]
    while waiting:
        maker = waiting.pop().producer()
        if maker is None or maker in needed:
            continue
        needed.add(maker)
        waiting += [value for value in maker.inputs if value is not None and value is not taught]
    head = [node for node in twin.graph if node in needed]
    behind = _behind(taught)
    if taught in twin.graph.outputs or not head:
        raise UnsupportedError(
            f"{where}: {taught.name} is an output, so no head is left to reuse; use `hint`"
        )
    for node in head:
        has_weights = any(value is not None and _is_weight(value) for value in node.inputs)
        if has_weights and node not in behind:
            raise UnsupportedError(
                f"{where}: the outputs need {node.name} too, which does not read {taught.name};"
                " name a tensor that everything passes"
            )
        if node.op_type == "BatchNormalization" or any(
            one.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for one in node.attributes.values()
        ):
            raise UnsupportedError(
                f"{where}: the head holds {node.op_type} {node.name}, which cannot be kept as it is;"
                " name a later tensor"
            )
    return head


def _behind(value: ir.Value) -> set[ir.Node]:
    """All nodes that depend on `value`."""
    found: set[ir.Node] = set()
    waiting = [value]
    while waiting:
        for node in waiting.pop().consumers():
            if node not in found:
                found.add(node)
                waiting += node.outputs
    return found


def _check_opsets(student: ir.Model, twin: ir.Model, where: str) -> None:
    ours, theirs = student.opset_imports, twin.opset_imports
    if ours.get("") != theirs.get(""):
        raise ModelError(
            f"{where}: the student has operator set {ours.get('')}, the teacher {theirs.get('')}; one graph"
            " cannot hold both; export them alike"
        )
    for domain, version in theirs.items():
        ours.setdefault(domain, version)


def _value(model: ir.Model, name: str) -> ir.Value:
    return next(value for node in model.graph for value in node.outputs if value.name == name)


def _is_weight(value: ir.Value) -> bool:
    return value.is_initializer() and value.shape is not None and len(value.shape) > 1


def _size(value: ir.Value) -> int:
    return 0 if value.const_value is None else int(value.const_value.size)

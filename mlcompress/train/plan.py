"""A graph turned into a list of steps, so that a forward pass decides nothing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor

from mlcompress.errors import ModelError, shorten
from mlcompress.train.ops import OPS
from mlcompress.train.ops.host import RULES, SOURCES
from mlcompress.train.ops.node import DEVICE, DTYPES, TRAINING, Node, Refusal, Run

ODD_KINDS = {
    kind.value: kind.name.lower()
    for kind in ir.DataType
    if kind.is_string() or kind.name.startswith(("COMPLEX", "FLOAT8", "FLOAT4"))
}
"""TensorProto type numbers that nothing here computes with."""


@dataclass(frozen=True)
class Step:
    """values[write] = run(*values[reads]); then `frees` are forgotten."""

    run: Run
    reads: tuple[str, ...]
    write: str
    node: str
    frees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a forward pass does. Holds no tensor, so that a copied or moved executor may share it."""

    steps: tuple[Step, ...]
    tensors: tuple[str, ...]
    """Weights and constants that the steps read as tensors."""
    literals: Mapping[str, Any]
    """Constants that the steps read as Python numbers or lists."""
    results: Mapping[str, str]
    """Name asked for -> name under which it is found after the last step."""


def problems(nodes: Sequence[Node]) -> list[str]:
    """One line per op and reason that keeps `nodes` from running, [] when there is none."""
    unknown: dict[str, list[str]] = {}
    refused: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        odd = [kind for kind in map(node.kinds.get, (*node.inputs, *node.outputs)) if kind in ODD_KINDS]
        if node.op not in OPS:
            unknown.setdefault(node.op, []).append(node.name)
            continue
        try:
            if odd:
                raise Refusal(f"data type {ODD_KINDS[odd[0]]}")
            OPS[node.op].bind(node)
        except Refusal as reason:
            refused.setdefault((node.op, str(reason)), []).append(node.name)
    lines = [f"op {op} (nodes {shorten(names)}) has no trainable form" for op, names in unknown.items()]
    return lines + [
        f"op {op} (nodes {shorten(names)}): {reason} has no trainable form"
        for (op, reason), names in refused.items()
    ]


def compile_plan(nodes: Sequence[Node], wanted: Collection[str], tensors: Collection[str]) -> Plan:
    """Steps that compute the values `wanted`. `tensors` names the weights, statistics and constants."""
    building = _Building(frozenset(tensors))
    for node in live(nodes, wanted):
        building.add(node)
    kinds = nodes[0].kinds if nodes else {}
    results = {name: building.result(name, kinds.get(name)) for name in wanted}
    return Plan(
        _with_frees(building.steps, set(results.values()) | building.read | building.literals.keys()),
        tuple(sorted(building.read)),
        building.literals,
        results,
    )


def execute(plan: Plan, values: dict[str, Any], training: bool, device: torch.device) -> dict[str, Tensor]:
    """Run the steps on `values` (inputs and `plan.tensors`, which is used up) and give the results by name.

    Raises ModelError that names the node when torch refuses its inputs, which only happens for shapes or
    types that the graph was not made for.
    """
    values[TRAINING], values[DEVICE] = training, device
    step = None
    try:
        for step in plan.steps:
            values[step.write] = step.run(*[values[name] for name in step.reads])
            for name in step.frees:
                del values[name]
    except (RuntimeError, IndexError) as error:
        if step is None or isinstance(error, torch.OutOfMemoryError):
            raise
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"model: node {step.node}: {what}; do the inputs have the shapes it wants?"
        ) from error
    return {name: values[found] for name, found in plan.results.items()}


def live(nodes: Sequence[Node], wanted: Collection[str]) -> list[Node]:
    """The nodes that `wanted` depends on, in order."""
    needed = set(wanted)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.inputs)
    return kept[::-1]


class _Building:
    """The steps so far, and in which form each value exists."""

    def __init__(self, tensors: frozenset[str]) -> None:
        self.tensors = tensors
        self.steps: list[Step] = []
        self.read: set[str] = set()
        self.literals: dict[str, Any] = {"": None}
        self.ranks: dict[str, int] = {}
        """Rank of every value that is a Python number (0) or list (1)."""
        self.converted: set[str] = set()

    def add(self, node: Node) -> None:
        hosted = self._hosted(node)
        if hosted is not None:
            run, rank = hosted
            reads = tuple(self._as_host(node, index) for index in range(len(node.inputs)))
            self.ranks[node.outputs[0]] = rank
            self.steps.append(Step(run, reads, node.outputs[0], node.name))
            return
        op = OPS[node.op]
        run = op.bind(node)
        inputs = tuple(
            self._as_host(node, index) if index in op.host else self._as_tensor(name, node.name)
            for index, name in enumerate(node.inputs)
        )
        if node.op in SOURCES:
            self.ranks[node.outputs[0]] = SOURCES[node.op]
        if op.outputs == 1:
            self.steps.append(Step(run, op.reserved + inputs, node.outputs[0], node.name))
            return
        several = f"{node.outputs}\0"
        self.steps.append(Step(run, op.reserved + inputs, several, node.name))
        for index, name in enumerate(node.outputs):
            if name:
                self.steps.append(Step(_item(index), (several,), name, node.name))

    def result(self, name: str, kind: int | None) -> str:
        """Under which name the tensor `name` is found in the end, in its declared integer type."""
        found = self._as_tensor(name, name)
        if kind is None or name in self.read or DTYPES.get(kind, torch.float32).is_floating_point:
            return found
        self.steps.append(Step(_to(DTYPES[kind]), (found,), f"{name}\0result", name))
        return f"{name}\0result"

    def _hosted(self, node: Node) -> tuple[Run, int] | None:
        """The form of `node` on Python numbers, when its inputs are such and it has one."""
        rule = RULES.get(node.op)
        if rule is None or not any(name in self.ranks for name in node.inputs):
            return None
        ranks = [self._rank(node, index) for index in range(len(node.inputs))]
        if any(rank is None for rank, name in zip(ranks, node.inputs, strict=True) if name):
            return None
        return rule(node, ranks)

    def _rank(self, node: Node, index: int) -> int | None:
        known = node.constant(index)
        if known is not None:
            return known.dim() if known.dim() <= 1 and not known.is_floating_point() else None
        return self.ranks.get(node.inputs[index])

    def _as_host(self, node: Node, index: int) -> str:
        name = node.inputs[index]
        if name == "" or name in self.ranks:
            return name
        key = f"{name}\0host"
        known = node.constant(index)
        if known is not None:
            self.literals[key] = known.tolist()
        elif key not in self.converted:
            self.converted.add(key)
            self.steps.append(Step(_to_host, (self._as_tensor(name, node.name),), key, node.name))
        return key

    def _as_tensor(self, name: str, node: str) -> str:
        if name in self.tensors:
            self.read.add(name)
        if name not in self.ranks:
            return name
        key = f"{name}\0tensor"
        if key not in self.converted:
            self.converted.add(key)
            self.steps.append(Step(_from_host, (DEVICE, name), key, node))
        return key


def _with_frees(steps: list[Step], kept: Collection[str]) -> tuple[Step, ...]:
    """Each value is forgotten by the last step that reads it, or at once when none does."""
    seen = set(kept)
    done = []
    for step in reversed(steps):
        names = {name for name in (*step.reads, step.write) if name not in seen and not name.startswith("\0")}
        seen |= names
        done.append(replace(step, frees=tuple(sorted(names))))
    return tuple(done[::-1])


def _item(index: int) -> Run:
    return lambda several: several[index]


def _to(kind: torch.dtype) -> Run:
    return lambda tensor: tensor.to(kind)


def _to_host(tensor: Tensor) -> Any:
    return tensor.tolist()


def _from_host(device: torch.device, value: Any) -> Tensor:
    if isinstance(value, list) and not value:
        return torch.empty(0, dtype=torch.int64, device=device)
    return torch.tensor(value, device=device)

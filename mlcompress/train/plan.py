"""A graph turned into a list of steps, so that a forward pass decides nothing."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mlcompress.errors import shorten
from mlcompress.train.kinds import name_of
from mlcompress.train.ops import OPS
from mlcompress.train.ops.host import RULES, SOURCES
from mlcompress.train.ops.node import DEVICE, DTYPES, PACKED, Node, Refusal, Run, is_tracing, walk
from mlcompress.train.steps import Plan, Routine, Step, scoped


def problems(nodes: Sequence[Node]) -> list[str]:
    """One line per op and reason that keeps `nodes` from running, [] when there is none."""
    unknown: dict[str, list[str]] = {}
    refused: dict[tuple[str, str], list[str]] = {}
    for node in walk(nodes):
        if node.op not in OPS:
            unknown.setdefault(node.op, []).append(node.name)
            continue
        try:
            op = OPS[node.op]
            odd = [k for name in (*node.inputs, *node.outputs) if (k := node.kinds.get(name)) not in op.kinds]
            if odd:
                raise Refusal(f"data type {name_of(odd[0])}")
            op.bind(node)
        except Refusal as reason:
            refused.setdefault((node.op, str(reason)), []).append(node.name)
    lines = [f"op {op} (nodes {shorten(names)}) has no trainable form" for op, names in unknown.items()]
    return lines + [
        f"op {op} (nodes {shorten(names)}): {reason} has no trainable form"
        for (op, reason), names in refused.items()
    ]


def compile_plan(nodes: Sequence[Node], wanted: Collection[str], tensors: Collection[str]) -> Plan:
    """Steps that compute the values `wanted`. `tensors` names the weights, statistics and constants."""
    return _Building(frozenset(tensors), {}).plan(nodes, wanted, nodes[0].kinds if nodes else {})


def live(nodes: Sequence[Node], wanted: Collection[str]) -> list[Node]:
    """The nodes that `wanted` depends on, in order."""
    needed = set(wanted)
    kept = []
    for node in reversed(nodes):
        if needed.intersection(node.outputs):
            kept.append(node)
            needed.update(node.reads)
    return kept[::-1]


class _Building:
    """The steps so far, and in which form each value exists."""

    def __init__(self, tensors: frozenset[str], ranks: Mapping[str, int]) -> None:
        self.tensors = tensors
        self.steps: list[Step] = []
        self.read: set[str] = set()
        self.literals: dict[str, Any] = {"": None}
        self.ranks = dict(ranks)
        """Rank of every value that is a Python number (0) or list (1)."""
        self.converted: set[str] = set()

    def plan(self, nodes: Sequence[Node], wanted: Collection[str], kinds: Mapping[str, int]) -> Plan:
        for node in live(nodes, wanted):
            self.add(node)
        results = {name: self.result(name, kinds.get(name)) for name in wanted}
        kept = {*results.values(), *self.read, *self.literals}
        return Plan(_with_frees(self.steps, kept), tuple(sorted(self.read)), self.literals, results)

    def add(self, node: Node) -> None:
        hosted = self._hosted(node)
        if hosted is not None:
            run, rank = hosted
            reads = tuple(self._as_host(node, index) for index in range(len(node.inputs)))
            self.ranks[node.outputs[0]] = rank
            self.steps.append(Step(run, reads, node.outputs[0], node.name))
            return
        op = OPS[node.op]
        inputs = tuple(
            self._as_host(node, index) if index in op.host else self._as_tensor(name, node.name)
            for index, name in enumerate(node.inputs)
        )
        if node.bodies:
            node, around = self._compiled(node)
            run, inputs = scoped(op.bind(node), len(inputs), around), inputs + around
        else:
            run = op.bind(node)
        if node.op in SOURCES:
            self.ranks[node.outputs[0]] = SOURCES[node.op]
        if op.outputs == 1 and node.plain:
            self.steps.append(Step(run, op.reserved + inputs, node.outputs[0], node.name))
            return
        several = f"{node.outputs}\0"
        self.steps.append(Step(run, op.reserved + inputs, several, node.name))
        for index, name in enumerate(node.outputs):
            if name:
                self.steps.append(Step(_item(index), (several,), name, node.name))

    def _compiled(self, node: Node) -> tuple[Node, tuple[str, ...]]:
        """The node with its bodies as functions, and the values that these take from around it."""
        routines: dict[str, Routine] = {}
        for name, body in node.bodies.items():
            building = _Building(self.tensors, self.ranks | dict.fromkeys(body.inputs[: body.hosted], 0))
            plan = building.plan(body.nodes, body.outputs, node.kinds)
            kinds = tuple(DTYPES.get(node.kinds.get(output, 0)) for output in body.outputs)
            routines[name] = Routine(plan, body.inputs, body.outputs, body.shapes, kinds)
            self.read.update(plan.tensors)
        around = dict.fromkeys(name for routine in routines.values() for name in routine.reads)
        return replace(node, attributes={**node.attributes, **routines}), tuple(around)

    def result(self, name: str, kind: int | None) -> str:
        """Under which name the tensor `name` is found in the end, in its declared integer type."""
        found = self._as_tensor(name, name)
        wanted = (DTYPES | PACKED).get(kind or 0, torch.float32)
        if name in self.read or wanted.is_floating_point:
            return found
        self.steps.append(Step(_to(wanted), (found,), f"{name}\0result", name))
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
    if is_tracing():  # numbers would be written into the trace
        return list(tensor.unbind()) if tensor.dim() else tensor
    return tensor.tolist()


def _from_host(device: torch.device, value: Any) -> Tensor:
    if isinstance(value, list) and not value:
        return torch.empty(0, dtype=torch.int64, device=device)
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, Tensor) for part in parts):  # lengths are tensors while tracing
        tensors = [p.to(device) if isinstance(p, Tensor) else torch.tensor(p, device=device) for p in parts]
        return torch.stack(tensors) if isinstance(value, list) else tensors[0]
    return torch.tensor(value, device=device)

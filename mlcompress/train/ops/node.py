"""What an op function sees of a node, and the table that holds the op functions.

An op function is called once, when a plan is built, and returns the function that runs in a forward pass:

    @op("Softmax", "input")
    def softmax(node, *, axis: int = -1):
        return lambda x: torch.softmax(x, axis)

Its keyword-only arguments are the attributes that it honours, the string names the inputs that it honours
(`*` after the last name: any number). Whatever else a node carries is refused by name before anything runs.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Run = Callable[..., Any]

TRAINING = "\0training"
"""Reserved value name: whether the module is in training mode."""
DEVICE = "\0device"
"""Reserved value name: where the inputs are."""


def is_tracing() -> bool:
    """Whether torch.jit records this run: lengths are tensors then, and part of the trace if made numbers."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


class Refusal(Exception):
    """A node asks for something that has no trainable form; the text says what."""


@dataclass(frozen=True)
class Body:
    """A graph inside a node: a branch of If, what Loop and Scan repeat."""

    nodes: tuple["Node", ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    hosted: int
    """How many of its inputs, from the first on, are Python numbers."""
    shapes: tuple[tuple[int, ...] | None, ...]
    """Declared shapes of the outputs, 0 for lengths that are not known; None where none is declared."""

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of values that it takes from around it, weights and constants included."""
        own = {*self.inputs, *(name for node in self.nodes for name in node.outputs)}
        names = [*(name for node in self.nodes for name in node.reads), *self.outputs]
        return tuple(dict.fromkeys(name for name in names if name and name not in own))


@dataclass(frozen=True)
class Node:
    """One ONNX node: names, attributes and the tensors that are known before anything runs."""

    op: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    """Value names; "" for an optional input that is absent."""
    outputs: tuple[str, ...]
    """Value names; "" for an output that nothing reads."""
    attributes: Mapping[str, Any]
    constants: Mapping[str, Tensor]
    """Values that no training step changes, by name; shared by all nodes."""
    kinds: Mapping[str, int]
    """TensorProto type number of every value whose type is known, by name; shared by all nodes."""

    @property
    def bodies(self) -> dict[str, Body]:
        """The graphs inside it, by attribute."""
        return {name: value for name, value in self.attributes.items() if isinstance(value, Body)}

    def inside(self, change: Callable[[Body], Body]) -> "Node":
        """The node with its bodies changed."""
        bodies = {name: change(body) for name, body in self.bodies.items()}
        return replace(self, attributes={**self.attributes, **bodies}) if bodies else self

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all values that it depends on: its inputs, and what bodies take from around them."""
        return (*self.inputs, *(name for body in self.bodies.values() for name in body.reads))

    def has(self, index: int) -> bool:
        """Whether the optional input at `index` is given."""
        return index < len(self.inputs) and self.inputs[index] != ""

    def floats_only(self, index: int, formal: str) -> None:
        """Refusal when the input at `index` holds whole numbers."""
        kind = self.kind(index)
        if kind in DTYPES and not DTYPES[kind].is_floating_point:
            raise Refusal(f"input {formal} of whole numbers")

    @property
    def plain(self) -> bool:
        """Whether nothing but its first output is read."""
        return not any(self.outputs[1:])

    def constant(self, index: int) -> Tensor | None:
        """The input at `index` when it is known before anything runs."""
        return self.constants.get(self.inputs[index]) if self.has(index) else None

    def kind(self, index: int) -> int | None:
        """TensorProto type number of the input at `index`, None when absent or unknown."""
        return self.kinds.get(self.inputs[index]) if self.has(index) else None

    def fixed(self, index: int, formal: str) -> Tensor | None:
        """The input at `index`, None when absent; Refusal when it is computed at run time."""
        if self.has(index) and self.inputs[index] not in self.constants:
            raise Refusal(f"input {formal} is computed at run time, not constant, and so")
        return self.constant(index)


def walk(nodes: Iterable[Node]) -> Iterator[Node]:
    """The nodes and those of their bodies, each after the node that it is in."""
    for node in nodes:
        yield node
        for body in node.bodies.values():
            yield from walk(body.nodes)


@dataclass(frozen=True)
class Op:
    """How one op runs: `build(node, **attributes)` gives the run function."""

    build: Callable[..., Run]
    inputs: tuple[str, ...]
    variadic: bool
    host: frozenset[int]
    """Positions of the inputs that arrive as Python numbers or lists, not as tensors."""
    outputs: int
    """How many outputs it can give; with more than one the run function returns a tuple."""
    reserved: tuple[str, ...]
    """Reserved values that the run function takes before its inputs."""
    extra: int
    """How many further outputs it can give; the run function returns a tuple when one of them is read."""
    kinds: frozenset[int | None]
    """TensorProto type numbers of the inputs and outputs that it takes; None: not known."""

    def bind(self, node: Node) -> Run:
        """The run function for `node`; raises Refusal for anything that this op does not honour."""
        accepted = inspect.signature(self.build).parameters
        unknown = [name for name in node.attributes if name not in accepted]
        if unknown:
            raise Refusal(", ".join(f"attribute {name}={node.attributes[name]!r}" for name in unknown))
        missing = [
            name
            for name, parameter in accepted.items()
            if parameter.kind is parameter.KEYWORD_ONLY
            and parameter.default is parameter.empty
            and name not in node.attributes
        ]
        if missing:
            raise Refusal(f"attribute {', '.join(missing)} is missing")
        if not self.variadic:
            extra = [index for index in range(len(self.inputs), len(node.inputs)) if node.has(index)]
            if extra:
                raise Refusal(", ".join(f"input {index} ({node.inputs[index]!r})" for index in extra))
        most = self.outputs + self.extra
        for index, name in enumerate(node.outputs[most:], start=most):
            if name:
                raise Refusal(f"output {index} ({name!r}) is read")
        return self.build(node, **node.attributes)


OPS: dict[str, Op] = {}
"""Every op of the default ONNX domain that has a trainable form."""

ORDINARY = frozenset({None, 1, 2, 3, 5, 6, 7, 9, 10, 11, 16})
"""Types that torch computes with: floats of 64, 32 and 16 bits, int8 to int64, uint8, bool."""
UNSIGNED = frozenset({4, 12, 13})
"""uint16, uint32, uint64: torch moves, compares and casts them, but has little arithmetic for them."""
FLOAT16 = 10
HALF = frozenset({FLOAT16, 16})
"""float16 and bfloat16."""
PACKED = {21: torch.uint8, 22: torch.int8, 25: torch.uint8, 26: torch.int8}
"""Integers of 4 and 2 bits, held as 8."""


def op(
    name: str,
    inputs: str,
    *,
    host: str = "",
    outputs: int = 1,
    reserved: tuple[str, ...] = (),
    extra: int = 0,
    more: Collection[int] = (),
) -> Callable[[Callable[..., Run]], Callable[..., Run]]:
    """Enter an op function into the table under its ONNX name; a second entry for one name is an error.

    `more` are types besides the ordinary ones.
    """
    formal = tuple(inputs.replace("*", "").split())

    def enter(build: Callable[..., Run]) -> Callable[..., Run]:
        if name in OPS:
            raise ValueError(f"op {name} is defined twice")
        wanted = frozenset(formal.index(one) for one in host.split())
        kinds = ORDINARY.union(more)
        OPS[name] = Op(build, formal, inputs.endswith("*"), wanted, outputs, reserved, extra, kinds)
        return build

    return enter


def simple(inputs: str, functions: Mapping[str, Run], *, more: Collection[int] = ()) -> None:
    """Ops without attributes: ONNX name -> function of the tensors."""
    for name, function in functions.items():
        op(name, inputs, more=more)(_constantly(function))


def _constantly(function: Run) -> Callable[[Node], Run]:
    return lambda node: function


DTYPES: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    4: torch.uint16,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    12: torch.uint32,
    13: torch.uint64,
    16: torch.bfloat16,
}
"""ONNX TensorProto data types that exist in torch."""


def dtype(code: int, attribute: str) -> torch.dtype:
    """The torch dtype for a TensorProto type number; Refusal where torch has none."""
    if code not in DTYPES:
        raise Refusal(f"attribute {attribute}={code} (data type)")
    return DTYPES[code]

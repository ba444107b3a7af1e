"""Residual blocks: branches f of x + f(x) that can go as a whole, which leaves every shape as it was."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from mlcompress.graph.insert import Insertion
from mlcompress.graph.lengths import declared
from mlcompress.graph.unused import remove_unused


@dataclass(frozen=True)
class Block:
    """A branch that a sum adds to its own input. Everything is named, so that it fits copies of the model."""

    name: str
    """Node of the sum."""
    entry: str
    """x."""
    exit: str
    """x + f(x)."""
    place: int
    """Which operand of the sum is x: 0 or 1."""
    nodes: tuple[str, ...]
    """What goes with the branch, in graph order, without the sum itself."""
    tensors: tuple[str, ...]
    """Initializers that go, in the order in which they are read."""
    params: int
    """Trained numbers among them."""


def blocks(model: ir.Model, skip: Collection[str] = ()) -> list[Block]:
    """Innermost residual branches of the main graph, in its order.

    One operand of an Add or Sum of two is computed from the other, x; the graph declares that x has the shape
    of the sum; what only the branch needs holds a weight matrix. `skip`: names of nodes whose blocks stay.
    """
    return _judged(model, skip)[0]


def left_alone(model: ir.Model, skip: Collection[str] = ()) -> list[dict[str, str]]:
    """`name` of the sum and `reason`, for a card: sums with a weight matrix on one side that are no block of
    `blocks`, or that `skip` names."""
    return _judged(model, skip)[1]


def _judged(model: ir.Model, skip: Collection[str]) -> tuple[list[Block], list[dict[str, str]]]:
    order = {node: number for number, node in enumerate(model.graph)}
    found: list[Block] = []
    reasons: dict[str, str] = {}
    for node in order:
        if node.op_type.startswith("Skip") and node.domain == "com.microsoft":
            reasons[str(node.name)] = f"{node.op_type} adds and normalises in one op"
        if node.op_type not in ("Add", "Sum") or node.domain != "":
            continue
        block = _block(node, order)
        if isinstance(block, str):
            if _has_branch(node, order):
                reasons[str(node.name)] = block
        elif {block.name, *block.nodes} & set(skip):
            reasons[block.name] = "`skip` names a node of it"
        else:
            found.append(block)
    innermost = _innermost(found)
    for block in found:
        if block not in innermost:
            reasons[block.name] = "it holds another residual branch, which goes alone"
    return innermost, [
        {"name": str(node.name), "reason": reasons[str(node.name)]} for node in order if node.name in reasons
    ]


def bypass(model: ir.Model, dead: Collection[Block]) -> None:
    """Remove these blocks in place: who read the sum reads x, and what nobody needs any more is gone.

    Raises ValueError for a block that the model does not have.
    """
    nodes = {str(node.name): node for node in model.graph}
    missing = [block.name for block in dead if block.name not in nodes]
    if missing:
        raise ValueError(f"no block {missing[0]!r}")
    for block in dead:
        node = nodes[block.name]
        kept, out = node.inputs[block.place], node.outputs[0]
        if kept is None:
            raise ValueError(f"block {block.name!r} has lost its input")
        if out.is_graph_output():  # keeps its name and its own value
            node.replace_input_with(0, kept)
            node.resize_inputs(1)
            node.op_type = "Identity"
        else:
            out.replace_all_uses_with(kept)
            model.graph.remove(node, safe=True)
    remove_unused(model)


def mask_blocks(model: ir.Model, dead: Collection[Block]) -> ir.Model:
    """The oracle of `bypass`: a copy in which these branches are multiplied by zero."""
    masked = model.clone()
    nodes = {str(node.name): node for node in masked.graph}
    insertion = Insertion(masked.graph)
    for block in dead:
        node, place = nodes[block.name], 1 - block.place
        branch = node.inputs[place]
        kind = ir.DataType.FLOAT if branch is None or branch.dtype is None else branch.dtype
        zero = insertion.constant(f"{block.name}_off", np.zeros((), dtype=kind.numpy()))
        made = insertion.node("Mul", [branch, zero], f"{block.name}_masked", kind)
        masked.graph.insert_before(node, made)
        node.replace_input_with(place, made.outputs[0])
    return masked


def _block(node: ir.Node, order: Mapping[ir.Node, int]) -> Block | str:
    """The block that this sum ends, or why it ends none."""
    if len(node.inputs) != 2:
        return "it does not add two values"
    reason = "neither side is computed from the other: its shortcut is a layer too, or there is none"
    for place in (0, 1):
        kept, branch = node.inputs[place], node.inputs[1 - place]
        if kept is None or branch is None or kept is branch or kept.const_value is not None:
            continue
        if not _depends(branch, kept, order):
            continue
        if not _has_shape_of(kept, node.outputs[0]):
            reason = "the graph does not declare that its input has the shape of the sum"
            continue
        dead = _dying(node, [branch], kept, order)
        tensors = _tensors(dead)
        if not any(_is_matrix(value) for value in tensors):
            reason = "no weight matrix is needed by this branch alone"
            continue
        return Block(
            name=str(node.name),
            entry=str(kept.name),
            exit=str(node.outputs[0].name),
            place=place,
            nodes=tuple(str(gone.name) for gone in dead if gone is not node),
            tensors=tuple(str(value.name) for value in tensors),
            params=sum(prod(_shape(value)) for value in tensors if _is_trained(value)),
        )
    return reason


def _has_branch(node: ir.Node, order: Mapping[ir.Node, int]) -> bool:
    """Do both sides depend on data, and does one of them alone need a matrix? Else nobody would call the sum
    residual: a bias, a mask."""
    sides = [value for value in node.inputs if value is not None]
    if len(sides) < 2 or any(value.const_value is not None for value in sides):
        return False
    return any(_is_matrix(value) for value in _tensors(_dying(node, sides, None, order)))


def _has_shape_of(kept: ir.Value, total: ir.Value) -> bool:
    one, other = declared(kept), declared(total)
    return one is not None and one == other and None not in one


def _depends(branch: ir.Value, kept: ir.Value, order: Mapping[ir.Node, int]) -> bool:
    """Is `branch` computed from `kept`? Only nodes after the one that makes `kept` are looked at."""
    maker = kept.producer()
    first = -1 if maker is None else order.get(maker, -1)
    seen: set[ir.Node] = set()
    waiting = [branch]
    while waiting:
        value = waiting.pop()
        if value is kept:
            return True
        producer = value.producer()
        if producer is None or producer in seen or order.get(producer, -1) <= first:
            continue
        seen.add(producer)
        waiting += [read for read in producer.inputs if read is not None]
    return False


def _dying(
    total: ir.Node, branches: Collection[ir.Value], kept: ir.Value | None, order: Mapping[ir.Node, int]
) -> list[ir.Node]:
    """The sum and the nodes that nobody needs once readers of the sum read `kept`, in graph order."""
    dead = {total}
    waiting = list(branches)
    while waiting:
        value = waiting.pop()
        node = None if value is kept else value.producer()
        if node is None or node in dead or node not in order:
            continue
        if any(value.is_graph_output() for value in node.outputs):
            continue
        if all(reader in dead for value in node.outputs for reader, _ in value.uses()):
            dead.add(node)
            waiting += [value for value in node.inputs if value is not None]
    return sorted(dead, key=lambda node: order[node])


def _tensors(dead: Collection[ir.Node]) -> list[ir.Value]:
    """Initializers that only these nodes read."""
    gone = set(dead)
    read = dict.fromkeys(value for node in dead for value in node.inputs if value is not None)
    return [
        value
        for value in read
        if value.is_initializer()
        and not value.is_graph_input()
        and not value.is_graph_output()
        and all(reader in gone for reader, _ in value.uses())
    ]


def _is_trained(value: ir.Value) -> bool:
    """As `graph.parameters` counts: no running statistics, shapes or indices, no scalars of formulas."""
    if value.dtype in (ir.DataType.INT64, ir.DataType.BOOL) or prod(_shape(value)) == 1:
        return False
    return any(node.op_type != "BatchNormalization" or place < 3 for node, place in value.uses())


def _is_matrix(value: ir.Value) -> bool:
    return sum(size > 1 for size in _shape(value)) > 1


def _shape(value: ir.Value) -> list[int]:
    return [] if value.const_value is None else list(value.const_value.shape.numpy())


def _innermost(found: list[Block]) -> list[Block]:
    """Blocks that hold no other: of x + f(x + g(x)) with its own sum inside, g alone."""
    sums = {block.name for block in found}
    return [block for block in found if not sums & set(block.nodes)]

"""Reshape and Flatten: axes that split and merge."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.atoms import Axis
from mlcompress.graph.dependency.refine import Factor, refine, target_sizes
from mlcompress.graph.dependency.roles import Role, roles
from mlcompress.graph.dependency.rules import rule
from mlcompress.graph.dependency.trace import Trace
from mlcompress.graph.operands import axis_of, operand
from mlcompress.graph.shape_arguments import Size, elements, product


@rule("Reshape")
def reshape(node: ir.Node, trace: Trace) -> None:
    """Merged elements carry the atom of their tracked axis; a split axis is tracked along one factor."""
    x, out = operand(node, 0), node.outputs[0]
    target = elements(operand(node, 1))
    before = _named(trace.sizes(x))
    if target is None or (0 in target and node.attributes.get_int("allowzero", 0) == 1):
        trace.opaque(node, "its target is computed at run time")
        return
    declared: list[Size] = []
    if out.shape is not None and len(out.shape) == len(target):
        declared = [dim if isinstance(dim, int) else dim.value for dim in out.shape]
    after = target_sizes(before, target, declared)
    result = _reshaped(node, trace, before, after)
    for axis, entry in enumerate(target):
        if entry is None and result[axis] is not None:
            trace.keep(node, [result[axis]], "its target is computed at run time")
            result[axis] = None
    trace.set(out, result)


@rule("Flatten")
def flatten(node: ir.Node, trace: Trace) -> None:
    """Reshape to two axes; needs no target."""
    x = operand(node, 0)
    before = _named(trace.sizes(x))
    axis = axis_of(node.attributes.get_int("axis", 1), len(before))
    trace.set(
        node.outputs[0], _reshaped(node, trace, before, [product(before[:axis]), product(before[axis:])])
    )


def _named(sizes: Sequence[Size]) -> list[Size]:
    """A name for every length that has none, so that it can be recognised after the reshape."""
    return [f"axis {axis}" if size is None else size for axis, size in enumerate(sizes)]


def _reshaped(node: ir.Node, trace: Trace, before: Sequence[Size], after: Sequence[Size]) -> list[Axis]:
    axes = trace.of(operand(node, 0))
    result: list[Axis] = [None] * len(after)
    for block in refine(before, after):
        if block.factors is None:
            trace.keep(
                node, [axes[axis] for axis in block.sources], "regroups elements without a common factor"
            )
            continue
        parts: list[Axis] = []
        for source in block.sources:
            parts += _split(
                node, trace, axes[source], [f for f in block.factors if f.source == source], len(after)
            )
        for target in block.targets:
            inner = [(f, part) for f, part in zip(block.factors, parts, strict=True) if f.target == target]
            result[target] = _merge(node, trace, inner)
    return result


def _split(node: ir.Node, trace: Trace, atoms: Axis, factors: Sequence[Factor], rank: int) -> list[Axis]:
    """Atoms of each factor: one is tracked, elements that differ only in the others go together."""
    if atoms is None or len(factors) == 1:
        return [atoms] * len(factors)
    found = roles(node.outputs[0], [factor.target for factor in factors], rank)
    chosen = _unit(factors, found)
    table = np.moveaxis(atoms.reshape([int(factor.size) for factor in factors]), chosen, 0)
    unit = trace.atoms.unify_rows(table.reshape(table.shape[0], -1))
    if not any(role in (Role.SHUFFLED, Role.INSTANCE) for each in found for role in each):
        trace.kinds.append((unit, "head"))
    return [unit if place == chosen else None for place in range(len(factors))]


def _unit(factors: Sequence[Factor], found: Sequence[set[Role]]) -> int:
    """The factor whose elements can be removed one by one: heads of (heads, width) and of (3, heads, width).

    A factor that is taken apart (query, key and value) or worked along later is avoided; the wider one serves
    where channels are only shuffled (of two equal ones the inner, so that cutting it does not change the
    choice); the outer one else.
    """

    def preference(place: int) -> tuple[int, int, int]:
        seen = found[place]
        avoided = (
            2 * bool(seen & {Role.SELECTED, Role.ALONG}) + (Role.SUMMED in seen) - 2 * (Role.INSTANCE in seen)
        )
        if Role.SHUFFLED in seen:
            return avoided, -int(factors[place].size), -place
        return avoided, 0, place

    return min(range(len(factors)), key=preference)


def _merge(node: ir.Node, trace: Trace, factors: Sequence[tuple[Factor, Axis]]) -> Axis:
    """Atoms of a merged axis: those of its tracked factor, repeated. Further tracked factors stay whole."""
    tracked = [place for place, (_, atoms) in enumerate(factors) if atoms is not None]
    if not tracked:
        return None
    own = [place for place in tracked if not trace.atoms.is_virtual(factors[place][1])]  # type: ignore[arg-type]
    chosen = (own or tracked)[0]
    trace.keep(
        node, [factors[p][1] for p in tracked if p != chosen], "merges two axes that could both be pruned"
    )
    outer = product([factor.size for factor, _ in factors[:chosen]])
    inner = product([factor.size for factor, _ in factors[chosen + 1 :]])
    atoms = factors[chosen][1]
    if atoms is None or not isinstance(outer, int) or not isinstance(inner, int):
        trace.keep(node, [atoms], "merges with an axis of unknown length")
        return None
    return np.tile(np.repeat(atoms, inner), outer)

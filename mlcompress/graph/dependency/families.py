"""Families: removable units that live on the same weight axes, so that they can be ranked together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from mlcompress.graph.dependency.atoms import Axis, Classes, Ids
from mlcompress.graph.dependency.trace import Trace, Use

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Member:
    """Slices of one initializer that go with the units of a family."""

    tensor: str
    axis: int
    index: Ids
    """[units, k] positions on the axis."""
    reads: bool
    """The axis is summed over: these weights read the units."""


@dataclass(frozen=True)
class Family:
    """Units that can be removed one by one, ordered by their first position in the first member."""

    name: str
    """Of the weight that makes the units; `name[1]` for a second family on the same axis."""
    kind: str
    """head (attention), rnn (recurrent units), width (what a layer is normalised over), channel (made or read
    by a convolution) or linear (rows of Gemm and MatMul)."""
    units: int
    members: tuple[Member, ...]
    """Everything that goes, in graph order; weights that sum over the units included."""
    soft: bool
    """Removal is not exactly equal to masking, by `reason`."""
    reason: str
    conv: bool
    """A convolution is involved: counts are worth rounding."""
    classes: Ids
    """[units] class ids, for Analysis."""

    def slices(self, model: ir.Model, member: Member) -> np.ndarray:
        """[units, numbers]: what each unit has in this member, in the tensor's dtype."""
        tensor = model.graph.initializers[member.tensor].const_value
        if tensor is None:
            raise ValueError(f"{member.tensor}: has no numbers")
        array = np.moveaxis(tensor.numpy(), member.axis, 0)
        return array[member.index].reshape(self.units, -1)


class _Slot(NamedTuple):
    """An axis that units live on, of a weight or of any other value.

    Units that reach a value and units that do not are families apart, so that no axis can become empty while
    every family keeps a unit.
    """

    name: str
    axis: int
    weight: bool


_Uses = dict[tuple[str | None, int], dict[int, Use]]


def build(trace: Trace, classes: Classes) -> list[Family]:
    """Group the removable classes that have weights by the axes they live on and how often."""
    slots = _slots(trace)
    table = _table(trace, classes, slots)
    kinds = {
        kind: _roots(classes, [axis for axis, other in trace.kinds if other == kind])
        for kind in ("head", "rnn")
    }
    uses = _by_place(trace.uses)
    families = [_family(group, slots, uses, classes, kinds) for group in _groups(table, slots)]
    order = {name: number for number, name in enumerate(trace.weights)}
    return _distinct(sorted(families, key=lambda family: _place(family, order)))


def _slots(trace: Trace) -> list[_Slot]:
    """Axes of weights first, then of computed values."""
    places = [(name, axis) for name, axes in trace.axes.items() for axis in range(len(axes))]
    weights = [(name, axis) for name, axes in trace.weights.items() for axis in range(len(axes))]
    values = [place for place in places if place[0] not in trace.weights]
    return [_Slot(*place, True) for place in weights] + [_Slot(*place, False) for place in values]


def _table(trace: Trace, classes: Classes, slots: Sequence[_Slot]) -> Ids:
    """[entries, 3]: class, slot, position, sorted."""
    parts = []
    for number, slot in enumerate(slots):
        ids = classes.of(trace.axes[slot.name][slot.axis])
        if ids is not None:
            places = np.flatnonzero(ids >= 0)
            parts.append(np.stack([ids[places], np.full(len(places), number), places], axis=1))
    if not parts:
        return np.zeros((0, 3), dtype=np.int64)
    table = np.concatenate(parts)
    return table[np.lexsort(table.T[::-1])]


def _groups(table: Ids, slots: Sequence[_Slot]) -> list[Ids]:
    """The table cut into families: classes with equal sequences of slots, repetitions included.

    Left out: what has no weights (broadcast axes), and what no computed value carries.
    """
    if not len(table):
        return []
    starts = np.flatnonzero(np.diff(table[:, 0], prepend=-1))
    gathered: dict[bytes, list[int]] = {}
    bounds = [*starts.tolist(), len(table)]
    column = np.ascontiguousarray(table[:, 1])
    for number, start in enumerate(bounds[:-1]):
        gathered.setdefault(column[start : bounds[number + 1]].tobytes(), []).append(number)
    groups = []
    for signature, numbers in gathered.items():
        width = len(signature) // column.itemsize
        rows = starts[numbers][:, None] + np.arange(width)
        first, last = (slots[int(table[rows[0, place], 1])] for place in (0, -1))
        if first.weight and not last.weight:
            groups.append(table[rows])
    return groups


def _by_place(uses: Sequence[Use]) -> _Uses:
    """Name and axis of a weight or activation -> the uses of it, by their numbers."""
    found: _Uses = {}
    for number, use in enumerate(uses):
        for place in (
            {(use.tensor, use.axis), (use.value, use.value_axis)} if use.reads else {(use.tensor, use.axis)}
        ):
            found.setdefault(place, {})[number] = use
    return found


def _family(
    group: Ids, slots: Sequence[_Slot], uses: _Uses, classes: Classes, kinds: dict[str, set[int]]
) -> Family:
    """`group`: [units, entries, 3], the same slots in every row, in ascending order."""
    group = group[np.argsort(group[:, 0, 2], kind="stable")]
    ids = group[:, 0, 0]
    starts = np.flatnonzero(np.diff(group[0, :, 1], prepend=-1)).tolist()
    ends = [*starts[1:], group.shape[1]]
    index = {
        slots[group[0, start, 1]]: group[:, start:end, 2] for start, end in zip(starts, ends, strict=True)
    }
    numbered: dict[int, Use] = {}
    for slot in index:
        numbered |= uses.get((slot.name, slot.axis), {})
    found = [numbered[number] for number in sorted(numbered)]
    readers, makers = [use for use in found if use.reads], [use for use in found if not use.reads]
    read = {(use.tensor, use.axis) for use in readers}
    members = tuple(
        Member(s.name, s.axis, at, (s.name, s.axis) in read) for s, at in index.items() if s.weight
    )
    conv = any(use.op in CONVOLUTIONS for use in (*readers, *makers))
    first = next(((use.tensor, use.axis) for use in makers), (members[0].tensor, members[0].axis))
    reason = next((classes.soft[number] for number in ids.tolist() if number in classes.soft), "")
    kind = next(
        (kind for kind, roots in kinds.items() if int(ids[0]) in roots), "channel" if conv else "linear"
    )
    return Family(
        name=str(first[0]),
        kind="width" if reason else kind,
        units=len(ids),
        members=members,
        soft=bool(reason),
        reason=reason,
        conv=conv,
        classes=ids,
    )


def _roots(classes: Classes, axes: Iterable[Axis]) -> set[int]:
    found: set[int] = set()
    for axis in axes:
        if axis is not None:
            found |= set(classes.root[axis[axis >= 0]].tolist())
    return found


def _place(family: Family, order: Mapping[str, int]) -> tuple[int, list[tuple[int, int, int]]]:
    """Order in the graph, then by where else the units live: removing some does not change it."""
    places = [(order[member.tensor], member.axis, member.index.shape[1]) for member in family.members]
    return order[family.name], places


def _distinct(families: Sequence[Family]) -> list[Family]:
    """Number the families that share a name."""
    seen: dict[str, int] = {}
    result = []
    for family in families:
        count = seen[family.name] = seen.get(family.name, -1) + 1
        result.append(replace(family, name=f"{family.name}[{count}]") if count else family)
    return result

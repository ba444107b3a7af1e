"""Shape arguments: integer vectors that are constant, or a Concat of constants and computed lengths."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import constant
from mlcompress.graph.operands import optional

Size = int | str | None
"""A static length, the name of a symbolic one, or None when nothing is known."""


LONGEST = 64
"""Entries of a vector that may be a shape; longer ones are data."""


def elements(value: ir.Value | None) -> list[int | None] | None:
    """The entries of a shape argument, None where computed at run time. None: not even its length is known.

    Entries that are numbers can be replaced later, see `Cut.set_elements`.
    """
    found: list[int | None] = []
    for piece in pieces(value):
        numbers = constant(piece)
        if numbers is not None:
            found += [int(number) for number in numbers.reshape(-1)]
        elif piece.shape is not None and len(piece.shape) == 1 and isinstance(piece.shape[0], int):
            found += [None] * min(piece.shape[0], LONGEST + 1)
        else:
            return None
        if len(found) > LONGEST:
            return None
    return found or None


def pieces(value: ir.Value | None) -> list[ir.Value]:
    """The values that a shape argument is joined from; casts between integer types are looked through."""
    if value is None:
        return []
    producer = value.producer()
    if producer is not None and producer.op_type == "Cast":
        return pieces(producer.inputs[0])
    if producer is None or producer.op_type != "Concat":
        return [value]
    return [piece for piece in producer.inputs if piece is not None]


def integers(value: ir.Value | None) -> list[int] | None:
    """A constant integer vector (or scalar) as a list; None when it is computed at run time or absent."""
    numbers = constant(value)
    return None if numbers is None else [int(number) for number in np.asarray(numbers).reshape(-1)]


def slice_ranges(node: ir.Node) -> list[tuple[int, int, int, int]] | None:
    """(axis, start, stop, step) as written; None when computed at run time."""
    if "starts" in node.attributes:
        starts, stops = list(node.attributes["starts"].as_ints()), list(node.attributes["ends"].as_ints())
        axes = node.attributes.get_ints("axes", None)
        steps = None
    else:
        given = [integers(optional(node, index)) for index in range(1, 5)]
        absent = [optional(node, index) is None for index in range(1, 5)]
        if any(numbers is None and not missing for numbers, missing in zip(given, absent, strict=True)):
            return None
        starts, stops, axes, steps = given[0] or [], given[1] or [], given[2], given[3]
    axes = list(range(len(starts))) if axes is None else list(axes)
    return list(zip(axes, starts, stops, steps or [1] * len(starts), strict=True))


def product(sizes: Sequence[Size]) -> Size:
    """Product of lengths; with one name among them it is called "number*name", as torch's exporter does."""
    return _called(sizes, [])


def quotient(sizes: Sequence[Size], others: Sequence[Size]) -> Size:
    """Product of `sizes` divided by that of `others`, as `product` calls it; None where it is not known."""
    return _called(sizes, others)


def _called(sizes: Sequence[Size], others: Sequence[Size]) -> Size:
    if None in sizes or None in others:
        return None
    top, names = _factors(sizes)
    bottom, gone = _factors(others)
    for name in gone:
        if name not in names:
            return None
        names.remove(name)
    if bottom == 0 or top % bottom or len(names) > 1:
        return None
    number = top // bottom
    return number if not names or not number else names[0] if number == 1 else f"{number}*{names[0]}"


def _factors(sizes: Sequence[Size]) -> tuple[int, list[str]]:
    """The product of the numbers, and the names."""
    number, names = 1, []
    for size in sizes:
        factor, _, name = str(size).rpartition("*") if isinstance(size, str) else (str(size), "", "")
        if factor.isdecimal() or isinstance(size, int):
            number *= int(factor)
        else:
            name = str(size)  # any other expression is a name
        names += [name] if name else []
    return number, names

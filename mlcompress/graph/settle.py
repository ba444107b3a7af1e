"""Settles lengths that a graph computes while it runs, as far as only the batch is dynamic.

Exporters compute the targets of Reshape and Expand from `Shape`, although all but the batch is known. As
constants, with 0 or -1 for the batch, they let shapes be inferred further on and channels be followed.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from mlcompress.graph.fold import fold
from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.graph.length_names import name_lengths
from mlcompress.graph.lengths import Vectors, declared, evaluate
from mlcompress.graph.operands import optional
from mlcompress.graph.shape_arguments import Size, elements, integers
from mlcompress.graph.shapes import infer_shapes
from mlcompress.graph.unused import remove_unused

_ROUNDS = 64
"""Each settles at least one more target and lets shapes be inferred behind it."""
_INTEGERS = (ir.DataType.INT64, ir.DataType.INT32)


def settle(model: ir.Model) -> None:
    """Replace computed lengths by constants, in place; the function of the graph does not change.

    - vectors whose entries are all numbers become initializers, and what then is constant is folded;
    - targets of Reshape whose entries are numbers but for the batch become constants with 0 or -1;
    - targets of Expand become constants where the computed entries only repeat the length that is there;
    - Reshape, Transpose, Reshape that swap the last two axes (attention) become one Transpose;
    - Reshape, Transpose, Reshape that merge an axis with the batch and take it apart again leave it apart.
    """
    for _ in range(_ROUNDS):
        infer_shapes(model)
        name_lengths(model)
        insertion = Insertion(model.graph)
        vectors = evaluate(model.graph)
        settled = [_settle(node, vectors, insertion) for node in list(model.graph)]
        if not any(settled):
            return
        remove_unused(model)
        fold(model)


def _settle(node: ir.Node, vectors: Vectors, insertion: Insertion) -> bool:
    if node.op_type == "Reshape" and node.domain == "":
        return (
            _as_transpose(node, vectors, insertion)
            or _apart(node, insertion)
            or _reshape(node, vectors, insertion)
        )
    if node.op_type == "Expand" and node.domain == "":
        return _expand(node, vectors, insertion)
    return _vector(node, vectors, insertion)


def _vector(node: ir.Node, vectors: Vectors, insertion: Insertion) -> bool:
    """A computed vector of numbers becomes an initializer."""
    if len(node.outputs) != 1 or node.outputs[0].dtype not in _INTEGERS or node.outputs[0].is_graph_output():
        return False
    out = node.outputs[0]
    entries = vectors.get(out.name or "")
    if entries is None or out.shape is None or not out.uses() or not all(isinstance(e, int) for e in entries):
        return False
    kind = np.dtype(out.dtype.numpy() if out.dtype is not None else np.int64)
    limits = np.iinfo(kind)
    if any(not limits.min <= int(entry) <= limits.max for entry in entries if isinstance(entry, int)):
        return False  # it wraps when it runs
    numbers = np.array(entries, dtype=kind)
    if len(out.shape) == 0 and len(numbers) == 1:
        numbers = numbers.reshape(())
    out.replace_all_uses_with(insertion.constant(f"{out.name}_settled", numbers))
    return True


def _reshape(node: ir.Node, vectors: Vectors, insertion: Insertion) -> bool:
    """Numbers stay; a length that the input has at the same place is 0 (copy); one other may be -1."""
    target = optional(node, 1)
    entries = None if target is None else vectors.get(target.name or "")
    before = declared(optional(node, 0))
    if entries is None or constant(target) is not None or 0 in entries:
        return False
    wanted: list[int] = []
    for axis, entry in enumerate(entries):
        copied = before is not None and axis < len(before) and entry is not None and before[axis] == entry
        wanted.append(entry if isinstance(entry, int) else 0 if copied else -1)
    if wanted.count(-1) > 1:
        return False
    node.attributes.pop("allowzero", None)
    node.replace_input_with(1, insertion.constant(f"{node.name}_target", np.array(wanted, dtype=np.int64)))
    return True


def _expand(node: ir.Node, vectors: Vectors, insertion: Insertion) -> bool:
    """A computed entry that equals the length of the axis says nothing: 1 does the same."""
    target = optional(node, 1)
    entries = None if target is None else vectors.get(target.name or "")
    before = declared(optional(node, 0))
    if entries is None or before is None or constant(target) is not None:
        return False
    aligned: list[Size] = [*[1] * (len(entries) - len(before)), *before][-len(entries) :]
    wanted = [
        entry if isinstance(entry, int) else 1 if entry is not None and entry == size else None
        for entry, size in zip(entries, aligned, strict=True)
    ]
    if None in wanted:
        return _joined_target(node, target, entries, insertion)
    node.replace_input_with(1, insertion.constant(f"{node.name}_target", np.array(wanted, dtype=np.int64)))
    return True


def _joined_target(
    node: ir.Node, target: ir.Value | None, entries: Sequence[Size], insertion: Insertion
) -> bool:
    """A target of numbers and lengths of inputs, however it is computed, becomes a plain Concat of both."""
    axes = {
        size: (value, axis)
        for value in insertion.graph.inputs
        for axis, size in enumerate(declared(value) or ())
        if isinstance(size, str)
    }
    plain = [entry if isinstance(entry, int) else None for entry in entries]
    if elements(target) == plain or not all(isinstance(e, int) or e in axes for e in entries):
        return False
    nodes, parts = [], []
    for entry in entries:
        if isinstance(entry, int):
            parts.append(insertion.constant(f"{node.name}_length", np.array([entry], dtype=np.int64)))
            continue
        value, axis = axes[str(entry)]
        lengths = insertion.node("Shape", [value], f"{node.name}_lengths", ir.DataType.INT64)
        place = insertion.constant(f"{node.name}_axis", np.array([axis], dtype=np.int64))
        picked = insertion.node(
            "Gather", [lengths.outputs[0], place], f"{node.name}_length", ir.DataType.INT64
        )
        nodes += [lengths, picked]
        parts.append(picked.outputs[0])
    nodes.append(
        insertion.node("Concat", parts, f"{node.name}_target", ir.DataType.INT64, attributes={"axis": 0})
    )
    insertion.graph.insert_before(node, nodes)
    node.replace_input_with(1, nodes[-1].outputs[0])
    return True


def _as_transpose(node: ir.Node, vectors: Vectors, insertion: Insertion) -> bool:
    """(a, b, s, d) -> (a*b, s, d) -> (a*b, d, s) -> (a, b, d, s)."""
    swap = _producer(node, "Transpose")
    merge = None if swap is None else _producer(swap, "Reshape")
    if swap is None or merge is None or list(swap.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return False
    before, target = declared(optional(merge, 0)), optional(node, 1)
    after = None if target is None else vectors.get(target.name or "")
    merged = declared(merge.outputs[0])
    if before is None or after is None or merged is None or None in before or len(before) != len(after):
        return False
    if merged[-2:] != before[-2:] or after != [*before[:-2], before[-1], before[-2]]:
        return False
    order = [*range(len(before) - 2), len(before) - 1, len(before) - 2]
    made = insertion.node(
        "Transpose", [merge.inputs[0]], f"{node.outputs[0].name}_swapped", ir.DataType.FLOAT
    )
    made.attributes["perm"] = ir.AttrInt64s("perm", order)
    made.outputs[0].type = node.outputs[0].type
    insertion.graph.insert_before(node, made)
    node.outputs[0].replace_all_uses_with(made.outputs[0], replace_graph_outputs=True)
    return True


def _apart(node: ir.Node, insertion: Insertion) -> bool:
    """(s, b, h*d) -> (s, b*h, d) -> (b*h, s, d) -> (b, h, s, d) as (s, b, h, d) -> (b, h, s, d): torch's own
    attention module merges batch and heads, so that nobody could tell them apart."""
    swap = _producer(node, "Transpose")
    merge = None if swap is None else _producer(swap, "Reshape")
    if swap is None or merge is None:
        return False
    first, last = integers(optional(merge, 1)), integers(optional(node, 1))
    order = list(swap.attributes.get_ints("perm", []))
    if first is None or last is None or len(last) != len(first) + 1 or len(order) != len(first):
        return False
    if first.count(-1) != 1 or last[:1] != [-1] or order[0] != first.index(-1) or 0 in first:
        return False
    if last[2:] != [first[axis] for axis in order[1:]] or last[1] < 1:
        return False
    place = order[0]
    target = [*first[:place], -1, last[1], *first[place + 1 :]]
    moved = [axis + (axis > place) for axis in order]
    _replace(node, merge.inputs[0], target, [moved[0], moved[0] + 1, *moved[1:]], insertion)
    return True


def _replace(
    node: ir.Node, source: ir.Value | None, target: list[int], order: list[int], insertion: Insertion
) -> None:
    """Reshape to `target`, then Transpose by `order`, in the place of `node`."""
    out = node.outputs[0]
    shape = insertion.constant(f"{out.name}_target", np.array(target, dtype=np.int64))
    split = insertion.node("Reshape", [source, shape], f"{out.name}_split", None)
    turned = insertion.node("Transpose", split.outputs, f"{out.name}_turned", None)
    turned.attributes["perm"] = ir.AttrInt64s("perm", order)
    split.outputs[0].type = turned.outputs[0].type = out.type
    insertion.graph.insert_before(node, [split, turned])
    out.replace_all_uses_with(turned.outputs[0], replace_graph_outputs=True)


def _producer(node: ir.Node, op: str) -> ir.Node | None:
    value = optional(node, 0)
    made = None if value is None else value.producer()
    return made if made is not None and made.op_type == op and made.domain == "" else None

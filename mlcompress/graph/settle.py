"""Settles lengths that a graph computes while it runs, as far as only the batch is dynamic.

Exporters compute the targets of Reshape and Expand from `Shape`, although all but the batch is known. As
constants, with 0 or -1 for the batch, they let shapes be inferred further on and channels be followed.
"""

import numpy as np
import onnx_ir as ir

from mlcompress.graph.fold import fold
from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.graph.lengths import Vectors, declared, evaluate
from mlcompress.graph.operands import optional
from mlcompress.graph.shape_arguments import Size
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
    - Reshape, Transpose, Reshape that swap the last two axes (attention) become one Transpose.
    """
    for _ in range(_ROUNDS):
        infer_shapes(model)
        _name_lengths(model)
        insertion = Insertion(model.graph)
        vectors = evaluate(model.graph)
        settled = [_settle(node, vectors, insertion) for node in list(model.graph)]
        if not any(settled):
            return
        remove_unused(model)
        fold(model)


def _settle(node: ir.Node, vectors: Vectors, insertion: Insertion) -> bool:
    if node.op_type == "Reshape" and node.domain == "":
        return _as_transpose(node, vectors, insertion) or _reshape(node, vectors, insertion)
    if node.op_type == "Expand" and node.domain == "":
        return _expand(node, vectors, insertion)
    return _vector(node, vectors, insertion)


def _name_lengths(model: ir.Model) -> None:
    """Give axes the name of an input's axis where a computed shape says so.

    Inference gives such axes names of its own, the same all over the graph: one finding renames them
    everywhere.
    """
    names = {size for value in model.graph.inputs for size in declared(value) or () if isinstance(size, str)}
    while True:
        vectors = evaluate(model.graph)
        renamed: dict[str, str] = {}
        for node in model.graph:
            argument = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}.get(node.op_type)
            value = None if argument is None else optional(node, argument)
            entries = [] if value is None else vectors.get(value.name or "", [])
            for size, entry in zip(declared(node.outputs[0]) or (), entries, strict=False):
                if isinstance(size, str) and size not in names and isinstance(entry, str) and entry in names:
                    renamed[size] = entry
        if not renamed:
            return
        for value in (value for node in model.graph for value in node.outputs if not value.is_graph_output()):
            sizes = declared(value)
            if sizes is not None:
                value.shape = ir.Shape([renamed.get(s, s) if isinstance(s, str) else s for s in sizes])


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
        return False
    node.replace_input_with(1, insertion.constant(f"{node.name}_target", np.array(wanted, dtype=np.int64)))
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


def _producer(node: ir.Node, op: str) -> ir.Node | None:
    value = optional(node, 0)
    made = None if value is None else value.producer()
    return made if made is not None and made.op_type == op and made.domain == "" else None

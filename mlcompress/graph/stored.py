"""How the file of a loaded model stored its weights: what constant folding decoded, and from how many bytes.

Folding leaves a note at every initializer that it makes: the ops and the stored tensors behind it. The note
lives in memory only; a saved file says the same by its nodes.
"""

from dataclasses import dataclass

import onnx_ir as ir

_NOTE = "stored"
_MOVING = {
    *("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Concat", "Split"),
    *("Expand", "Tile"),
}
"""Ops that store nothing in fewer bytes by themselves."""
_SHORT = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64"}


@dataclass(frozen=True)
class _Note:
    """What a computed initializer was made from."""

    ops: frozenset[str]
    leaves: tuple[tuple[str, str, int], ...]
    """Name, element type and bytes of the initializers of the file, in the order of reading."""


@dataclass(frozen=True)
class Storage:
    """The stored form of one weight."""

    form: str
    """An element type (fp16, int8, int4, ...), `codebook`, `packed bits`, `sparse`, or `computed`."""
    bytes: int
    """Of everything that the weight is decoded from."""


def storage(value: ir.Value) -> Storage:
    """How the file holds the numbers of an initializer of a loaded model; plain ones by their own type."""
    tensor = value.const_value
    if tensor is None:
        raise ValueError(f"{value.name} is not an initializer")
    note = value.meta.get(_NOTE)
    if note is None:
        return Storage(_type(tensor), tensor.nbytes)
    return Storage(_form(note, tensor), sum(size for _, _, size in note.leaves))


def of_result(node: ir.Node) -> _Note:
    """The note for what a node of initializers gives."""
    ops = {node.op_type}
    leaves: dict[tuple[str, str, int], None] = {}
    for value in node.inputs:
        note = None if value is None else value.meta.get(_NOTE)
        if note is not None:
            ops |= note.ops
            leaves |= dict.fromkeys(note.leaves)
        elif value is not None and value.const_value is not None:
            tensor = value.const_value
            leaves[str(value.name), _type(tensor), tensor.nbytes] = None
    return _Note(frozenset(ops), tuple(leaves))


def remember(value: ir.Value, note: _Note) -> None:
    """Attach a note to the initializer that was computed."""
    value.meta[_NOTE] = note


def _form(note: _Note, tensor: ir.TensorProtocol) -> str:
    if note.ops & {"ScatterElements", "ScatterND"} or "CumSum" in note.ops:
        return "sparse"
    if "BitShift" in note.ops or "BitwiseAnd" in note.ops:
        return "packed bits"
    if "Gather" in note.ops and "Cast" in note.ops:
        return "codebook"
    largest = max(note.leaves, key=lambda leaf: leaf[2], default=None)
    if largest is None:
        return "computed"
    kind = largest[1]
    if kind != _type(tensor):
        return kind if largest[2] < tensor.nbytes else "computed"
    return kind if note.ops <= _MOVING else "computed"


def _type(tensor: ir.TensorProtocol) -> str:
    return _SHORT.get(tensor.dtype.name, tensor.dtype.name.lower())

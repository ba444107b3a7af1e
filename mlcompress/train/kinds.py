"""Element types: what the values of a graph hold, and which of them torch computes with."""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import onnx_ir as ir
import torch

from mlcompress.train.ops.node import DTYPES

SEQUENCE, OPTIONAL = -1, -2
ODD_KINDS = {
    **{
        int(kind): kind.name.lower()
        for kind in ir.DataType
        if kind.is_string() or kind.name.startswith(("COMPLEX", "FLOAT8", "FLOAT4"))
    },
    SEQUENCE: "sequence",
    OPTIONAL: "optional",
}
"""Numbers of the types that nothing here computes with, and their names."""


def name_of(kind: int | None) -> str:
    """The name of a type in messages."""
    return ODD_KINDS.get(kind or 0) or ir.DataType(kind or 0).name.lower()


_STATED = ("to", "dtype", "output_dtype", "output_datatype")
"""Attributes that name the type of the first output."""
_FLOAT = 1


def kind_of(value: ir.Value) -> int | None:
    """TensorProto type number of a value (or SEQUENCE, OPTIONAL), None when the file does not say."""
    if isinstance(value.type, ir.SequenceType):
        return SEQUENCE
    if isinstance(value.type, ir.OptionalType):
        return OPTIONAL
    return None if value.dtype is None else int(value.dtype)


def output_kinds(
    op: str, opset: int, attributes: Mapping[str, Any], inputs: Sequence[int | None], count: int
) -> list[int | None]:
    """Types of the `count` outputs of a node of the default domain, as its schema says; None: it does not.

    `inputs` are the types of its inputs, None where absent or unknown.
    """
    try:
        schema = onnx.defs.get_schema(op, opset, "")
    except onnx.defs.SchemaError:
        return [None] * count
    bound: dict[str, int] = {}
    for index, kind in enumerate(inputs):
        formal = schema.inputs[min(index, len(schema.inputs) - 1)] if schema.inputs else None
        if kind is not None and formal is not None and formal.is_homogeneous:
            bound.setdefault(formal.type_str, kind)
    formals = [schema.outputs[min(index, len(schema.outputs) - 1)] for index in range(count)]
    found = [_formal_kind(schema, formal, bound) for formal in formals]
    stated = next((attributes[name] for name in _STATED if attributes.get(name)), None)
    if stated is not None and count:
        found[0] = int(stated)
    elif op == "ConstantOfShape":
        value = attributes.get("value")
        found[0] = _FLOAT if value is None else _NUMBERS.get(value.dtype) or int(value.dtype)
    elif count and found[0] is None and any(name in schema.attributes for name in _STATED):
        found[0] = _default(op, inputs)
    return found


def _formal_kind(schema: Any, formal: Any, bound: Mapping[str, int]) -> int | None:
    """A type that is fixed, or the one that inputs of the same type variable have."""
    if not formal.is_homogeneous:  # states of a loop: each has its own
        return None
    if formal.type_str in bound or formal.type_str in _FIXED:
        return bound.get(formal.type_str, _FIXED.get(formal.type_str))
    allowed = [
        constraint.allowed_type_strs
        for constraint in schema.type_constraints
        if constraint.type_param_str == formal.type_str and len(constraint.allowed_type_strs) == 1
    ]
    return _FIXED.get(allowed[0][0]) if allowed else None


def _default(op: str, inputs: Sequence[int | None]) -> int | None:
    """Where the attribute that names the type is left out."""
    if op in ("EyeLike", "Bernoulli", "RandomNormalLike", "RandomUniformLike"):
        return inputs[0]
    if op == "QuantizeLinear":
        return inputs[2] if len(inputs) > 2 else 2
    return inputs[1] if op == "DequantizeLinear" else _FLOAT


def number_of(text: str) -> int | None:
    """Type number of a type in a schema, `tensor(float)`; SEQUENCE, OPTIONAL, or None when there is none."""
    if text.startswith(("seq(", "optional(")):
        return SEQUENCE if text.startswith("seq(") else OPTIONAL
    name = {"float": "FLOAT", "double": "DOUBLE"}.get(
        text[len("tensor(") : -1], text[len("tensor(") : -1].upper()
    )
    return int(ir.DataType[name]) if name in ir.DataType.__members__ else None


_FIXED = {f"tensor({ir.DataType(kind).name.lower()})": kind for kind in range(1, 17) if kind != 8}
_FIXED |= {"tensor(double)": 11, "tensor(string)": 8}
_NUMBERS: dict[torch.dtype, int] = {kind: number for number, kind in DTYPES.items()}

"""Raises the operator set of a model where that changes the meaning of none of its nodes."""

import onnx
import onnx_ir as ir

LOWEST = 18
"""Older operator sets differ in the inputs of Reduce* and in more than that; they are not raised here."""
_NEW_ATTRIBUTES = {
    "AveragePool": {"dilations"},
    "Cast": {"saturate", "round_mode"},
    "CastLike": {"saturate", "round_mode"},
    "DequantizeLinear": {"block_size", "output_dtype"},
    "QuantizeLinear": {"block_size", "output_dtype", "saturate", "precision"},
}
"""Attributes that came between 18 and 25 and whose absence says what was meant before."""


def obstacle(model: ir.Model, version: int) -> str | None:
    """Why the model cannot simply be called one of operator set `version`, or None when it can.

    Each of its standard nodes must have the same definition in both, but for further element types and for
    optional attributes that are known to be harmless.
    """
    now = model.opset_imports.get("", 1)
    if now < LOWEST:
        return f"operator set {now} is older than {LOWEST}"
    ops = {
        node.op_type
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if node.domain in ("", "ai.onnx")
    }
    changed = sorted(op for op in ops if not _same(op, now, version))
    return f"{', '.join(changed)}: another meaning in operator set {version}" if changed else None


def set_version(model: ir.Model, version: int) -> None:
    """Declare operator set `version` and the IR version that goes with it, where they are newer."""
    lowest = onnx.helper.find_min_ir_version_for([onnx.helper.make_opsetid("", version)])
    model.opset_imports[""] = max(version, model.opset_imports.get("", 1))
    model.ir_version = max(model.ir_version, lowest)


def _same(op: str, now: int, version: int) -> bool:
    try:
        old, new = (onnx.defs.get_schema(op, number, "") for number in (now, version))
    except onnx.defs.SchemaError:
        return False
    if old.since_version == new.since_version:
        return True
    added = {name for name in new.attributes if name not in old.attributes}
    return (
        not new.deprecated
        and added <= _NEW_ATTRIBUTES.get(op, set())
        and all(name in new.attributes and _equal(old, new, name) for name in old.attributes)
        and [entry.name for entry in old.inputs] == [entry.name for entry in new.inputs]
        and [entry.name for entry in old.outputs] == [entry.name for entry in new.outputs]
    )


def _equal(old: onnx.defs.OpSchema, new: onnx.defs.OpSchema, name: str) -> bool:
    one, other = old.attributes[name], new.attributes[name]
    return bool(
        one.type == other.type
        and one.required == other.required
        and one.default_value.SerializeToString() == other.default_value.SerializeToString()
    )

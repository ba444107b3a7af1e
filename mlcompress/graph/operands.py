"""What a node reads: its op, its inputs and its axis numbers."""

import onnx_ir as ir

from mlcompress.errors import ModelError


def key(node: ir.Node) -> str:
    """The node's op: `Op` in the standard domain, else `domain::Op`."""
    return node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}::{node.op_type}"


def axis_of(number: int, rank: int) -> int:
    """A possibly negative axis number as an index."""
    return number + rank if number < 0 else number


def operand(node: ir.Node, index: int) -> ir.Value:
    """An input that the op requires. Raises ModelError when the file leaves it out."""
    value = optional(node, index)
    if value is None:
        raise ModelError(f"{node.name}: {node.op_type} lacks its input {index}; repair the file")
    return value


def optional(node: ir.Node, index: int) -> ir.Value | None:
    """An input that may be absent."""
    return node.inputs[index] if index < len(node.inputs) else None

"""Training-mode ops to their inference form."""

import onnx_ir as ir

from mlcompress.errors import UnsupportedError, shorten


def set_inference_mode(model: ir.Model) -> None:
    """BatchNormalization uses its running statistics, Dropout becomes Identity, in place.

    Raises UnsupportedError when something reads what exists in training only (batch statistics), or when
    the caller of the model says whether it trains.
    """
    nodes = list(ir.traversal.RecursiveGraphIterator(model.graph))
    norms = [node for node in nodes if node.op_type == "BatchNormalization" and node.domain == ""]
    if read := [str(node.name) for node in norms if any(_is_read(value) for value in node.outputs[1:])]:
        raise UnsupportedError(
            f"{shorten(read)}: batch statistics of BatchNormalization are read, which only training has; "
            "export the model in eval mode"
        )
    for node in norms:
        node.attributes.pop("training_mode", None)
        node.resize_outputs(1)
    drops = [node for node in nodes if node.op_type == "Dropout" and node.domain == ""]
    if asked := [str(node.name) for node in drops if _is_asked(node)]:
        raise UnsupportedError(
            f"{shorten(asked)}: whether Dropout drops is computed while the model runs; "
            "export it in eval mode"
        )
    for node in drops:
        _stop_dropping(node)


def _is_asked(node: ir.Node) -> bool:
    """Is `training_mode` neither left out nor a constant?"""
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    return mode is not None and mode.const_value is None


def _stop_dropping(node: ir.Node) -> None:
    """Dropout(data, ratio, training) gives data; a mask that is read stays (all true when not training)."""
    if any(_is_read(value) for value in node.outputs[1:]):
        node.resize_inputs(min(2, len(node.inputs)))
        return
    node.resize_outputs(1)
    node.resize_inputs(1)
    node.attributes.clear()
    node.op_type = "Identity"


def _is_read(value: ir.Value) -> bool:
    return bool(value.uses()) or value.is_graph_output()

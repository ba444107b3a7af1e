"""Weights with zeros in fewer bytes of the file, decoded while it is loaded."""

from collections.abc import Collection

import onnx_ir as ir

from mlcompress.context import Context
from mlcompress.graph.encodings import store_smallest
from mlcompress.measure.feed import feed
from mlcompress.measure.stored import check_stored


def store_zeros(model: ir.Model, names: Collection[str], storage: str, context: Context) -> list[str]:
    """Store the named weights by an encoding, bit for bit, in place; gives those that became smaller.

    Raises UnsupportedError when onnxruntime would decode one at every inference.
    """
    if storage == "plain":
        return []
    opset = model.opset_imports.get("", 1)
    codes = store_smallest(model, names, storage)
    check_stored(model, codes, feed(model, context), opset, context.folder, where="prune.storage")
    return list(codes)

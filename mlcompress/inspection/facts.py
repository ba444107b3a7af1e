"""Everything that `mlcompress inspect` knows about a checkpoint, as plain data for JSON."""

from pathlib import Path
from typing import Any

import onnx_ir as ir

from mlcompress import checkpoint, graph, stages
from mlcompress.errors import RecipeError, UserError
from mlcompress.recipe import reader
from mlcompress.recipe.load import load as load_recipe
from mlcompress.recipe.sections import ModelSection, Shared


def section_of(recipe: str | None) -> ModelSection:
    """The `model` section of a recipe of any stage. Raises RecipeError, UsageError as loading it does."""
    if recipe is None:
        return ModelSection()
    keys = reader.read(recipe).value
    named = [name for name in stages.NAMES if name in keys]
    tried: list[type[Shared]] = [stages.find(name).schema for name in named or stages.NAMES]
    problem: UserError | None = None
    schemas: list[type[Shared]] = tried if named else [Shared, *tried]
    for schema in schemas:
        try:
            return load_recipe(recipe, schema).model
        except UserError as found:
            problem = problem or found
    if problem is None:
        raise RecipeError(f"{recipe}: is a recipe of no stage")
    raise problem


def facts(path: Path, spec: ModelSection | None = None, *, no_code: bool = False) -> dict[str, Any]:
    """What recipes can name, costs at batch 1, and per stage whether it can work on it and why not.

    Raises UserError for a checkpoint that cannot be loaded. What cannot be told of one that can be is None.
    """
    model = checkpoint.load(path, spec, no_code=no_code)
    from mlcompress.inspection.stages import stage_facts  # torch, which a refused file need not wait for

    signature = graph.signature(model)
    stored = {
        str(value.name): graph.storage(value)
        for part in model.graphs()
        for value in part.initializers.values()
    }
    macs, layers = _costs(model)
    return {
        "model": str(path),
        "opset": model.opset_imports.get(""),
        "operator_sets": dict(sorted(model.opset_imports.items())),
        "metadata": dict(model.metadata_props),
        "inputs": [_tensor(tensor) for tensor in signature.inputs],
        "outputs": [_tensor(tensor) for tensor in signature.outputs],
        "params": graph.parameters(model),
        "macs": macs,
        "macs_shapes": {name: list(shape) for name, shape in graph.example_shapes(signature).items()},
        "bytes": graph.tensor_bytes(model),
        "stored_bytes": sum(form.bytes for form in stored.values()),
        "layers": [_layer(layer, stored) for layer in layers],
        "tensors": _taps(model),
        **stage_facts(model),
    }


def _costs(model: ir.Model) -> tuple[int | None, list[graph.Layer]]:
    """MACs and layers at batch 1; a net whose shapes cannot be made up has none."""
    try:
        layers = graph.layers(model)
    except UserError:
        return None, []
    return sum(layer.macs or 0 for layer in layers), layers  # as `graph.macs` counts them


def _layer(layer: graph.Layer, stored: dict[str, graph.Storage]) -> dict[str, Any]:
    form = stored.get(layer.weight)
    return {
        "name": layer.name,
        "op": layer.op,
        "weight": layer.weight,
        "shape": list(layer.weight_shape),
        "params": layer.params,
        "macs": layer.macs,
        "stored": None if form is None else form.form,
        "bytes": None if form is None else form.bytes,
    }


def _taps(model: ir.Model) -> list[dict[str, Any]]:
    """Values that a recipe can name: inputs, then what each node of the main graph gives."""
    shaped = graph.copy(model)
    graph.infer_shapes(shaped)
    rows = [_value(value, None) for value in shaped.graph.inputs]
    for node in shaped.graph:
        rows += [_value(value, node) for value in node.outputs if value.name]
    return rows


def _value(value: ir.Value, node: ir.Node | None) -> dict[str, Any]:
    shape = None if value.shape is None else [graph.known_axis(axis) for axis in value.shape]
    return {
        "name": value.name,
        "dtype": None if value.dtype is None else str(value.dtype.numpy()),
        "shape": shape,
        "node": None if node is None else node.name,
        "op": "input" if node is None else node.op_type,
        "output": value.is_graph_output(),
    }


def _tensor(tensor: graph.Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": str(tensor.dtype), "shape": list(tensor.shape)}

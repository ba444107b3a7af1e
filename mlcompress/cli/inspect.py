"""`mlcompress inspect`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mlcompress import console
from mlcompress.cli import options

if TYPE_CHECKING:
    from rich.table import Table


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="ONNX file.")],
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    debug: options.Debug = False,
) -> int:
    """Show layers, tensor names, prunable groups and costs: what a recipe can name.

    Example: mlcompress inspect teacher.onnx
    """
    facts = _facts(model)
    if json:
        import json as json_format

        console.data(json_format.dumps(facts, indent=2))
        return 0
    _print(facts)
    return 0


def _facts(path: Path) -> dict[str, Any]:
    from mlcompress import graph
    from mlcompress.graph import dependency
    from mlcompress.train.executor import unsupported

    model = graph.load(path)
    signature = graph.signature(model)
    analysis = dependency.analyse(model)
    return {
        "model": str(path),
        "opset": model.opset_imports.get(""),
        "inputs": [_tensor(tensor) for tensor in signature.inputs],
        "outputs": [_tensor(tensor) for tensor in signature.outputs],
        "params": graph.parameters(model),
        "macs": graph.macs(model),
        "layers": [
            {
                "name": layer.name,
                "op": layer.op,
                "weight": layer.weight,
                "shape": list(layer.weight_shape),
                "params": layer.params,
                "macs": layer.macs,
            }
            for layer in graph.layers(model)
        ],
        "families": [
            {"name": family.name, "kind": family.kind, "units": family.units, "exact": not family.soft}
            for family in analysis.families
        ],
        "frozen": [{"node": item.node, "op": item.op, "reason": item.reason} for item in analysis.frozen],
        "cannot_train": unsupported(model),
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "dtype": str(tensor.dtype), "shape": list(tensor.shape or ())}


def _print(facts: dict[str, Any]) -> None:
    screen = console.table_console()
    macs = "unknown" if facts["macs"] is None else f"{facts['macs']:,}"
    console.data(
        f"{facts['model']}: opset {facts['opset']}, {facts['params']:,} parameters, {macs} MACs at batch 1"
    )
    for side in ("inputs", "outputs"):
        for tensor in facts[side]:
            console.data(f"  {side[:-1]:<6} {tensor['name']}  {tensor['dtype']} {tensor['shape']}")
    layers = _table("Layers", "layer", "op", "weight", "shape", "params", "MACs")
    for row in facts["layers"]:
        shape = "x".join(map(str, row["shape"]))
        layers.add_row(
            row["name"], row["op"], row["weight"], shape, f"{row['params']:,}", f"{row['macs'] or 0:,}"
        )
    screen.print(layers)
    families = _table("Prunable families", "family", "kind", "units", "exact")
    for row in facts["families"]:
        families.add_row(row["name"], row["kind"], str(row["units"]), "yes" if row["exact"] else "no")
    screen.print(families)
    for row in facts["frozen"]:
        console.data(f"  not prunable at {row['node']} ({row['op']}): {row['reason']}")
    for line in facts["cannot_train"]:
        console.data(f"  {line}")
    if not facts["cannot_train"]:
        console.data("  every op can be trained")


def _table(title: str, *columns: str) -> "Table":
    """Names are wrapped, never cut: a recipe needs the whole of them."""
    from rich.table import Column, Table

    folded = [Column(column, overflow="fold") for column in columns]
    return Table(*folded, title=title, title_justify="left", box=None)

"""`mlcompress inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from mlcompress import console
from mlcompress.cli import options


def inspect(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Checkpoint of any kind.")],
    recipe: Annotated[
        str | None,
        typer.Option(
            "-r",
            "--recipe",
            metavar="FILE",
            help="Recipe whose `model` section describes MODEL; with --sensitivity of quantize.",
        ),
    ] = None,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="What each layer costs as integers, on the recipe's data."),
    ] = False,
    groups: Annotated[
        bool, typer.Option("--groups", help="What pruning removes together, and what a unit costs.")
    ] = False,
    everything: Annotated[bool, typer.Option("--all", help="Print tables of any length whole.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    debug: options.Debug = False,
    no_code: options.NoCode = False,
) -> int:
    """Show what a recipe can name, what it costs, and what each stage can do with a model.

    Example: mlcompress inspect teacher.onnx
    """
    from mlcompress import inspection

    rows = inspection.sensitivity_facts(model, recipe, no_code=no_code) if sensitivity else None
    facts = inspection.facts(model, inspection.section_of(recipe), no_code=no_code)
    if groups:
        facts["groups"] = inspection.group_facts(model, inspection.section_of(recipe), no_code=no_code)
    if rows is not None:
        facts["sensitivity"] = rows
    if json:
        import json as json_format

        console.data(json_format.dumps(facts, indent=2))
        return 0
    from mlcompress.inspection.show import show

    show(facts, everything=everything)
    return 0

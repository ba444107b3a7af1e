"""`mlcompress list`."""

from typing import Annotated, Any

import typer

from mlcompress import console
from mlcompress.errors import UsageError


def list_(
    kind: Annotated[
        str | None,
        typer.Argument(metavar="KIND", help="losses, criteria, observers, schemes, ... or ops."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference page of all methods, or of the ops.")
    ] = False,
) -> int:
    """List the methods that a recipe can name, and their options; or the ops that can be trained.

    Example: mlcompress list criteria
    """
    from mlcompress import methods

    if kind == "ops":
        return _print_ops(json, markdown)
    if markdown:
        console.data(methods.markdown().rstrip())
        return 0
    if kind not in methods.REGISTRIES:
        problem = "KIND: is missing" if kind is None else f"{kind}: not a kind of method"
        raise UsageError(f"{problem}; choose one of {', '.join((*methods.REGISTRIES, 'ops'))}")
    return _print(methods.describe(kind), json)


def _print_ops(json: bool, markdown: bool) -> int:
    from mlcompress.train.ops import table

    if markdown:
        console.data(table.markdown().rstrip())
        return 0
    return _print(table.describe(), json)


def _print(rows: list[dict[str, Any]], json: bool) -> int:
    if json:
        import json as json_format

        console.data(json_format.dumps(rows, indent=2))
        return 0
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        console.data(f"{row['name']:<{width}}  {row['summary']}")
        for option in row["options"]:
            text = f"{option['name']}: {option['type']}, default {option['default']}  {option['description']}"
            console.data(f"{'':<{width}}    {text}".rstrip())
    return 0

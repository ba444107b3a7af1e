"""`mlcompress list`."""

from typing import Annotated

import typer

from mlcompress import console
from mlcompress.errors import UsageError


def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="losses, criteria, observers or encodings.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the reference page of all kinds.")
    ] = False,
) -> int:
    """List the methods that a recipe can name, and their options.

    Example: mlcompress list criteria
    """
    from mlcompress import methods

    if markdown:
        console.data(methods.markdown().rstrip())
        return 0
    if kind not in methods.REGISTRIES:
        problem = "KIND: is missing" if kind is None else f"{kind}: not a kind of method"
        raise UsageError(f"{problem}; choose one of {', '.join(methods.REGISTRIES)}")
    rows = methods.describe(kind)
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

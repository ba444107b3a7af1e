"""`mlcompress providers`."""

from typing import Annotated

import typer

from mlcompress import console


def providers(json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")] = False) -> int:
    """List the execution providers that this onnxruntime can run on."""
    from mlcompress.measure.providers import available

    found = available()
    if json:
        import json as json_format

        console.data(json_format.dumps([info.as_json() for info in found], indent=2))
        return 0
    for info in found:
        console.data(f"{info.name:<10} {info.ort_name:<28} {info.note}".rstrip())
    return 0

"""`mlcompress report`."""

from pathlib import Path
from typing import Annotated

import typer

from mlcompress import console
from mlcompress.cli import options


def report(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL...", help="Artifacts of a chain; the first is the baseline."),
    ],
    recipe: options.Recipe = None,
    outputs: Annotated[
        list[Path],
        typer.Option(
            "-o", "--output", metavar="FILE", help="Also write .html, .md, .json or .xml; repeatable."
        ),
    ] = [],  # noqa: B006 - typer reads it, nobody changes it
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Measure again, or print the cards' figures.")
    ] = True,
    overrides: options.Set = [],  # noqa: B006
    provider: options.Provider = None,
    seed: options.Seed = None,
    quiet: options.Quiet = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of the table.")] = False,
    debug: options.Debug = False,
    no_code: options.NoCode = False,
) -> int:
    """Compare artifacts: size, accuracy and latency, measured together in one process.

    Example: mlcompress report teacher.onnx student.onnx int8.onnx -o report.html
    """
    from mlcompress import report as reports

    console.set_quiet(quiet)
    return reports.run(
        models,
        recipe,
        [*overrides, *options.as_overrides(provider, seed)],
        outputs,
        measure=measure,
        json=json,
        no_code=no_code,
    )

"""`mlcompress distill`."""

from pathlib import Path
from typing import Annotated

import typer

from mlcompress.cli import options, transform

MoreTeachers = Annotated[
    list[Path], typer.Option("-t", "--teacher", metavar="FILE", help="One more teacher; repeat it for more.")
]
Student = Annotated[
    Path | None,
    typer.Option("--student", metavar="FILE", help="Checkpoint to train; else derived from TEACHER."),
]


def distill(
    teachers: Annotated[
        list[Path],
        typer.Argument(metavar="TEACHER...", help="Checkpoint; several make a batch (with --output-dir)."),
    ],
    recipe: options.Recipe = None,
    output: options.Output = None,
    output_dir: options.OutputDir = None,
    more_teachers: MoreTeachers = [],  # noqa: B006 - typer reads it, nobody changes it
    student: Student = None,
    jobs: options.Jobs = 1,
    overrides: options.Set = [],  # noqa: B006
    provider: options.Provider = None,
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
    no_code: options.NoCode = False,
) -> int:
    """Train a smaller student to answer as the teacher does.

    Example: mlcompress distill teacher.onnx -r distill.yaml -o student.onnx
    """
    wish = transform.request(
        "distill", recipe, overrides, provider, seed, no_code, debug, tuple(more_teachers), student
    )
    return transform.execute(
        wish, teachers, output, output_dir, jobs=jobs, dry_run=dry_run, quiet=quiet, json=json
    )

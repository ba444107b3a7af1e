"""Options that mean the same after every verb."""

import json
from pathlib import Path
from typing import Annotated

import typer

Models = Annotated[
    list[Path],
    typer.Argument(metavar="MODEL...", help="Checkpoint; several make a batch (with --output-dir)."),
]
Recipe = Annotated[
    str | None, typer.Option("-r", "--recipe", metavar="FILE", help="YAML recipe; all defaults without.")
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Artifact to write; its card is FILE.json."),
]
OutputDir = Annotated[
    Path | None,
    typer.Option("--output-dir", metavar="DIR", help="Batch: one artifact a MODEL, of the same name."),
]
Jobs = Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Batch: how many at a time.")]
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a recipe key; repeatable.")
]
Provider = Annotated[
    str | None, typer.Option("--provider", metavar="NAME", help="Measure on this execution provider.")
]
Seed = Annotated[
    int | None, typer.Option("--seed", min=0, metavar="N", help="Seed of everything random; 0 by default.")
]
DryRun = Annotated[bool, typer.Option("-n", "--dry-run", help="Check recipe, model and data; write nothing.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Only warnings, errors and data.")]
Json = Annotated[bool, typer.Option("--json", help="Print the card on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an internal error.")]
NoCode = Annotated[bool, typer.Option("--no-code", help="Refuse Python named in a recipe.")]


def as_overrides(provider: str | None, seed: int | None) -> list[str]:
    """`--provider` and `--seed` are short for recipe keys."""
    short = [f"measure.providers=[{json.dumps(provider)}]"] if provider is not None else []
    return short + ([f"seed={seed}"] if seed is not None else [])

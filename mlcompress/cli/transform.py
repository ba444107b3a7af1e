"""What distill, prune and quantize share on the command line: one model, or a batch of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlcompress import console, processes
from mlcompress.card import to_bytes
from mlcompress.cli import options
from mlcompress.errors import UsageError
from mlcompress.exits import Exit
from mlcompress.job import Job


def request(
    stage: str,
    recipe: str | None,
    overrides: Sequence[str],
    provider: str | None,
    seed: int | None,
    no_code: bool,
    debug: bool,
    teachers: tuple[Path, ...] = (),
    student: Path | None = None,
) -> Job:
    """A job that lacks its model and output; `--provider` and `--seed` are short for recipe keys."""
    changes = (*overrides, *options.as_overrides(provider, seed))
    return Job(stage, Path(), Path(), recipe, changes, teachers, student, no_code, debug)


def execute(
    wish: Job,
    models: Sequence[Path],
    output: Path | None,
    output_dir: Path | None,
    *,
    jobs: int,
    dry_run: bool,
    quiet: bool,
    json: bool,
) -> int:
    """Run the job on one model, or on each of several, and give the exit status."""
    console.set_quiet(quiet)
    if dry_run and json:
        raise UsageError("--json: a dry run makes no card; leave one of them out")
    if output_dir is not None:
        if output is not None:
            raise UsageError("--output: goes with one MODEL, --output-dir with several; give one of them")
        if processes.count() > 1:
            raise UsageError("--output-dir: not with torchrun; its processes train one model, use --output")
        from mlcompress import batch

        return batch.run(wish, models, output_dir, jobs=jobs, dry_run=dry_run, json=json)
    if len(models) != 1:
        raise UsageError(f"--output: is for one MODEL and {len(models)} were given; use --output-dir DIR")
    if output is None and not dry_run:
        raise UsageError("--output: where to write is missing; add -o FILE.onnx")
    from mlcompress import pipeline

    job = replace(wish, model=models[0], output=output or models[0].with_suffix(".dry-run.onnx"))
    if dry_run:
        pipeline.dry_run(job)
        return Exit.DONE
    outcome = pipeline.run(job)
    if json:
        console.data(to_bytes(outcome.card).decode().rstrip())
    return outcome.exit

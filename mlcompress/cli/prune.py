"""`mlcompress prune`."""

from mlcompress.cli import options, transform


def prune(
    models: options.Models,
    recipe: options.Recipe = None,
    output: options.Output = None,
    output_dir: options.OutputDir = None,
    jobs: options.Jobs = 1,
    overrides: options.Set = [],  # noqa: B006 - typer reads it, nobody changes it
    provider: options.Provider = None,
    seed: options.Seed = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    json: options.Json = False,
    debug: options.Debug = False,
    no_code: options.NoCode = False,
) -> int:
    """Remove channels or weights, and recover accuracy with the original as teacher.

    Example: mlcompress prune student.onnx -r prune.yaml --set prune.ratio=0.4 -o pruned.onnx
    """
    wish = transform.request("prune", recipe, overrides, provider, seed, no_code, debug)
    return transform.execute(
        wish, models, output, output_dir, jobs=jobs, dry_run=dry_run, quiet=quiet, json=json
    )

"""Artifacts compared: what each gained and lost, on the terminal, as HTML, Markdown, JSON and JUnit."""

from collections.abc import Sequence
from pathlib import Path

from mlcompress.exits import Exit


def run(
    models: Sequence[Path],
    recipe: str | None,
    overrides: Sequence[str],
    outputs: Sequence[Path],
    *,
    measure: bool = True,
    json: bool = False,
    no_code: bool = False,
) -> Exit:
    """What `mlcompress report` does.

    The files are written also when the gate is missed: a report exists to say so, and CI reads the failed
    cases from it.

    Args:
        models: ONNX files; the gate is applied to the last.
        recipe: recipe file; None means all defaults.
        overrides: `KEY=VALUE` texts.
        outputs: files to write; the suffix of each says how.
        measure: False prints the cards' own figures.
        json: print JSON on stdout instead of tables.

    Raises:
        UserError: something the user gave is wrong; nothing was written.
    """
    # Matplotlib, onnxruntime and rich are not loaded to show the help or to validate a recipe.
    from mlcompress import console
    from mlcompress.recipe.load import load
    from mlcompress.report import json_, terminal, words
    from mlcompress.report.collect import collect
    from mlcompress.report.recipe import ReportRecipe
    from mlcompress.report.write import targets, write

    chosen = load(recipe, ReportRecipe, overrides)
    files = targets(outputs, chosen.report.formats, models)
    if chosen.report.formats and not files:
        console.warn("report.formats: no file is written, since no -o says under which name")
    report = collect(models, chosen, measure=measure, no_code=no_code)
    for file in files:
        write(report, file)
    if json:
        console.data(json_.render(report).rstrip("\n"))
    else:
        terminal.show(report)
    for warning in words.warnings(report):
        console.warn(warning)
    return Exit.GATE_MISSED if report.missed else Exit.DONE

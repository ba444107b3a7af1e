"""From model files and their cards to the figures of a report.

Latency of two runs cannot be compared, so figures of cards serve only where nothing was measured, and are
marked.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlcompress import card as cards
from mlcompress import gate, graph, metrics
from mlcompress.errors import ModelError, RecipeError, UserError
from mlcompress.measure import environment, size
from mlcompress.recipe.sections import Measure
from mlcompress.report import chain
from mlcompress.report.cards import CardFigures, figures
from mlcompress.report.measured import Bench
from mlcompress.report.recipe import ReportRecipe
from mlcompress.report.rows import Report, Row, Score


@dataclass(frozen=True)
class _File:
    """A model file: what it is by itself, and what its card says."""

    row: Row
    card: CardFigures | None


def collect(
    paths: Sequence[Path], recipe: ReportRecipe | None = None, *, measure: bool = True, no_code: bool = False
) -> Report:
    """The figures of `paths`, compared with the baseline; the recipe's gate is applied to the last of them.

    Args:
        paths: ONNX files. Cards beside them give the chain, and figures that are not measured here.
        recipe: None means all defaults: latency on the CPU, no metric but the cards' own, no gate.
        measure: False takes latency, metric and memory from the cards. Sizes are always those of the files.
        no_code: refuse a recipe that names Python.

    Raises:
        UserError: one line for each file that is not a usable model, a baseline that is not among `paths`, or
            whatever else keeps a model from being measured.
    """
    recipe = recipe or ReportRecipe()
    baseline = _baseline(paths, recipe)
    files = _read(paths, recipe.measure)
    linked = chain.link([file.row for file in files])
    files = [replace(file, row=row) for file, row in zip(files, linked, strict=True)]
    rows = tuple(_from_cards(files))
    warnings: tuple[str, ...] = ()
    if measure:
        bench = Bench(rows, baseline, recipe, no_code=no_code)
        rows, warnings = bench.measured(), bench.warnings
    checked = gate.check(recipe.gate, _gate_figures(rows, baseline))
    facts = _environment() if measure else {}
    return Report(rows, baseline, recipe.report.title, measure, tuple(checked), warnings, facts)


def _baseline(paths: Sequence[Path], recipe: ReportRecipe) -> int:
    """Index of the file that the others are compared with."""
    wanted = {
        key: name
        for key, name in (
            ("report.baseline", recipe.report.baseline),
            ("gate.baseline", recipe.gate.baseline),
        )
        if name not in (None, "first")
    }
    places: dict[str, int] = {}
    lines = []
    for key, name in wanted.items():
        found = [k for k, path in enumerate(paths) if path.resolve() == Path(str(name)).resolve()]
        if found:
            places[key] = found[0]
        else:
            lines.append(
                f"{key}: {name} is not among the files of the report; name it on the command line too"
            )
    if len(set(places.values())) > 1:
        lines.append(
            "gate.baseline: differs from report.baseline; a report has one baseline: leave one of them out"
        )
    if lines:
        raise RecipeError(*lines)
    return next(iter(places.values()), 0)


def _read(paths: Sequence[Path], measure: Measure) -> list[_File]:
    """Load all files; what is wrong with any of them is told at once."""
    files: list[_File] = []
    lines: list[str] = []
    for path in paths:
        try:
            files.append(_read_one(path, measure))
        except UserError as problem:
            lines.extend(problem.lines)
    if lines:
        raise ModelError(*lines)
    return files


def _read_one(path: Path, measure: Measure) -> _File:
    facts = size.on_disk(path)
    model = graph.load(path)
    row = Row(
        path=str(path),
        sha256=facts.sha256,
        bytes=facts.bytes,
        compressed_bytes=facts.compressed_bytes,
        params=graph.parameters(model),
        macs=graph.macs(model, measure.batch_size, measure.shapes),
    )
    found, problem = cards.read(path)
    if found is None:
        return _File(replace(row, warnings=(problem,) if problem else ()), None)
    try:
        card = figures(found)
    except ValueError as wrong:
        warning = f"{cards.path_for(path)}: {wrong}; make the artifact again"
        return _File(replace(row, warnings=(warning,)), None)
    row = replace(
        row,
        stage=card.stage,
        summary=card.change.summary,
        parent_path=card.parent.path,
        parent_sha256=card.parent.sha256,
        synthetic=card.synthetic,
        skipped=card.skipped(),
        warnings=card.change.warnings,
    )
    return _File(row, card)


def _from_cards(files: Sequence[_File]) -> Iterator[Row]:
    """Rows with the cards' figures; a file without a card gets the metric that a child's card has for it."""
    for index, file in enumerate(files):
        if file.card is not None:
            timings, used = file.card.timings(), file.card.memory_after()
            yield replace(file.row, score=file.card.score(), timings=timings, memory=used)
        else:
            yield replace(file.row, score=_score_in_child(files, index))


def _score_in_child(files: Sequence[_File], index: int) -> Score | None:
    children = (file.card for file in files if file.row.parent == index and file.card is not None)
    return next((score for card in children if (score := card.score(before=True)) is not None), None)


def _gate_figures(rows: Sequence[Row], baseline: int) -> gate.Figures:
    """What the limits are held against; of a card only a ratio that was measured against the baseline."""
    base, last = rows[baseline], rows[-1]
    timing = last.timings[0] if last.timings else None
    ratio = timing.to_baseline if timing else None
    if timing is not None and timing.source == "card" and last.parent == baseline:
        ratio = timing.to_parent
    same = base.score is not None and last.score is not None and base.score.name == last.score.name
    return gate.Figures(
        bytes_before=base.bytes,
        bytes_after=last.bytes,
        metric_before=base.score.value if base.score and same else None,
        metric_after=last.score.value if last.score else None,
        higher_is_better=last.score is None or metrics.HIGHER_IS_BETTER.get(last.score.name, True),
        ratio=ratio.value if ratio else None,
        ratio_low=ratio.low if ratio else None,
        ratio_high=ratio.high if ratio else None,
        latency_ms=timing.p50 if timing else None,
    )


def _environment() -> dict[str, str]:
    def text(value: Any) -> str:
        return " ".join(map(str, value)) if isinstance(value, list) else str(value)

    return {name: text(value) for name, value in environment.facts().items()}

"""From model files and their cards to the figures of a report.

Latency of two runs cannot be compared, so figures of cards serve only where nothing was measured, and are
marked.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir

from mlcompress import card as cards
from mlcompress import checkpoint, gate, graph, metrics
from mlcompress.checkpoint.detect import Kind, kind
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
    model: ir.Model | None = None
    """The graph of a checkpoint that onnxruntime does not run as it is."""


def collect(
    paths: Sequence[Path], recipe: ReportRecipe | None = None, *, measure: bool = True, no_code: bool = False
) -> Report:
    """The figures of `paths`, compared with the baseline; the recipe's gate is applied to the last of them.

    Args:
        paths: model files. Cards beside them give the chain, and figures that are not measured here, such as
            all but the sizes of TorchScript that mlcompress wrote.
        recipe: None means all defaults: latency on the CPU, no metric but the cards' own, no gate.
        measure: False takes latency, metric and memory from the cards. Sizes are always those of the files.
        no_code: refuse a recipe that names Python.

    Raises:
        UserError: one line for each file that is not a usable model, a baseline that is not among `paths`, or
            whatever else keeps a model from being measured.
    """
    recipe = recipe or ReportRecipe()
    baseline = _baseline(paths, recipe)
    files = _read(paths, recipe, no_code)
    _refuse_unmeasured([file.row for file in files], baseline, recipe, measure)
    linked = chain.link([file.row for file in files])
    files = [replace(file, row=row) for file, row in zip(files, linked, strict=True)]
    rows = tuple(_from_cards(files))
    warnings: tuple[str, ...] = ()
    if measure:
        graphs = {file.row.path: file.model for file in files if file.model is not None}
        rows, warnings = _measured(rows, baseline, recipe, no_code, graphs)
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


def _read(paths: Sequence[Path], recipe: ReportRecipe, no_code: bool) -> list[_File]:
    """Load all files; what is wrong with any of them is told at once."""
    files: list[_File] = []
    lines: list[str] = []
    for path in paths:
        try:
            files.append(_read_one(path, recipe, no_code))
        except UserError as problem:
            lines.extend(problem.lines)
    if lines:
        raise ModelError(*lines)
    return files


def _refuse_unmeasured(rows: Sequence[Row], baseline: int, recipe: ReportRecipe, measure: bool) -> None:
    """Raises RecipeError for what would need the latency of a TorchScript file, which nobody has measured."""
    lines = []
    if measure and not rows[baseline].runs:
        lines.append(
            f"report.baseline: {rows[baseline].path}: onnxruntime does not run it; name an ONNX file"
        )
    for name in ("min_speedup", "max_latency_ms"):
        if getattr(recipe.gate, name) is not None and not rows[-1].runs:
            lines.append(
                f"gate.{name}: {rows[-1].path}: onnxruntime does not run it; name an ONNX file last, "
                "or leave the limit out"
            )
    if lines:
        raise RecipeError(*lines)


def _read_one(path: Path, recipe: ReportRecipe, no_code: bool) -> _File:
    card, problem = _card(path)
    found, model = kind(path), None
    if found is Kind.TORCHSCRIPT and (card is not None or not recipe.model.inputs):
        row = _torchscript(path, card, problem)
    else:
        model = checkpoint.load(path, recipe.model, no_code=no_code)
        row = _row(path, model, recipe.measure)
    model = None if found is Kind.ONNX else model
    if card is None:
        return _File(replace(row, warnings=(problem,) if problem else ()), None, model)
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
    return _File(row, card, model)


def _row(path: Path, model: ir.Model, measure: Measure) -> Row:
    facts = size.on_disk(path)
    return Row(
        path=str(path),
        sha256=facts.sha256,
        bytes=facts.bytes,
        compressed_bytes=facts.compressed_bytes,
        params=graph.parameters(model),
        macs=graph.macs(model, measure.batch_size, measure.shapes),
    )


def _torchscript(path: Path, card: CardFigures | None, problem: str | None) -> Row:
    """Parameters and MACs are the card's: the file is not opened."""
    if card is None or card.size is None:
        tail = "describe its inputs under `model`, or report the ONNX file it is made from"
        raise ModelError(problem or f"{path}: is TorchScript without a card of mlcompress; {tail}")
    facts, counts = size.alone(path), card.size.after
    return Row(
        str(path), facts.sha256, facts.bytes, facts.compressed_bytes, counts.params, counts.macs, runs=False
    )


def _card(path: Path) -> tuple[CardFigures | None, str | None]:
    """The card's figures, or None and why there are none to trust."""
    found, problem = cards.read(path) if path.exists() else (None, None)
    if found is None:
        return None, problem
    try:
        return figures(found), None
    except ValueError as wrong:
        return None, f"{cards.path_for(path)}: {wrong}; make the artifact again"


def _from_cards(files: Sequence[_File]) -> Iterator[Row]:
    """Rows with the cards' figures; a file without a card gets the metric that a child's card has for it."""
    for index, file in enumerate(files):
        if file.card is not None:
            timings, used = file.card.timings(), file.card.memory_after() if file.row.runs else None
            yield replace(file.row, score=file.card.score(), timings=timings, memory=used)
        else:
            yield replace(file.row, score=_score_in_child(files, index))


def _score_in_child(files: Sequence[_File], index: int) -> Score | None:
    children = (file.card for file in files if file.row.parent == index and file.card is not None)
    return next((score for card in children if (score := card.score(before=True)) is not None), None)


def _measured(
    rows: Sequence[Row],
    baseline: int,
    recipe: ReportRecipe,
    no_code: bool,
    graphs: Mapping[str, ir.Model],
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """`rows` measured against each other, and warnings.

    Those that onnxruntime does not run keep their card's metric.
    """
    places = [place for place, row in enumerate(rows) if row.runs]
    number = {place: index for index, place in enumerate(places)}
    parents = [None if row.parent is None else number.get(row.parent) for row in rows]
    run = [replace(rows[place], parent=parents[place]) for place in places]
    done = [replace(row, timings=()) for row in rows]
    with TemporaryDirectory(prefix="mlcompress-report-") as folder:
        files = {path: Path(folder) / f"{index}.onnx" for index, path in enumerate(graphs)}
        for path, model in graphs.items():
            graph.save(model, files[path])
        bench = Bench(run, number[baseline], recipe, no_code=no_code, files=files)
        for place, row in zip(places, bench.measured(), strict=True):
            done[place] = replace(row, parent=rows[place].parent)
    return tuple(done), bench.warnings


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

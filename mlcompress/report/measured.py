"""All files of a report measured against each other: metric, latency on every provider, memory."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mlcompress import console, graph, metrics
from mlcompress.data import Dataset, inherit, open_data
from mlcompress.measure import accuracy, feeds, latency, memory, providers
from mlcompress.measure.accuracy import Metric
from mlcompress.measure.latency import Latency
from mlcompress.report.recipe import ReportRecipe
from mlcompress.report.rows import Memory, Ratio, Row, Score, Timing


class Bench:
    """The files of one report on this machine.

    Args:
        rows: linked rows (see `chain.link`); their scores stay where the recipe has no evaluation data.
        baseline: index of the row that the others are compared with.
        files: by the path of a row the ONNX file that is run in its place, where it is no such file itself.

    Raises:
        UserError: data, inputs or providers of the recipe cannot be used.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        baseline: int,
        recipe: ReportRecipe,
        *,
        no_code: bool,
        files: Mapping[str, Path] | None = None,
    ) -> None:
        self._rows, self._baseline, self._recipe = rows, baseline, recipe
        self._paths = [(files or {}).get(row.path, Path(row.path)) for row in rows]
        signature = graph.signature(graph.load(self._paths[baseline]))
        self._data = _evaluation_data(recipe, signature, no_code)
        self._feeds = feeds.make(signature, recipe.measure, self._data, seed=recipe.seed).inputs
        self._providers = providers.select(recipe.measure)
        self.warnings = tuple(
            f"measure.optional: {one['name']} was not measured: {one['reason']}"
            for one in self._providers.skipped
        )

    def measured(self) -> tuple[Row, ...]:
        """The rows with what was measured.

        Raises:
            UserError: a model does not load, takes other inputs than the baseline, or has no metric on the
                data.
        """
        scores = self._scores()
        times = self._times()
        rows = [
            replace(
                row,
                score=score,
                timings=tuple(self._timing(one, times) for one in times if one.model == index),
            )
            for index, (row, score) in enumerate(zip(self._rows, scores, strict=True))
        ]
        with console.progress("memory", len(rows)) as advance:
            for index, path in enumerate(self._paths):
                rows[index] = replace(rows[index], memory=self._memory(path))
                advance(1)
        return tuple(rows)

    def _scores(self) -> list[Score | None]:
        if self._data is None:
            return [row.score for row in self._rows]
        reference = self._paths[self._baseline]
        found = [
            accuracy.evaluate(path, self._data, self._recipe.evaluate, reference=reference)
            for path in self._paths
        ]
        return [_score(one, found[self._baseline], self._data.synthetic) for one in found]

    def _times(self) -> list[Latency]:
        with TemporaryDirectory(prefix="mlcompress-report-") as folder:
            return self._compared(timed_files(self._rows, self._paths, self._baseline, Path(folder)))

    def _compared(self, paths: Sequence[Path]) -> list[Latency]:
        return latency.decide(
            paths,
            self._feeds,
            self._recipe.measure,
            lambda times: times[len(paths) - 1].ratio,  # the last file on the first provider
            self._recipe.gate.min_speedup,
            baseline=self._baseline,
            providers=self._providers.providers,
            seed=self._recipe.seed,
        )

    def _timing(self, one: Latency, times: Sequence[Latency]) -> Timing:
        parent = self._rows[one.model].parent
        before = next(
            (other for other in times if other.model == parent and other.provider == one.provider), None
        )
        return Timing(
            one.provider,
            one.batch_size,
            one.threads,
            one.p50_ms,
            one.p90_ms,
            to_baseline=self._ratio(one.ratio, self._baseline),
            to_parent=self._ratio(latency.against(one, before), before.model) if before else None,
            fallback_nodes=one.executed.fallback_nodes if one.executed else 0,
        )

    def _ratio(self, ratio: latency.Ratio, against: int) -> Ratio:
        return Ratio(ratio.value, ratio.low, ratio.high, ratio.verdict, self._rows[against].path)

    def _memory(self, path: Path) -> Memory:
        first = self._providers.providers[0].name
        used = memory.peak(path, self._feeds, provider=first, threads=self._recipe.measure.threads)
        return Memory(used.peak_bytes, used.load_ms)


def timed_files(rows: Sequence[Row], paths: Sequence[Path], baseline: int, folder: Path) -> list[Path]:
    """The file of each row that is timed: its own, but a cleaned copy of a baseline that no stage wrote.

    Every stage cleans its input before it measures, too: to drop an exporter's leftovers halves the time of
    some files, and is no gain of compression. The copy is written into `folder`, and also stands for other
    files of the same bytes.
    """
    base = rows[baseline]
    if base.stage is not None:
        return list(paths)
    cleaned = folder / paths[baseline].name
    graph.save(graph.load(paths[baseline]), cleaned)
    return [cleaned if row.sha256 == base.sha256 else path for row, path in zip(rows, paths, strict=True)]


def _score(one: Metric, base: Metric, synthetic: bool) -> Score:
    # Agreement calls the baseline always right: there is nothing to fix, and no test to make.
    judged = one is not base and one.name in metrics.LABELLED
    pair = accuracy.paired(base, one) if judged else None
    fixed, broken = (pair.fixed, pair.broken) if pair else (None, None)
    return Score(one.name, one.value, one.samples, one.low, one.high, synthetic, fixed, broken)


def _evaluation_data(recipe: ReportRecipe, signature: graph.Signature, no_code: bool) -> Dataset | None:
    entry = recipe.data.evaluate
    if entry is None:
        return None
    if recipe.data.train is not None:
        entry = inherit(entry, recipe.data.train)
    return open_data(
        entry,
        signature,
        where="data.evaluate",
        labels=recipe.evaluate.metric in metrics.LABELLED,
        seed=recipe.seed,
        no_code=no_code,
        output=recipe.evaluate.output,
        shapes=recipe.measure.shapes,
    )

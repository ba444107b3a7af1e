"""Before against after: everything a card says of a model file, measured in one place."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
from numpy.typing import NDArray

from mlcompress import console, graph
from mlcompress.context import Context
from mlcompress.gate import Figures
from mlcompress.graph import Signature
from mlcompress.measure import accuracy, feeds, latency, memory, providers, size
from mlcompress.measure.accuracy import Metric
from mlcompress.measure.latency import Latency, Ratio
from mlcompress.measure.size import Size
from mlcompress.recipe.sections import Shared


@dataclass(frozen=True)
class Facts:
    """The measured part of a card, and the figures that gates look at."""

    size: dict[str, Any]
    metric: dict[str, Any] | None
    latency: list[dict[str, Any]]
    skipped_providers: list[dict[str, str]]
    memory: dict[str, Any]
    shapes: dict[str, list[int]]
    """Input shapes that latency and MACs belong to."""
    figures: Figures


class Bench:
    """One input model, and whatever is compared with it. `write` comes before everything else.

    Args:
        original: the file the user named; its bytes are the size before.
        signature: of the input model.

    Raises:
        UnsupportedError: a required provider is missing. DataError: an input has an axis without a length.
    """

    def __init__(self, original: Path, signature: Signature, recipe: Shared, context: Context):
        self._original, self._recipe, self._data = original, recipe, context.evaluation
        self._providers = providers.select(recipe.measure)
        samples = context.evaluation or context.calibration or context.train
        self._feeds = feeds.make(signature, recipe.measure, samples, seed=recipe.seed)
        self._before, self._baseline = original, cast("Path | None", None)
        self._metric_before: Metric | None = None
        for skipped in self._providers.skipped:
            console.warn(f"measure.optional: {skipped['reason']}")

    def write(self, model: ir.Model, baseline: ir.Model | None, folder: Path) -> None:
        """Put what is compared with into `folder`: the input as it is, cleaned, and the gate's baseline."""
        self._before = folder / "before.onnx"
        graph.save(model, self._before)
        self._metric_before = self._metric(self._before)  # what cannot be judged is told before the work
        if baseline is not None:
            self._baseline = folder / "baseline.onnx"
            graph.save(baseline, self._baseline)

    @property
    def feed(self) -> Mapping[str, NDArray[Any]]:
        """Inputs of one inference at the shapes that are measured."""
        return self._feeds.inputs

    def evaluate(self, model: ir.Model) -> float | None:
        """The recipe's metric of a graph on the evaluation data; None where there are none."""
        with graph.source(model, self._before.parent) as source:
            found = self._metric(source)
        return None if found is None else found.value

    def latency(self, models: Sequence[ir.Model]) -> list[float]:
        """Milliseconds of each graph (minimum, on the first provider), measured against each other."""
        with ExitStack() as stack:
            found = latency.compare(
                [stack.enter_context(graph.source(model, self._before.parent)) for model in models],
                self._feeds.inputs,
                self._recipe.measure,
                providers=self._providers.providers[:1],
                evidence=False,
                seed=self._recipe.seed,
            )
        return [one.min_ms for one in found]

    def compare(self, after: Path, artifact: Path) -> Facts:
        """Measure `after` against the input, and against the gate's baseline if there is one.

        The size is that of `artifact`: the same file, or one that onnxruntime does not run.
        """
        files = [self._before, after, *([self._baseline] if self._baseline else [])]
        sizes = [size.on_disk(self._original), *(size.on_disk(path) for path in (artifact, *files[2:]))]
        metrics = [self._metric_before, *(self._metric(path) for path in files[1:])]
        times = self._timed(files)
        return Facts(
            size={
                "before": self._size(graph.load(self._before), sizes[0]),
                "after": self._size(graph.load(after), sizes[1]),
            },
            metric=_metric_facts(metrics[0], metrics[1]),
            latency=[_latency_facts(group[0], group[1]) for group in times],
            skipped_providers=list(self._providers.skipped),
            memory={"before": self._memory(self._before), "after": self._memory(after)},
            shapes=self._feeds.shapes,
            figures=_figures(sizes, metrics, times[0]),
        )

    def _timed(self, files: Sequence[Path]) -> list[list[Latency]]:
        """Latency of all files on each provider, measured until the gate's limit is decided."""
        found = latency.decide(
            files,
            self._feeds.inputs,
            self._recipe.measure,
            lambda times: _gate_ratio(times[: len(files)]),
            self._recipe.gate.min_speedup,
            providers=self._providers.providers,
            seed=self._recipe.seed,
        )
        return [found[i : i + len(files)] for i in range(0, len(found), len(files))]

    def _metric(self, model: Path | bytes) -> Metric | None:
        if self._data is None:
            return None
        return accuracy.evaluate(model, self._data, self._recipe.evaluate, reference=self._before)

    def _size(self, model: ir.Model, found: Size) -> dict[str, Any]:
        shapes = {name: shape for name, shape in self._feeds.shapes.items() if shape}
        return {
            "params": graph.parameters(model),
            "nonzero": graph.nonzeros(model),
            "macs": graph.macs(model, shapes=shapes),
            "bytes": found.bytes,
            "compressed_bytes": found.compressed_bytes,
        }

    def _memory(self, path: Path) -> dict[str, Any]:
        return asdict(memory.peak(path, self._feeds.inputs, threads=self._recipe.measure.threads))


def _metric_facts(before: Metric | None, after: Metric | None) -> dict[str, Any] | None:
    if before is None or after is None:
        return None
    told = after.as_json()
    facts = {"name": told["name"], "before": before.as_json()["value"], "after": told.pop("value"), **told}
    if (pair := accuracy.paired(before, after)) is not None:
        facts |= {"fixed": pair.fixed, "broken": pair.broken}
    return facts


def _latency_facts(before: Latency, after: Latency) -> dict[str, Any]:
    ratio = after.ratio
    return {
        "provider": after.provider,
        "batch_size": after.batch_size,
        "threads": after.threads,
        "before": _times(before),
        "after": _times(after),
        "ratio": round(ratio.value, 4),
        "ratio_low": round(ratio.low, 4),
        "ratio_high": round(ratio.high, 4),
        "verdict": ratio.verdict,
        "fallback_nodes": after.executed.fallback_nodes if after.executed else None,
    }


def _times(one: Latency) -> dict[str, Any]:
    return {
        key: value for key, value in one.as_json().items() if key not in ("provider", "batch_size", "threads")
    }


def _gate_ratio(group: Sequence[Latency]) -> Ratio:
    """After against the gate's baseline where there is one, else against the input."""
    return latency.against(group[1], group[-1]) if len(group) > 2 else group[1].ratio


def _figures(sizes: Sequence[Size], metrics: Sequence[Metric | None], times: Sequence[Latency]) -> Figures:
    reference = 2 if len(sizes) > 2 else 0
    before, after, ratio = metrics[reference], metrics[1], _gate_ratio(times)
    return Figures(
        bytes_before=sizes[reference].bytes,
        bytes_after=sizes[1].bytes,
        metric_before=before.value if before else None,
        metric_after=after.value if after else None,
        higher_is_better=after.higher_is_better if after else True,
        ratio=ratio.value,
        ratio_low=ratio.low,
        ratio_high=ratio.high,
        latency_ms=times[1].p50_ms,
        slower=ratio.verdict == "slower",
    )

"""What a report takes from a card. Figures that were measured for the report take the place of these."""

from pydantic import BaseModel, ConfigDict, ValidationError

from mlcompress.card import Card
from mlcompress.report.rows import Memory, Ratio, Score, Skipped, Timing


class _Part(BaseModel):
    """A part of a card: what the report uses, whatever else a card may hold."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class _File(_Part):
    path: str
    sha256: str


class _Change(_Part):
    summary: str = ""
    skipped: tuple[dict[str, str], ...] = ()
    warnings: tuple[str, ...] = ()


class _Metric(_Part):
    name: str
    before: float | None = None
    after: float | None = None
    samples: int = 0
    low: float | None = None
    high: float | None = None
    fixed: int | None = None
    broken: int | None = None


class _Times(_Part):
    p50: float
    p90: float


class _Latency(_Part):
    provider: str
    batch_size: int
    threads: int
    before: _Times | None = None
    after: _Times
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    verdict: str | None = None
    fallback_nodes: int | None = None
    of: str | None = None


class _Counts(_Part):
    params: int
    macs: int | None = None


class _Size(_Part):
    after: _Counts


class _Use(_Part):
    peak_bytes: int
    load_ms: float


class _Memory(_Part):
    before: _Use | None = None
    after: _Use | None = None


class CardFigures(_Part):
    """The card of one artifact, checked."""

    stage: str
    parent: _File
    change: _Change = _Change()
    metric: _Metric | None = None
    latency: tuple[_Latency, ...] = ()
    memory: _Memory | None = None
    size: _Size | None = None
    synthetic: bool = False
    """Any of the stage's samples were random numbers."""
    synthetic_metric: bool = False
    """Those of the metric were."""

    def score(self, *, before: bool = False) -> Score | None:
        """The metric of the artifact, or of the model that the stage started from (which has no interval)."""
        metric = self.metric
        value = None if metric is None else metric.before if before else metric.after
        if metric is None or value is None:
            return None
        low, high = (None, None) if before else (metric.low, metric.high)
        return Score(metric.name, value, metric.samples, low, high, self.synthetic_metric, source="card")

    def timings(self) -> tuple[Timing, ...]:
        """Latency of the artifact, with the ratio to the model that the stage started from."""
        return tuple(
            Timing(
                one.provider,
                one.batch_size,
                one.threads,
                one.after.p50,
                one.after.p90,
                to_parent=self._ratio(one),
                fallback_nodes=one.fallback_nodes or 0,
                source="card",
                of=one.of,
            )
            for one in self.latency
        )

    def memory_after(self) -> Memory | None:
        """Memory of the artifact."""
        use = self.memory.after if self.memory is not None else None
        return Memory(use.peak_bytes, use.load_ms, "card") if use is not None else None

    def skipped(self) -> tuple[Skipped, ...]:
        """What the stage left alone."""
        return tuple(Skipped(item.get("name", "?"), item.get("reason", "")) for item in self.change.skipped)

    def _ratio(self, one: _Latency) -> Ratio | None:
        if one.ratio is None or one.ratio_low is None or one.ratio_high is None or one.verdict is None:
            return None
        return Ratio(one.ratio, one.ratio_low, one.ratio_high, one.verdict, self.parent.path)


def figures(card: Card) -> CardFigures:
    """Read the parts of `card` that a report uses.

    Raises:
        ValueError: a part is missing or of the wrong type; the text says which.
    """
    random = _random_entries(card.get("data"))
    known = {"synthetic": bool(random), "synthetic_metric": "evaluate" in random}
    try:
        return CardFigures.model_validate({**card, **known})
    except ValidationError as problem:
        first = problem.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg'].lower()}") from None


def _random_entries(data: object) -> list[str]:
    """Names of the card's data entries that held random numbers."""
    entries = data.items() if isinstance(data, dict) else ()
    return [name for name, facts in entries if isinstance(facts, dict) and facts.get("synthetic")]

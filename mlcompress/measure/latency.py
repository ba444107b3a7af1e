"""Latency of several models against each other on each provider, with the spread and a verdict.

The ratio of minima over interleaved blocks: of all estimators that were tried on a loaded machine (int8
against fp32 MobileNetV2, ten repeats, twice) it spread least, 2 and 7 %, against 12 and 33 % for the ratio of
separate medians.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnxruntime as ort

from mlcompress import console
from mlcompress.measure import executed as profiles
from mlcompress.measure import session as sessions
from mlcompress.measure import timing
from mlcompress.measure.executed import Executed
from mlcompress.measure.lock import measuring
from mlcompress.measure.providers import Provider, select
from mlcompress.measure.session import Feeds, Model
from mlcompress.measure.timing import REAL, Clock, Repeat
from mlcompress.recipe.sections import Measure

Verdict = Literal["faster", "slower", "no measurable difference"]

RESOLUTION = 0.02
"""Two sessions of one file may differ throughout a process, by up to 1.6 % where it was tried, which no
number of repeats averages away. So a difference counts only beyond this share."""

FEWEST = 3
"""Repeats that a verdict needs."""

ATTEMPTS = 3
"""How often latency is measured before a limit inside the noise counts as missed."""


@dataclass(frozen=True)
class Ratio:
    """Latency after / before, below 1 is faster: the median over repeats, and the least and the greatest
    repeat.

    `value`, `low`, `high` compare minima and decide the verdict; `p50*` compare medians.
    """

    value: float
    low: float
    high: float
    p50: float
    p50_low: float
    p50_high: float
    repeats: int = FEWEST

    @property
    def verdict(self) -> Verdict:
        """`faster` and `slower` need the whole interval on one side, by more than `RESOLUTION`, and FEWEST
        repeats: one alone has no spread."""
        if self.repeats < FEWEST:
            return "no measurable difference"
        if self.high < 1 - RESOLUTION:
            return "faster"
        if self.low > 1 + RESOLUTION:
            return "slower"
        return "no measurable difference"


@dataclass(frozen=True)
class Latency:
    """One model on one provider. Times are milliseconds per inference of the whole batch.

    `min_ms`, `p50_ms`, `p90_ms` and `cpu_ms` are medians over the repeats; `minima` and `medians` hold each
    repeat's.
    """

    model: int
    """Index into the models that were compared."""
    provider: str
    batch_size: int
    threads: int
    min_ms: float
    p50_ms: float
    p90_ms: float
    cpu_ms: float
    """CPU time of the process: on a loaded machine the only absolute figure to rely on; includes all
    threads."""
    calls: int
    """Timed calls in all."""
    minima: tuple[float, ...]
    medians: tuple[float, ...]
    ratio: Ratio
    """Against the baseline; exactly 1 for the baseline itself."""
    executed: Executed | None = None
    copy_ms: float | None = None
    """GPU providers: inputs to the device and outputs back, which is not part of the latency."""

    def as_json(self) -> dict[str, Any]:
        """What a card says of one model; times in milliseconds."""
        facts: dict[str, Any] = {
            "provider": self.provider,
            "batch_size": self.batch_size,
            "threads": self.threads,
            "p50": round(self.p50_ms, 5),
            "p90": round(self.p90_ms, 5),
            "min": round(self.min_ms, 5),
            "cpu": round(self.cpu_ms, 5),
            "calls": self.calls,
        }
        if self.copy_ms is not None:
            facts["copies"] = round(self.copy_ms, 5)
        if self.executed is not None:
            facts["executed"] = self.executed.as_json()
        return facts


def compare(
    models: Sequence[Model],
    feeds: Feeds,
    measure: Measure,
    *,
    baseline: int = 0,
    providers: Sequence[Provider] | None = None,
    evidence: bool = True,
    seed: int = 0,
    clock: Clock = REAL,
) -> list[Latency]:
    """Time `models` against each other on every provider of the recipe.

    Args:
        models: files or ModelProto bytes; all take the same inputs.
        feeds: one array per input of the first model that names them; see `feeds.make`.
        baseline: index of the model that the ratios are against.
        providers: those of `providers.select(measure)`, where the caller has them; optional ones that do not
            run here are otherwise skipped with a warning.
        evidence: also profile one run of each model, in a session of its own, to see which kernels ran.

    Returns:
        Provider by provider, the models in their order.

    Raises:
        UnsupportedError: a provider does not run here or not this model; or nodes fell back under
            `measure.strict`.
        ModelError: a model does not load or takes other inputs. DataError: a model cannot be run on `feeds`.
    """
    if providers is None:
        selection = select(measure)
        providers = selection.providers
        for skipped in selection.skipped:
            console.warn(f"measure.optional: {skipped['reason']}")
    found: list[Latency] = []
    with measuring():
        for provider in providers:
            ran = [_executed(model, feeds, provider, measure) if evidence else None for model in models]
            found.extend(_on(provider, models, feeds, measure, ran, baseline, seed, clock))
    return found


def decide(
    models: Sequence[Model],
    feeds: Feeds,
    measure: Measure,
    judged: Callable[[list[Latency]], Ratio],
    min_speedup: float | None,
    **options: Any,
) -> list[Latency]:
    """`compare`, and again as long as a speed limit lies inside the spread of the ratio that it is judged by.

    After ATTEMPTS the last answer stands, and the gate calls it inconclusive.

    Args:
        judged: the ratio that the limit is about, of all that were measured.
        min_speedup: latency before / after, at least; None: there is no limit.
        options: as for `compare`.
    """
    for _ in range(ATTEMPTS):
        found = compare(models, feeds, measure, **options)
        ratio = judged(found)
        if min_speedup is None or not 1 / ratio.high < min_speedup <= 1 / ratio.low:
            break
    return found


def ratio(after: Sequence[Repeat], before: Sequence[Repeat]) -> Ratio:
    """Compare two models repeat by repeat. Both must come from one interleaved measurement."""
    return _ratio(_minima(after), _minima(before), _medians(after), _medians(before))


def against(after: Latency, before: Latency) -> Ratio:
    """The ratio of two models of one `compare` on one provider, where neither need be its baseline."""
    if after.provider != before.provider or len(after.minima) != len(before.minima):
        raise ValueError("only figures of one comparison on one provider can be compared")
    return _ratio(after.minima, before.minima, after.medians, before.medians)


def batch_of(feeds: Feeds) -> int:
    """Samples per inference: the first axis of the first array that has one."""
    return next((int(array.shape[0]) for array in feeds.values() if array.ndim), 1)


def _executed(model: Model, feeds: Feeds, provider: Provider, measure: Measure) -> Executed:
    ran = profiles.profile(model, feeds, provider, threads=measure.threads)
    if measure.strict:
        profiles.refuse_fallback(ran, provider.name, sessions.label(model))
    return ran


def _on(
    provider: Provider,
    models: Sequence[Model],
    feeds: Feeds,
    measure: Measure,
    ran: Sequence[Executed | None],
    baseline: int,
    seed: int,
    clock: Clock,
) -> list[Latency]:
    open_sessions = [sessions.create(model, provider, threads=measure.threads) for model in models]
    names = [sessions.label(model) for model in models]
    arrays = [sessions.feeds_for(s, feeds, name) for s, name in zip(open_sessions, names, strict=True)]
    calls = [
        sessions.caller(s, taken, provider, name)
        for s, taken, name in zip(open_sessions, arrays, names, strict=True)
    ]
    with console.progress(f"latency on {provider.name}", measure.repeats) as advance:
        repeats = timing.interleave(calls, repeats=measure.repeats, seed=seed, clock=clock, advance=advance)
    copies = [_copy_ms(s, taken, provider, clock) for s, taken in zip(open_sessions, arrays, strict=True)]
    facts = [_facts(one, provider, feeds, measure) for one in repeats]
    return [
        Latency(
            model=index,
            ratio=ratio(one, repeats[baseline]),
            executed=ran[index],
            copy_ms=copies[index],
            **facts[index],
        )
        for index, one in enumerate(repeats)
    ]


def _facts(repeats: Sequence[Repeat], provider: Provider, feeds: Feeds, measure: Measure) -> dict[str, Any]:
    """The fields of `Latency` that concern one model alone."""
    p90 = [float(np.quantile(repeat.seconds, 0.9)) for repeat in repeats]
    return {
        "provider": provider.name,
        "batch_size": batch_of(feeds),
        "threads": measure.threads,
        "min_ms": float(np.median(_minima(repeats))),
        "p50_ms": float(np.median(_medians(repeats))),
        "p90_ms": float(np.median(p90)) * 1000,
        "cpu_ms": float(np.median([repeat.cpu_seconds for repeat in repeats])) * 1000,
        "calls": sum(len(repeat.seconds) for repeat in repeats),
        "minima": _minima(repeats),
        "medians": _medians(repeats),
    }


def _copy_ms(session: ort.InferenceSession, feeds: Feeds, provider: Provider, clock: Clock) -> float | None:
    if provider.device == "cpu":
        return None
    return sessions.copy_seconds(session, feeds, provider.device, clock.wall) * 1000


def _minima(repeats: Sequence[Repeat]) -> tuple[float, ...]:
    return tuple(float(repeat.seconds.min()) * 1000 for repeat in repeats)


def _medians(repeats: Sequence[Repeat]) -> tuple[float, ...]:
    return tuple(float(np.median(repeat.seconds)) * 1000 for repeat in repeats)


def _ratio(
    after: Sequence[float], before: Sequence[float], after_p50: Sequence[float], before_p50: Sequence[float]
) -> Ratio:
    minima = _quotients(after, before)
    medians = _quotients(after_p50, before_p50)
    return Ratio(
        float(np.median(minima)),
        float(minima.min()),
        float(minima.max()),
        float(np.median(medians)),
        float(medians.min()),
        float(medians.max()),
        len(minima),
    )


def _quotients(after: Sequence[float], before: Sequence[float]) -> np.ndarray:
    # A clock too coarse for the call reads 0: then nothing is known, and 1e-6 ms on both sides says so.
    quotients: np.ndarray = np.maximum(np.asarray(after), 1e-6) / np.maximum(np.asarray(before), 1e-6)
    return quotients

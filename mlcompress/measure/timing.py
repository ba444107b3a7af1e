"""Times several calls against each other: interleaved, in random order, in short blocks, several times over.

What disturbs a machine disturbs neighbours in time alike, so only interleaved calls can be compared.
"""

import gc
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

WARM_CALLS = 5
WARM_SECONDS = 0.2
WARM_CAP = 1.0
"""Seconds after which a session counts as warm although its last two windows still disagree."""
AGREE = 0.1
"""Two warm-up windows agree when their medians differ by less than this share."""
BLOCK_SECONDS = 0.005
ROUNDS = 12
MIN_ROUNDS = 3
BUDGET = 60.0
"""Seconds for all repeats together. Slow models get fewer rounds, never fewer than `MIN_ROUNDS`."""
PAUSE = 0.02
"""Seconds between repeats, so that they do not all fall into one disturbance."""


@dataclass(frozen=True)
class Clock:
    """Where time comes from: seconds on the wall, CPU seconds of this process, and a way to wait."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time
    rest: Callable[[float], None] = time.sleep


REAL = Clock()


@dataclass(frozen=True)
class Repeat:
    """One repeat of one call. `seconds` float64 [calls]; `cpu_seconds` is the mean CPU time of a call."""

    seconds: np.ndarray
    cpu_seconds: float


def interleave(
    calls: Sequence[Callable[[], object]],
    *,
    repeats: int,
    seed: int = 0,
    clock: Clock = REAL,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[list[Repeat]]:
    """Warm every call up, then time them against each other.

    In each round every call is run in a seeded random order, as often as it takes to fill `BLOCK_SECONDS`.

    Args:
        advance: told of each finished repeat.

    Returns:
        One list per call, with one entry per repeat.
    """
    once = [warm_up(call, clock) for call in calls]
    counts = [max(1, math.ceil(BLOCK_SECONDS / seconds)) for seconds in once]
    rounds = rounds_within_budget(once, counts, repeats)
    order = np.random.default_rng(seed)
    results: list[list[Repeat]] = [[] for _ in calls]
    for repeat in range(repeats):
        if repeat:
            clock.rest(PAUSE)
        with _no_garbage_collection():
            orders = [order.permutation(len(calls)) for _ in range(rounds)]
            for taken, one in zip(results, _repeat(calls, counts, orders, clock), strict=True):
                taken.append(one)
        advance(1)
    return results


def rounds_within_budget(once: Sequence[float], counts: Sequence[int], repeats: int) -> int:
    """Rounds per repeat so that everything fits into `BUDGET` seconds, between `MIN_ROUNDS` and `ROUNDS`."""
    one_round = sum(seconds * count for seconds, count in zip(once, counts, strict=True))
    return int(min(ROUNDS, max(MIN_ROUNDS, BUDGET / (repeats * one_round))))


def warm_up(call: Callable[[], object], clock: Clock) -> float:
    """Run `call` until it is steady; the first calls take up to 1.5 times as long.

    Returns:
        Seconds per call: the median of the last window, at least a nanosecond.
    """
    windows: list[float] = []
    calls, begin = 0, clock.wall()
    while True:
        window = _window(call, clock, WARM_SECONDS / 2)
        calls += len(window)
        windows.append(max(float(np.median(window)), 1e-9))
        # Steady needs two windows, which together last WARM_SECONDS.
        steady = len(windows) > 1 and abs(windows[-1] / windows[-2] - 1) < AGREE
        if calls >= WARM_CALLS and (steady or clock.wall() - begin >= WARM_CAP):
            return windows[-1]


def _window(call: Callable[[], object], clock: Clock, seconds: float) -> list[float]:
    taken: list[float] = []
    end = clock.wall() + seconds
    # A clock that stands still would never end a window: a call that takes no time is run a thousand times.
    while not taken or (clock.wall() < end and len(taken) < 100_000):
        start = clock.wall()
        call()
        taken.append(clock.wall() - start)
    return taken


def _repeat(
    calls: Sequence[Callable[[], object]], counts: Sequence[int], orders: Sequence[np.ndarray], clock: Clock
) -> list[Repeat]:
    seconds: list[list[float]] = [[] for _ in calls]
    cpu = [0.0 for _ in calls]
    for order in orders:
        for index in order:
            call, taken = calls[index], seconds[index]
            cpu_start = clock.cpu()
            for _ in range(counts[index]):
                start = clock.wall()
                call()
                taken.append(clock.wall() - start)
            cpu[index] += clock.cpu() - cpu_start
    return [Repeat(np.asarray(taken), used / len(taken)) for taken, used in zip(seconds, cpu, strict=True)]


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

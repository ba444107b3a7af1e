"""Observers against brute force on known distributions."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest

from mlcompress.quantize.observers import (
    BINS,
    LEVELS,
    Seen,
    entropy,
    minmax,
    moving_minmax,
    mse,
    observers,
    percentile,
)


def seen_of(*batches: np.ndarray) -> Seen:
    seen = Seen()
    for batch in batches:
        seen.update(batch)
    return seen


def quantised_error(values: np.ndarray, low: float, high: float) -> float:
    """Sum of squared errors of uint8 quantisation, value by value."""
    scale = (high - low) / LEVELS
    zero = np.rint(-low / scale)
    codes = np.clip(np.rint(values / scale) + zero, 0, LEVELS)
    return float(np.sum((values - (codes - zero) * scale) ** 2))


def test_minmax_is_exact() -> None:
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((7, 3)).astype(np.float32) for _ in range(5)]
    values = np.concatenate(batches)
    assert minmax(seen_of(*batches)) == (values.min(), values.max())


def test_moving_minmax_is_the_recurrence() -> None:
    batches = [np.float32([-1, 1]), np.float32([-3, 2]), np.float32([0, 5])]
    low, high = moving_minmax(seen_of(*batches), momentum=0.75)
    assert low == pytest.approx(0.75 * (0.75 * -1 + 0.25 * -3) + 0.25 * 0)
    assert high == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 5)


@pytest.mark.parametrize("share", [90.0, 99.0, 99.9])
def test_percentile_agrees_with_numpy(share: float) -> None:
    values = np.random.default_rng(0).gumbel(size=200_000).astype(np.float32)
    low, high = percentile(seen_of(*np.split(values, 10)), percentile=share)
    # One bin, and the distance between neighbouring values, which grows towards the tail.
    near = 2 * 16 / BINS + 0.01
    assert low == pytest.approx(np.percentile(values, 100 - share), abs=near)
    assert high == pytest.approx(np.percentile(values, share), abs=near)


def test_percentile_leaves_out_an_outlier_and_minmax_does_not() -> None:
    values = np.random.default_rng(0).uniform(0, 1, 100_000).astype(np.float32)
    values[0] = 1000
    seen = seen_of(values)
    assert minmax(seen)[1] == 1000
    assert percentile(seen)[1] < 1.5


@pytest.mark.parametrize("kind", ["laplace", "relu", "uniform", "hardswish"])
def test_mse_is_as_good_as_brute_force(kind: str) -> None:
    rng = np.random.default_rng(3)
    base = rng.laplace(size=40_000)
    values = {
        "laplace": base,
        "relu": np.maximum(base, 0),
        "uniform": rng.uniform(-1, 3, 40_000),
        "hardswish": base * np.clip(base + 3, 0, 6) / 6,
    }[kind].astype(np.float32)
    low, high = mse(seen_of(*np.split(values, 8)))
    lows = np.linspace(float(values.min()), 0, 40, endpoint=False) if values.min() < 0 else [0.0]
    best = min(
        quantised_error(values, a, b) for a in lows for b in np.linspace(0.2, 1, 40) * float(values.max())
    )
    # 3 %: both searches are grids, and the observer sees bin centres only.
    assert quantised_error(values, low, high) <= 1.03 * best
    assert quantised_error(values, low, high) <= quantised_error(values, values.min(), values.max())


def divergence_by_hand(counts: np.ndarray, first: int, last: int) -> float:
    """Migacz's algorithm with loops."""
    reference = counts[first:last].copy()
    reference[0] += counts[:first].sum()
    reference[-1] += counts[last:].sum()
    kept = counts[first:last]
    size = last - first
    starts = [int(size * group / LEVELS) for group in range(LEVELS)] + [size]
    spread = np.zeros(size)
    for start, end in pairwise(starts):
        part = kept[start:end]
        filled = [i for i in range(start, end) if kept[i] > 0]
        for i in filled:
            spread[i] = part.sum() / len(filled)
    p, q = reference / reference.sum(), spread / spread.sum()
    return float(sum(a * np.log(a / max(b, 1e-12)) for a, b in zip(p, q, strict=True) if a > 0))


def test_entropy_is_the_best_of_all_clips() -> None:
    rng = np.random.default_rng(5)
    values = np.concatenate([rng.normal(size=60_000), [9.0, -8.0]]).astype(np.float32)
    seen = seen_of(values)
    low, high = entropy(seen, steps=50)
    counts = seen.counts.reshape(-1, 8).sum(axis=1).astype(np.float64)
    used = np.flatnonzero(counts)
    centres = (seen.edges()[::8][:-1] + seen.edges()[::8][1:]) / 2
    counts, centres = counts[used[0] : used[-1] + 1], centres[used[0] : used[-1] + 1]
    found = {}
    for step in range(50):
        limit = 9.0 * np.linspace(1, 1 / 50, 50)[step]
        inside = np.flatnonzero(np.abs(centres) <= limit)
        if inside.size >= LEVELS:
            found[limit] = divergence_by_hand(counts, inside[0], inside[-1] + 1)
    best = min(found, key=lambda limit: found[limit])
    assert high == pytest.approx(min(9.0, best))
    assert low == pytest.approx(max(-8.0, -best))
    assert high < 9.0  # it does clip the outlier


def test_entropy_ignores_how_many_zeros_a_relu_makes() -> None:
    values = np.abs(np.random.default_rng(0).normal(size=50_000)).astype(np.float32)
    few = entropy(seen_of(values))
    many = entropy(seen_of(values, np.zeros(500_000, np.float32)))
    assert many[1] == few[1]
    assert many[1] > 1.5  # a spike at zero once made it clip at a tenth of the range


def test_batching_does_not_change_the_histogram() -> None:
    values = (np.random.default_rng(0).standard_normal(10_000) * np.logspace(-6, 3, 10_000)).astype(
        np.float32
    )
    whole = seen_of(values)
    for parts in (2, 7, 100):
        split = seen_of(*np.array_split(values, parts))
        assert split.exponent == whole.exponent
        np.testing.assert_array_equal(split.counts, whole.counts)
    backwards = seen_of(*np.array_split(values[::-1], 9))
    np.testing.assert_array_equal(backwards.counts, whole.counts)


def test_histogram_counts_what_numpy_counts() -> None:
    values = np.random.default_rng(1).standard_normal(5_000).astype(np.float32)
    seen = seen_of(*np.split(values, 5))
    expected, _ = np.histogram(values, seen.edges())
    np.testing.assert_array_equal(seen.counts, expected)


@pytest.mark.parametrize("name", list(observers))
def test_degenerate_tensors(name: str) -> None:
    choice = observers.schema(name)(name=name)
    observer = observers.bind(choice)
    assert observer(seen_of(np.zeros(10, np.float32))) == (0, 0)
    assert observer(Seen()) == (0, 0)
    low, high = observer(seen_of(np.full(100, 3.0, np.float32)))
    assert low <= high
    assert high == pytest.approx(3.0, rel=0.02)


def test_every_observer_can_be_named_in_a_recipe() -> None:
    assert set(observers) == {"minmax", "moving_minmax", "percentile", "mse", "entropy"}
    assert get_args(observers.annotation())

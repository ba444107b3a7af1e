"""The held-out share."""

import numpy as np
import pytest

from mlcompress.data import from_arrays, split
from mlcompress.errors import DataError


def labelled(labels: np.ndarray | None, count: int = 100):  # type: ignore[no-untyped-def]
    return from_arrays({"x": np.arange(count, dtype=np.float32)[:, None]}, labels, name="data.train")


def members(data) -> list[int]:  # type: ignore[no-untyped-def]
    return [int(value) for value in data.take(np.arange(len(data))).inputs["x"][:, 0]]


def test_every_sample_is_in_one_part_and_order_is_kept() -> None:
    rest, held = split(labelled(None), 0.13, 0)
    assert (len(rest), len(held)) == (87, 13)
    assert sorted(members(rest) + members(held)) == list(range(100))
    assert members(held) == sorted(members(held))


def test_classes_are_held_out_at_one_rate() -> None:
    """70 / 20 / 10 samples at 15 %: 10.5 / 3 / 1.5, so 15 in all, each class rounded up or down."""
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    _, held = split(labelled(labels), 0.15, 3)
    counts = np.bincount(held.labels)
    assert counts.sum() == 15
    assert counts[0] in (10, 11)
    assert counts[1] == 3
    assert counts[2] in (1, 2)


def test_the_seed_decides() -> None:
    labels = np.arange(100) % 10
    parts = [members(split(labelled(labels), 0.2, seed)[1]) for seed in (0, 0, 1)]
    assert parts[0] == parts[1] != parts[2]


def test_float_targets_are_not_classes() -> None:
    assert len(split(labelled(np.linspace(0, 1, 100)), 0.1, 0)[1]) == 10


@pytest.mark.parametrize("share", [0.0, 0.001, 1.0])
def test_an_empty_part_is_refused(share: float) -> None:
    with pytest.raises(
        DataError, match=r"data.train: cannot hold out a share of .* from 100 samples; change"
    ):
        split(labelled(None), share, 0)

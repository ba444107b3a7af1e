"""How many units stay: multiples that run fast, and never none."""

import pytest

from mlcompress.graph.dependency.widths import multiple, nearest


@pytest.mark.parametrize(
    ("units", "conv", "asked", "expected"),
    [(128, True, None, 16), (64, True, None, 16), (32, True, None, 8), (16, True, None, 4), (6, True, None, 1), (3, True, None, 1),
     (100, False, None, 1), (64, True, 8, 8), (4, True, 16, 4)],
)  # fmt: skip
def test_default_rounding(units: int, conv: bool, asked: int | None, expected: int) -> None:
    assert multiple(units, conv=conv, round_to=asked) == expected


@pytest.mark.parametrize(
    ("units", "width", "round_to", "conv", "kept"),
    [
        (128, 0.5, None, True, 64),
        (32, 0.5, None, True, 16),  # multiples of 8
        (100, 0.5, None, True, 48),  # of 16: 48 and 64 are 2 and 14 away from 50
        (128, 0.05, None, True, 16),  # never below one multiple
        (10, 0.5, None, True, 6),  # of 2: 5 rounds up
        (3, 0.1, None, True, 1),
        (100, 0.5, None, False, 50),
        (100, 0.5, 32, False, 64),
        (8, 0.9, 16, True, 8),  # never above what there is
        (64, 1.0, None, True, 64),
    ],
)
def test_widths(units: int, width: float, round_to: int | None, conv: bool, kept: int) -> None:
    assert nearest(width * units, units, multiple(units, conv=conv, round_to=round_to)) == kept

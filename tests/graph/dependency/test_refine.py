"""Correspondence of axes before and after a reshape, against numpy."""

import numpy as np
import pytest

from mlcompress.graph.dependency.refine import refine, target_sizes


def blocks(
    before: list[object], after: list[object]
) -> list[tuple[list[int], list[int], list[object] | None]]:
    found = refine(before, after)  # type: ignore[arg-type]
    return [(b.sources, b.targets, None if b.factors is None else [f.size for f in b.factors]) for b in found]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (["N", 6, 4], ["N", 24], [([0], [0], ["N"]), ([1, 2], [1], [6, 4])]),
        (["N", 5, 24], ["N", 5, 4, 6], [([0], [0], ["N"]), ([1], [1], [5]), ([2], [2, 3], [4, 6])]),
        ([6, 4], [4, 6], [([0, 1], [0, 1], None)]),
        (["N", 12, 7, 7], ["N", 4, 147], [([0], [0], ["N"]), ([1, 2, 3], [1, 2], [4, 3, 7, 7])]),
        ([2048, 64], [512, 256], [([0, 1], [0, 1], [512, 4, 64])]),
        (["B", "S", 8], [None, 8], [([0, 1], [0], None), ([2], [1], [8])]),
        ([1, 8, 1], [8], [([1], [0], [8])]),
        (["N", 8], ["M", 8], [([0], [0], None), ([1], [1], [8])]),
    ],
)
def test_blocks(before: list[object], after: list[object], expected: object) -> None:
    assert blocks(before, after) == expected


@pytest.mark.parametrize("seed", range(20))
def test_factors_rebuild_both_shapes(seed: int) -> None:
    """Elements that share a position along a factor before the reshape share it afterwards."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 4, 5).tolist()
    cuts = [sorted(rng.choice(range(1, 5), 2, replace=False).tolist()) for _ in range(2)]
    before, after = ([int(np.prod(part)) for part in np.split(sizes, cut)] for cut in cuts)
    for block in refine(before, after):
        if block.factors is None:
            continue
        for axes, shape, side in ((block.sources, before, "source"), (block.targets, after, "target")):
            for axis in axes:
                inside = [f.size for f in block.factors if getattr(f, side) == axis]
                assert np.prod(inside) == shape[axis]


@pytest.mark.parametrize(
    ("before", "target", "declared", "expected"),
    [
        (["N", 6, 4], [0, -1], [], ["N", 24]),
        (["N", 6, 4], [-1, 24], [], ["N", 24]),
        (["N", 6, 4], [-1, 8], [], ["3*N", 8]),
        (["3*N", 8], [-1, 6, 4], [], ["N", 6, 4]),
        (["N", 6, 4], [-1, 5], [], [None, 5]),
        (["N", "T", 4], [-1, 4], [], [None, 4]),
        ([2, 6, 4], [-1, 8], [], [6, 8]),
        (["N", 6, 4], [None, 6, 4], [], ["N", 6, 4]),
        (["N", "T", 4], [None, None, 4], ["N", None, 4], ["N", "T", 4]),
    ],
)
def test_target_sizes(
    before: list[object], target: list[int | None], declared: list[object], expected: object
) -> None:
    assert target_sizes(before, target, declared) == expected  # type: ignore[arg-type]

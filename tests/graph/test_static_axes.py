"""Known axes read from partly known shapes (Slice and Gather of Cast of Shape)."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.graph.onnx_text import cleaned, numbers, ops

Write = Callable[..., Path]
NET = """net (float[N, 2, 3] x) => (int32[K] y)
    <int64[1] a = {%s}, int64[1] b = {%s}, int64[1] z = {0}, int64[1] s = {%s}, int32 c = {0}> {
    shape = Shape(x)
    small = Cast<to = 6>(shape)
    part = Slice(small, a, b, z, s)
    y = Add(part, c)
}"""


@pytest.mark.parametrize(
    ("start", "end", "step", "expected"),
    [(1, 3, 1, [2, 3]), (-1, 99, 1, [3]), (-2, -1, 1, [2]), (2, 3, 2, [3]), (1, 9, 2, [2])],
)
def test_static_axes_become_constants(
    write: Write, start: int, end: int, step: int, expected: list[int]
) -> None:
    model = cleaned(write(NET % (start, end, step)), (5, 2, 3))
    assert ops(model) == ["Add"]
    np.testing.assert_array_equal(numbers(model, "part"), np.array(expected, np.int32))


@pytest.mark.parametrize(("start", "end", "step"), [(0, 1, 1), (0, 3, 2)])
def test_slices_with_the_batch_stay_computed(write: Write, start: int, end: int, step: int) -> None:
    assert "Slice" in ops(cleaned(write(NET % (start, end, step)), (5, 2, 3)))


def test_gather_of_a_cast_shape(write: Write) -> None:
    path = write(
        """net (float[N, 2, 3] x) => (int32[2] y, int32[1] n)
           <int64[2] places = {2, -2}, int64[1] batch = {-3}, int32 c = {0}> {
            shape = Shape(x)
            small = Cast<to = 6>(shape)
            part = Gather(small, places)
            y = Add(part, c)
            n = Gather(small, batch)
        }"""
    )
    model = cleaned(path, (5, 2, 3))
    np.testing.assert_array_equal(numbers(model, "part"), [3, 2])
    assert "Gather" in ops(model)

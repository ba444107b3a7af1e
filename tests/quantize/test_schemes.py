"""Every scheme against its formula, written here in the plainest way."""

import struct
from typing import Any

import numpy as np
import pytest

from mlcompress.quantize.levels import kmeans, nearest
from mlcompress.quantize.schemes import How, schemes
from mlcompress.quantize.weights import INTEGER_SCHEMES, quantised

ROWS = (
    np.random.default_rng(0).standard_normal((6, 200)) * np.array([[0.01], [0.1], [0.5], [1], [3], [40]])
).astype(np.float32)
PRUNED = np.where(np.random.default_rng(1).random(ROWS.shape) < 0.3, ROWS, np.float32(0))


def values(name: str, rows: np.ndarray = ROWS, how: How | None = None, **options: Any) -> np.ndarray:
    """What a scheme makes of rows, in numbers."""
    grid = schemes.bind(schemes.choose(name, **options))(rows, how or How())
    found = grid.levels.astype(np.float32)
    if grid.zero is not None:
        found = found - grid.zero
    return found if grid.scale is None else found * grid.scale


def error(found: np.ndarray, row: np.ndarray) -> float:
    return float(np.sum((np.asarray(found, np.float64) - row) ** 2))


def least_uniform_error(row: np.ndarray, top: int) -> float:
    """The best of 4000 scales."""
    best = np.inf
    for scale in np.abs(row).max() / top * np.linspace(0.05, 1, 4000):
        best = min(best, error(np.clip(np.round(row / scale), -top, top) * scale, row))
    return best


def test_int8_is_max_over_127() -> None:
    for found, row in zip(values("int8"), ROWS, strict=True):
        scale = np.float32(np.abs(row).max() / 127)
        expected = [round(float(w) / float(scale)) * scale for w in row]
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize(("name", "top"), [("int4", 7), ("int2", 1)])
def test_few_bits_have_the_scale_of_the_least_error(name: str, top: int) -> None:
    for found, row in zip(values(name), ROWS, strict=True):
        # A grid of 8 + 7 scales against one of 4000.
        assert error(found, row) <= 1.02 * least_uniform_error(row, top)
        assert len(np.unique(found)) <= 2 * top + 1
    # Negative control: the largest value as the end of the range is worse.
    assert error(values(name, scale="max"), ROWS) > 1.1 * error(values(name), ROWS)


@pytest.mark.parametrize(("name", "bits"), [("int8", 8), ("int4", 4), ("int2", 2)])
def test_asymmetric_ranges_hold_zero(name: str, bits: int) -> None:
    rows = np.abs(ROWS) + 0.5 * np.abs(ROWS).max(axis=1, keepdims=True)
    rows[:, 0] = 0
    found = values(name, rows, How(symmetric=False))
    assert not found[:, 0].any()
    for got, row in zip(found, rows, strict=True):
        assert len(np.unique(got)) <= 2**bits
        step = row.max() / (2**bits - 1)
        if bits == 8:
            assert np.abs(got - row).max() <= 0.51 * step
    # Negative control: numbers of one sign waste half of a symmetric range.
    assert error(found, rows) < 0.7 * error(values(name, rows), rows)


def test_ternary_by_its_paper() -> None:
    for found, row in zip(values("ternary"), ROWS, strict=True):
        threshold = 0.7 * np.mean(np.abs(row))
        kept = [abs(float(w)) for w in row if abs(w) > threshold]
        alpha = sum(kept) / len(kept)
        expected = [0 if abs(w) <= threshold else alpha * np.sign(w) for w in row]
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_binary_by_its_paper() -> None:
    for found, row in zip(values("binary"), ROWS, strict=True):
        alpha = sum(abs(float(w)) for w in row) / len(row)
        np.testing.assert_allclose(found, [alpha if w >= 0 else -alpha for w in row], rtol=1e-5)


@pytest.mark.parametrize("bits", [3, 5, 8])
def test_fixed_point_is_whole_multiples_of_a_power_of_two(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    for found, row in zip(values("fixed_point", bits=bits), ROWS, strict=True):
        n = max(k for k in range(-20, 40) if np.abs(row).max() * 2.0**k <= top)
        choices = [n, n + 1, n + 2] if bits <= 4 else [n]
        expected = min(
            (np.clip(np.round(row.astype(float) * 2.0**k), -top, top) / 2.0**k for k in choices),
            key=lambda each: error(each, row),
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bits", [2, 4, 6])
def test_log2_by_its_formula(bits: int) -> None:
    for found, row in zip(values("log2", bits=bits), ROWS, strict=True):
        high = round(float(np.log2(np.abs(row).max())))
        low = high - 2 ** (bits - 1) + 2
        expected = []
        for w in row.astype(float):
            power = min(max(round(np.log2(abs(w))), low), high)
            expected.append(0.0 if abs(w) < 2.0 ** (low - 1) else np.sign(w) * 2.0**power)
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(("bits", "pieces"), [(4, 2), (6, 3)])
def test_piecewise_has_equal_steps_in_each_piece(bits: int, pieces: int) -> None:
    grid = schemes.bind(schemes.choose("piecewise", bits=bits, pieces=pieces))(ROWS, How())
    levels = np.unique(np.abs(grid.levels))
    assert len(np.unique(grid.levels)) <= 2**bits - 1
    steps = np.round(np.diff(levels[levels <= 1.0001]), 5)
    assert len(np.unique(steps)) <= pieces + 1  # float32
    assert np.all(np.diff(steps) >= -1e-5)  # finer near zero
    # Negative control: equal steps over the same range lose more on normal numbers.
    top = 2 ** (bits - 1) - 1
    scale = np.abs(ROWS).max(axis=1, keepdims=True) / top
    assert error(values("piecewise", bits=bits, pieces=pieces), ROWS) < error(
        np.rint(ROWS / scale) * scale, ROWS
    )


def least_table_error(numbers: np.ndarray, count: int) -> float:
    """The optimum, by dynamic programming over sorted numbers."""
    x = np.sort(numbers.astype(float))
    first, second = np.append(0, np.cumsum(x)), np.append(0, np.cumsum(x**2))

    def cost(i: np.ndarray, j: int) -> np.ndarray:
        return second[j] - second[i] - (first[j] - first[i]) ** 2 / np.maximum(j - i, 1)

    best = np.array([cost(np.array([0]), j)[0] for j in range(len(x) + 1)])
    for _ in range(count - 1):
        best = np.array([min(best[: j + 1] + cost(np.arange(j + 1), j)) for j in range(len(x) + 1)])
    return float(best[-1])


@pytest.mark.parametrize("count", [2, 4, 16])
@pytest.mark.parametrize("kind", ["normal", "laplace", "two hills"])
def test_kmeans_is_close_to_the_optimum(count: int, kind: str) -> None:
    rng = np.random.default_rng(3)
    numbers = {
        "normal": rng.standard_normal(400),
        "laplace": rng.laplace(size=400),
        "two hills": np.concatenate([rng.normal(-2, 0.1, 200), rng.normal(1, 0.5, 200)]),
    }[kind]
    table = kmeans(numbers[None], np.ones((1, 1)), count, integer=False)
    assert len(table) <= count
    found = error(nearest(numbers, table), numbers)
    # The histogram's bins are a 16384th of the range.
    assert found <= 1.02 * least_table_error(numbers, count)


def test_a_codebook_beats_equal_steps_and_keeps_zeros() -> None:
    for bits, name in ((4, "int4"), (2, "int2")):
        assert error(values("codebook", bits=bits), ROWS) < 0.8 * error(values(name), ROWS)
    found = values("codebook", PRUNED, bits=4)
    assert not found[PRUNED == 0].any()
    one = values("codebook", ROWS[3:4], bits=3)
    assert len(np.unique(one)) == 8


def test_few_distinct_values_are_kept_exactly() -> None:
    row = np.random.default_rng(0).standard_normal(7).astype(np.float32)[None, np.arange(70) % 7]
    np.testing.assert_array_equal(values("codebook", row, bits=3), row)


def test_halves_are_the_nearest() -> None:
    assert values("fp16")[0, 0] == np.float32(struct.unpack("e", struct.pack("e", float(ROWS[0, 0])))[0])
    bits = ROWS.view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32)
    np.testing.assert_array_equal(values("bf16"), rounded.view(np.float32))


@pytest.mark.parametrize("name", INTEGER_SCHEMES)
def test_codes_for_integer_kernels(name: str) -> None:
    """int8, near the scheme's own values, and the same again for the scales found."""
    weight = ROWS.reshape(6, 4, 5, 10)
    codes, scales = quantised(weight, (0,), name)
    assert codes.dtype == np.int8
    assert codes.min() >= -127
    assert scales.shape == (6, 1, 1, 1)
    decoded = codes * scales
    own = values(name, how=How(integer=True)).reshape(weight.shape)
    np.testing.assert_allclose(decoded, own, rtol=1e-6, atol=1e-9)
    again, kept = quantised(decoded, (0,), name, scales=scales)
    np.testing.assert_array_equal(kept, scales)
    np.testing.assert_array_equal(again, codes)


@pytest.mark.parametrize(
    ("name", "step"), [("int8", 1), ("int4", 16), ("int2", 64), ("ternary", 64), ("binary", 64)]
)
def test_few_bits_are_multiples_of_a_power_of_two(name: str, step: int) -> None:
    codes, scales = quantised(ROWS, (0,), name)
    assert not (codes % step).any()
    assert np.abs(codes).max() == (127 // step) * step
    np.testing.assert_array_equal(values(name), codes * scales)


@pytest.mark.parametrize("name", INTEGER_SCHEMES)
def test_a_floor_holds_scales_from_below(name: str) -> None:
    floor = np.zeros((6, 1))
    floor[0] = 0.05
    codes, scales = quantised(ROWS, (0,), name, floor=floor)
    assert scales[0] >= np.float32(0.05)
    plain, own = quantised(ROWS, (0,), name)
    np.testing.assert_array_equal(codes[1:], plain[1:])
    # Half a step of the floor, where the scheme would have been finer.
    assert np.abs(codes[0] * scales[0] - plain[0] * own[0]).max() <= 0.0251 + np.abs(own[0] * 0).max()


def test_columns_and_whole_tensors() -> None:
    codes, scales = quantised(ROWS.T.copy(), (1,), "int4")
    expected, steps = quantised(ROWS, (0,), "int4")
    np.testing.assert_array_equal(codes, expected.T)
    np.testing.assert_array_equal(scales, steps.T)
    assert quantised(ROWS, (), "codebook")[1].shape == (1, 1)


def test_schemes_without_integers_are_refused() -> None:
    with pytest.raises(ValueError, match="bf16 is not for integer kernels"):
        quantised(ROWS, (0,), "bf16")


@pytest.mark.parametrize("name", list(schemes))
@pytest.mark.parametrize("number", [0.0, 1e-44])
def test_rows_of_nothing_have_usable_scales(name: str, number: float) -> None:
    rows = np.full((2, 40), number, np.float32)
    rows[1] = np.linspace(-1, 1, 40)
    with np.errstate(all="raise", under="ignore"):
        found = values(name, rows)
    assert np.isfinite(found).all()
    assert np.abs(found[0]).max() <= 1e-30

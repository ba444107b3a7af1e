"""What stands where a mask is 0 must not choose ranges or weights; whether there is a mask is tried, not
guessed."""

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress.data.columns import ArrayColumn
from mlcompress.data.dataset import Dataset, Input
from mlcompress.data.padding import find_mask, real
from mlcompress.quantize.calibrate import observe
from mlcompress.quantize.gram import Gram
from tests.quantize import nets

LENGTH, WIDTH, WORDS = 6, 4, 10
LOUD = 9
"""The word that fills up; its row of the table is fifty times as large as the others."""


def encoder(masked: bool = True) -> ir.Model:
    """The mean of embeddings times a matrix, over the positions that count (or over all)."""
    rng = np.random.default_rng(0)
    table = nets.floats(rng, WORDS, WIDTH)
    table[LOUD] *= 50
    count = "Identity" if masked else "Sigmoid"
    return nets.build(
        f"""
        g (int64[n, {LENGTH}] ids, int64[n, {LENGTH}] mask) => (float[n, {WIDTH}] y) {{
            words = Gather(table, ids)
            made = MatMul(words, weight)
            last = Constant<value = int64[1] {{2}}>()
            one = Constant<value = int64[1] {{1}}>()
            ones = Cast<to = 1>(mask)
            count = {count}(ones)
            wide = Unsqueeze(count, last)
            kept = Mul(made, wide)
            y = ReduceSum<keepdims = 0>(kept, one)
        }}
        """,
        {"table": table, "weight": nets.floats(rng, WIDTH, WIDTH)},
    )


def texts(count: int = 12) -> Dataset:
    """Lengths 2 to 6, filled up with the loud word."""
    rng = np.random.default_rng(1)
    lengths = rng.integers(2, LENGTH, size=count)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int64)
    ids = np.where(mask == 1, rng.integers(0, LOUD, size=mask.shape), LOUD)
    inputs = {"ids": Input(ArrayColumn(ids)), "mask": Input(ArrayColumn(mask))}
    return Dataset("texts", inputs, None, np.arange(count))


def test_a_mask_is_found_by_what_it_does() -> None:
    assert find_mask(encoder(), texts()) == "mask"


def test_an_input_of_the_same_numbers_that_hides_nothing_is_no_mask() -> None:
    assert find_mask(encoder(masked=False), texts()) is None


def test_padding_does_not_widen_ranges() -> None:
    model, data = encoder(), texts()
    seen = observe(model, ["words"], data)["words"]
    inputs = data.take(np.arange(len(data))).inputs
    words = nets.array(model, "table")[inputs["ids"]]
    kept = words[inputs["mask"] == 1]
    assert (seen.low, seen.high) == (pytest.approx(kept.min()), pytest.approx(kept.max()))
    assert np.abs(words).max() > 10 * max(-seen.low, seen.high)  # the loud word is there
    assert seen.counts.sum() == kept.size
    heard = observe(encoder(masked=False), ["words"], data)["words"]
    assert max(-heard.low, heard.high) == pytest.approx(np.abs(words).max())


def test_real_positions_by_hand() -> None:
    values = np.arange(12.0).reshape(2, 3, 2)
    mask = np.array([[1, 0, 0], [0, 1, 1]])
    expected = [[[[0, 1]]], [[[8, 9], [10, 11]]]]
    for given in (values, values.reshape(6, 2)):
        assert [part.tolist() for part in real(given, mask)] == expected
    for other in (np.zeros((2, 5, 2)), np.zeros((2, 3)), np.zeros((2, 3, 3, 2))):
        (same,) = real(other, mask)
        assert same is other
    assert real(values, None)[0] is values


def test_centred_moments_are_those_of_all_positions_however_long_the_samples() -> None:
    rng = np.random.default_rng(2)
    parts = [rng.normal(3.0, 1.0, size=(1, 4, length)) for length in (2, 7, 40)]
    gram = Gram()
    for part in parts:
        gram.update(part, part, 1)
    found = gram.hessian(centred=True, damping=0.0)[0]
    expected = np.cov(np.concatenate(parts, axis=2)[0], bias=True)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)  # sums in another order


def test_a_mark_that_each_position_has_for_itself_is_no_mask() -> None:
    """Outputs of single positions: what stands at others changes nothing, whatever the mark says."""
    rng = np.random.default_rng(0)
    model = nets.build(
        f"""
        g (int64[n, {LENGTH}] ids, int64[n, {LENGTH}] mask) => (float[n, {LENGTH}, {WIDTH}] y) {{
            words = Gather(table, ids)
            marks = Gather(sides, mask)
            both = Add(words, marks)
            y = MatMul(both, weight)
        }}
        """,
        {
            "table": nets.floats(rng, WORDS, WIDTH),
            "sides": nets.floats(rng, 2, WIDTH),
            "weight": nets.floats(rng, WIDTH, WIDTH),
        },
    )
    assert find_mask(model, texts()) is None


def test_moments_of_samples_that_are_all_alike_can_be_inverted() -> None:
    rng = np.random.default_rng(3)
    column = rng.normal(size=(1, 64, 1)).astype(np.float32)
    gram = Gram()
    for _ in range(5):
        gram.update(column, column, 1)
    np.linalg.cholesky(np.linalg.inv(gram.hessian(centred=True, damping=0.01)))

"""SparseGPT's sweep against the plain form of its update, and what it gains."""

import numpy as np
import pytest

from mlcompress.prune.criteria.elementwise import upper_factor
from mlcompress.prune.masks import by_row, n_of_m, rows, together
from mlcompress.prune.obs import given, pattern, sharing, sweep

RNG = np.random.default_rng(0)
INPUTS = RNG.normal(size=(12, 300)) + RNG.normal(size=(1, 300))
SECOND = INPUTS @ INPUTS.T / 300
WEIGHT = RNG.normal(size=(4, 12))


def plain(weight: np.ndarray, kept: np.ndarray, hessian: np.ndarray) -> np.ndarray:
    """Weight by weight, each row, with the inverse of what is still free."""
    fitted = weight.copy()
    for row in range(len(weight)):
        for i in range(weight.shape[1]):
            if not kept[row, i]:
                inverse = np.linalg.inv(hessian[i:, i:])
                fitted[row, i:] -= fitted[row, i] / inverse[0, 0] * inverse[0]
                fitted[row, i] = 0
    return fitted


def error(fitted: np.ndarray) -> float:
    return float(np.square((fitted - WEIGHT) @ INPUTS).sum())


@pytest.mark.parametrize("chunk", [1, 5, 12])
def test_the_sweep_is_the_surgeons_update(chunk: int) -> None:
    kept = RNG.random(WEIGHT.shape) > 0.5
    damped = SECOND + 0.01 * np.trace(SECOND) / 12 * np.eye(12)
    fitted, mask = sweep(WEIGHT, upper_factor(SECOND, 0.01), given(kept), chunk)
    assert np.array_equal(mask, kept)
    assert fitted == pytest.approx(plain(WEIGHT, kept, damped), abs=1e-10)


def test_the_update_loses_less_than_zeros_alone() -> None:
    magnitudes = by_row(np.abs(WEIGHT), 0.5)
    fitted, mask = sweep(WEIGHT, upper_factor(SECOND, 1e-6), sharing(0.5), 12)
    assert mask.sum() == magnitudes.sum() == 24
    assert error(fitted) < 0.7 * error(WEIGHT * magnitudes)
    same, _ = sweep(WEIGHT, upper_factor(SECOND, 1e-6), given(magnitudes), 4)
    assert error(same) < error(WEIGHT * magnitudes)


def test_a_pattern_holds_in_every_row() -> None:
    fitted, mask = sweep(WEIGHT, upper_factor(SECOND, 0.01), pattern(1, 4), 4)
    assert (mask.reshape(4, 3, 4).sum(axis=2) == 1).all()
    assert np.array_equal(fitted != 0, mask)


def test_inputs_that_are_always_zero_change_nothing() -> None:
    second = SECOND.copy()
    second[3], second[:, 3] = 0, 0
    kept = np.ones(WEIGHT.shape, bool)
    kept[:, 3] = False
    fitted, _ = sweep(WEIGHT, upper_factor(second, 0.01), given(kept), 12)
    assert np.delete(fitted, 3, axis=1) == pytest.approx(np.delete(WEIGHT, 3, axis=1))


def test_n_of_m_keeps_the_highest_and_the_first_of_equal_ones() -> None:
    scores = np.array([[1.0, 4.0, 3.0, 2.0, 5.0, 5.0, 5.0, 0.0, 7.0]])
    kept = n_of_m(scores, 2, 4)
    assert kept.tolist() == [[False, True, True, False, True, True, False, False, True]]


def test_the_same_share_of_each_row_or_of_all() -> None:
    scores = {"a": np.array([[1.0, 2.0], [3.0, 4.0]]), "b": np.array([[0.0, 9.0]])}
    assert by_row(scores["a"], 0.5).tolist() == [[False, True], [False, True]]
    assert {k: v.tolist() for k, v in together(scores, 0.5).items()} == {
        "a": [[False, False], [True, True]],
        "b": [[False, True]],
    }


def test_rows_of_a_recurrent_weight_are_its_last_axis() -> None:
    import onnx_ir as ir

    node = ir.node("LSTM", [ir.Value(name="x"), ir.Value(name="w")], {"hidden_size": 2})
    assert rows(node, np.arange(24).reshape(1, 8, 3))[0, 1].tolist() == [3, 4, 5]

"""Streaming metrics against torchmetrics, an independent implementation, and against numbers by hand."""

import math

import numpy as np
import pytest
import torch
from torchmetrics import functional as oracle
from torchmetrics.functional.audio import signal_noise_ratio

from mlcompress import metrics
from mlcompress.errors import DataError
from mlcompress.metrics import Value

RANDOM = np.random.default_rng(0)
SCORES = RANDOM.standard_normal((103, 9)).astype(np.float32)
OTHER = (SCORES + 0.3 * RANDOM.standard_normal(SCORES.shape)).astype(np.float32)
LABELS = np.where(RANDOM.random(103) < 0.6, SCORES.argmax(1), RANDOM.integers(0, 7, 103))  # 7 and 8: seldom
PROBABILITIES = RANDOM.random(103).astype(np.float32)
BINARY = (PROBABILITIES + 0.4 * RANDOM.standard_normal(103) > 0.5).astype(np.int64)

# Sums of at most 1000 float32 values in another order differ by about 1e-7 relative.
CLOSE = 1e-6


def streamed(name: str, output: np.ndarray, target: np.ndarray, batch: int = 16) -> Value:
    running = metrics.start(name)
    for first in range(0, len(output), batch):
        running.add(output[first : first + batch], target[first : first + batch])
    return running.value()


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


@pytest.mark.parametrize("batch", [1, 16, 103])
def test_top1(batch: int) -> None:
    expected = oracle.accuracy(*tensors(SCORES, LABELS), task="multiclass", num_classes=9)
    found = streamed("top1", SCORES, LABELS, batch)
    assert found.value == pytest.approx(float(expected), abs=CLOSE)
    assert found.samples == 103
    assert found.right is not None
    np.testing.assert_array_equal(found.right, SCORES.argmax(1) == LABELS)


def test_top5() -> None:
    expected = oracle.accuracy(
        *tensors(SCORES, LABELS), task="multiclass", num_classes=9, top_k=5, average="micro"
    )
    assert streamed("top5", SCORES, LABELS).value == pytest.approx(float(expected), abs=CLOSE)


def test_top5_ties_go_to_the_lower_class_number() -> None:
    # A model whose outputs are all equal must not be right about everything.
    flat = np.zeros((9, 9), np.float32)
    assert streamed("top5", flat, np.arange(9)).value == pytest.approx(5 / 9)


@pytest.mark.parametrize("batch", [1, 16, 103])
def test_f1_is_macro(batch: int) -> None:
    expected = oracle.f1_score(*tensors(SCORES, LABELS), task="multiclass", num_classes=9, average="macro")
    assert streamed("f1", SCORES, LABELS, batch).value == pytest.approx(float(expected), abs=CLOSE)
    micro = oracle.f1_score(*tensors(SCORES, LABELS), task="multiclass", num_classes=9, average="micro")
    assert abs(float(micro) - float(expected)) > 100 * CLOSE  # so that the two cannot be mistaken


def test_f1_leaves_out_classes_that_never_occur() -> None:
    scores = np.eye(9, dtype=np.float32)[[0, 1, 0, 1]]
    labels = np.asarray([0, 1, 1, 1])
    expected = oracle.f1_score(*tensors(scores, labels), task="multiclass", num_classes=9, average="macro")
    found = streamed("f1", scores, labels)
    assert found.value == pytest.approx(float(expected), abs=CLOSE)
    assert found.value == pytest.approx((2 / 3 + 4 / 5) / 2)


@pytest.mark.parametrize("shape", [(103,), (103, 1)])
def test_a_single_output_is_a_probability(shape: tuple[int, ...]) -> None:
    output = PROBABILITIES.reshape(shape)
    probabilities, labels = tensors(PROBABILITIES, BINARY)
    assert streamed("top1", output, BINARY).value == pytest.approx(
        float(oracle.accuracy(probabilities, labels, task="binary")), abs=CLOSE
    )
    assert streamed("f1", output, BINARY).value == pytest.approx(
        float(oracle.f1_score(probabilities, labels, task="binary")), abs=CLOSE
    )


def test_mse() -> None:
    expected = oracle.mean_squared_error(*tensors(OTHER, SCORES))
    found = streamed("mse", OTHER, SCORES)
    assert found.value == pytest.approx(float(expected), rel=CLOSE)
    assert found.low is not None
    assert found.high is not None
    assert found.low < found.value < found.high


def test_cosine() -> None:
    expected = oracle.cosine_similarity(*tensors(OTHER, SCORES), reduction="mean")
    assert streamed("cosine", OTHER, SCORES).value == pytest.approx(float(expected), abs=CLOSE)


def test_cosine_of_zero_vectors() -> None:
    zero, one = np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32)
    assert streamed("cosine", zero, zero).value == 1
    assert streamed("cosine", zero, one).value == 0
    assert streamed("cosine", one, one).value == pytest.approx(1)


def test_snr_is_over_all_values_together() -> None:
    # torchmetrics gives one ratio per row; one long row is the ratio of the whole.
    expected = signal_noise_ratio(*tensors(OTHER.ravel(), SCORES.ravel()))
    assert streamed("snr", OTHER, SCORES).value == pytest.approx(float(expected), abs=1e-4)  # float32, in dB
    assert streamed("snr", SCORES, SCORES).value == math.inf
    assert streamed("snr", SCORES, SCORES * 0).value == -math.inf


def test_snr_by_hand() -> None:
    assert streamed("snr", np.asarray([[9.0]]), np.asarray([[10.0]])).value == pytest.approx(20)


def test_agreement() -> None:
    same = float((SCORES.argmax(1) == OTHER.argmax(1)).mean())
    found = streamed("agreement", OTHER, SCORES)
    assert found.value == pytest.approx(same)
    assert 0 < same < 1
    probabilities = PROBABILITIES[:, None]
    assert streamed("agreement", probabilities, 1 - probabilities).value == 0


def test_one_prediction_for_each_position() -> None:
    tokens = RANDOM.standard_normal((4, 6, 5))
    labels = RANDOM.integers(0, 5, (4, 6))
    found = streamed("top1", tokens, labels, 2)
    assert found.samples == 24
    assert found.value == pytest.approx((tokens.argmax(-1) == labels).mean())
    # Segmentation has its classes on axis 1.
    assert streamed("top1", np.moveaxis(tokens, -1, 1), labels, 2).value == found.value


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:857, table I: score method without continuity correction.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_intervals(right: int, count: int, low: float, high: float) -> None:
    assert metrics.wilson(right, count) == pytest.approx((low, high), abs=5e-5)  # printed to four places


def test_wilson_stays_within_0_and_1() -> None:
    assert metrics.wilson(0, 7)[0] == 0
    assert metrics.wilson(7, 7)[1] == 1
    found = streamed("top1", np.eye(3), np.arange(3))
    assert (found.low, found.high) == metrics.wilson(3, 3)


def test_labels_that_are_no_classes() -> None:
    with pytest.raises(DataError, match="labels: 9 is no class of the output, which has 0 to 8"):
        streamed("top1", SCORES, np.full(103, 9))
    with pytest.raises(DataError, match="labels: -1 is no class"):
        streamed("f1", SCORES, np.full(103, -1))
    with pytest.raises(DataError, match="not whole numbers"):
        streamed("top1", SCORES, np.full(103, 0.5))
    with pytest.raises(DataError, match=r"labels: \[9\] per sample do not fit the output \[9\]"):
        streamed("top1", SCORES, np.eye(9, dtype=np.int64)[LABELS])
    with pytest.raises(DataError, match="labels: 2 is no class"):
        streamed("top1", PROBABILITIES, np.full(103, 2))


def test_whole_float_labels_and_a_column_of_labels_are_fine() -> None:
    wanted = streamed("top1", SCORES, LABELS).value
    assert streamed("top1", SCORES, LABELS.astype(np.float64)).value == wanted
    assert streamed("top1", SCORES, LABELS[:, None]).value == wanted


def test_top5_of_few_classes_says_nothing() -> None:
    with pytest.raises(DataError, match="top5 needs more than 5 classes"):
        streamed("top5", SCORES[:, :5], np.zeros(103, np.int64))


def test_outputs_of_different_shapes_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="differ in shape"):
        streamed("mse", SCORES, SCORES[:, :1])

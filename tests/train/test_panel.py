"""Several teachers as one answer, against loops over samples, teachers and classes in float64."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mlcompress.errors import ModelError
from mlcompress.train.batches import TorchBatch
from mlcompress.train.losses import dkd, soft
from mlcompress.train.panel import Panel, Source, confidence

RNG = np.random.default_rng(0)
TEACHERS = RNG.normal(0, 4, (3, 5, 4)).astype(np.float32)  # 3 teachers, 5 samples, 4 classes
STUDENT = RNG.normal(0, 2, (5, 4)).astype(np.float32)
LABELS = np.array([0, 3, 1, 2, 3])
CLOSE = 2e-6
"""float32 has 24 bits; the largest value here is about 30."""


def panel(temperature: float | None = 1.0, weights: tuple[float, ...] | None = (1 / 3,) * 3) -> Panel:
    sources = tuple(Source(f"{k}:z", f"t{k}.onnx") for k in range(3))
    return Panel(sources, "distill.losses[0] (soft)", temperature, weights)


def answer(made: Panel, values: NDArray[np.float32] = TEACHERS, labels: bool = False) -> torch.Tensor:
    batch = TorchBatch({}, torch.from_numpy(LABELS) if labels else None, torch.arange(5))
    return made({f"{k}:z": torch.from_numpy(one) for k, one in enumerate(values)}, batch)


def softened(row: NDArray[np.float32], temperature: float) -> list[float]:
    powers = [math.exp(float(z) / temperature) for z in row]
    return [power / sum(powers) for power in powers]


def mixed(weights: list[list[float]], temperature: float) -> list[list[float]]:
    """[sample][class]: sum over teachers of weights[teacher][sample] * probability."""
    return [
        [sum(weights[k][i] * softened(TEACHERS[k, i], temperature)[c] for k in range(3)) for c in range(4)]
        for i in range(5)
    ]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("weights", [(1 / 3, 1 / 3, 1 / 3), (0.5, 0.3, 0.2)])
def test_probabilities_are_averaged(temperature: float, weights: tuple[float, ...]) -> None:
    got = (answer(panel(temperature, weights)) / temperature).softmax(1).numpy()
    wanted = np.array(mixed([[w] * 5 for w in weights], temperature))
    np.testing.assert_allclose(got, wanted, atol=CLOSE)
    # negative control: a mean of logits is something else
    of_logits = torch.from_numpy(np.einsum("k,kbc->bc", np.array(weights, np.float32), TEACHERS))
    assert np.abs((of_logits / temperature).softmax(1).numpy() - wanted).max() > 0.02


def test_the_soft_loss_of_a_panel_is_the_divergence_from_the_mean() -> None:
    temperature, third = 4.0, [[1 / 3] * 5] * 3
    teacher = mixed(third, temperature)
    wanted = 0.0
    for i in range(5):
        own = softened(STUDENT[i], temperature)
        wanted += sum(p * math.log(p / q) for p, q in zip(teacher[i], own, strict=True)) / 5
    got = soft(torch.from_numpy(STUDENT), answer(panel(temperature)), temperature=temperature)
    assert float(got) == pytest.approx(temperature**2 * wanted, abs=1e-5)


def test_the_two_parts_of_dkd_see_the_mean_too() -> None:
    temperature, target = 4.0, torch.from_numpy(LABELS)
    teacher = mixed([[1 / 3] * 5] * 3, temperature)
    wanted = 0.0
    for i, y in enumerate(LABELS):
        p, q = teacher[i], softened(STUDENT[i], temperature)
        rest = [c for c in range(4) if c != y]
        wanted += p[y] * math.log(p[y] / q[y]) + (1 - p[y]) * math.log((1 - p[y]) / (1 - q[y]))
        for c in rest:
            own, other = p[c] / (1 - p[y]), q[c] / (1 - q[y])
            wanted += 8 * own * math.log(own / other)
    got = dkd(torch.from_numpy(STUDENT), answer(panel(temperature)), target, temperature=temperature)
    assert float(got) == pytest.approx(temperature**2 * wanted / 5, rel=1e-5)


@pytest.mark.parametrize("labels", [True, False])
def test_confidence_weighs_each_sample(labels: bool) -> None:
    weights: list[list[float]] = [[], [], []]
    for i in range(5):
        doubts = []
        for k in range(3):
            p = softened(TEACHERS[k, i], 1.0)
            doubts.append(-math.log(p[LABELS[i]]) if labels else -sum(x * math.log(x) for x in p))
        powers = [math.exp(doubt) for doubt in doubts]
        for k in range(3):
            weights[k].append((1 - powers[k] / sum(powers)) / 2)
    given = torch.from_numpy(LABELS) if labels else None
    got = confidence(torch.from_numpy(TEACHERS), given)
    np.testing.assert_allclose(got.numpy(), weights, atol=CLOSE)
    np.testing.assert_allclose(got.sum(0).numpy(), 1, atol=CLOSE)
    together = (answer(panel(2.0, None), labels=labels) / 2).softmax(1).numpy()
    np.testing.assert_allclose(together, mixed(weights, 2.0), atol=CLOSE)


def test_values_that_are_no_classes_are_averaged_as_they_are() -> None:
    got = answer(panel(None, (0.5, 0.3, 0.2)))
    np.testing.assert_allclose(
        got.numpy(), 0.5 * TEACHERS[0] + 0.3 * TEACHERS[1] + 0.2 * TEACHERS[2], atol=CLOSE
    )


def test_each_teacher_has_its_own_order_of_classes() -> None:
    order = (2, 0, 3, 1)
    shuffled = TEACHERS.copy()
    shuffled[1][:, list(order)] = TEACHERS[1]
    sources = (Source("0:z", "a"), Source("1:z", "b", order), Source("2:z", "c"))
    made = Panel(sources, "here", 1.0, (1 / 3,) * 3)
    np.testing.assert_allclose(answer(made, shuffled).numpy(), answer(panel()).numpy(), atol=CLOSE)
    assert np.abs(answer(panel(), shuffled).numpy() - answer(panel()).numpy()).max() > 0.1


def test_other_numbers_of_classes_are_refused() -> None:
    taught = {"0:z": torch.zeros(5, 4), "1:z": torch.zeros(5, 3), "2:z": torch.zeros(5, 4)}
    with pytest.raises(ModelError, match=r"t1.onnx answers \[5, 3\], t0.onnx \[5, 4\]; map its classes"):
        panel()(taught, TorchBatch({}, None, torch.arange(5)))

"""Losses against numbers worked out by hand or with numpy, gradients against finite differences."""

import math
from typing import Annotated

import numpy as np
import pytest
import torch
from pydantic import Field, TypeAdapter, ValidationError

from mlcompress.train.losses import annotation, cosine, entry, hard, losses, mse, needs, soft

STUDENT = np.array([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
TEACHER = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, -1.0]])
# float64 throughout: 1e-9 leaves room for the order of summation only
EXACT = 1e-9


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def tensors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(STUDENT), torch.tensor(TEACHER)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_soft_is_the_batch_mean_of_the_divergence_times_t_squared(temperature: float) -> None:
    p, q = softmax(TEACHER / temperature), softmax(STUDENT / temperature)
    expected = temperature**2 * (p * np.log(p / q)).sum() / 2  # two samples; not divided by the three classes
    assert float(soft(*tensors(), temperature=temperature)) == pytest.approx(expected, rel=EXACT)


def test_soft_first_row_is_a_shift_and_costs_nothing() -> None:
    """Teacher row 0 is student row 0 plus 1: the same probabilities. Row 1 with T = 1, by hand."""
    e = math.exp
    z_teacher, z_student = 1 + e(3) + e(-1), 2 * e(0.5) + e(2)
    row = sum(
        e(t) / z_teacher * ((t - math.log(z_teacher)) - (s - math.log(z_student)))
        for t, s in ((0, 0.5), (3, 0.5), (-1, 2))
    )
    assert float(soft(*tensors(), temperature=1.0)) == pytest.approx(row / 2, rel=EXACT)


def test_soft_is_teacher_first() -> None:
    student, teacher = tensors()
    assert float(soft(student, teacher)) != pytest.approx(float(soft(teacher, student)), rel=0.01)


@pytest.mark.parametrize("name", ["soft", "mse", "cosine"])
def test_a_student_equal_to_its_teacher_has_no_loss(name: str) -> None:
    student, _ = tensors()
    assert float(losses[name](student, student.clone())) == pytest.approx(0.0, abs=1e-12)  # float64 rounding


@pytest.mark.parametrize("name", ["soft", "hard", "mse", "cosine"])
def test_gradients_agree_with_finite_differences(name: str) -> None:
    student, teacher = tensors()
    other = torch.tensor([2, 0]) if name == "hard" else teacher
    assert torch.autograd.gradcheck(lambda s: losses[name](s, other), (student.requires_grad_(),))


def test_soft_gradient_is_the_scaled_difference_of_probabilities() -> None:
    """d/ds of T^2 KL / B is T (q - p) / B (Hinton et al. 2015, equation 2, times T^2)."""
    student, teacher = tensors()
    student.requires_grad_()
    soft(student, teacher, temperature=2.0).backward()
    expected = 2.0 * (softmax(STUDENT / 2) - softmax(TEACHER / 2)) / 2
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=0, atol=EXACT)


def test_hard_is_cross_entropy_with_smoothed_targets() -> None:
    target = np.array([[0.9 + 0.1 / 3, 0.1 / 3, 0.1 / 3], [0.1 / 3, 0.1 / 3, 0.9 + 0.1 / 3]])
    expected = -(target * np.log(softmax(STUDENT))).sum() / 2
    got = hard(torch.tensor(STUDENT), torch.tensor([0, 2]), label_smoothing=0.1)
    assert float(got) == pytest.approx(expected, rel=EXACT)


def test_hard_takes_class_probabilities() -> None:
    target = np.array([[0.7, 0.3, 0.0], [0.0, 0.25, 0.75]])
    expected = -(target * np.log(softmax(STUDENT))).sum() / 2
    assert float(hard(torch.tensor(STUDENT), torch.tensor(target))) == pytest.approx(expected, rel=EXACT)


def test_mse_and_cosine_by_hand() -> None:
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [0.0, 2.0]])
    assert float(mse(student, teacher)) == pytest.approx((1 + 1 + 1 + 4) / 4)
    assert float(cosine(student, teacher)) == pytest.approx(1 - (24 / 25 + 0) / 2)


def test_positional_parameters_say_what_a_loss_needs() -> None:
    assert needs("soft") == {"student_logits", "teacher_logits"}
    assert needs("hard") == {"student_logits", "labels"}
    assert needs("mse") == {"student", "teacher"}


def test_entries_have_common_keys_and_options() -> None:
    made = TypeAdapter(annotation()).validate_python(
        {"name": "soft", "weight": 0.9, "output": "logits", "temperature": 2}
    )
    assert (made.name, made.weight, made.output) == ("soft", 0.9, "logits")
    assert made.options() == {"temperature": 2.0, "confidence": 0.0}
    assert TypeAdapter(annotation()).validate_python("soft") == entry("soft")


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "soft", "temperature": 0},
        {"name": "soft", "tau": 1},
        {"name": "kd"},
        {"name": "hard", "weight": 0},
    ],
)
def test_wrong_entries_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(annotation()).validate_python(wrong)


def test_a_new_loss_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "_functions", dict(losses._functions))

    @losses
    def huber(
        student: torch.Tensor, teacher: torch.Tensor, *, delta: Annotated[float, Field(gt=0)] = 1.0
    ) -> torch.Tensor:
        """Quadratic near zero, linear beyond delta (Huber 1964)."""
        return torch.nn.functional.huber_loss(student, teacher, delta=delta)

    made = TypeAdapter(annotation()).validate_python({"name": "huber", "delta": 0.5, "weight": 3})
    student, teacher = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert needs("huber") == {"student", "teacher"}
    assert float(losses.bind(made)(student, teacher)) == pytest.approx(
        0.5 * (1 - 0.25) / 2
    )  # delta (|d| - delta / 2), mean of 2

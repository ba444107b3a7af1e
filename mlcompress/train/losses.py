"""What a student is taught with. A loss is one function here.

Its positional parameters say what it needs; its keyword-only parameters are its recipe options:

- `student_logits`, `teacher_logits`: [B, C], class logits; the value before a final Softmax where a graph
  ends in one
- `student`, `teacher`: the tapped values as they are, any shape [B, ...]
- `labels`: int64 [B], or float [B, C] class probabilities after mixup

It returns a scalar: the mean over the batch, so that a weight means the same at every batch size. torch is
imported inside the functions, because validating a recipe reads this module.
"""

from __future__ import annotations

import inspect
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Union, cast

from pydantic import BeforeValidator, Field, create_model

from mlcompress.registry import Choice, Registry

if TYPE_CHECKING:
    from torch import Tensor

losses = Registry("loss")

Temperature = Annotated[
    float, Field(gt=0, description="divides the logits: higher looks more at the small probabilities")
]


class LossEntry(Choice):
    """One entry of `losses`: the method, its options, and the keys that every loss has."""

    weight: Annotated[float, Field(gt=0, description="factor of this loss in the sum")] = 1.0
    output: str | None = Field(None, description="model output to look at; the first by default")

    def options(self) -> dict[str, Any]:
        """The keyword arguments of the loss function."""
        common = {"name", *LossEntry.model_fields}
        return {key: getattr(self, key) for key in type(self).model_fields if key not in common}


def needs(name: str) -> frozenset[str]:
    """What the loss `name` must be given: its positional parameters."""
    parameters = inspect.signature(losses[name]).parameters.values()
    return frozenset(p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD)


def entry(name: str, **keys: Any) -> LossEntry:
    """A validated loss entry, for defaults in code."""
    return _entry_schema(name)(name=name, **keys)


def annotation() -> Any:
    """The type of one recipe entry: `soft`, or `{name: soft, weight: 0.9, temperature: 4}`."""
    union: Any = Union[tuple(_entry_schema(name) for name in losses)]  # noqa: UP007 - built at run time
    return Annotated[union, Field(discriminator="name"), BeforeValidator(_spell_out)]


@cache
def _entry_schema(name: str) -> type[LossEntry]:
    bases: Any = (losses.schema(name), LossEntry)  # in this order, so that `name` is the schema's literal
    made = create_model(f"loss_{name}", __base__=bases, __doc__=losses.summary(name))
    return cast("type[LossEntry]", made)


def _spell_out(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


# ---------------------------------------------------------------- the losses


@losses
def soft(student_logits: Tensor, teacher_logits: Tensor, *, temperature: Temperature = 4.0) -> Tensor:
    """The teacher's softened class probabilities (Hinton et al. 2015): T^2 * KL(p(t/T) || p(s/T)).

    T^2 keeps the size of the gradient about the same for every T.
    """
    from torch.nn import functional

    student = functional.log_softmax(student_logits / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


@losses
def hard(
    student_logits: Tensor,
    labels: Tensor,
    *,
    label_smoothing: Annotated[
        float, Field(ge=0, lt=1, description="share of the target spread over all classes")
    ] = 0.0,
) -> Tensor:
    """Cross-entropy with labels: -sum_c q_c log p_c, q = (1 - e) * label + e / C (Szegedy et al. 2016)."""
    from torch.nn import functional

    return functional.cross_entropy(student_logits, labels, label_smoothing=label_smoothing)


@losses
def mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared difference to the teacher's values, mean over all elements; for regression and embeddings."""
    from torch.nn import functional

    return functional.mse_loss(student, teacher)


@losses
def cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cosine of the angle between student and teacher, each sample flattened; blind to scale."""
    from torch.nn import functional

    return 1.0 - functional.cosine_similarity(student.flatten(1), teacher.flatten(1), dim=1).mean()

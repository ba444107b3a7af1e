"""The weighted sum of a recipe's losses, as the function that `fit` minimises."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from torch import Tensor
from torch.nn import functional

from mlcompress.errors import DataError, ModelError, UnsupportedError
from mlcompress.train.batches import TorchBatch
from mlcompress.train.logits import find_output, logits_value
from mlcompress.train.losses import LossEntry, losses, needs

TeacherCall = Callable[[TorchBatch], Mapping[str, Tensor]]


@dataclass(frozen=True)
class _Term:
    """One loss and the value names that it reads in student and teacher."""

    function: Callable[..., Tensor]
    needs: frozenset[str]
    weight: float
    student: str
    teacher: str
    where: str


class Objective:
    """Sum over entries of weight * loss; call it with the student's values by name and the batch.

    `student_values` and `teacher_values` are the value names that it reads, so that the caller can tap them;
    `labelled` names the losses that need labels; `notes` says where the logits were found before a Softmax.
    """

    def __init__(
        self, entries: Sequence[LossEntry], student: ir.Model, teacher: ir.Model, *, where: str
    ) -> None:
        """Resolve every entry's output in both graphs.

        Raises:
            DataError: no entries, so that there is nothing to learn from.
            RecipeError: an output that a graph does not have.
            UnsupportedError: a loss on class logits with an output that holds none.
        """
        if not entries:
            raise DataError(f"{where}: nothing to learn from: neither a teacher nor labels are used")
        self._terms = [
            _term(entry, student, teacher, f"{where}[{number}] ({entry.name})")
            for number, entry in enumerate(entries)
        ]
        self.student_values = _distinct(term.student for term in self._terms)
        self.teacher_values = _distinct(
            term.teacher for term in self._terms if term.needs & {"teacher", "teacher_logits"}
        )
        self.labelled = _distinct(entry.name for entry in entries if "labels" in needs(entry.name))
        self.notes = _distinct(
            f"{term.where}: the output ends in Softmax; its input {term.student} is used as logits"
            for term, entry in zip(self._terms, entries, strict=True)
            if term.student != find_output(student, entry.output, where).name
        )
        self._teach: TeacherCall | None = None

    def taught_by(self, teacher: TeacherCall | None) -> "Objective":
        """Set what gives the teacher's values of a batch; needed when `teacher_values` is not empty."""
        self._teach = teacher
        return self

    def __call__(self, outputs: Mapping[str, Tensor], batch: TorchBatch) -> Tensor:
        """The loss of one batch: a scalar with gradient.

        Raises:
            DataError: a loss needs labels and the batch has none.
            ModelError: student and teacher values differ in shape, or logits are not [B, C] with C > 1.
        """
        taught = self._teach(batch) if self._teach is not None and self.teacher_values else {}
        parts = [term.weight * term.function(**_supply(term, outputs, taught, batch)) for term in self._terms]
        total = parts[0]
        for part in parts[1:]:
            total = total + part
        return total


def _term(entry: LossEntry, student: ir.Model, teacher: ir.Model, where: str) -> _Term:
    wanted = needs(entry.name)
    own, other = (find_output(model, entry.output, f"{where}.output") for model in (student, teacher))
    on_logits = wanted & {"student_logits", "teacher_logits"}
    names = (
        (logits_value(own, where), logits_value(other, where))
        if on_logits
        else (str(own.name), str(other.name))
    )
    return _Term(losses.bind(entry), wanted, entry.weight, *names, where)


def _supply(
    term: _Term, outputs: Mapping[str, Tensor], taught: Mapping[str, Tensor], batch: TorchBatch
) -> dict[str, Tensor]:
    """The positional arguments of one loss, by name; float32 whatever the precision of the graph."""
    student = outputs[term.student].float()
    given = {"student": student, "student_logits": student}
    if term.teacher in taught:
        teacher = taught[term.teacher].to(student.device).float()
        if teacher.shape != student.shape:
            raise ModelError(
                f"{term.where}: student {term.student} has shape {list(student.shape)},"
                f" teacher {term.teacher} {list(teacher.shape)}; they must be equal"
            )
        given |= {"teacher": teacher, "teacher_logits": teacher}
    if "student_logits" in term.needs and (student.ndim != 2 or student.shape[1] < 2):
        raise UnsupportedError(
            f"{term.where}: {term.student} has shape {list(student.shape)}, but class logits are"
            " [batch, classes]; use the losses `mse` or `cosine`"
        )
    if "labels" in term.needs:
        given["labels"] = _labels(batch, student, term.where)
    return {name: given[name] for name in term.needs}


def _labels(batch: TorchBatch, student: Tensor, where: str) -> Tensor:
    """int64 [B], or class probabilities [B, C] where mixup mixed two samples."""
    classes = student.shape[1]
    if batch.labels is None:
        raise DataError(
            f"{where}: needs labels, and data.train has none; name its `label` array or drop this loss"
        )
    labels = _checked(batch.labels, classes, where)
    if batch.partners is None or batch.shares is None:
        return labels
    share = batch.shares[:, None]
    own, other = functional.one_hot(labels, classes), functional.one_hot(batch.partners.long(), classes)
    return share * own + (1 - share) * other


def _checked(labels: Tensor, classes: int, where: str) -> Tensor:
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"{where}: needs class numbers, one per sample, and data.train has {labels.dtype} labels of shape"
            f" {list(labels.shape)}; use the loss `mse`, or name the array of classes"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"{where}: labels go from {low} to {high}, but the output has classes 0..{classes - 1};"
            " mend the labels"
        )
    return labels.long()


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))

"""The weighted sum of a recipe's losses, as the function that `fit` minimises."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir
import torch
from torch import Tensor, nn

from mlcompress import processes
from mlcompress.errors import DataError, RecipeError
from mlcompress.train.batches import TorchBatch
from mlcompress.train.ensemble import Ensemble
from mlcompress.train.logits import find_output
from mlcompress.train.losses import LossEntry, is_labelled
from mlcompress.train.losses.entry import LOGITS
from mlcompress.train.terms import resolve

TeacherCall = Callable[[TorchBatch], Mapping[str, Tensor]]

_SPATIAL = {"hint", "attention"}
_OVER_THE_BATCH = {"dist", "pkt"}
_ACROSS = {*_OVER_THE_BATCH, "similarity", "rkd", "contrastive"}
"""Losses on more than one sample at a time."""
_NEAR_ONE = 1e-3
_FEW = 32
"""Samples below which correlations over the batch are mostly noise (a rule of thumb)."""


class Objective:
    """Sum over entries of weight * loss; call it with the student's values by name and the batch.

    `student_values` and `teacher_values` are the value names that it reads, so that the caller can tap them;
    `labelled` names the losses that need labels, `remembering` those that keep what they saw of each sample;
    `is_confident`: teachers are weighed by the labels of each sample; `notes` says where the logits were
    found before a Softmax; `parts` holds what is trained for the losses alone.
    """

    def __init__(
        self,
        entries: Sequence[LossEntry],
        student: ir.Model,
        teacher: ir.Model,
        *,
        where: str,
        ensemble: Ensemble | None = None,
    ) -> None:
        """Resolve the values of every entry in both graphs; with `ensemble`, in those of all its teachers.

        Raises:
            DataError: no entries, so that there is nothing to learn from.
            RecipeError: an output, tensor or teacher that there is not.
            UnsupportedError: a loss on class logits with an output that holds none.
        """
        if not entries:
            raise DataError(f"{where}: nothing to learn from: neither a teacher nor labels are used")
        self._terms = [
            resolve(_of_one(entry, place), student, teacher, place)
            if ensemble is None
            else ensemble.resolve(entry, student, place)
            for number, entry in enumerate(entries)
            for place in [f"{where}[{number}] ({entry.name})"]
        ]
        self.student_values = _distinct(name for term in self._terms for name in term.student_values)
        self.teacher_values = _distinct(key for term in self._terms for key in term.teacher_values)
        self.labelled = _distinct(term.entry.name for term in self._terms if is_labelled(term.entry))
        self.remembering = _distinct(term.entry.name for term in self._terms if "bank" in term.needs)
        self.is_confident = any(term.panel is not None and term.panel.is_confident for term in self._terms)
        self.notes = _distinct(
            f"{term.where}: the output ends in Softmax; its input {term.student} is used as logits"
            for term in self._terms
            if term.needs & LOGITS and term.student != find_output(student, term.entry.output, where).name
        )
        self.parts = nn.ModuleList(term.parts for term in self._terms)
        self._epoch = 1
        self._alike = _ops(student) == _ops(teacher)
        self._teach: TeacherCall | None = None

    def taught_by(self, teacher: TeacherCall | None) -> "Objective":
        """Set what gives the teacher's values of a batch; needed when `teacher_values` is not empty."""
        self._teach = teacher
        return self

    def start_epoch(self, epoch: int) -> None:
        """Weights that change over the epochs become those of `epoch`, counted from 1."""
        self._epoch = epoch

    @torch.no_grad()
    def prepare(
        self,
        outputs: Mapping[str, Tensor],
        batch: TorchBatch,
        *,
        samples: int,
        seed: int,
        mixed: bool = False,
    ) -> None:
        """Make the adapters for the shapes of a batch, and check that every loss can be computed on it.

        Args:
            outputs: the student's values of `batch`.
            samples: of the training data, whose `ids` a memory is kept for.
            seed: of the adapters' first weights.
            mixed: whether the samples of training are mixed, so that they have two labels.

        Raises:
            as `__call__`, and ModelError where no adapter joins two values.
        """
        taught = self._taught(batch)
        mixture = replace(batch, partners=batch.labels) if mixed else batch
        generator = torch.Generator().manual_seed(seed)
        for term in self._terms:
            teacher = term.heard(taught, batch) if term.asks_teacher else None
            term.build(outputs, teacher, samples, generator)
        before = {name: value.clone() for name, value in self.parts.state_dict().items()}
        for term in self._terms:
            term(outputs, taught, mixture)
        self.parts.load_state_dict(before)  # a memory has seen nothing yet

    def warnings(self, outputs: Mapping[str, Tensor], batch_size: int) -> list[str]:
        """What may be worse than no such loss, in words; `outputs` as for `prepare`."""
        lines = []
        for term in self._terms:
            name = term.entry.name
            if term.needs & LOGITS and _is_unit_length(outputs[term.student]):
                lines.append(
                    f"{term.where}: {term.student} has length 1 in every sample, as embeddings have and class"
                    " scores have not; `cosine` compares embeddings"
                )
            if name in _SPATIAL and not self._alike and outputs[term.student].ndim == 4:
                lines.append(
                    f"{term.where}: maps of different architectures are compared; published results are below"
                    " those without it; try soft, dkd or contrastive"
                )
            if name in _OVER_THE_BATCH and batch_size < _FEW:
                lines.append(
                    f"{term.where}: compares over the batch, and train.batch_size is {batch_size};"
                    f" {_FEW} or more are better"
                )
            if name in _ACROSS and processes.count() > 1:
                lines.append(
                    f"{term.where}: compares the samples of a batch, and each process sees only its own"
                )
        return lines

    def __call__(self, outputs: Mapping[str, Tensor], batch: TorchBatch) -> Tensor:
        """The loss of one batch: a scalar with gradient.

        Raises:
            DataError: a loss needs labels and the batch has none.
            ModelError: student and teacher values do not fit each other.
            UnsupportedError: logits are not [B, C] with C > 1; two classes for `dkd`.
        """
        taught = self._taught(batch)
        weighed = [term.entry.weight_at(self._epoch) * term(outputs, taught, batch) for term in self._terms]
        total = weighed[0]
        for part in weighed[1:]:
            total = total + part
        return total

    def _taught(self, batch: TorchBatch) -> Mapping[str, Tensor]:
        return self._teach(batch) if self._teach is not None and self.teacher_values else {}


def _is_unit_length(values: Tensor) -> bool:
    lengths = values.float().norm(dim=-1)
    return bool(((lengths - 1).abs() < _NEAR_ONE).all())


def _of_one(entry: LossEntry, where: str) -> LossEntry:
    """`entry`, which may ask no other teacher than the only one."""
    beyond = [number for number in entry.teachers or [] if number > 0]
    if beyond:
        raise RecipeError(
            f"{where}.teachers: no teacher {beyond[0]}; there is only TEACHER, number 0; leave it out,"
            " or give more with -t FILE"
        )
    return entry


def _ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))

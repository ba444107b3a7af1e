"""Several teachers of one student: which of them speak to a loss, and what runs them."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from mlcompress import graph
from mlcompress.context import GivenTeacher
from mlcompress.data.augment import augment
from mlcompress.data.dataset import Dataset
from mlcompress.errors import RecipeError, UnsupportedError
from mlcompress.recipe.train import Augment
from mlcompress.train.batches import TorchBatch, to_torch
from mlcompress.train.logits import find_output
from mlcompress.train.losses import FeatureEntry, LossEntry, needs
from mlcompress.train.losses.entry import LOGITS, TAUGHT
from mlcompress.train.panel import Combine, Panel, Source
from mlcompress.train.teacher import Teacher
from mlcompress.train.terms import Term, resolve

_STANDARDISED = {"logit_std"}
"""Losses that standardise class scores first: they get the log of the mean probabilities at temperature 1."""
_VALUES = {"mse", "cosine"}
_EACH = "distill.teachers.each"


@dataclass(frozen=True)
class Ensemble:
    """The teachers, the first of them the one that losses mean by default, and how they are combined."""

    teachers: tuple[GivenTeacher, ...]
    combine: Combine = "mean"
    weights: tuple[float, ...] = ()
    """One for each teacher, with `weighted`."""
    learned: Mapping[tuple[Source, ...], tuple[float, ...]] = field(default_factory=dict)
    """With `learned`: the weights of those that a panel asks (`mixture.learn_weights`)."""

    def resolve(self, entry: LossEntry, student: ir.Model, where: str) -> Term:
        """As `terms.resolve`, for all teachers that `entry` asks.

        A loss on outputs asks every teacher that has the output; one that reads features asks the first
        that has the tensor.

        Raises:
            RecipeError: no such teacher, output or tensor. UnsupportedError: confidence without classes.
        """
        if not needs(entry.name) & TAUGHT:
            if entry.teachers is not None:
                raise RecipeError(f"{where}.teachers: {entry.name} asks no teacher; leave it out")
            return resolve(entry, student, self.teachers[0].model, where)
        asked = self._asked(entry, where)
        if isinstance(entry, FeatureEntry) and entry.teacher is not None:
            number = next((k for k in asked if _has(self.teachers[k].model, entry.teacher)), asked[0])
            term = resolve(entry, student, self.teachers[number].model, where)
            return replace(term, panel=self._panel([(number, term)], entry, where))
        own = str(find_output(student, entry.output, f"{where}.output").name)
        heard = [(k, name) for k in asked if (name := self._output(k, own, student)) is not None]
        if not heard:
            raise RecipeError(
                f"{where}.output: no teacher has an output {own!r}; say which one it is:"
                f" {_EACH}: [{{file: {self.teachers[asked[-1]].file}, outputs: {{{own}: NAME}}}}]"
            )
        several = needs(entry.name) & LOGITS or entry.name in _VALUES
        terms = [
            (number, self._term(number, entry, student, name, where))
            for number, name in (heard if several else heard[:1])
        ]
        return replace(terms[0][1], panel=self._panel(terms, entry, where), columns=())

    def start(
        self, keys: Collection[str], *, threads: int, changes: Sequence[Augment] = (), seed: int = 0
    ) -> "Running":
        """What gives the values of `keys` for a batch; `changes` and `seed` are those of training."""
        members = []
        for number, given in enumerate(self.teachers):
            values = [key.partition(":")[2] for key in keys if key.startswith(f"{number}:")]
            if values:
                online = Teacher(given.model, values, threads=threads)
                members.append(_Member(number, online, given.train, tuple(changes), seed))
        return Running(members)

    def facts(self) -> list[str]:
        """What a course of training depends on, beside the losses."""
        told = [self.combine, repr(self.weights), repr(list(self.learned.items()))]
        for given in self.teachers:
            told += [
                hashlib.sha256(graph.to_bytes(given.model)).hexdigest(),
                repr(sorted(given.outputs.items())),
            ]
            told += [repr(given.classes), "" if given.train is None else given.train.fingerprint]
        return told

    def _asked(self, entry: LossEntry, where: str) -> list[int]:
        if entry.teachers is None:
            return [0] if entry.name == "simkd" else list(range(len(self.teachers)))
        beyond = [k for k in entry.teachers if k >= len(self.teachers)]
        if beyond:
            listed = ", ".join(f"{k} {given.file}" for k, given in enumerate(self.teachers))
            raise RecipeError(f"{where}.teachers: no teacher {beyond[0]}; there are {listed}")
        if entry.name == "simkd" and entry.teachers != [0]:
            raise RecipeError(f"{where}.teachers: simkd keeps the head of the first teacher; leave it out")
        return list(entry.teachers)

    def _output(self, number: int, own: str, student: ir.Model) -> str | None:
        """This teacher's name of the student's output `own`; None if it has none."""
        given = self.teachers[number]
        names = [str(value.name) for value in given.model.graph.outputs]
        if own in given.outputs:
            find_output(given.model, given.outputs[own], f"{_EACH} ({given.file}).outputs.{own}")
            return given.outputs[own]
        if own in names and own not in given.outputs.values():
            return own
        is_only = len(names) == len(student.graph.outputs) == 1
        return names[0] if is_only and not given.outputs else None

    def _term(self, number: int, entry: LossEntry, student: ir.Model, output: str, where: str) -> Term:
        given = self.teachers[number]
        term = resolve(entry, student, given.model, where, teacher_output=output)
        return replace(term, columns=given.classes) if given.classes else term

    def _panel(self, terms: Sequence[tuple[int, Term]], entry: LossEntry, where: str) -> Panel:
        sources = tuple(
            Source(f"{number}:{term.teacher}", self.teachers[number].file, term.columns)
            for number, term in terms
        )
        is_classes = bool(needs(entry.name) & LOGITS)
        temperature = None
        if is_classes:
            temperature = 1.0 if entry.name in _STANDARDISED else float(entry.options().get("temperature", 1))
        if self.combine in ("confidence", "learned") and len(sources) > 1 and not is_classes:
            raise UnsupportedError(
                f"{where}: {self.combine} needs class scores, and {entry.name} compares plain values;"
                " use `combine: weighted`, or name one of the `teachers`"
            )
        if self.combine == "confidence" and len(sources) > 1:
            return Panel(sources, where, temperature, None)
        if sources in self.learned:
            return Panel(sources, where, temperature, self.learned[sources])
        raw = [self.weights[number] if self.combine == "weighted" else 1.0 for number, _ in terms]
        return Panel(sources, where, temperature, tuple(weight / sum(raw) for weight in raw))


def _has(model: ir.Model, name: str) -> bool:
    return any(value.name == name for node in model.graph for value in node.outputs)


@dataclass(frozen=True)
class _Member:
    """A teacher that runs, and the samples that it reads instead of the student's."""

    number: int
    teacher: Teacher
    data: Dataset | None
    changes: tuple[Augment, ...]
    seed: int

    def answer(self, batch: TorchBatch, epoch: int) -> dict[str, Tensor]:
        given = batch
        if self.data is not None and not self.teacher.is_cached:
            own = self.data.take(batch.ids.cpu().numpy())
            if self.changes:  # the changes of a sample follow from seed, epoch and its number
                own = augment(own, self.changes, (self.seed, epoch - 1))
            given = to_torch(own).to(batch.ids.device)
        return {f"{self.number}:{name}": value for name, value in self.teacher(given).items()}


class Running:
    """The teachers at work; called as a `Teacher` is, with values by `number:name`."""

    def __init__(self, members: Sequence[_Member]) -> None:
        self._members = members
        self._epoch = 1

    def __call__(self, batch: TorchBatch) -> dict[str, Tensor]:
        """The values of every teacher for `batch`. Raises as `Teacher`."""
        found: dict[str, Tensor] = {}
        for member in self._members:
            found |= member.answer(batch, self._epoch)
        return found

    def start_epoch(self, epoch: int) -> None:
        """Augment as the training data of `epoch`, counted from 1."""
        self._epoch = epoch

    def cache(self, data: Dataset, folder: Path | None, *, limit: float = inf) -> str:
        """As `Teacher.cache` for each; a teacher of which nothing is kept runs on every batch."""
        reasons = [member.teacher.cache(member.data or data, folder, limit=limit) for member in self._members]
        return "; ".join(dict.fromkeys(reason for reason in reasons if reason))

    @property
    def is_read(self) -> bool:
        """Whether every teacher's values were found in files of an earlier run."""
        return all(member.teacher.is_read for member in self._members)

    def check_unchanged(self) -> None:
        """As `Teacher.check_unchanged`."""
        for member in self._members:
            member.teacher.check_unchanged()

"""One loss of a recipe on two graphs: which values it reads, and its arguments for a batch."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir
import torch
from torch import Tensor, nn

from mlcompress import processes
from mlcompress.errors import DataError, ModelError, RecipeError, UnsupportedError, shorten
from mlcompress.train.adapters import Adapter, Heads, check_ranks, shapes
from mlcompress.train.batches import TorchBatch
from mlcompress.train.labels import distribution, single
from mlcompress.train.logits import find_output, logits_value
from mlcompress.train.losses import FeatureEntry, HeadsEntry, LossEntry, is_labelled, losses, needs
from mlcompress.train.losses.entry import LOGITS, TAUGHT
from mlcompress.train.masks import token_mask
from mlcompress.train.memory import MemoryBank
from mlcompress.train.panel import Panel
from mlcompress.train.shallow import Shallow

Values = Mapping[str, Tensor]
"""By name of output or tensor."""
_SUM = 0.01
"""How far from 1 a sum of probabilities may be, in 16 bits."""


@dataclass(frozen=True)
class Term:
    """One loss, the value names that it reads in student and teacher, and what is trained for it alone."""

    entry: LossEntry
    needs: frozenset[str]
    student: str
    teacher: str
    where: str
    mask: str | None = None
    columns: tuple[int, ...] = ()
    """The teacher's class for each of the student's; () where they are the same."""
    panel: Panel | None = None
    """Makes one answer of several teachers'; None where there is one."""
    shallow: Shallow | None = None
    """Heads inside the student, for a loss that has them."""
    parts: nn.ModuleDict = field(default_factory=nn.ModuleDict)

    @property
    def asks_teacher(self) -> bool:
        return bool(self.needs & TAUGHT)

    @property
    def student_values(self) -> tuple[str, ...]:
        """What it reads of the student."""
        return (self.student,) if self.shallow is None else (self.student, *self.shallow.values)

    @property
    def teacher_values(self) -> tuple[str, ...]:
        """What it reads of what the teachers gave."""
        if not self.asks_teacher:
            return ()
        return (self.teacher,) if self.panel is None else tuple(s.key for s in self.panel.sources)

    def heard(self, taught: Values, batch: TorchBatch) -> Tensor:
        """The teacher's value, or that of all teachers together."""
        return taught[self.teacher] if self.panel is None else self.panel(taught, batch)

    def __call__(self, outputs: Values, taught: Values, batch: TorchBatch) -> Tensor:
        """The loss of one batch, without its weight; float32 whatever the precision of the graph.

        Raises:
            DataError: labels are missing or do not fit. ModelError: shapes do not fit each other.
            UnsupportedError: values that the loss is not defined for.
        """
        student = outputs[self.student].float()
        given: dict[str, object] = {
            "student": student,
            "student_logits": student,
            "student_features": student,
        }
        if self.needs & LOGITS:
            check_logits(student, self.student, self.where)
        if "labels" in self.needs:
            wanted = is_labelled(self.entry)
            given["labels"] = distribution(batch, student.shape[1], self.where) if wanted else None
        if "target" in self.needs:
            given["target"] = single(batch, student.shape[1], self.where)
        if self.asks_teacher:
            given |= self._taught(student, self.heard(taught, batch).to(student.device).float(), batch)
        if self.shallow is not None:
            given |= self.shallow.given(self.parts["shallow"], outputs, batch)
        function = losses.bind(self.entry)
        value: Tensor = function(**{name: given[name] for name in self.needs})
        return value

    def build(
        self, outputs: Values, teacher: Tensor | None, samples: int, generator: torch.Generator
    ) -> None:
        """Make the adapters, heads and memories of the loss, for values of these shapes; `teacher` where the
        loss asks one.
        """
        student, dim = outputs[self.student].float(), self.entry.options().get("dim", 0)
        if self.shallow is not None:
            check_logits(student, self.student, self.where)
            self.parts["shallow"] = self.shallow.build(outputs, student, dim, generator)
        if teacher is None:
            return
        teacher = teacher.float()
        if self.entry.name == "self_attention" and self.entry.options()["divergence"] == "kl":
            _check_features(self.entry.name, student, teacher, self.where)
            _check_probabilities(student, teacher, self.where)
        if "adapted" in self.needs:
            self.parts["adapter"] = Adapter(student, teacher, generator, self.where)
        if "student_embedding" in self.needs:
            check_ranks(student, teacher, self.where)
            self.parts["heads"] = Heads(student, teacher, dim, generator)
        if "bank" in self.needs:
            if samples < 2:
                raise DataError(f"{self.where}: needs other samples to compare with; add training data")
            if processes.count() > 1:  # each would remember its own samples only
                raise UnsupportedError(
                    f"{self.where}: has one memory; use `contrastive` with several processes"
                )
            self.parts["bank"] = MemoryBank(samples, dim, generator)

    def _taught(self, student: Tensor, teacher: Tensor, batch: TorchBatch) -> dict[str, object]:
        """What the loss reads of the teacher, and of the two together."""
        if self.columns:
            teacher = teacher[:, torch.tensor(self.columns, device=teacher.device)]
        if self.needs & {"teacher", "teacher_logits"} and teacher.shape != student.shape:
            raise ModelError(
                f"{self.where}: student {self.student} has shape {list(student.shape)},"
                f" teacher {self.teacher} {list(teacher.shape)}; they must be equal"
            )
        if "student_features" in self.needs:
            _check_features(self.entry.name, student, teacher, self.where)
        mask = None
        if self.mask is not None:
            mask = token_mask(batch, self.mask, self.student, student, self.where)
        found: dict[str, object] = {
            "teacher": teacher,
            "teacher_logits": teacher,
            "teacher_features": teacher,
        }
        found |= {"mask": mask, "ids": batch.ids}
        if "adapter" in self.parts:
            found["adapted"], found["target_features"] = self.parts["adapter"](student, teacher)
        if "heads" in self.parts:
            both = self.parts["heads"](student, teacher, mask)
            found["student_embedding"], found["teacher_embedding"] = both
        if "bank" in self.parts:
            found["bank"] = self.parts["bank"]
        return found


def check_logits(value: Tensor, name: str, where: str) -> None:
    """Raises UnsupportedError for a value that cannot be class logits, [B, C] with C of 2 or more."""
    if value.ndim != 2 or value.shape[1] < 2:
        raise UnsupportedError(
            f"{where}: {name} has shape {list(value.shape)}, but class logits are"
            " [batch, classes]; use the losses `mse` or `cosine`"
        )


def resolve(
    entry: LossEntry, student: ir.Model, teacher: ir.Model, where: str, *, teacher_output: str | None = None
) -> Term:
    """Find the values of `entry` in both graphs; `teacher_output` where the teacher has another name for it.

    Raises:
        RecipeError: an output, tensor or mask that a graph does not have, class numbers it cannot have.
        UnsupportedError: a loss on class logits with an output that holds none.
    """
    wanted = needs(entry.name)
    mask = getattr(entry, "mask", None)
    if mask is not None:
        _check_name(mask, [str(value.name) for value in student.graph.inputs], f"{where}.mask", "model input")
    if isinstance(entry, FeatureEntry) and entry.teacher is not None:
        names = (entry.student or entry.teacher, entry.teacher)
        for key, name, model in (("teacher", names[1], teacher), ("student", names[0], student)):
            _check_name(name, _made(model), f"{where}.{key}", f"tensor in the {key}'s graph")
        return Term(entry, wanted, *names, where, mask)
    own = other = find_output(student, entry.output, f"{where}.output")
    if wanted & TAUGHT:
        other = find_output(teacher, teacher_output or entry.output, f"{where}.output")
    names = (str(own.name), str(other.name))
    if wanted & LOGITS:
        names = (logits_value(own, where), logits_value(other, where))
    columns, shallow = _columns(entry, other, where), _shallow(entry, student, where)
    return Term(entry, wanted, *names, where, mask, columns, shallow=shallow)


def _shallow(entry: LossEntry, student: ir.Model, where: str) -> Shallow | None:
    """The heads of a loss that has them."""
    if not isinstance(entry, HeadsEntry):
        return None
    made = _made(student)
    for name in entry.heads:
        _check_name(name, made, f"{where}.heads", "tensor in the student's graph")
    if entry.deepest is not None:
        _check_name(entry.deepest, made, f"{where}.deepest", "tensor in the student's graph")
    return Shallow(tuple(entry.heads), entry.deepest, entry.mask, where)


def _made(model: ir.Model) -> list[str]:
    """Names of the values that nodes make, in order."""
    return [str(value.name) for node in model.graph for value in node.outputs if value.name]


def _check_name(name: str, known: Sequence[str], where: str, kind: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {shorten(reversed(known))}"
        raise RecipeError(f"{where}: no {kind} named {name!r}; {hint}")


def _columns(entry: LossEntry, output: ir.Value, where: str) -> tuple[int, ...]:
    """The teacher's class numbers in the student's order."""
    if entry.classes is None:
        return ()
    numbers = tuple(entry.classes.values())
    count = output.shape[-1] if output.shape is not None and len(output.shape) else None
    if isinstance(count, int) and max(numbers) >= count:
        raise RecipeError(
            f"{where}.classes: number {max(numbers)}, but the teacher has classes 0..{count - 1}; mend it"
        )
    return numbers


def _check_features(name: str, student: Tensor, teacher: Tensor, where: str) -> None:
    """Ranks that the losses without adapter can take."""
    check_ranks(student, teacher, where)
    if name == "attention" and student.ndim < 4:
        raise ModelError(
            f"{where}: attention maps need [batch, channels, height, width], not {shapes(student, teacher)}"
        )
    if name == "self_attention" and (student.ndim != 4 or student.shape[2:] != teacher.shape[2:]):
        raise ModelError(
            f"{where}: needs [batch, heads, tokens, tokens] of one length, not {shapes(student, teacher)}"
        )


def _check_probabilities(student: Tensor, teacher: Tensor, where: str) -> None:
    """Raises UnsupportedError for rows that do not sum to 1; masked ones may be 0, and float16 rounds."""
    for who, value in (("student", student), ("teacher", teacher)):
        sums = value.detach().sum(-1)
        if bool((value < 0).any()) or bool((((sums - 1).abs() > _SUM) & (sums.abs() > _SUM)).any()):
            raise UnsupportedError(
                f"{where}: the rows of the {who}'s tensor are no probabilities; name what a Softmax gives, or"
                " set `divergence: mse` for scores before it"
            )

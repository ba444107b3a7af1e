"""The teachers of a command: TEACHER, those of -t, and those that the recipe alone names."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from mlcompress import checkpoint, console, graph
from mlcompress.context import GivenTeacher
from mlcompress.data import Dataset, inherit, open_data
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.distill.recipe_teachers import TeacherEntry
from mlcompress.errors import DataError, RecipeError, UserError
from mlcompress.files import is_same
from mlcompress.graph import Signature
from mlcompress.job import Job
from mlcompress.recipe.sections import DataEntry, ModelSection

WHERE = "distill.teachers"
UNLABELLED = (
    f"{WHERE}.combine: learned needs class numbers; name the `label` of data.train or data.validation,"
    " or use `mean`"
)


@dataclass(frozen=True)
class Named:
    """A teacher's file, and what the recipe says of it."""

    file: Path
    place: str
    entry: TeacherEntry | None = None


def named(job: Job, recipe: DistillRecipe) -> list[Named]:
    """All teachers in their order; only TEACHER where there are no others and the recipe says nothing.

    Raises:
        RecipeError: a file given twice, another number of weights, keys that TEACHER cannot have.
    """
    section = recipe.distill.teachers
    found = [Named(job.model, "TEACHER"), *(Named(path, f"--teacher {path}") for path in job.teachers)]
    problems = [f"--teacher: {one.file} is given twice; name it once" for one in _again(found)]
    for number, entry in enumerate(section.each):
        place = f"{WHERE}.each[{number}]"
        known = next((k for k, one in enumerate(found) if _is_file(one.file, entry.file)), None)
        if known is None:
            found.append(Named(Path(entry.file), place, entry))
            continue
        found[known] = replace(found[known], place=place, entry=entry)
        if known == 0 and {"inputs", "transforms", "size", "model"} & entry.model_fields_set:
            problems.append(
                f"{place}: {entry.file} is TEACHER, which `data` and `model` describe; say it there"
            )
    if len(found) == 1 and section.combine != "mean":
        problems.append(f"{WHERE}.combine: there is one teacher; give more with -t FILE, or leave it out")
    elif section.weights and len(section.weights) != len(found):
        listed = ", ".join(str(one.file) for one in found)
        problems.append(
            f"{WHERE}.weights: {len(section.weights)} for {len(found)} teachers ({listed}); give one for each"
        )
    if problems:
        raise RecipeError(*problems)
    return found


def own_models(recipe: DistillRecipe) -> dict[Path, ModelSection]:
    """The `model` sections of teachers that have one of their own, by file."""
    entries = recipe.distill.teachers.each
    return {Path(entry.file): entry.model for entry in entries if entry.model is not None}


def open_teachers(
    job: Job,
    recipe: DistillRecipe,
    model: ir.Model,
    train: Dataset | None,
    validation: Dataset | None = None,
) -> tuple[GivenTeacher, ...]:
    """Load the other teachers, and open the training data once more for those that take something else.

    `model` is TEACHER, loaded; `train` is the whole of data.train as it takes it, `validation` that of
    data.validation, which is opened once more where weights are learned on it. () for one plain teacher.

    Raises:
        UserError: a line for everything that is wrong with any of them.
    """
    found = named(job, recipe)
    if len(found) == 1 and found[0].entry is None:
        return ()
    problems: list[str] = []
    teachers: list[GivenTeacher] = []
    learned = recipe.distill.teachers.combine == "learned"
    if learned and train is not None and not any(data and data.has_classes for data in (train, validation)):
        problems.append(UNLABELLED)
    sets = {"train": train, "validation": validation if learned else None}
    for number, one in enumerate(found):
        try:
            teachers.append(_open(one, model if number == 0 else None, job, recipe, model, sets))
        except UserError as problem:
            problems += problem.lines
    if problems:
        raise DataError(*problems)
    return tuple(teachers)


def in_part(
    teachers: Sequence[GivenTeacher], whole: Dataset, part: Dataset, held: Dataset
) -> tuple[GivenTeacher, ...]:
    """The teachers with those of their samples that `part` and `held` have of `whole`."""
    kept, rest = (np.searchsorted(whole.rows, some.rows) for some in (part, held))
    return tuple(
        one
        if one.train is None
        else replace(one, train=one.train.subset(kept), validation=one.train.subset(rest))
        for one in teachers
    )


def _open(
    one: Named,
    loaded: ir.Model | None,
    job: Job,
    recipe: DistillRecipe,
    first: ir.Model,
    sets: Mapping[str, Dataset | None],
) -> GivenTeacher:
    entry = one.entry or TeacherEntry(file=str(one.file))
    model = loaded or checkpoint.load(one.file, entry.model or recipe.model, no_code=job.no_code)
    classes = tuple(entry.classes.values()) if entry.classes else ()
    _check_outputs(model, entry, classes, one)
    own: dict[str, Dataset | None] = {}
    for name, data in sets.items() if loaded is None else ():
        own[name] = _own_data(one, entry, model, first, recipe, name, data, job.no_code)
    return GivenTeacher(
        model, str(one.file), own.get("train"), dict(entry.outputs), classes, own.get("validation")
    )


def _check_outputs(model: ir.Model, entry: TeacherEntry, classes: Sequence[int], one: Named) -> None:
    outputs = {str(value.name): value for value in model.graph.outputs}
    problems = [
        f"{one.place}.outputs.{student}: {one.file} has no output {name!r}; it has {', '.join(outputs)}"
        for student, name in entry.outputs.items()
        if name not in outputs
    ]
    heard = [outputs[name] for name in entry.outputs.values() if name in outputs] or [*outputs.values()][:1]
    for value in heard if classes else []:
        count = value.shape[-1] if value.shape is not None and len(value.shape) else None
        if isinstance(count, int) and max(classes) >= count:
            problems.append(
                f"{one.place}.classes: number {max(classes)}, but {one.file} has classes 0..{count - 1};"
                " mend it"
            )
    if problems:
        raise RecipeError(*problems)


def _own_data(
    one: Named,
    entry: TeacherEntry,
    model: ir.Model,
    first: ir.Model,
    recipe: DistillRecipe,
    name: str,
    data: Dataset | None,
    no_code: bool,
) -> Dataset | None:
    """The entry `name` as this teacher takes it; None where that is as TEACHER does, `data`."""
    changed = {"inputs", "transforms", "size"} & entry.model_fields_set
    signature = graph.signature(model)
    if not changed and _alike(signature, graph.signature(first)):
        return None
    given: DataEntry | None = getattr(recipe.data, name)
    if given is None or data is None:
        return None  # said already
    given = inherit(given, recipe.data.train) if name != "train" else given
    source = given.model_copy(update={key: getattr(entry, key) for key in changed})
    if "inputs" not in changed:
        source = source.model_copy(update={"inputs": _renamed(source.inputs or {}, signature)})
    found = open_data(
        source,
        signature,
        where=one.place,
        labels=False,
        seed=recipe.seed,
        no_code=no_code,
        shapes=recipe.measure.shapes,
    )
    if not np.array_equal(found.rows, data.rows):
        raise DataError(
            f"{one.place}: gives {len(found)} samples, data.{name} {len(data)}; name arrays of one length"
        )
    for note in found.origin.notes:
        console.say(note)
    return found


def _renamed(inputs: dict[str, str | list[str]], signature: Signature) -> dict[str, str | list[str]] | None:
    """TEACHER's arrays by this teacher's names: the inputs that both have, or the only one of each."""
    names = [tensor.name for tensor in signature.inputs]
    kept = {name: array for name, array in inputs.items() if name in names}
    if not kept and len(names) == len(inputs) == 1:
        kept = {names[0]: next(iter(inputs.values()))}
    return kept or None


def _alike(one: Signature, other: Signature) -> bool:
    """The same inputs by name and dtype, and lengths that agree wherever both are known."""
    mine, theirs = ({tensor.name: tensor for tensor in s.inputs} for s in (one, other))
    return mine.keys() == theirs.keys() and all(
        tensor.dtype == theirs[name].dtype and _agree(tensor.shape, theirs[name].shape)
        for name, tensor in mine.items()
    )


def _agree(one: tuple[int | str | None, ...] | None, other: tuple[int | str | None, ...] | None) -> bool:
    if one is None or other is None:
        return True
    pairs = zip(one, other, strict=False)
    return len(one) == len(other) and all(
        a == b for a, b in pairs if isinstance(a, int) and isinstance(b, int)
    )


def _again(found: Sequence[Named]) -> list[Named]:
    return [
        one for k, one in enumerate(found) if any(_is_file(other.file, str(one.file)) for other in found[:k])
    ]


def _is_file(path: Path, name: str) -> bool:
    return path == Path(name) or is_same(path, Path(name))

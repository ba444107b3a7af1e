"""From recipe file, `extends` and `--set` to one validated recipe."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from mlcompress.errors import RecipeError, UsageError
from mlcompress.recipe import reader
from mlcompress.recipe.messages import describe
from mlcompress.recipe.reader import Document, KeyPath
from mlcompress.recipe.sections import Shared

R = TypeVar("R", bound=Shared)


def load(path: str | None, schema: type[R], overrides: Sequence[str] = ()) -> R:
    """Read, merge and validate; every problem of the recipe is reported at once.

    Args:
        path: recipe file; None means all defaults.
        schema: the stage's recipe model.
        overrides: `KEY=VALUE` texts, applied last; KEY is dotted, a number selects a list entry.

    Raises:
        RecipeError, UsageError: one line per problem, `file:line: key: what is wrong; what to do`.
    """
    document = _with_bases(path, ()) if path is not None else Document()
    for override in overrides:
        _apply(document, override)
    try:
        return schema.model_validate(document.value)
    except ValidationError as problem:
        raise RecipeError(*describe(problem, document, schema, path or "recipe")) from None


def _with_bases(path: str, seen: tuple[str, ...]) -> Document:
    if path in seen:
        raise RecipeError(
            f"{path}: extends: goes in a circle ({' -> '.join((*seen, path))}); remove one link"
        )
    document = reader.read(path)
    base_path = document.value.pop("extends", None)
    if base_path is None:
        return document
    where = document.origin.get(("extends",), path)
    if not isinstance(base_path, str):
        raise RecipeError(f"{where}: extends: names one recipe file; write its path")
    return _merge(_with_bases(base_path, (*seen, path)), document)


def _merge(base: Document, over: Document) -> Document:
    """`over` on top of `base`: mappings merge key by key, everything else is replaced."""
    origin = dict(base.origin)

    def merge(old: Any, new: Any, path: KeyPath) -> Any:
        renamed = (
            isinstance(old, Mapping)
            and isinstance(new, Mapping)
            and "name" in new
            and old.get("name") != new["name"]
        )
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)) or renamed:
            for key in [k for k in origin if k[: len(path)] == path]:
                del origin[key]
            origin.update({k: v for k, v in over.origin.items() if k[: len(path)] == path})
            return new
        merged = dict(old)
        for key, value in new.items():
            merged[key] = merge(old.get(key), value, (*path, key))
            origin[(*path, key)] = over.origin[(*path, key)]
        return merged

    return Document(merge(base.value, over.value, ()), origin)


def _apply(document: Document, override: str) -> None:
    key, equals, text = override.partition("=")
    override = " ".join(override.split())  # messages are one line
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set {override}: not KEY=VALUE; write for example --set prune.ratio=0.4")
    place: Any = document.value
    path: KeyPath = ()
    for part in parts[:-1]:
        step = _step(place, part, override)
        path = (*path, step)
        if isinstance(place, dict):
            child = place.get(step)
            if isinstance(
                child, str
            ):  # `criterion: l2` and `--set criterion.order=1` mean the spelt-out form
                child = {"name": child}
            if child is None and parts[len(path)].isdigit():
                where = ".".join(parts[: len(path)])
                raise UsageError(f"--set {override}: no list at {where} to number; write the whole list")
            place[step] = child if child is not None else {}
        place = place[step]
    last = _step(place, parts[-1], override)
    place[last] = reader.scalar(text, f"--set {override}")
    for stale in [k for k in document.origin if k[: len(path) + 1] == (*path, last)]:
        del document.origin[stale]
    document.origin[(*path, last)] = f"--set {override}"


def _step(place: Any, part: str, override: str) -> str | int:
    if isinstance(place, dict):
        return part
    if isinstance(place, list) and part.isdigit() and int(part) < len(place):
        return int(part)
    if isinstance(place, list):
        raise UsageError(
            f"--set {override}: {part!r} is not an entry of a list of {len(place)}; number it from 0"
        )
    raise UsageError(f"--set {override}: nothing can be set below a plain value; drop .{part}")

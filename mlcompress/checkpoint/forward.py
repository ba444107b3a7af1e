"""A module and what goes in and comes out: inputs as the recipe describes them, outputs as a flat list."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from mlcompress.errors import ModelError

_SIDES = (64, 224, 16, 512)
_LENGTHS = (8, 32, 128, 4, 512)
"""Tried for free axes other than the batch, of pictures and of sequences: a module may have a least length
and a largest one, and torch's exporter takes minutes over long recurrent ones."""
_DRAWS = 100

Lengths = dict[str, int]
"""Free axis to length."""


@dataclasses.dataclass(frozen=True)
class Input:
    """One input of a module. A `str` in `shape` is an axis of any length."""

    name: str
    shape: tuple[int | str, ...]
    dtype: torch.dtype


def examples(inputs: Sequence[Input], lengths: Lengths, seed: int = 0) -> list[torch.Tensor]:
    """One seeded tensor for each input: standard normal numbers; zeros and ones for integers and booleans,
    which are valid as indices and as masks.

    No two are equal as long as they can differ: an exporter may merge inputs that hold the same numbers.
    """
    made: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(seed)
    for one in inputs:
        shape = [lengths[size] if isinstance(size, str) else size for size in one.shape]
        for _ in range(_DRAWS):
            if one.dtype.is_floating_point:
                tensor = torch.randn(shape, generator=generator).to(one.dtype)
            else:
                tensor = torch.randint(0, 2, shape, generator=generator).to(one.dtype)
            if not any(tensor.shape == other.shape and torch.equal(tensor, other) for other in made):
                break
        made.append(tensor)
    return made


def call(
    module: torch.nn.Module,
    inputs: Sequence[Input],
    tensors: Sequence[torch.Tensor],
    forward: Callable[..., Any] | None = None,
) -> list[torch.Tensor]:
    """All tensors that the module returns, those inside tuples, dictionaries and dataclasses in order.

    Inputs go by keyword where all their names are parameters of `forward`, else by position.
    Raises ModelError for an output that is no tensor, and whatever the module raises.
    """
    names = [one.name for one in inputs]
    run = forward or module
    if set(names) <= _keywords(forward or module.forward):
        return list(_tensors(run(**dict(zip(names, tensors, strict=True)))))
    return list(_tensors(run(*tensors)))


def workable(
    module: torch.nn.Module,
    inputs: Sequence[Input],
    where: str,
    batch: int = 2,
    unlike: Lengths | None = None,
) -> Lengths:
    """Lengths of the free axes at which the module runs: batches of `batch`, the others not as in `unlike` if
    that can be.

    Raises ModelError with what the module says when there are none.
    """
    tried = _SIDES if any(len(one.shape) > 3 for one in inputs) else _LENGTHS
    candidates = [sized(inputs, batch, other) for other in tried]
    if len(batches(inputs)) == len(free_axes(inputs)):
        candidates = candidates[:1]
    candidates.sort(key=lambda lengths: len(lengths.items() & (unlike or {}).items()))
    problem = ""
    for lengths in candidates:
        given = examples(inputs, lengths)
        try:
            with torch.no_grad():
                call(module, inputs, given)
        except ModelError as error:
            raise ModelError(*(f"{where}: {line}" for line in error.lines)) from None
        except Exception as error:  # the user's own code may raise anything
            shapes = ", ".join(
                f"{one.name} {list(tensor.shape)}" for one, tensor in zip(inputs, given, strict=True)
            )
            problem = problem or f"the module fails on {shapes}: {first_line(error)}"
            continue
        return lengths
    raise ModelError(f"{where}: {problem}; check model.inputs: names, order, shapes and dtypes")


def free_axes(inputs: Sequence[Input]) -> list[str]:
    """Words in the shapes, each once, in order."""
    return list(dict.fromkeys(size for one in inputs for size in one.shape if isinstance(size, str)))


def batches(inputs: Sequence[Input]) -> set[str]:
    """The free axes that count samples: named so, or else those that come first."""
    words = free_axes(inputs)
    named = {word for word in words if "batch" in word.lower() or word.lower() in ("n", "b")}
    first = {one.shape[0] for one in inputs if one.shape}
    return named or {word for word in words if word in first}


def sized(inputs: Sequence[Input], batch: int, other: int) -> Lengths:
    """A length for each free axis: `batch`, and `other`, 1.5 `other`, 2 `other`, ...: no two are equal."""
    counted = batches(inputs)
    others = [word for word in free_axes(inputs) if word not in counted]
    return dict.fromkeys(counted, batch) | {
        word: other + k * max(1, other // 2) for k, word in enumerate(others)
    }


def first_line(error: BaseException | None) -> str:
    """`ValueError: what it says`, the first line of it, at most 200 characters."""
    said = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {said[0].strip()}" if said else type(error).__name__
    text = "".join(mark if mark.isprintable() else "?" for mark in text)
    return (text if len(text) <= 200 else text[:197] + "...").rstrip(".;: ")


def _keywords(forward: Callable[..., Any]) -> set[str]:
    try:
        parameters = inspect.signature(forward).parameters.values()
    except (TypeError, ValueError):  # compiled code has none
        return set()
    return {
        one.name
        for one in parameters
        if one.kind is one.POSITIONAL_OR_KEYWORD or one.kind is one.KEYWORD_ONLY
    }


def _tensors(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, tuple | list):
        for value in output:
            yield from _tensors(value)
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        for field in dataclasses.fields(output):
            yield from _tensors(getattr(output, field.name))
    elif output is not None:
        kind = type(output).__name__
        raise ModelError(f"forward returns a {kind}; let it return tensors, or tuples and dicts of them")

"""Steps of a forward pass, and what runs them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mlcompress.errors import ModelError
from mlcompress.train.ops.node import DEVICE, TRAINING, Run


@dataclass(frozen=True)
class Step:
    """values[write] = run(*values[reads]); then `frees` are forgotten."""

    run: Run
    reads: tuple[str, ...]
    write: str
    node: str
    frees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a forward pass does. Holds no tensor, so that a copied or moved executor may share it."""

    steps: tuple[Step, ...]
    tensors: tuple[str, ...]
    """Weights and constants that the steps read as tensors."""
    literals: Mapping[str, Any]
    """Constants that the steps read as Python numbers or lists."""
    results: Mapping[str, str]
    """Name asked for -> name under which it is found after the last step."""


def execute(plan: Plan, values: dict[str, Any], training: bool, device: torch.device) -> dict[str, Tensor]:
    """Run the steps on `values` (inputs and `plan.tensors`, which is used up) and give the results by name.

    Raises ModelError that names the node when torch refuses its inputs, which only happens for shapes or
    types that the graph was not made for.
    """
    values[TRAINING], values[DEVICE] = training, device
    step = None
    try:
        for step in plan.steps:
            values[step.write] = step.run(*[values[name] for name in step.reads])
            for name in step.frees:
                del values[name]
    except (RuntimeError, IndexError) as error:
        if step is None or isinstance(error, torch.OutOfMemoryError):
            raise
        what = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"model: node {step.node}: {what}; do the inputs have the shapes it wants?"
        ) from error
    return {name: values[found] for name, found in plan.results.items()}


@dataclass(frozen=True)
class Routine:
    """The body of an If, Loop or Scan as a function of the values around it and of its inputs."""

    plan: Plan
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shapes: tuple[tuple[int, ...] | None, ...]
    """Declared shapes of the outputs, with 0 for what is not known."""
    kinds: tuple[torch.dtype | None, ...]

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Values from around it, weights and constants included."""
        steps = self.plan.steps
        own = {*self.inputs, *self.plan.literals, *(step.write for step in steps)}
        names = [*(name for step in steps for name in step.reads), *self.plan.results.values()]
        return tuple(dict.fromkeys(name for name in names if name not in own and not name.startswith("\0")))

    def __call__(self, scope: Mapping[str, Any], *inputs: Any) -> list[Tensor]:
        """Its outputs, in order."""
        values = dict(self.plan.literals)
        values.update((name, scope[name]) for name in self.reads)
        values.update(zip(self.inputs, inputs, strict=True))
        found = execute(self.plan, values, scope[TRAINING], scope[DEVICE])
        return [found[name] for name in self.outputs]

    def nothing(self, scope: Mapping[str, Any], place: int) -> Tensor:
        """What no run at all stacks of an output: length 0 on the first axis."""
        shape, kind = self.shapes[place], self.kinds[place]
        if shape is None or kind is None:
            raise RuntimeError(f"no steps to run, and no declared shape and type for {self.outputs[place]!r}")
        return torch.empty((0, *shape), dtype=kind, device=scope[DEVICE])


def scoped(run: Run, count: int, names: Sequence[str]) -> Run:
    """`run(scope, *inputs)` as a function of `count` inputs and then the values that the scope holds."""

    def call(training: bool, device: torch.device, *values: Any) -> Any:
        scope = {TRAINING: training, DEVICE: device, **dict(zip(names, values[count:], strict=True))}
        return run(scope, *values[:count])

    return call

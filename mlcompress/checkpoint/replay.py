"""A torch module made of weights and of a function that computes with them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from mlcompress.checkpoint.forward import Input, call, examples, first_line, free_axes, sized
from mlcompress.checkpoint.state_dict import refuse_infinite
from mlcompress.errors import ModelError, UnsupportedError, UserError

_BATCHES = (2, 3, 1)
_OTHERS = (64, 16, 224, 8, 4)
"""Tried for free axes other than the batch."""


class Replay(torch.nn.Module):
    """What a file says to compute, on the file's weights under the file's names.

    `compute(weights, inputs)` gets the weights by name, as they are at the time of the call (an exporter puts
    its own in their place), and gives what the module returns.
    """

    def __init__(
        self,
        weights: Mapping[str, torch.Tensor],
        compute: Callable[[Mapping[str, torch.Tensor], Sequence[torch.Tensor]], Any],
    ) -> None:
        super().__init__()
        self._compute = compute
        self._places: dict[str, tuple[torch.nn.Module, str]] = {}
        for name, tensor in weights.items():
            *path, last = name.split(".")
            owner = self._nested(path)
            if isinstance(tensor, torch.nn.Parameter):
                owner._parameters[last] = tensor
            else:
                owner._buffers[last] = tensor
            self._places[name] = (owner, last)

    def _nested(self, path: Sequence[str]) -> torch.nn.Module:
        owner: torch.nn.Module = self
        for part in path:
            inner = owner._modules.get(part)
            if inner is None:
                inner = owner._modules[part] = torch.nn.Module()
            owner = inner
        return owner

    def forward(self, *tensors: torch.Tensor) -> Any:
        """`compute` of the weights and `tensors`."""
        weights: dict[str, Any] = {
            name: owner._parameters[last] if last in owner._parameters else owner._buffers[last]
            for name, (owner, last) in self._places.items()
        }
        return self._compute(weights, tensors)


def check_runs(module: Replay, inputs: Sequence[Input], where: str) -> None:
    """Run it at batch 2, 3 and 1, to say by name what an exporter says in its own words.

    Raises ModelError for weights that are not finite and for a module that holds on to the batch size it was
    saved with, UnsupportedError for one that writes its weights, and what its operators refuse.
    """
    refuse_infinite(module, module.state_dict(), where)
    before = {name: tensor._version for name, tensor in module.state_dict(keep_vars=True).items()}
    failed = {batch: error for batch in _BATCHES if (error := _failure(module, inputs, batch, where))}
    after = module.state_dict(keep_vars=True)
    if written := [name for name, version in before.items() if after[name]._version != version]:
        raise UnsupportedError(
            f"{where}: has state ({written[0]} is written in forward), which a graph cannot hold; "
            "export the module to ONNX, or give its state dict and `model.factory`"
        )
    if failed and free_axes(inputs):
        first = next(iter(failed))
        works = ", ".join(str(batch) for batch in sorted(set(_BATCHES) - set(failed)))
        if works:
            raise ModelError(
                f"{where}: works at batch size {works} only, at {first} it fails "
                f"({first_line(failed[first])}); "
                "take lengths from the tensors' shapes in forward, and trace or export it again"
            )


def _failure(module: Replay, inputs: Sequence[Input], batch: int, where: str) -> Exception | None:
    """What goes wrong at this batch size, whatever the other free axes are."""
    problem: Exception | None = None
    for other in _OTHERS:
        given = examples(inputs, sized(inputs, batch, other))
        try:
            with torch.no_grad():
                call(module, inputs, given)
        except UserError as error:
            told = (line if line.startswith(where) else f"{where}: {line}" for line in error.lines)
            raise type(error)(*told) from None
        except Exception as error:  # torch's operators raise all kinds
            problem = problem or error
        else:
            return None
    return problem

"""The regulariser of a recipe as a term of the loss, and the weights that it is a function of."""

import inspect
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mlcompress.graph.dependency import Family
from mlcompress.prune.regularize import regularizers
from mlcompress.registry import Choice
from mlcompress.train.executor import Executor


class Penalty(nn.Module):
    """The chosen regulariser of an executor's present weights; call it once per batch.

    `step`, the calls so far, is part of its state, so that a killed run goes on with it.
    """

    step: Tensor

    def __init__(
        self,
        choice: Choice,
        gather: Callable[[], Sequence[Tensor]],
        doomed: Sequence[Tensor],
    ) -> None:
        super().__init__()
        self._function = regularizers.bind(choice)
        self._wanted = set(inspect.signature(regularizers[choice.name]).parameters)
        self._gather, self._doomed = gather, doomed
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        units = self._gather()
        doomed = [mask.to(rows.device) for mask, rows in zip(self._doomed, units, strict=True)]
        given = {"units": units, "doomed": doomed, "step": int(self.step)}
        self.step += 1
        return self._function(**{name: value for name, value in given.items() if name in self._wanted})  # type: ignore[no-any-return]


def slices(executor: Executor, families: Sequence[Family]) -> Callable[[], list[Tensor]]:
    """What gives the present weights of each family, [units, k]: matrices, whoever reads or makes the
    units."""
    trainable = executor.trainable
    places = [
        [
            (trainable[m.tensor], m.axis, torch.from_numpy(m.index))
            for m in family.members
            if m.tensor in trainable and trainable[m.tensor].ndim > 1
        ]
        for family in families
    ]

    def gather() -> list[Tensor]:
        return [
            torch.cat(
                [w.movedim(axis, 0)[index.to(w.device)].flatten(1) for w, axis, index in members], dim=1
            )
            for members in places
        ]

    return gather


def weights(executor: Executor, names: Sequence[str]) -> Callable[[], list[Tensor]]:
    """What gives the present weights of tensors, each weight a unit: [elements, 1]."""
    trainable = executor.trainable
    return lambda: [trainable[name].reshape(-1, 1) for name in names]

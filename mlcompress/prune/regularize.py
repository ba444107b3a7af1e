"""Training towards sparsity before anything is cut: a penalty that makes units small.

Adding a regulariser is adding one function here. Positional parameters are what it is given:

- `units`: one tensor [units, k] per family (or weight), row u holding what goes with unit u
- `doomed`: one bool tensor [units] per family, True for the units that the recipe would remove now
- `step`: optimizer steps done, from 0

It returns a scalar that is added to the loss.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mlcompress.registry import Choice, Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from mlcompress.graph.dependency import Family
    from mlcompress.train.executor import Executor

regularizers = Registry("regularizer")

Strength = Annotated[float, Field(gt=0, description="factor of the penalty")]
Share = Annotated[float, Field(gt=0, lt=1, description="of the epochs, before the first cut")]
_TINY = 1e-12
"""Under the root: its slope at 0 is infinite."""


@regularizers
def l1(units: Sequence[Tensor], *, strength: Strength = 1e-5, share: Share = 0.5) -> Tensor:
    """strength * sum |w| (Tibshirani, "Lasso", 1996): single weights become small."""
    return strength * sum(rows.abs().sum() for rows in units)  # type: ignore[return-value]


@regularizers
def group_lasso(units: Sequence[Tensor], *, strength: Strength = 1e-4, share: Share = 0.5) -> Tensor:
    """strength * sum over units of sqrt(sum w^2) (Yuan and Lin 2006; Wen et al., "Structured Sparsity",
    2016): whole units become small."""
    return strength * sum((rows.square().sum(dim=1) + _TINY).sqrt().sum() for rows in units)  # type: ignore[return-value]


@regularizers
def growing_l2(
    units: Sequence[Tensor],
    doomed: Sequence[Tensor],
    step: int,
    *,
    strength: Strength = 1e-4,
    share: Share = 0.5,
) -> Tensor:
    """strength * step / 2 * sum of w^2 over the units that will go: they fade while the others take over
    (Wang et al., "Neural Pruning via Growing Regularization", 2021)."""
    total = sum(rows[mask].square().sum() for rows, mask in zip(units, doomed, strict=True))
    return strength * step / 2 * total  # type: ignore[return-value]


class Penalty:
    """The chosen regulariser of an executor's present weights; call it once per optimizer step."""

    def __init__(
        self,
        choice: Choice,
        slices: Callable[[], Sequence[Tensor]],
        doomed: Sequence[Tensor],
    ) -> None:
        self._function = regularizers.bind(choice)
        self._wanted = set(inspect.signature(regularizers[choice.name]).parameters)
        self._slices, self._doomed, self._step = slices, doomed, 0

    def __call__(self) -> Tensor:
        units = self._slices()
        doomed = [mask.to(rows.device) for mask, rows in zip(self._doomed, units, strict=True)]
        given = {"units": units, "doomed": doomed, "step": self._step}
        self._step += 1
        return self._function(**{name: value for name, value in given.items() if name in self._wanted})  # type: ignore[no-any-return]


def slices(executor: Executor, families: Sequence[Family]) -> Callable[[], list[Tensor]]:
    """What gives the present weights of each family, [units, k]: matrices, whoever reads or makes the
    units."""
    import torch

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

"""Training towards sparsity before anything is cut: a penalty that makes units small.

Adding a regulariser is adding one function here. Positional parameters are what it is given:

- `units`: one tensor [units, k] per family (or weight), row u holding what goes with unit u
- `doomed`: one bool tensor [units] per family, True for the units that the recipe would remove now
- `step`: optimizer steps done, from 0

It returns a scalar that is added to the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mlcompress.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

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

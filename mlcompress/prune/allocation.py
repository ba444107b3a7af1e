"""How a target is shared out over the families: paths from nothing gone to all that may go.

Adding an allocation is adding one function here. Nothing heavy is imported: recipes are validated with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from mlcompress.registry import Registry

if TYPE_CHECKING:
    from mlcompress.prune.distortion import Families
    from mlcompress.prune.targets import Keep, Path

allocations = Registry("allocation")


@allocations
def uniform(families: Families) -> Path:
    """The same share of every family: keep_f = (1 - s) * units_f."""
    from mlcompress.prune import amounts

    return lambda strength: amounts.local(families.ranked, strength * (1 - amounts.KEEP_SHARE))


@allocations
def global_(families: Families) -> Path:
    """One threshold on score / family mean over all units (Fang et al., "DepGraph", 2023)."""
    from mlcompress.prune import amounts

    return lambda strength: amounts.global_(families.ranked, strength * (1 - amounts.KEEP_SHARE))


@allocations
def sensitivity(
    families: Families,
    *,
    samples: Annotated[int, Field(ge=1, le=65536, description="to compare outputs on")] = 128,
    choices: Annotated[int, Field(ge=2, le=64, description="widths that are tried of each family")] = 8,
) -> Path:
    """One limit T on the damage that each family alone does: keep_f is the least width with d_f(width) <= T.

    d_f: sum (y - y0)^2 / sum y0^2 over the outputs, y0 of the original, y with family f alone cut to that
    width and, with `reconstruct`, its readers fitted to what is left; made monotone (the search of FastNAS
    with outputs in place of a metric: no labels are needed).
    """
    from mlcompress.prune.distortion import curves

    damage = curves(families, samples, choices)
    limits = sorted({value for curve in damage.values() for _, value in curve})
    full = {family.name: len(family.scores) for family in families.ranked}

    def path(strength: float) -> Keep:
        if not strength or not limits:
            return full
        limit = limits[min(len(limits) - 1, int(strength * len(limits)))]
        kept = {
            name: min((width for width, value in curve if value <= limit), default=full[name])
            for name, curve in damage.items()
        }
        return {**full, **kept}

    return path

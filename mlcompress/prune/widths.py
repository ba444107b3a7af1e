"""How wide each family is in the end, where a target or the plan of an earlier run says so."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from mlcompress.context import Context
from mlcompress.data.dataset import Dataset
from mlcompress.errors import RecipeError, shorten
from mlcompress.measure.trial_fit import TrialFit
from mlcompress.prune import targets
from mlcompress.prune.allocation import allocations
from mlcompress.prune.amounts import Ranked
from mlcompress.prune.channels import Channels
from mlcompress.prune.distortion import Families
from mlcompress.prune.recipe import PruneSection

Wanted = Mapping[str, int]
"""Family name -> units that are left after the last step."""


def decide(
    channels: Channels, section: PruneSection, original: ir.Model, context: Context
) -> tuple[Wanted | None, dict[str, Any]]:
    """The widths to reach, and how they were found, for the card; None where a ratio or threshold ranks the
    units at each step.

    Raises:
        RecipeError: the plan cannot be read, or is that of another model.
        UnsupportedError: the target cannot be reached.
    """
    ranked = channels.ranked()
    if section.plan is not None:
        return replayed(section.plan, ranked), {"plan_of": section.plan}
    if section.target is None:
        return None, {}
    name, share = section.target.chosen
    allocation, data = section.allocation, _samples(context)
    if data is None and allocation.name == "sensitivity":
        allocation = allocations.choose("global")

    def trial(keep: Wanted) -> ir.Model:
        return channels.trial(ranked, keep)

    fit = None
    if allocation.name == "sensitivity" and section.reconstruct and context.calibration is not None:
        fit = TrialFit(channels.model, context.calibration)  # what is left will make up for what goes

    def fitted(keep: Wanted) -> ir.Model:
        return channels.trial(ranked, keep, fit)

    path = allocations.bind(allocation)(Families(ranked, fitted, original, data))
    if name == "latency":
        found = targets.reach_latency(path, trial, original, context, share)
    else:
        found = targets.reach(ranked, path, trial, targets.counted(name, original, context), share)
    facts = {
        "target": {"of": name, "share": share, "reached": round(found.ratio, 4)},
        "allocation": allocation.model_dump(),
        "tried": [[round(strength, 4), round(ratio, 4)] for strength, ratio in found.tried],
    }
    return found.keep, facts


def missed(facts: Mapping[str, Any]) -> list[str]:
    """A target that the nearest widths do not meet within TOLERANCE is said; `facts` as of `decide`."""
    if "target" not in facts:
        return []
    name, share, reached = (facts["target"][key] for key in ("of", "share", "reached"))
    if abs(reached - share) <= targets.TOLERANCE * share or (name == "latency" and reached < share):
        return []
    return [
        f"prune.target: {name} {share:g} was asked for, and {reached:g} is the nearest; a smaller `round_to`"
        " makes finer steps"
    ]


def _samples(context: Context) -> Dataset | None:
    return next((data for data in (context.calibration, context.validation, context.train) if data), None)


def replayed(path: str, ranked: list[Ranked]) -> Wanted:
    """The widths of the card at `path`. Raises RecipeError: it cannot be read, or is of another model."""
    where = f"prune.plan: {path}"
    try:
        card = json.loads(Path(path).read_text(encoding="utf-8"))
        families = {str(name): int(left) for name, (_, left) in card["change"]["details"]["families"].items()}
    except FileNotFoundError:
        raise RecipeError(f"{where}: no such file; name the card (OUTPUT.json) of an earlier run") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{where}: cannot be read ({error}); name the card of an earlier run") from error
    except (KeyError, TypeError, AttributeError):
        raise RecipeError(f"{where}: holds no widths; name the card of a prune run on channels") from None
    units = {family.name: len(family.scores) for family in ranked}
    wrong = sorted(
        name for name, left in families.items() if name in units and not 1 <= left <= units[name]
    ) + sorted(units.keys() - families.keys())
    if wrong:
        raise RecipeError(
            f"{where}: does not fit this model or recipe: {shorten(wrong)}; name a card"
            " of the same input, skip and granularity"
        )
    return {name: families[name] for name in units}

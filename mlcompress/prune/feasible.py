"""Can a plan or a target be met? As far as that is known before the units are ranked: before any training."""

import onnx_ir as ir

from mlcompress.context import Context
from mlcompress.errors import UnsupportedError
from mlcompress.prune import targets
from mlcompress.prune.channels import Channels
from mlcompress.prune.recipe import PruneSection
from mlcompress.prune.widths import replayed


def check(channels: Channels, section: PruneSection, original: ir.Model, context: Context) -> None:
    """Nothing is timed.

    Raises:
        RecipeError: the plan cannot be read, or is that of another model.
        UnsupportedError: the target is missed with every family as narrow as it may be.
    """
    if section.plan is not None:
        replayed(section.plan, channels.unranked())
    if section.target is None or section.target.chosen[0] == "latency":
        return
    name, share = section.target.chosen
    ratio_of = targets.counted(name, original, context)
    targets.refuse_unreachable(ratio_of(_least(channels)), share)


def check_latency(channels: Channels, section: PruneSection, original: ir.Model, context: Context) -> None:
    """The same for a target of latency, which is timed. Raises UnsupportedError."""
    if section.target is None or section.target.chosen[0] != "latency":
        return
    if context.latency is None:
        raise UnsupportedError(targets.UNMEASURED)
    before, after = context.latency([original, _least(channels)])
    targets.refuse_unreachable(after / before, section.target.chosen[1])


def _least(channels: Channels) -> ir.Model:
    units = channels.unranked()
    return channels.trial(units, {family.name: family.floor() for family in units})

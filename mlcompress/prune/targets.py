"""How much to remove so that MACs, parameters, bytes or latency reach a share of what they were.

An allocation is a path: a strength from 0 (nothing goes) to 1 (all that may go) gives the units that each
family keeps, and more strength never keeps more. The target is found on that path by what the pruned graph
really has, not by the nominal ratio; latency by timing whole graphs against the original.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import onnx_ir as ir

from mlcompress import console, graph
from mlcompress.context import Context
from mlcompress.errors import UnsupportedError
from mlcompress.prune.amounts import Ranked

Keep = Mapping[str, int]
"""Family name -> units that stay."""
Path = Callable[[float], Keep]
"""Strength in [0, 1] -> units that stay."""
Trial = Callable[[Keep], ir.Model]
"""The pruned graph, to be looked at."""

CLOSE = 0.005
"""Nearer than this share of the target no further family is moved."""
TOLERANCE = 0.02
"""A target counts as reached within this share of it."""
HALVINGS = 12
ROUNDS = 6
"""Single families that are moved after the path gave its nearest."""
TIMED = 6
"""Graphs that are timed together; two such rounds find a latency."""
MARGIN = 0.985
"""Share of a latency target that is aimed at: another measurement gives another figure."""

UNMEASURED = "prune.target.latency: needs a machine to measure on; use `macs`"


@dataclass
class Reached:
    """What a search found."""

    keep: Keep
    ratio: float
    """What was measured, after / before."""
    tried: list[tuple[float, float]] = field(default_factory=list)
    """Strength and ratio of each graph that was looked at."""


def counted(name: str, original: ir.Model, context: Context) -> Callable[[ir.Model], float]:
    """after / before of `macs`, `params` or `size` (bytes of the file) for a pruned graph."""
    shapes = {key: list(array.shape) for key, array in (context.feed or {}).items()}

    def amount(model: ir.Model) -> float:
        if name == "macs":
            return graph.macs(model, shapes=shapes)
        return graph.parameters(model) if name == "params" else len(graph.to_bytes(model))

    before = amount(original)
    if not before:
        raise UnsupportedError(f"prune.target.{name}: this model has none; use another target, or `ratio`")
    return lambda model: amount(model) / before


def reach(
    ranked: Sequence[Ranked], path: Path, trial: Trial, ratio_of: Callable[[ir.Model], float], target: float
) -> Reached:
    """The kept units whose graph comes nearest to `target`: bisection on the path, then single families.

    Raises UnsupportedError when even strength 1 stays above the target by more than TOLERANCE.
    """
    found = Reached({}, 1.0)
    seen: dict[tuple[tuple[str, int], ...], float] = {}

    def ratio(keep: Keep) -> float:
        key = tuple(sorted(keep.items()))
        if key not in seen:
            seen[key] = ratio_of(trial(keep))
        return seen[key]

    def better(keep: Keep) -> bool:
        if found.keep and abs(ratio(keep) - target) >= abs(found.ratio - target):
            return False
        found.keep, found.ratio = keep, ratio(keep)
        return True

    refuse_unreachable(ratio(path(1.0)), target)
    low, high = 0.0, 1.0
    with console.progress("target", HALVINGS) as advance:
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            keep = path(middle)
            better(keep)
            found.tried.append((middle, ratio(keep)))
            low, high = (middle, high) if ratio(keep) > target else (low, middle)
            advance(1)
    for keep in (path(0.0), path(1.0)):
        better(keep)
    for _ in range(ROUNDS):
        if abs(found.ratio - target) <= CLOSE * target:
            break
        moved = _neighbours(ranked, found.keep, shrink=found.ratio > target)
        if not moved or not better(min(moved, key=lambda keep: abs(ratio(keep) - target))):
            break
    return found


def reach_latency(path: Path, trial: Trial, original: ir.Model, context: Context, target: float) -> Reached:
    """The least strength whose graph measures at most `target` of the original's latency, less MARGIN.

    Two rounds of TIMED graphs, each interleaved with the original: over the whole path, then where it
    crosses.

    Raises UnsupportedError without a machine to measure on, or when strength 1 is not fast enough.
    """
    if context.latency is None:
        raise UnsupportedError(UNMEASURED)
    low, high, found = 0.0, 1.0, Reached({}, 1.0)
    for number in range(2):
        strengths = [low + (high - low) * step / TIMED for step in range(1 if number == 0 else 0, TIMED + 1)]
        graphs = [trial(path(strength)) for strength in strengths]
        times = context.latency([original, *graphs])
        ratios = [time / times[0] for time in times[1:]]
        found.tried += list(zip(strengths, ratios, strict=True))
        fast = [n for n, ratio in enumerate(ratios) if ratio <= MARGIN * target]
        if not fast:
            refuse_unreachable(ratios[-1], target)
            fast = [len(ratios) - 1]
        first = fast[0]
        found.keep, found.ratio = path(strengths[first]), ratios[first]
        low, high = strengths[max(0, first - 1)] if first or number else 0.0, strengths[first]
    return found


def refuse_unreachable(least: float, target: float) -> None:
    """Raise UnsupportedError where what is left at least is above the target by more than TOLERANCE."""
    if least > target * (1 + TOLERANCE):
        raise UnsupportedError(
            f"prune.target: {target:g} cannot be reached: {least:.3f} is left when every family is cut as far"
            " as it may be; ask for more, or set a smaller `round_to`; `mlcompress inspect` shows what stays"
        )


def _neighbours(ranked: Sequence[Ranked], keep: Keep, *, shrink: bool) -> list[Keep]:
    """`keep` with one family a block smaller, or larger."""
    moved: list[Keep] = []
    for family in ranked:
        count = keep[family.name] + (-family.multiple if shrink else family.multiple)
        if family.floor() <= count <= len(family.scores):
            moved.append({**keep, family.name: count})
    return moved

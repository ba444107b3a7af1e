"""Students of fewer layers."""

from typing import Any

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.errors import UnsupportedError
from mlcompress.graph.dependency.layers import drop, layers


def shallower(model: ir.Model, depth: float) -> tuple[dict[str, Any], list[str]]:
    """Keep about the share `depth` of the layers, in place. Returns the names of both kinds, for the card,
    and the tensors behind which layers are missing.

    Of n layers k = max(1, round(depth n)) stay: numbers round(i (n - 1) / (k - 1)), evenly spread from the
    first to the last, which are those of DistilBERT (Sanh et al. 2019): 0, 2, 4, 7, 9, 11 of 12. One alone
    is the last, whose values the head knows.

    Raises:
        UnsupportedError: no layers, or none that would go.
    """
    found = layers(model)
    if not found:
        raise UnsupportedError(
            "distill.student.depth: this model has no layers x + f(x) that could go; use `width`, or name a"
            " student with --student FILE"
        )
    kept = spread(len(found), depth)
    if len(kept) == len(found):
        raise UnsupportedError(
            f"distill.student.depth: {depth:g} of {len(found)} layers is all of them; choose less than"
            f" {1 - 0.5 / len(found):.3g}"
        )
    dead = [layer for place, layer in enumerate(found) if place not in kept]
    drop(model, dead)
    graph.infer_shapes(model)
    entries = [layer.entry for layer in dead]
    return {
        "depth": depth,
        "layers_kept": [found[place].name for place in kept],
        "layers_dropped": [layer.name for layer in dead],
    }, entries


def spread(count: int, share: float) -> list[int]:
    """Which of `count` layers stay, in order."""
    kept = max(1, int(np.floor(share * count + 0.5)))
    if kept == 1:
        return [count - 1]
    return [int(np.floor(place * (count - 1) / (kept - 1) + 0.5)) for place in range(kept)]

"""`quantize.compute`: in which numbers the layers that are no integers compute."""

from typing import Literal

from mlcompress.quantize.recipe_weights import Storage, Weights

Compute = Literal["float", "nbits", "fp16", "bf16"]

NBITS_SCHEMES = ("int8", "int4")
NBITS_BLOCK = 128
"""Weights that share a scale where the recipe does not say: 32 takes 1.2 to 1.4 times as long."""
SMALLEST_BLOCK = 16
HALVES = ("fp16", "bf16")


def compute_problems(
    mode: str, compute: Compute, weights: Weights, storage: Storage, target: str, has_budget: bool
) -> list[str]:
    """What of compute, mode, weights and storage does not go together; a text for each."""
    if compute == "nbits":
        return _nbits_problems(mode, weights, target, has_budget)
    if compute in HALVES:
        return _half_problems(mode, compute, weights, storage)
    return []


def nbits_block(weights: Weights) -> int:
    """Weights in a block of MatMulNBits."""
    return weights.block if "block" in weights.model_fields_set else NBITS_BLOCK


def _nbits_problems(mode: str, weights: Weights, target: str, has_budget: bool) -> list[str]:
    if mode != "weight_only":
        return [f"compute nbits belongs to `mode: weight_only`, not {mode}"]
    found = []
    if (name := weights.chosen(mode).name) not in NBITS_SCHEMES:
        found.append(f"compute nbits has kernels for int8 and int4, not {name}")
    if target != "cpu":
        found.append(f"compute nbits is for kernels of `target: cpu`, not {target}")
    if weights.granularity != "per_block" and "granularity" in weights.model_fields_set:
        found.append(f"compute nbits has a scale per block, not {weights.granularity}; leave granularity out")
    block = nbits_block(weights)
    if block < SMALLEST_BLOCK or block & (block - 1):
        found.append(f"compute nbits: block {block} must be a power of two of at least {SMALLEST_BLOCK}")
    if has_budget:
        found.append("budget counts stored weights, not those of compute nbits; leave one of them out")
    return found


def _half_problems(mode: str, compute: str, weights: Weights, storage: Storage) -> list[str]:
    if mode != "cast":
        return [f"compute {compute} belongs to `mode: cast`, not {mode}"]
    found = []
    if weights.scheme is not None and weights.scheme.name != compute:
        found.append(
            f"compute {compute} has {compute} weights, not {weights.scheme.name}; leave weights.scheme out"
        )
    if storage not in ("auto", compute):
        found.append(
            f"storage {storage} is for weights that are decoded; leave it out with compute {compute}"
        )
    return found

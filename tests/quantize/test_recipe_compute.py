"""`quantize.compute`: what it goes with is accepted, everything else is refused in words before any work."""

from typing import Any

import pytest
from pydantic import ValidationError

from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.recipe_compute import nbits_block


def section(**values: Any) -> Any:
    return QuantizeRecipe.model_validate({"quantize": values}).quantize


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"compute": "nbits"}, "compute nbits belongs to `mode: weight_only`, not static"),
        ({"compute": "fp16"}, "compute fp16 belongs to `mode: cast`, not static"),
        ({"mode": "weight_only", "compute": "bf16"}, "compute bf16 belongs to `mode: cast`, not weight_only"),
        (
            {"mode": "weight_only", "compute": "nbits", "weights": {"scheme": "int2"}},
            "compute nbits has kernels for int8 and int4, not int2",
        ),
        (
            {"mode": "weight_only", "compute": "nbits", "target": "openvino"},
            "compute nbits is for kernels of `target: cpu`, not openvino",
        ),
        (
            {"mode": "weight_only", "compute": "nbits", "budget": {"max_bytes": 1000}},
            "budget counts stored weights, not those of compute nbits; leave one of them out",
        ),
        (
            {"mode": "weight_only", "compute": "nbits", "weights": {"granularity": "per_channel"}},
            "compute nbits has a scale per block, not per_channel; leave granularity out",
        ),
        (
            {
                "mode": "weight_only",
                "compute": "nbits",
                "weights": {"granularity": "per_block", "block": 48},
            },
            "compute nbits: block 48 must be a power of two of at least 16",
        ),
        (
            {"mode": "weight_only", "compute": "nbits", "weights": {"granularity": "per_block", "block": 8}},
            "compute nbits: block 8 must be a power of two of at least 16",
        ),
        (
            {"mode": "cast", "compute": "fp16", "weights": {"scheme": "bf16"}},
            "compute fp16 has fp16 weights, not bf16; leave weights.scheme out",
        ),
        (
            {"mode": "cast", "compute": "fp16", "storage": "rice"},
            "storage rice is for weights that are decoded; leave it out with compute fp16",
        ),
        ({"compute": "fp8"}, "Input should be 'float', 'nbits', 'fp16' or 'bf16'"),
    ],
)
def test_bad_combinations(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        section(**values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "block"),
    [
        ({}, 128),
        ({"scheme": "int4", "symmetric": False}, 128),
        ({"granularity": "per_block"}, 128),
        ({"granularity": "per_block", "block": 32}, 32),
        ({"granularity": "per_block", "block": 16}, 16),
    ],
)
def test_blocks(weights: dict[str, Any], block: int) -> None:
    assert nbits_block(section(mode="weight_only", compute="nbits", weights=weights).weights) == block


@pytest.mark.parametrize("compute", ["float", "fp16", "bf16"])
def test_cast_computes_in_any_float(compute: str) -> None:
    assert section(mode="cast", compute=compute).compute == compute


def test_what_is_left_out_computes_in_float() -> None:
    assert section(mode="weight_only").compute == "float"

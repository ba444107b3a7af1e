"""Attention and rotary embedding against onnxruntime."""

from typing import Any

import numpy as np
import pytest

from tests.train.ops.oracle import EPS, Array, compare, normal

Q, K, V = normal(2, 4, 3, 8), normal(2, 2, 5, 8, seed=1), normal(2, 2, 5, 6, seed=2)
SQUARE = [normal(2, 3, 4, 8, seed=seed) for seed in range(3)]
PAST = [normal(2, 3, 2, 8, seed=seed) for seed in (3, 4)]


@pytest.mark.parametrize(
    ("inputs", "attributes"),
    [
        (SQUARE, {}),
        (SQUARE, {"is_causal": 1, "scale": 0.3}),
        (SQUARE, {"softcap": 1.5}),
        ([Q, K, V], {}),  # two query heads for each key
        ([*SQUARE, normal(4, 4)], {}),
        ([*SQUARE, normal(2, 1, 4, 4) > 0.5], {}),
        (
            [normal(2, 3, 32), normal(2, 3, 16, seed=1), normal(2, 3, 8, seed=2)],
            {"q_num_heads": 4, "kv_num_heads": 2},
        ),
    ],
)
def test_attention(inputs: list[Array], attributes: dict[str, Any]) -> None:
    compare("Attention", *inputs, opset=23, tolerance=EPS, **attributes)


@pytest.mark.parametrize("causal", [0, 1])
def test_attention_with_a_cache(causal: int) -> None:
    compare("Attention", *SQUARE, None, *PAST, opset=23, outputs=3, tolerance=EPS, is_causal=causal)


@pytest.mark.parametrize("attributes", [{}, {"interleaved": 1}, {"rotary_embedding_dim": 4}])
@pytest.mark.parametrize("flat", [False, True])
def test_rotary_embedding(attributes: dict[str, int], flat: bool) -> None:
    half = attributes.get("rotary_embedding_dim", 8) // 2
    x = normal(2, 5, 16) if flat else normal(2, 2, 5, 8)
    places = np.array([[3, 1, 0, 6, 2], [0, 1, 2, 3, 4]])
    angles = normal(7, half)
    caches = np.cos(angles), np.sin(angles)
    more = {"num_heads": 2} if flat else {}
    compare("RotaryEmbedding", x, *caches, places, opset=23, tolerance=EPS, **attributes, **more)

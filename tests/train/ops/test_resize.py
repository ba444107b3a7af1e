"""Resampling against onnxruntime over its grid of attributes."""

from itertools import product
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch

from mlcompress.errors import ModelError
from mlcompress.train.executor import Executor
from tests.train.ops.oracle import EPS, compare, ints, model_of, normal

X = normal(2, 3, 5, 4)
TARGETS: list[tuple[tuple[float, float] | None, tuple[int, int] | None]] = [
    ((2.0, 2.0), None), ((1.4, 0.5), None), ((0.6, 2.7), None), (None, (3, 7)), (None, (1, 9)),
]  # fmt: skip
COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "asymmetric", "align_corners"]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize(("scales", "sizes"), TARGETS)
def test_modes(scales: tuple[float, float] | None, sizes: tuple[int, int] | None, coordinates: str) -> None:
    if coordinates == "align_corners" and scales == (0.6, 2.7):
        return  # onnx and onnxruntime disagree: refused, see below
    how = {"coordinate_transformation_mode": coordinates}
    given = None if scales is None else np.array([1, 1, *scales], np.float32)
    wanted = None if sizes is None else ints(2, 3, *sizes)
    inputs = [X, None, given] if wanted is None else [X, None, None, wanted]
    constant = [len(inputs) - 1]

    def check(mode: str, **more: Any) -> None:
        compare("Resize", *inputs, constant=constant, opset=19, tolerance=10 * EPS, mode=mode, **how, **more)

    check("nearest")
    for exclude in (0, 1):
        check("cubic", exclude_outside=exclude, cubic_coeff_a=-0.5)
        for mode in ("linear", "cubic"):
            check(mode, antialias=1, exclude_outside=exclude)


@pytest.mark.parametrize(
    ("mode", "policy"), [*product(["nearest", "linear", "cubic"], ["not_larger", "not_smaller"])]
)
def test_kept_aspect_ratio(mode: str, policy: str) -> None:
    compare(
        "Resize", X, None, None, ints(7, 9), constant=[3], tolerance=10 * EPS,
        mode=mode, keep_aspect_ratio_policy=policy, axes=[2, 3],
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_crops(mode: str) -> None:
    """The region reaches beyond the input on one axis: the extrapolation value stands there."""
    compare(
        "Resize", normal(1, 1, 5, 6), np.array([0, 0, 0.2, -0.3, 1, 1, 0.9, 1.2], np.float32), None, ints(1, 1, 4, 7),
        constant=[1, 3], tolerance=10 * EPS, mode=mode, coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=5.0,
    )  # fmt: skip


def test_corners_by_scales_that_give_fractions_are_refused() -> None:
    """Lengths are only known when it runs, so this is the one refusal that comes late."""
    how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    given = np.array([1, 1, 0.6, 2.7], np.float32)
    model = model_of("Resize", [X, None, given], how, opset=18, constant=[2])
    with pytest.raises(ModelError, match="align_corners with scales that give fractions"):
        Executor(ir.from_proto(model))({"x0": torch.from_numpy(X)})

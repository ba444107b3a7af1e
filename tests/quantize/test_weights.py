import numpy as np
import pytest

from mlcompress.quantize.activations import UINT8
from mlcompress.quantize.weights import BIAS_MAX, quantised, to_int32


def test_hand_computed_integers_per_channel() -> None:
    weight = np.array([[1.27, -0.635, 0.005], [0.0, 2.54, -2.54]], np.float32)
    codes, scales = quantised(weight, (0,))
    np.testing.assert_allclose(scales.ravel(), [0.01, 0.02], rtol=1e-6)
    # -63.5 lies between two integers in float64 by the rounding of float32 inputs; 0.5 rounds to even.
    assert codes.tolist()[0] in ([127, -64, 0], [127, -63, 0], [127, -64, 1], [127, -63, 1])
    assert codes.tolist()[1] == [0, 127, -127]


def test_halves_round_to_even() -> None:
    weight = np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32)
    assert quantised(weight, (), scales=np.float32([1.0]))[0].tolist() == [0, 2, 2, 0, -2]


def test_minus_128_is_never_used() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 50)).astype(np.float32)
    for axes in ((), (0,), (0, 1)):
        codes, _ = quantised(weight, axes)
        assert codes.min() >= -127
        assert codes.max() == 127 or codes.min() == -127


def test_error_is_at_most_half_a_step_in_every_channel() -> None:
    weight = np.random.default_rng(1).standard_normal((16, 3, 3, 3)).astype(np.float32)
    weight *= np.logspace(-3, 3, 16, dtype=np.float32).reshape(-1, 1, 1, 1)
    codes, scales = quantised(weight, (0,))
    # 1e-5: float32 products; half a step otherwise.
    assert np.all(np.abs(codes * scales - weight) <= scales * (0.5 + 1e-5))
    # Negative control: one scale for all leaves nothing of the small channels.
    assert not quantised(weight, ())[0][0].any()


@pytest.mark.parametrize("value", [0.0, 1e-44])
def test_scales_of_empty_channels_are_normal_numbers(value: float) -> None:
    weight = np.full((2, 4), value, np.float32)
    weight[1] = 1.0
    codes, scales = quantised(weight, (0,))
    assert np.all(scales >= np.finfo(np.float32).tiny)
    assert not codes[0].any()


def test_floor_raises_scales() -> None:
    weight = np.array([[0.127], [1.27]], np.float32)
    codes, scales = quantised(weight, (0,), floor=np.array([[0.5], [0.0]]))
    np.testing.assert_allclose(scales.ravel(), [0.5, 0.01], rtol=1e-6)
    assert codes.ravel().tolist() == [0, 127]


def test_bias_in_int32() -> None:
    assert to_int32(np.float32([0.1, -0.25]), np.float32([0.1, 0.1])).tolist() == [1, -2]
    assert abs(int(to_int32(np.float32([1.0]), np.float32([1 / BIAS_MAX]))[0])) == BIAS_MAX


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.0, 3.0), (0.5, 2.0), (-3.0, -1.0), (-0.375, 20.0)])
def test_activation_range_holds_zero_exactly(low: float, high: float) -> None:
    scale, zero = UINT8.parameters(low, high)
    wide_low, wide_high = min(low, 0.0), max(high, 0.0)
    assert 0 <= zero <= 255
    # The zero point is rounded, so either end may miss by half a step.
    assert (0 - int(zero)) * float(scale) <= wide_low + float(scale) * 0.51
    assert (255 - int(zero)) * float(scale) >= wide_high - float(scale) * 0.51


def test_relu6_range_stays_within_six() -> None:
    scale, zero = UINT8.parameters(0.0, 6.0)
    assert zero == 0
    assert np.float32(255) * scale <= np.float32(6)


def test_a_tensor_of_zeros_has_a_usable_scale() -> None:
    assert UINT8.parameters(0.0, 0.0) == (1.0, 0)

"""Float arrays to 8-bit integers, and the numbers that go with them."""

import numpy as np

from mlcompress.graph.encodings import Codes

INT8_MAX = 127
"""-128 is not used: the range stays symmetric, and safe for 7-bit variants."""
BIAS_MAX = 2**30
"""Half of int32, so that bias plus accumulated products cannot overflow."""
SMALLEST = float(np.finfo(np.float32).tiny)


def channel_scales(weight: np.ndarray, axes: tuple[int, ...], floor: np.ndarray | None = None) -> np.ndarray:
    """Scale per slice along `axes`: max|w| / 127, float32, shaped to broadcast against `weight`.

    No axes: one scale for the whole tensor. `floor` (same shape as the result) holds scales from below. Every
    scale is a positive normal number; a slice of zeros without a floor gets 1.
    """
    others = tuple(axis for axis in range(weight.ndim) if axis not in axes)
    largest = np.abs(weight.astype(np.float64)).max(axis=others, keepdims=True, initial=0.0)
    scales = largest / INT8_MAX
    if floor is not None:
        scales = np.maximum(scales, floor)
    scales = np.where(scales > 0, np.maximum(scales, SMALLEST), 1.0)
    return np.asarray(scales, np.float32)


def to_int8(weight: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """q = clip(round(w / s), -127, 127), halves to even; int8, same shape."""
    steps = np.rint(weight.astype(np.float64) / scales.astype(np.float64))
    return np.clip(steps, -INT8_MAX, INT8_MAX).astype(np.int8)


def encode_int8(weight: np.ndarray, axes: tuple[int, ...]) -> Codes:
    """The int8 codes and scales that stand for `weight`."""
    scales = channel_scales(weight, axes)
    return Codes(to_int8(weight, scales), scales)


def to_int32(bias: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """Bias in units of input scale times weight scale; int32, same shape."""
    steps = np.rint(bias.astype(np.float64) / scales.astype(np.float64))
    return np.clip(steps, -(2**31 - 1), 2**31 - 1).astype(np.int32)


def activation_parameters(low: float, high: float) -> tuple[np.float32, np.uint8]:
    """Scale and zero point of x ~ (q - z) * s, q in 0..255, for a range that is widened to contain 0.

    The scale is rounded down where that keeps 255 steps within `high`: onnxruntime then sees that a Relu6
    before the quantiser changes nothing, and drops it.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32((high - low) / 255)
    if low == 0 and scale * np.float32(255) > np.float32(high):
        scale = np.nextafter(scale, np.float32(0))
    if scale < SMALLEST:
        return np.float32(1.0), np.uint8(0)
    return scale, np.uint8(np.clip(np.rint(-low / float(scale)), 0, 255))

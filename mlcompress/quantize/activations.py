"""Integer types of activations: their codes, and scale and zero point for a range."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mlcompress.quantize.levels import SMALLEST

WIDE_OPSET = 21
"""QuantizeLinear takes 16-bit types from here on."""

SLOW = {
    "int8": "signed activations: onnxruntime's CPU provider left 11 of 20 Conv of a ResNet-18 in float, "
    ".98 to 1.10 of fp32 latency (uint8: .33)",
    "uint16": "16-bit activations: no integer Conv on onnxruntime's CPU provider; a MobileNetV2 took 2.1 to "
    "2.8 times as long as in fp32",
}
SLOW["int16"] = SLOW["uint16"]
"""Measured with onnxruntime 1.32.0, one and two threads, Xeon with AVX512-VNNI."""

Range = tuple[float, float]


@dataclass(frozen=True)
class Activation:
    """How values between layers become integers: x ~ (q - z) * s."""

    scheme: str = "uint8"
    """uint8, int8, uint16 or int16."""
    symmetric: bool = False
    """The zero point is the middle of the codes, and the range as wide on either side of 0."""

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.scheme)

    @property
    def kind(self) -> ir.DataType:
        return ir.DataType.from_numpy(self.dtype)

    @property
    def is_wide(self) -> bool:
        return self.dtype.itemsize > 1

    def parameters(self, low: float, high: float) -> tuple[np.float32, np.generic]:
        """Scale (float32) and zero point (of the scheme's type) for a range that is widened to contain 0.

        s = (high - low) / (steps of the type); symmetric: s = max|x| / (steps above the middle). The scale
        is rounded down where that keeps all steps within `high`: onnxruntime then sees that a Relu6 before
        the quantiser changes nothing, and drops it.
        """
        first, last = int(np.iinfo(self.dtype).min), int(np.iinfo(self.dtype).max)
        low, high = min(low, 0.0), max(high, 0.0)
        middle = (first + last + 1) // 2
        if self.symmetric:
            high = max(-low, high)
            steps, zero = last - middle, middle
        else:
            steps, zero = last - first, first
        scale = np.float32((high if self.symmetric else high - low) / steps)
        if low == 0 and scale * np.float32(steps) > np.float32(high):
            scale = np.nextafter(scale, np.float32(0))
        if scale < SMALLEST:
            return np.float32(1.0), self.dtype.type(zero)
        if not self.symmetric:
            zero = int(np.clip(np.rint(first - low / float(scale)), first, last))
        return scale, self.dtype.type(zero)

    def fake(self, values: np.ndarray, low: float, high: float) -> np.ndarray:
        """(clip(round(x / s) + z) - z) * s: what an integer layer reads instead of x; float32, same shape."""
        scale, zero = self.parameters(low, high)
        limits, centre = np.iinfo(self.dtype), np.float32(zero)
        codes = np.clip(np.rint(values / scale) + centre, limits.min, limits.max)
        return np.asarray((codes - centre) * scale, np.float32)


UINT8 = Activation()

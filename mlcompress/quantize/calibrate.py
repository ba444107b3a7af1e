"""Runs the float model over the calibration samples and keeps running statistics of chosen tensors.

Memory is one batch of activations plus one histogram per tensor, whatever the number of samples.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import onnx_ir as ir

from mlcompress.measure.tapped import track
from mlcompress.quantize.observers import Seen

if TYPE_CHECKING:
    from mlcompress.data.dataset import Dataset


def observe(model: ir.Model, names: Iterable[str], data: "Dataset") -> dict[str, Seen]:
    """What observers need to know of the named tensors; as `measure.tapped.track`."""
    return track(model, names, data, Seen)

"""Gives a stem of 1 to 3 input channels a fourth, of zeros: onnxruntime's fast integer Conv wants a
multiple of 4."""

from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.quantize.fuse import attribute
from mlcompress.quantize.integer import in_domain

MULTIPLE = 4
"""Input channels of MLAS's symmetric-weight convolution. Measured on Zen 5 (VNNI), 28x28, 1 -> 32 channels:
19 us without, 11 us with three channels of zeros, Pad included 14; ResNet-14 in all .475 -> .447 of fp32."""

LARGEST = 2**14
"""Elements of a padded weight: long filters (audio) would grow by more bytes than the speed is worth."""


def widen_stems(model: ir.Model, names: Collection[str]) -> dict[str, str]:
    """Pad input and weight of the named ungrouped Convs that read fewer than four channels, in place.

    Gives the padded tensors: new name -> the tensor it was made from. Results are unchanged: zeros times
    zeros.
    """
    insertion, padded = Insertion(model.graph), {}
    for node in list(model.graph):
        if node.name not in names or not in_domain(node, ("Conv",)) or attribute(node, "group", 1) != 1:
            continue
        weight, value = np.asarray(constant(node.inputs[1])), node.inputs[0]
        extra = MULTIPLE - weight.shape[1]
        if extra <= 0 or value is None or weight[:, 0].size * MULTIPLE > LARGEST or _is_shared(node):
            continue
        rank = weight.ndim
        before_after = np.zeros(2 * rank, np.int64)
        before_after[rank + 1] = extra
        pads = insertion.constant(f"{value.name}_pads", before_after)
        shape = None
        if value.shape is not None:
            shape = ir.Shape([value.shape[0], MULTIPLE, *value.shape[2:]])
        pad = insertion.node("Pad", [value, pads], f"{value.name}_padded", ir.DataType.FLOAT, shape=shape)
        insertion.after(value, [pad])
        node.replace_input_with(0, pad.outputs[0])
        wide = np.pad(weight, [(0, 0), (0, extra)] + [(0, 0)] * (rank - 2))
        insertion.set_input(node, 1, wide, f"{node.inputs[1].name if node.inputs[1] else node.name}_padded")
        padded[str(pad.outputs[0].name)] = str(value.name)
    return padded


def _is_shared(node: ir.Node) -> bool:
    return node.inputs[1] is not None and len(node.inputs[1].uses()) > 1

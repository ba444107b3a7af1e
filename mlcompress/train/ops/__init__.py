"""One function per ONNX op, by family; `OPS` holds them all."""

from mlcompress.train.ops import (  # noqa: F401 - importing enters the ops into the table
    activation,
    conv,
    index,
    linear,
    math,
    norm,
    quant,
    reduce,
    resize,
    shape,
)
from mlcompress.train.ops.node import OPS as OPS

"""One function per ONNX op, by family; `OPS` holds them all."""

from mlcompress.train.ops import (  # noqa: F401 - importing enters the ops into the table
    activation,
    attention,
    control,
    conv,
    grid,
    index,
    integer,
    linear,
    loss,
    math,
    norm,
    pad,
    pool,
    quant,
    recurrent,
    reduce,
    resize,
    scatter,
    select,
    shape,
    signal,
)
from mlcompress.train.ops.node import OPS as OPS

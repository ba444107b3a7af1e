"""How a weight is stored in the file: an initializer, or a chain of ops that onnxruntime folds at load.

onnxruntime evaluates constant sub-graphs while it creates a session, so a chain costs bytes and load time,
never latency. Measured with 1.32: Cast, Mul, Gather, BitShift, CumSum and ScatterElements fold,
DequantizeLinear and NonZero do not, nor does a tensor of more than 1 GiB.

An encoding is a function `(draft, codes) -> value` in the registry `encodings`; `store` puts it in the place
of an initializer, and `auto` finds the one of the fewest bytes. All of them are lossless.
"""

from mlcompress.graph.encodings.chain import Chains
from mlcompress.graph.encodings.codes import Codes, UnfitError, encodings
from mlcompress.graph.encodings.forms import scaled as _registers_them  # noqa: F401
from mlcompress.graph.encodings.store import (
    AUTO,
    highest_opset,
    replace,
    smallest,
    store,
    store_smallest,
    unfit,
)

__all__ = [
    "AUTO",
    "Chains",
    "Codes",
    "UnfitError",
    "encodings",
    "highest_opset",
    "replace",
    "smallest",
    "store",
    "store_smallest",
    "unfit",
]

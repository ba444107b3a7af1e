"""What cannot be quantised, said before any work starts."""

from collections import Counter

import onnx_ir as ir

from mlcompress.errors import UnsupportedError
from mlcompress.measure.executed import INTEGER_OPS

QUANTISERS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


def refuse_quantised(model: ir.Model) -> None:
    """Raise UnsupportedError when the graph, sub-graphs included, already holds quantised operators."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    found = Counter(node.op_type for node in nodes if node.op_type in QUANTISERS | INTEGER_OPS)
    if found:
        listed = ", ".join(f"{op} x {count}" for op, count in sorted(found.items()))
        raise UnsupportedError(
            f"model: it is quantised already ({listed}); give the float model it was made from"
        )

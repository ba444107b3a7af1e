"""What cannot be quantised, said before any work starts."""

from collections import Counter

import onnx_ir as ir

from mlcompress import graph
from mlcompress.errors import RecipeError, UnsupportedError

QUANTISED_OPS = {
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "ConvInteger",
    "MatMulInteger",
    "MatMulNBits",
    "MatMulIntegerToFloat",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
    "QGemm",
    "QAttention",
    "QMoE",
    "QOrderedMatMul",
    "GatherBlockQuantized",
    "QEmbedLayerNormalization",
}


def refuse_quantised(model: ir.Model) -> None:
    """Raise UnsupportedError when the graph, sub-graphs included, already holds quantised operators."""
    nodes = ir.traversal.RecursiveGraphIterator(model.graph)
    found = Counter(n.op_type for n in nodes if n.op_type in QUANTISED_OPS or n.op_type.startswith("QLinear"))
    if found:
        listed = ", ".join(f"{op} x {count}" for op, count in sorted(found.items()))
        raise UnsupportedError(
            f"model: it is quantised already ({listed}); give the float model it was made from"
        )


def skipped_nodes(model: ir.Model, patterns: list[str]) -> frozenset[str]:
    """Names of the nodes that `skip` selects. Raises RecipeError for patterns that select nothing."""
    matches = graph.nodes_matching(model, patterns)
    if matches.unmatched:
        raise RecipeError(*(graph.no_match(model, pattern, "skip") for pattern in matches.unmatched))
    return frozenset(str(node.name) for node in matches.nodes)

"""Did onnxruntime run what was meant? Looks at the kernels of one profiled run."""

from collections.abc import Collection, Mapping

import onnx_ir as ir

from mlcompress.measure.executed import INTEGER_KERNELS

KINDS = {"Conv": ("Conv",), "Gemm or MatMul": ("Gemm", "MatMul"), "Add": ("Add",)}
"""How messages call the float ops that integer kernels stand for."""


def decoded_at_run_time(model: ir.Model, weights: Collection[str], ran: Collection[str]) -> list[str]:
    """Those stored `weights` whose decoding is among the nodes `ran`: onnxruntime did not fold it at load."""
    return [
        str(value.name)
        for node in model.graph
        for value in node.outputs
        if value.name in weights and node.name in ran
    ]


def missing(kernels: Mapping[str, int], meant: Mapping[str, int]) -> list[str]:
    """One line per kind of node that runs as integers less often than it was `meant` to (op type: count)."""
    lines = []
    for kind, ops in KINDS.items():
        wanted = sum(meant.get(op, 0) for op in ops)
        ran = sum(kernels.get(kernel, 0) for op in ops for kernel in INTEGER_KERNELS[op])
        if ran < wanted:
            lines.append(f"{wanted - ran} of {wanted} {kind} nodes run in float; onnxruntime did not fuse")
    return lines

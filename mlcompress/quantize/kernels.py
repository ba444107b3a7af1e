"""Did onnxruntime run what was meant? Looks at the kernels of profiled runs, at the levels that users run."""

from collections.abc import Mapping

from mlcompress.measure.executed import INTEGER_KERNELS

KINDS = {"Conv": ("Conv",), "Gemm or MatMul": ("Gemm", "MatMul"), "Add": ("Add",)}
"""How messages call the float ops that integer kernels stand for."""


def missing(kernels: Mapping[str, int], meant: Mapping[str, int]) -> list[str]:
    """One line per kind of node that runs as integers less often than it was `meant` to (op type: count)."""
    lines = []
    for kind, ops in KINDS.items():
        wanted = sum(meant.get(op, 0) for op in ops)
        ran = sum(kernels.get(kernel, 0) for op in ops for kernel in INTEGER_KERNELS[op])
        if ran < wanted:
            lines.append(f"{wanted - ran} of {wanted} {kind} nodes run in float; onnxruntime did not fuse")
    return lines

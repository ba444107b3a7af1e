"""Matrix products."""

from typing import Any

import torch
from torch import Tensor

from mlcompress.train.ops.node import Node, Run, op, simple

simple("A B", {"MatMul": torch.matmul})


@op("Gemm", "A B C")
def gemm(node: Node, *, alpha: float = 1.0, beta: float = 1.0, transA: int = 0, transB: int = 0) -> Run:
    """alpha A' B' + beta C, where ' transposes if asked to. A: [M, K], B: [K, N], C broadcasts to [M, N]."""

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a = a.t() if transA else a
        b = b.t() if transB else b
        if c is None:
            product = torch.mm(a, b)
            return product if alpha == 1.0 else product * alpha
        return torch.addmm(c, a, b, beta=beta, alpha=alpha)

    return run


@op("Einsum", "Inputs*")
def einsum(node: Node, *, equation: str) -> Run:
    def run(*xs: Any) -> Tensor:
        return torch.einsum(equation, *xs)

    return run

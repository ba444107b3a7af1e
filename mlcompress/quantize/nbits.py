"""Weight-only products: float activations times weights that stay 4- or 8-bit integers in memory.

com.microsoft::MatMulNBits computes Y = A W + bias with W[k, n] = (q[n, k] - z[n, b]) s[n, b], b = k // block.
Stored: q as uint8 [N, blocks, block * bits / 8], the first of two 4-bit codes in the low half; s float32
[N * blocks]; z, where weights are asymmetric, packed alike per row of blocks (without it z = 2^(bits - 1)).

`accuracy_level` 4 must be in the file: with the default 0 onnxruntime 1.32 has no 8-bit kernel (40 to 110
times slower) and its 4-bit one takes 4 times as long for a single row.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mlcompress.graph.columns import output_axis
from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.quantize.fuse import attribute
from mlcompress.quantize.integer import in_domain
from mlcompress.quantize.mixed import Mixed
from mlcompress.quantize.schemes import How, schemes
from mlcompress.registry import Choice

PRODUCTS = ("Gemm", "MatMul")
DOMAIN = "com.microsoft"
BITS = {"int8": 8, "int4": 4}
SMALLEST_BLOCK = 16
"""The kernel has no smaller one."""
SMALLEST = 256
"""Elements of a weight below which nothing is saved."""
ACCURACY_LEVEL = 4


@dataclass(frozen=True)
class Packed:
    """A weight [K, N] as the op wants it."""

    bits: int
    block: int
    codes: np.ndarray
    scales: np.ndarray
    zeros: np.ndarray | None


def nbits_obstacle(node: ir.Node) -> str | None:
    """Why a MatMul or Gemm cannot become MatMulNBits, or None when it can."""
    if not in_domain(node, PRODUCTS):
        return f"{node.op_type} has no weight-only kernel; weights are stored in fewer bits"
    weight = constant(node.inputs[1])
    if node.inputs[0] is None or node.inputs[0].const_value is not None:
        return "its input is a constant"
    if weight is None:
        return "its weight is not a constant"
    if weight.dtype != np.float32:
        return f"its weight is {weight.dtype}"
    if weight.ndim != 2:
        return f"its weight has {weight.ndim} axes, 2 are needed"
    if weight.size < SMALLEST:
        return f"its weight has fewer than {SMALLEST} elements"
    if not np.isfinite(weight).all():
        return "its weight holds NaN or infinity"
    if node.op_type == "Gemm" and attribute(node, "transA", 0):
        return "its input is transposed"
    if node.inputs[1] is not None and not _only_products(node.inputs[1]):
        return "its weight is read by other ops or is a graph output"
    return None


def insert_nbits(
    model: ir.Model,
    allowed: Callable[[ir.Node], bool],
    scheme: Choice | Mixed,
    *,
    block: int,
    symmetric: bool = True,
) -> list[str]:
    """Rewrite every allowed MatMul and Gemm without an obstacle, in place; their names, in graph order.

    `scheme`: one for all or one for each weight; int8 and int4 have kernels. `block`: weights of a column
    that share a scale. Readers of one weight share the packed tensors; one that is not `allowed` keeps the
    float weight for all.
    """
    insertion = Insertion(model.graph)
    able = [n for n in model.graph if allowed(n) and nbits_obstacle(n) is None and has_kernel(n, scheme)]
    chosen = set(able)
    nodes = [
        n for n in able if n.inputs[1] is not None and {use.node for use in n.inputs[1].uses()} <= chosen
    ]
    packed: dict[tuple[ir.Value, int], tuple[Packed, list[ir.Value | None]]] = {}
    for node in nodes:
        weight, axis = node.inputs[1], output_axis(node)
        if weight is None:
            continue
        if (weight, axis) not in packed:
            array = np.asarray(constant(weight))
            own = _scheme(weight, scheme)
            made = pack(array.T if axis == 0 else array, own, block=block, symmetric=symmetric)
            packed[weight, axis] = made, _constants(insertion, str(weight.name), made)
        _rewrite(insertion, node, *packed[weight, axis])
    if nodes:
        model.opset_imports.setdefault(DOMAIN, 1)
    insertion.drop_unread()
    return [str(node.name) for node in nodes]


def has_kernel(node: ir.Node, scheme: Choice | Mixed) -> bool:
    """Is the scheme of its weight one of BITS?"""
    weight = node.inputs[1]
    return weight is not None and _scheme(weight, scheme).name in BITS


def _scheme(weight: ir.Value, scheme: Choice | Mixed) -> Choice:
    return scheme.of(str(weight.name)) if isinstance(scheme, Mixed) else scheme


def pack(weight: np.ndarray, scheme: Choice, *, block: int, symmetric: bool) -> Packed:
    """Codes, scales and zero points of a float32 [K, N] weight.

    Columns shorter than half a block have the next smaller power of two that holds them; the last block is
    filled with zeros.
    """
    bits = BITS[scheme.name]
    inner, columns = weight.shape
    while block // 2 >= max(inner, SMALLEST_BLOCK):
        block //= 2
    blocks = -(-inner // block)
    rows = np.zeros((columns, blocks * block), np.float32)
    rows[:, :inner] = weight.T
    grid = schemes.bind(scheme)(rows.reshape(-1, block), How(symmetric))
    middle = 1 << (bits - 1)
    codes = np.asarray(grid.levels, np.int16) + (middle if grid.zero is None else 0)
    zeros = None if grid.zero is None else _bytes(grid.zero.reshape(columns, blocks), bits)
    packed = _bytes(codes.astype(np.uint8), bits).reshape(columns, blocks, block * bits // 8)
    return Packed(bits, block, packed, np.asarray(grid.scale, np.float32).ravel(), zeros)


def _bytes(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes along the last axis as bytes; two of 4 bits in each, the first in the low half."""
    if bits == 8:
        return np.ascontiguousarray(codes, np.uint8)
    even = np.pad(codes.astype(np.uint8), [*[(0, 0)] * (codes.ndim - 1), (0, codes.shape[-1] % 2)])
    return np.asarray(even[..., ::2] | (even[..., 1::2] << 4), np.uint8)


def _constants(insertion: Insertion, name: str, made: Packed) -> list[ir.Value | None]:
    zeros = None if made.zeros is None else insertion.constant(f"{name}_zero_points", made.zeros.ravel())
    return [
        insertion.constant(f"{name}_quantized", made.codes),
        insertion.constant(f"{name}_scales", made.scales),
        zeros,
    ]


def _rewrite(insertion: Insertion, node: ir.Node, made: Packed, inputs: list[ir.Value | None]) -> None:
    """alpha A W + beta C: alpha behind the product, so that readers of one weight can differ in it."""
    output, stem = node.outputs[0], str(node.name)
    weight = np.asarray(constant(node.inputs[1]))
    axis = output_axis(node)
    numbers = {
        "K": weight.shape[1 - axis],
        "N": weight.shape[axis],
        "bits": made.bits,
        "block_size": made.block,
        "accuracy_level": ACCURACY_LEVEL,
    }
    chain = [
        insertion.node(
            "MatMulNBits",
            [node.inputs[0], *inputs],
            f"{output.name}_product",
            ir.DataType.FLOAT,
            stem=stem,
            shape=output.shape,
            attributes=numbers,
            domain=DOMAIN,
        )
    ]

    def then(op: str, other: ir.Value, ending: str) -> None:
        read = [chain[-1].outputs[0], other]
        chain.append(insertion.node(op, read, f"{output.name}_{ending}", ir.DataType.FLOAT, stem=stem))

    alpha, beta = float(attribute(node, "alpha", 1.0)), float(attribute(node, "beta", 1.0))
    if node.op_type == "Gemm" and alpha != 1:
        then("Mul", insertion.constant(f"{stem}_alpha", np.asarray(alpha, np.float32)), "scaled")
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and beta != 0:
        if beta != 1:
            factor = insertion.constant(f"{stem}_beta", np.asarray(beta, np.float32))
            scaled = insertion.node("Mul", [bias, factor], f"{output.name}_bias", ir.DataType.FLOAT)
            chain.insert(0, scaled)
            bias = scaled.outputs[0]
        then("Add", bias, "biased")
    insertion.replace(node, chain, chain[-1].outputs[0])


def _only_products(weight: ir.Value) -> bool:
    """Is it the second input of MatMul and Gemm alone? Else its float form would stay in the file as well."""
    uses = all(in_domain(use.node, PRODUCTS) and use.idx == 1 for use in weight.uses())
    return uses and not weight.is_graph_output()

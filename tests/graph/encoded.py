"""Weights in every stored form, encoded here with numpy alone: nodes and initializers as another tool writes them.

A form is a function `(rng) -> Encoded`; the last node gives `w`. `values` are the numbers that it must decode
to, worked out from the codes and never by running the nodes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

Array = NDArray[np.generic]
ROWS, COLUMNS = 24, 40


@dataclass
class Encoded:
    """`values`: float32 [ROWS, COLUMNS]."""

    opset: int
    form: str
    values: NDArray[np.float32]
    nodes: list[NodeProto] = field(default_factory=list)
    tensors: list[TensorProto] = field(default_factory=list)

    def tensor(self, name: str, array: object, kind: int | None = None) -> str:
        numbers = np.asarray(array)
        made = (
            numpy_helper.from_array(numbers, name)
            if kind is None
            else helper.make_tensor(name, kind, numbers.shape, numbers.ravel().tolist())
        )
        self.tensors.append(made)
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"n_{output}", **attributes))
        return output

    def shape(self, name: str, *sizes: int) -> str:
        return self.tensor(name, np.array(sizes, np.int64))

    def reshaped(self, value: str, output: str = "w", shape: tuple[int, ...] = (ROWS, COLUMNS)) -> str:
        return self.node("Reshape", [value, self.shape(f"{output}_shape", *shape)], output)

    def cast(self, value: str, output: str, to: int = TensorProto.FLOAT) -> str:
        return self.node("Cast", [value], output, to=to)


def _float(kind: int, dtype: type, form: str) -> Callable[[np.random.Generator], Encoded]:
    def build(rng: np.random.Generator) -> Encoded:
        stored = rng.standard_normal((ROWS, COLUMNS)).astype(dtype)
        made = Encoded(19, form, stored.astype(np.float32))
        made.tensor("w_stored", stored.astype(np.float32), kind)
        made.cast("w_stored", "w")
        return made

    return build


def _scaled(
    kind: int, low: int, high: int, opset: int, form: str
) -> Callable[[np.random.Generator], Encoded]:
    """Integers times a scale per row."""

    def build(rng: np.random.Generator) -> Encoded:
        codes = rng.integers(low, high + 1, (ROWS, COLUMNS))
        scale = rng.uniform(0.01, 0.1, (ROWS, 1)).astype(np.float32)
        made = Encoded(opset, form, codes.astype(np.float32) * scale)
        made.tensor("w_stored", codes, kind)
        made.node("Mul", [made.cast("w_stored", "w_float"), made.tensor("w_scale", scale)], "w")
        return made

    return build


def _asymmetric(rng: np.random.Generator) -> Encoded:
    codes = rng.integers(0, 256, (ROWS, COLUMNS)).astype(np.uint8)
    scale, zero = np.float32(0.03), np.float32(121)
    made = Encoded(11, "uint8", (codes.astype(np.float32) - zero) * scale)
    cast = made.cast(made.tensor("w_stored", codes), "w_float")
    moved = made.node("Sub", [cast, made.tensor("w_zero", zero)], "w_moved")
    made.node("Mul", [moved, made.tensor("w_scale", scale)], "w")
    return made


def _blocks(rng: np.random.Generator) -> Encoded:
    """4 bits, one scale per block of 8 columns."""
    codes = rng.integers(-8, 8, (ROWS, COLUMNS // 8, 8))
    scale = rng.uniform(0.01, 0.1, (ROWS, COLUMNS // 8, 1)).astype(np.float32)
    values = (codes.astype(np.float32) * scale).reshape(ROWS, COLUMNS)
    made = Encoded(21, "int4", values)
    made.tensor("w_stored", codes, TensorProto.INT4)
    product = made.node("Mul", [made.cast("w_stored", "w_float"), made.tensor("w_scale", scale)], "w_blocks")
    made.reshaped(product)
    return made


def _moved_before_the_cast(rng: np.random.Generator) -> Encoded:
    """numpy has no 4-bit type: what Transpose gives must be carried in another one."""
    codes = rng.integers(0, 16, (COLUMNS, ROWS))
    made = Encoded(21, "uint4", codes.T.astype(np.float32))
    made.tensor("w_stored", codes, TensorProto.UINT4)
    made.cast(made.node("Transpose", ["w_stored"], "w_matrix", perm=[1, 0]), "w")
    return made


def _fixed_point(rng: np.random.Generator) -> Encoded:
    codes = rng.integers(-(2**15), 2**15, (ROWS, COLUMNS)).astype(np.int16)
    made = Encoded(13, "int16", codes.astype(np.float32) * np.float32(2.0**-12))
    cast = made.cast(made.tensor("w_stored", codes), "w_float")
    made.node("Mul", [cast, made.tensor("w_step", np.float32(2.0**-12))], "w")
    return made


def _log2(rng: np.random.Generator) -> Encoded:
    """Sign times a power of two."""
    exponents = rng.integers(-12, 3, (ROWS, COLUMNS)).astype(np.int8)
    signs = rng.choice([-1, 0, 1], (ROWS, COLUMNS)).astype(np.int8)
    made = Encoded(13, "int8", (signs * np.exp2(exponents.astype(np.float64))).astype(np.float32))
    power = made.cast(made.tensor("w_exponent", exponents), "w_power")
    size = made.node("Pow", [made.tensor("w_base", np.float32(2)), power], "w_size")
    made.node("Mul", [size, made.cast(made.tensor("w_sign", signs), "w_signs")], "w")
    return made


def pack(codes: NDArray[np.integer], bits: int) -> NDArray[np.uint8]:
    """Codes to bytes, the first in the lowest bits; [bytes, 1]."""
    each = 8 // bits
    padded = np.concatenate([codes.ravel(), np.zeros(-codes.size % each, codes.dtype)]).reshape(-1, each)
    return (padded << (bits * np.arange(each))).sum(axis=1).astype(np.uint8).reshape(-1, 1)


def unpack(made: Encoded, codes: NDArray[np.integer], bits: int) -> str:
    """Nodes that give the codes as uint8 [codes.size]."""
    each = 8 // bits
    places = made.tensor("bit_places", (bits * np.arange(each, dtype=np.uint8)).reshape(1, -1))
    shifted = made.node(
        "BitShift", [made.tensor("w_bits", pack(codes, bits)), places], "w_shifted", direction="RIGHT"
    )
    if made.opset >= 18:
        mask = made.tensor("bit_mask", np.uint8(2**bits - 1))
        taken = made.node("BitwiseAnd", [shifted, mask], "w_taken")
    else:  # the remainder is the same
        taken = made.node("Mod", [shifted, made.tensor("bit_mask", np.uint8(2**bits))], "w_taken")
    flat = made.reshaped(taken, "w_flat", (-1,))
    if codes.size % each == 0:
        return flat
    ends = [made.shape("w_start", 0), made.shape("w_end", codes.size)]
    return made.node("Slice", [flat, *ends], "w_codes")


def _packed(bits: int, opset: int) -> Callable[[np.random.Generator], Encoded]:
    def build(rng: np.random.Generator) -> Encoded:
        codes = rng.integers(0, 2**bits, ROWS * COLUMNS)
        book = rng.standard_normal(2**bits).astype(np.float32)
        made = Encoded(opset, "packed bits", book[codes].reshape(ROWS, COLUMNS))
        index = made.cast(unpack(made, codes, bits), "w_index", TensorProto.INT32)
        made.reshaped(made.node("Gather", [made.tensor("w_book", book), index], "w_values"))
        return made

    return build


def _binary(rng: np.random.Generator) -> Encoded:
    signs = rng.integers(0, 2, ROWS * COLUMNS)
    alpha = rng.uniform(0.1, 1, (ROWS, 1)).astype(np.float32)
    made = Encoded(18, "packed bits", (2 * signs - 1).astype(np.float32).reshape(ROWS, COLUMNS) * alpha)
    matrix = made.reshaped(made.cast(unpack(made, signs, 1), "w_float"), "w_matrix")
    doubled = made.node("Mul", [matrix, made.tensor("two", np.float32(2))], "w_doubled")
    signed = made.node("Sub", [doubled, made.tensor("one", np.float32(1))], "w_signed")
    made.node("Mul", [signed, made.tensor("w_alpha", alpha)], "w")
    return made


def _ternary(rng: np.random.Generator) -> Encoded:
    """2 bits hold -1, 0 and 1 as 0, 1 and 2."""
    codes = rng.integers(0, 3, ROWS * COLUMNS)
    alpha = rng.uniform(0.1, 1, (ROWS, 1)).astype(np.float32)
    made = Encoded(13, "packed bits", (codes - 1).astype(np.float32).reshape(ROWS, COLUMNS) * alpha)
    matrix = made.reshaped(made.cast(unpack(made, codes, 2), "w_float"), "w_matrix")
    signed = made.node("Sub", [matrix, made.tensor("one", np.float32(1))], "w_signed")
    made.node("Mul", [signed, made.tensor("w_alpha", alpha)], "w")
    return made


def _codebook(kind: int, size: int, opset: int) -> Callable[[np.random.Generator], Encoded]:
    def build(rng: np.random.Generator) -> Encoded:
        codes = rng.integers(0, size, (ROWS, COLUMNS))
        book = rng.standard_normal(size).astype(np.float32)
        made = Encoded(opset, "codebook", book[codes])
        made.tensor("w_codes", codes, kind)
        index = made.cast("w_codes", "w_index", TensorProto.INT32)
        made.node("Gather", [made.tensor("w_book", book), index], "w")
        return made

    return build


def _pruned(rng: np.random.Generator, dtype: type = np.int8) -> tuple[NDArray[np.bool_], Array]:
    kept = rng.random(ROWS * COLUMNS) < 0.2
    kept[[0, -1]] = True
    return kept, rng.integers(1, 128, int(kept.sum())).astype(dtype)


def _bitmask(rng: np.random.Generator) -> Encoded:
    """One bit per element; the kept int8 values in order."""
    kept, values = _pruned(rng)
    dense = np.zeros(kept.size, np.float32)
    dense[kept] = values.astype(np.float32) * np.float32(0.02)
    made = Encoded(18, "sparse", dense.reshape(ROWS, COLUMNS))
    mask = made.cast(unpack(made, kept.astype(np.int64), 1), "w_mask", TensorProto.INT32)
    count = made.node("CumSum", [mask, made.tensor("axis", np.int64(0))], "w_count")
    place = made.node("Mul", [count, mask], "w_place")
    cast = made.cast(made.tensor("w_kept", np.concatenate([[0], values]).astype(np.int8)), "w_kept_float")
    scaled = made.node("Mul", [cast, made.tensor("w_scale", np.float32(0.02))], "w_kept_scaled")
    made.reshaped(made.node("Gather", [scaled, place], "w_dense"))
    return made


def gaps_of(kept: NDArray[np.bool_], values: Array, most: int) -> tuple[NDArray[np.int64], Array]:
    """Distances between kept elements, at most `most`, with zeros as fillers where they are longer."""
    gaps, filled, last = [], [], -1
    for place, value in zip(np.flatnonzero(kept), values, strict=True):
        while place - last > most:
            gaps.append(most)
            filled.append(0)
            last += most
        gaps.append(int(place) - last)
        filled.append(value)
        last = int(place)
    return np.array(gaps), np.array(filled, values.dtype)


def _relative(scatter: str) -> Callable[[np.random.Generator], Encoded]:
    """4-bit gaps and int8 values, as in Deep Compression."""

    def build(rng: np.random.Generator) -> Encoded:
        kept, values = _pruned(rng)
        dense = np.zeros(kept.size, np.float32)
        dense[kept] = values.astype(np.float32) * np.float32(0.02)
        made = Encoded(21, "sparse", dense.reshape(ROWS, COLUMNS))
        gaps, filled = gaps_of(kept, values, 15)
        made.tensor("w_gaps", gaps, TensorProto.UINT4)
        steps = made.cast("w_gaps", "w_steps", TensorProto.INT64)
        ends = made.node("CumSum", [steps, made.tensor("axis", np.int64(0))], "w_ends")
        place = made.node("Sub", [ends, made.tensor("one", np.int64(1))], "w_place")
        ground = made.node(
            "ConstantOfShape",
            [made.shape("w_size", kept.size)],
            "w_ground",
            value=helper.make_tensor("zero", TensorProto.INT8, [1], [0]),
        )
        stored = made.tensor("w_kept", filled)
        if scatter == "ScatterND":
            place = made.reshaped(place, "w_places", (-1, 1))
            dense_codes = made.node("ScatterND", [ground, place, stored], "w_codes")
        else:
            dense_codes = made.node("ScatterElements", [ground, place, stored], "w_codes", axis=0)
        cast = made.cast(dense_codes, "w_float")
        made.reshaped(made.node("Mul", [cast, made.tensor("w_scale", np.float32(0.02))], "w_scaled"))
        return made

    return build


FORMS: dict[str, Callable[[np.random.Generator], Encoded]] = {
    "fp16": _float(TensorProto.FLOAT16, np.float16, "fp16"),
    "bf16": _float(TensorProto.BFLOAT16, ml_dtypes.bfloat16, "bf16"),
    "float8": _float(TensorProto.FLOAT8E4M3FN, ml_dtypes.float8_e4m3fn, "float8e4m3fn"),
    "int8": _scaled(TensorProto.INT8, -127, 127, 13, "int8"),
    "uint8 with a zero point": _asymmetric,
    "int4": _scaled(TensorProto.INT4, -8, 7, 21, "int4"),
    "uint4": _scaled(TensorProto.UINT4, 0, 15, 23, "uint4"),
    "int4 in blocks": _blocks,
    "uint4 moved before the cast": _moved_before_the_cast,
    "fixed point": _fixed_point,
    "log2": _log2,
    "1 bit packed": _packed(1, 18),
    "2 bits packed": _packed(2, 18),
    "4 bits packed, opset 13": _packed(4, 13),
    "binary": _binary,
    "ternary, opset 13": _ternary,
    "codebook of 256": _codebook(TensorProto.UINT8, 256, 13),
    "codebook of 16": _codebook(TensorProto.UINT4, 16, 21),
    "bitmask": _bitmask,
    "relative, ScatterElements": _relative("ScatterElements"),
    "relative, ScatterND": _relative("ScatterND"),
}
if hasattr(TensorProto, "INT2"):
    FORMS["int2"] = _scaled(TensorProto.INT2, -2, 1, 25, "int2")
    FORMS["uint2"] = _scaled(TensorProto.UINT2, 0, 3, 25, "uint2")


def model_with(made: Encoded, reader: str = "MatMul") -> onnx.ModelProto:
    """x [N, ROWS] (COLUMNS for Add: [ROWS, COLUMNS]) read with the weight; y."""
    shape = ["N", ROWS] if reader == "MatMul" else ["N", ROWS, COLUMNS]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", *shape[1:-1], COLUMNS])
    nodes = [*made.nodes, helper.make_node(reader, ["x", "w"], ["y"], name="reader")]
    net = helper.make_graph(nodes, "net", [x], [y], made.tensors)
    return helper.make_model(net, opset_imports=[helper.make_opsetid("", made.opset)], ir_version=10)

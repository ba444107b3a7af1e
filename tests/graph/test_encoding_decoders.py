"""What lies in the file, decoded by numpy from the description of each form: not by onnxruntime, nor by our own code."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from mlcompress import graph
from mlcompress.graph.encodings import Chains, Codes, store

SHAPE = (37, 153)  # a multiple of nothing
COUNT = 37 * 153
SCALE = np.float32([[0.25]])
Tensors = list[TensorProto]


def tensors(stored: np.ndarray, encoding: str, opset: int) -> Tensors:
    """The initializers that hold `stored`, in file order, and their scale."""
    proto = onnx.parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[n, 37] x) => (float[n, 153] y) {{ y = MatMul (x, w) }}'
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(stored.astype(np.float32), "w"))
    model = ir.from_proto(proto)
    scale = None if stored.dtype == np.float32 else SCALE
    store(
        Chains(model, 25 if opset == 25 else 21),
        model.graph.initializers["w"],
        Codes(stored, scale),
        encoding,
    )
    return list(onnx.load_from_string(graph.to_bytes(model)).graph.initializer)


def only(found: Tensors, kind: int, least: int = 0) -> TensorProto:
    """The one tensor of this type with so many bytes."""
    (one,) = [tensor for tensor in found if tensor.data_type == kind and len(tensor.raw_data) >= least]
    return one


def raw(tensor: TensorProto, dtype: type = np.uint8) -> np.ndarray:
    return np.frombuffer(tensor.raw_data, dtype)


def nibbles(tensor: TensorProto, width: int, count: int) -> np.ndarray:
    """ONNX's own order: the first number in the lowest bits of a byte."""
    each = [(raw(tensor) >> shift) & (2**width - 1) for shift in range(0, 8, width)]
    return np.stack(each, axis=1).ravel()[:count].astype(int)


def fields(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """Byte m of M holds numbers m, M + m, 2M + m..., the first in the lowest bits."""
    return np.concatenate([(packed >> shift) & (2**width - 1) for shift in range(0, 8, width)])[
        :count
    ].astype(int)


def planes(tensor: TensorProto, width: int, count: int) -> np.ndarray:
    rows = raw(tensor).reshape(width, -1)
    return sum((fields(row, 1, count) << bit for bit, row in enumerate(rows)), start=np.zeros(count, int))


def signed_four_bits(found: Tensors) -> np.ndarray:
    numbers = nibbles(only(found, TensorProto.INT4), 4, COUNT)
    return (numbers - 16 * (numbers > 7)).reshape(SHAPE)


def two_bits(found: Tensors) -> np.ndarray:
    numbers = nibbles(only(found, TensorProto.INT2), 2, COUNT)
    return (numbers - 4 * (numbers > 1)).reshape(SHAPE)


def four_bit_table(found: Tensors) -> np.ndarray:
    table = raw(only(found, TensorProto.FLOAT, 5), np.float32)
    return table[nibbles(only(found, TensorProto.UINT4), 4, COUNT)].reshape(SHAPE)


def five_bit_table(found: Tensors) -> np.ndarray:
    table = raw(only(found, TensorProto.FLOAT, 5), np.float32)
    return table[planes(only(found, TensorProto.UINT8, 100), 5, COUNT)].reshape(SHAPE)


def packed_bits(found: Tensors) -> np.ndarray:
    table = raw(only(found, TensorProto.FLOAT, 5), np.float32)
    return table[fields(raw(only(found, TensorProto.UINT8, 100)), 1, COUNT)].reshape(SHAPE)


def packed_trits(found: Tensors) -> np.ndarray:
    table, stored = (
        raw(only(found, TensorProto.FLOAT, 5), np.float32),
        raw(only(found, TensorProto.UINT8)).astype(int),
    )
    digits = np.concatenate([stored // 3**place % 3 for place in range(5)])
    return table[digits[:COUNT]].reshape(SHAPE)


def two_lengths(found: Tensors) -> np.ndarray:
    """Code `top` is the next of those behind the table (and one place that nobody reads)."""
    numbers = raw(only(found, TensorProto.INT8), np.int8)
    codes = nibbles(only(found, TensorProto.UINT4), 4, COUNT)
    table, others = numbers[:15], iter(numbers[16:])
    return np.array([next(others) if code == 15 else table[code] for code in codes]).reshape(SHAPE)


def bits_and_values(found: Tensors) -> np.ndarray:
    bits = fields(raw(only(found, TensorProto.UINT8, 100)), 1, COUNT)
    values = raw(only(found, TensorProto.INT8), np.int8)
    made = np.zeros(COUNT, int)
    made[bits == 1] = values[1:]
    assert values[0] == 0
    return made.reshape(SHAPE)


def gaps(found: Tensors) -> np.ndarray:
    """Every code is a distance and has a value; that of a filler is zero."""
    values = raw(only(found, TensorProto.INT8), np.int8)
    codes = nibbles(only(found, TensorProto.UINT4), 4, len(values))
    made = np.zeros(COUNT, int)
    made[np.cumsum(codes) - 1] = values
    return made.reshape(SHAPE)


def marked_gaps(found: Tensors) -> np.ndarray:
    """Code 0 steps by 15 and has no value."""
    values = raw(only(found, TensorProto.FLOAT, 500), np.float32)[1:]
    tensor = only(found, TensorProto.UINT4)
    codes = nibbles(tensor, 4, tensor.dims[0])
    made, place, rest = np.zeros(COUNT, np.float32), -1, iter(values)
    for code in codes:
        place += 15 if code == 0 else code
        if code != 0:
            made[place] = next(rest)
    assert next(rest, None) is None
    return made.reshape(SHAPE)


def rice_gaps(found: Tensors) -> np.ndarray:
    """A zero steps by 2^k; a one by its k bits and 1, to an element."""
    values = iter(raw(only(found, TensorProto.FLOAT, 500), np.float32)[1:])
    flags, tensor = raw(only(found, TensorProto.UINT8, 100)), only(found, TensorProto.UINT4)
    rests = nibbles(tensor, 4, tensor.dims[0])
    step, rest = rests[0] + 1, iter(rests[1:])
    made, place = np.zeros(COUNT, np.float32), -1
    for flag in fields(flags, 1, 8 * len(flags)):
        if flag == 0:
            place += step
        elif (low := next(rest, None)) is not None:
            place += low + 1
            made[place] = next(values)
    assert next(values, None) is None
    return made.reshape(SHAPE)


def stored_levels(kind: str) -> np.ndarray:
    rng = np.random.default_rng(5)
    kept = rng.random(SHAPE) < 0.1
    made = {
        "int4": rng.integers(-8, 8, SHAPE).astype(np.int8),
        "int2": rng.integers(-2, 2, SHAPE).astype(np.int8),
        "ternary": rng.integers(-1, 2, SHAPE).astype(np.int8),
        "binary": (2 * rng.integers(0, 2, SHAPE) - 1).astype(np.int8),
        "skewed": np.clip(np.rint(rng.laplace(0, 3, SHAPE)), -127, 127).astype(np.int8),
        "sparse": np.where(kept, rng.integers(1, 128, SHAPE), 0).astype(np.int8),
        "sparse floats": np.where(kept, rng.standard_normal(SHAPE), 0).astype(np.float32),
    }
    for count in (16, 32):
        made[f"{count} floats"] = rng.standard_normal(count).astype(np.float32)[rng.integers(0, count, SHAPE)]
    return made[kind]


@pytest.mark.parametrize(
    ("encoding", "kind", "opset", "decode"),
    [
        ("int4", "int4", 21, signed_four_bits),
        ("int2", "int2", 25, two_bits),
        ("codebook", "16 floats", 21, four_bit_table),
        ("codebook", "32 floats", 18, five_bit_table),
        ("packed", "32 floats", 18, five_bit_table),
        ("packed", "binary", 18, packed_bits),
        ("packed", "ternary", 18, packed_trits),
        ("frequent", "skewed", 21, two_lengths),
        ("bitmask", "sparse", 18, bits_and_values),
        ("relative", "sparse", 21, gaps),
        ("relative", "sparse floats", 21, marked_gaps),
        ("rice", "sparse floats", 21, rice_gaps),
    ],
)
def test_the_file_holds_what_the_form_says(
    encoding: str, kind: str, opset: int, decode: Callable[[Tensors], np.ndarray]
) -> None:
    stored = stored_levels(kind)
    found = tensors(stored, encoding, opset)
    np.testing.assert_array_equal(decode(found), stored)
    # Negative control: other levels are other bytes.
    other = stored[::-1].copy()
    assert not np.array_equal(decode(tensors(other, encoding, opset)), stored)

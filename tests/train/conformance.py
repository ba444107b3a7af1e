"""onnx's own backend test cases: models of one node (or an expanded function, or a small net) with the
outputs that ONNX defines for them, and tolerances.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import numpy_helper

from mlcompress.errors import UserError
from mlcompress.train.executor import Executor

FOLDERS = ("simple", "pytorch-converted", "pytorch-operator")
PACKED = {"int4": np.int8, "uint4": np.uint8, "int2": np.int8, "uint2": np.uint8}
"""Types of 4 and 2 bits enter and leave the executor as 8."""


@dataclass(frozen=True)
class Case:
    name: str
    model: onnx.ModelProto
    sets: list[tuple[list[Any], list[Any]]]
    """Inputs and outputs, in the order of the graph's."""
    rtol: float
    atol: float


@dataclass(frozen=True)
class Outcome:
    state: str
    """match, refused (before anything ran), wrong, or raised (while it ran)"""
    text: str = ""


@cache
def cases() -> list[Case]:
    """All of them, by name. Takes five seconds: onnx computes the expected outputs of most."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, from cases that overflow on purpose
        found = [
            Case(case.name, case.model, case.data_sets, case.rtol, case.atol)
            for case in load_model_tests(kind="node")
        ]
    for case in (case for folder in FOLDERS for case in load_model_tests(kind=folder)):
        found.append(_stored(case.name, Path(case.model_dir), case.rtol, case.atol))
    return sorted(found, key=lambda case: case.name)


def _stored(name: str, folder: Path, rtol: float, atol: float) -> Case:
    model = onnx.load(folder / "model.onnx")
    sets = [
        (_values(data, "input", model.graph.input), _values(data, "output", model.graph.output))
        for data in sorted(folder.glob("test_data_set*"))
    ]
    return Case(name, model, sets, rtol, atol)


def _values(folder: Path, prefix: str, declared: Any) -> list[Any]:
    values = []
    for index, value in enumerate(declared):
        path = folder / f"{prefix}_{index}.pb"
        if path.exists():
            kind = onnx.SequenceProto if value.type.HasField("sequence_type") else onnx.TensorProto
            values.append(kind.FromString(path.read_bytes()))
    return values


def run(case: Case, load: Callable[[onnx.ModelProto], ir.Model] = ir.from_proto) -> Outcome:
    """What becomes of a case in the executor."""
    try:
        executor = Executor(load(case.model)).eval()
    except UserError as error:
        return Outcome("refused", str(error))
    names = [value.name for value in case.model.graph.input]
    for inputs, outputs in case.sets:
        feed = {name: _tensor(value) for name, value in zip(names, inputs, strict=False)}
        try:
            with torch.no_grad():
                got = executor(feed)
        except Exception as error:  # whatever it is, it came too late
            return Outcome("raised", repr(error))
        for value, wanted in zip(case.model.graph.output, outputs, strict=True):
            problem = differs(_array(got[value.name]), _wanted(wanted), case)
            if problem:
                return Outcome("wrong", f"{value.name}: {problem}")
    return Outcome("match")


def differs(got: np.ndarray, wanted: np.ndarray, case: Case) -> str:
    """Type, shape or numbers beyond the tolerances of the case, as onnx's own runner compares them."""
    if (got.dtype, got.shape) != (wanted.dtype, wanted.shape):
        return f"{got.dtype} {got.shape} instead of {wanted.dtype} {wanted.shape}"
    rtol = case.rtol
    if got.dtype.name == "bfloat16":  # two units in the last place, as the runner has it
        rtol, got, wanted = max(rtol, 2**-6), got.astype(np.float32), wanted.astype(np.float32)
    close = np.isclose(got, wanted, rtol=rtol, atol=case.atol, equal_nan=got.dtype.kind == "f")
    return "" if close.all() else f"{(~close).sum()} of {close.size} numbers"


def _wanted(value: Any) -> np.ndarray:
    array = np.asarray(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)
    return array.astype(PACKED.get(array.dtype.name, array.dtype))


def _tensor(value: Any) -> torch.Tensor:
    array = _wanted(value)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


def _array(tensor: torch.Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()

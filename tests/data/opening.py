"""Signatures and short calls shared by the tests of data."""

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcompress.data import Dataset, open_data
from mlcompress.errors import UserError
from mlcompress.graph import Signature, Tensor
from mlcompress.recipe.sections import DataEntry

Shape = tuple[int | str | None, ...]


def model(classes: int | None = 10, **inputs: tuple[str, Shape]) -> Signature:
    """A signature with output `logits` [N, classes]; inputs as name=(dtype, shape), by default one image."""
    inputs = inputs or {"image": ("float32", ("N", 1, 28, 28))}
    tensors = tuple(Tensor(name, np.dtype(dtype), shape) for name, (dtype, shape) in inputs.items())
    return Signature(tensors, (Tensor("logits", np.dtype("float32"), ("N", classes)),))


def opened(entry: dict[str, Any], signature: Signature | None = None, **options: Any) -> Dataset:
    """`open_data` with `data.train`, no labels needed and seed 0 unless said otherwise."""
    settings = {"where": "data.train", "labels": False, "seed": 0} | options
    return open_data(DataEntry.model_validate(entry), signature or model(), **settings)


def refusal(entry: dict[str, Any], signature: Signature | None = None, **options: Any) -> list[str]:
    """The lines with which the entry is refused; each must be one line that begins with its place."""
    with pytest.raises(UserError) as caught:
        opened(entry, signature, **options)
    lines = list(caught.value.lines)
    for line in lines:
        assert "\n" not in line
        assert line.startswith("data.train")
        assert ": " in line
    return lines


def digits(count: int = 40, classes: int = 10) -> dict[str, np.ndarray]:
    """`x` uint8 [count, 28, 28] and `y` int64 [count], seeded."""
    rng = np.random.default_rng(7)
    return {"x": rng.integers(0, 256, (count, 28, 28), np.uint8), "y": np.arange(count) % classes}


PIXELS: list[dict[str, Any]] = [
    {"scale": 1 / 255},
    {"normalize": {"mean": [0.286], "std": [0.353]}},
    {"layout": "NCHW"},
]


def npz(path: Path, packing: int = zipfile.ZIP_STORED, **arrays: Any) -> str:
    """Write an .npz with the given zip packing; the path as text."""
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, array in arrays.items():
            buffer = io.BytesIO()
            np.save(buffer, np.asarray(array))
            archive.writestr(f"{name}.npy", buffer.getvalue())
    return str(path)


def npy(folder: Path, **arrays: Any) -> str:
    """Write a folder of .npy files; the path as text."""
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return str(folder)

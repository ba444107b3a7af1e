"""What a source of data is made of: named columns with one row per sample."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]

CHUNK_BYTES = 1 << 20
"""Rows are hashed in pieces of about this size, so that hashing a mapped file needs little memory."""


class Column(Protocol):
    """One array of samples [N, ...], read by rows."""

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, ...]"""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype that `take` returns, in native byte order."""

    def take(self, rows: Array) -> Array:
        """The rows as a new array [B, ...]. Raises DataError when a file turns out to be broken."""

    def whole(self) -> Array:
        """All values, as they are: the only way to read a column that is one number."""

    def content(self, rows: Array) -> Iterator[bytes]:
        """The stored bytes of the rows, for fingerprints: content only, never a path or a time."""

    def faults(self, rows: Array) -> list[str]:
        """What is wrong with the rows, as far as it can be seen without decoding them."""


@dataclass(frozen=True)
class ArrayColumn:
    """An array in memory or mapped from a file."""

    array: Array

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        native: np.dtype[Any] = self.array.dtype.newbyteorder("=")
        return native

    def take(self, rows: Array) -> Array:
        return self.array[rows].astype(self.dtype, copy=False)

    def whole(self) -> Array:
        return self.array.astype(self.dtype)

    def content(self, rows: Array) -> Iterator[bytes]:
        row_bytes = max(1, math.prod(self.shape[1:]) * self.dtype.itemsize)
        step = max(1, CHUNK_BYTES // row_bytes)
        for start in range(0, len(rows), step):
            yield self.take(rows[start : start + step]).tobytes()

    def faults(self, rows: Array) -> list[str]:
        return []


@dataclass(frozen=True)
class RandomColumn:
    """Random values in the shape and dtype of a model input; a row depends on seed and row number only.

    Floats are standard normal, uint8 covers 0-255. Other integers are 0 or 1: the only values that are valid
    token ids, masks and segment numbers at once.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    key: tuple[int, int]
    """(seed, number of the input)"""

    def take(self, rows: Array) -> Array:
        drawn = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows):
            drawn[place] = self._draw(np.random.default_rng((*self.key, int(row))))
        return drawn

    def _draw(self, rng: np.random.Generator) -> Array:
        if is_float(self.dtype):
            return rng.standard_normal(self.shape[1:], np.float32)
        return rng.integers(0, 256 if self.dtype == np.uint8 else 2, self.shape[1:])

    def whole(self) -> Array:
        return self.take(np.arange(self.shape[0]))

    def content(self, rows: Array) -> Iterator[bytes]:
        for row in rows:
            yield self.take(np.array([row])).tobytes()

    def faults(self, rows: Array) -> list[str]:
        return []


@dataclass(frozen=True)
class ModelInput:
    """A model input whose shape is declared: str or None is a dynamic axis."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]

    def __str__(self) -> str:
        """`'image' float32 [batch, 1, 28, 28]`"""
        return f"{self.name!r} {spell(self.dtype, self.shape)}"


@dataclass(frozen=True)
class Source:
    """An opened source: what it holds (for messages) and how to read it."""

    kind: str
    """npz, npy, images, table, python or synthetic"""
    arrays: dict[str, str]
    """name -> dtype and shape as text, such as `uint8 [12000, 28, 28]`, or what makes it unreadable"""
    read: Callable[[str], Column]
    """The column of that name; raises DataError with one line."""
    classes: tuple[str, ...] = ()
    """Names of the label ids, where the source has them."""

    def listing(self) -> str:
        """`x uint8 [12000, 28, 28], y int64 [12000]`"""
        shown = [f"{name} {text}".rstrip() for name, text in list(self.arrays.items())[:12]]
        more = len(self.arrays) - len(shown)
        return ", ".join(shown) + (f" (+{more} more)" if more else "")


def is_float(dtype: np.dtype[Any]) -> bool:
    """True for numpy's floats and for bfloat16, which numpy files under void."""
    return dtype.kind == "f" or dtype.name == "bfloat16"


def name_of(dtype: np.dtype[Any]) -> str:
    """`float32`; numpy's strings are `text`."""
    return "text" if dtype.kind == "U" else dtype.name


def axes(shape: tuple[int | str | None, ...]) -> str:
    """`[batch, 1, 28, 28]`; an unnamed dynamic axis is `?`."""
    return f"[{', '.join('?' if size is None else str(size) for size in shape)}]"


def spell(dtype: np.dtype[Any], shape: tuple[int | str | None, ...]) -> str:
    """`float32 [batch, 1, 28, 28]`"""
    return f"{name_of(dtype)} {axes(shape)}"

"""Arrays that lie in files and are read where they are needed, so that memory does not grow with a model.

`spilling` moves what a transform makes of large weights into a nameless file as soon as it is made, and lets
go of pages that were read. What is mapped stays valid when `spilling` ends.
"""

import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

LEAST = 2**16
"""Bytes below which an array stays in memory."""
_maps: WeakSet[mmap.mmap] = WeakSet()
_file: ContextVar[IO[bytes] | None] = ContextVar("_file", default=None)


@contextmanager
def spilling(folder: Path | None) -> Iterator[None]:
    """While this lasts, `keep` puts arrays into a file in `folder` (None: the system's temporary one)."""
    with tempfile.TemporaryFile(dir=folder) as file:
        before = _file.set(file)
        try:
            yield
        finally:
            _file.reset(before)


def keep(array: NDArray[Any]) -> NDArray[Any]:
    """The same numbers, in the file of `spilling`; the array itself where there is none, or no need."""
    file = _file.get()
    if file is None or array.nbytes < LEAST or array.dtype == object or _is_mapped(array):
        return array
    start = file.seek(0, 2)
    start += -start % mmap.ALLOCATIONGRANULARITY
    file.seek(start)
    file.write(memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8)))  # type: ignore[arg-type]
    file.flush()
    data = _mapped(file, array.nbytes, start)
    forget()
    return data.view(array.dtype).reshape(array.shape)


def read_only(path: Path) -> NDArray[np.uint8]:
    """The bytes of a file, mapped."""
    size = path.stat().st_size
    if not size:
        return np.empty(0, np.uint8)
    with path.open("rb") as file:
        return _mapped(file, size, 0)


def forget() -> None:
    """Give back the memory of all mapped pages; they are read again from their files when they are needed."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for held in _maps:
            held.madvise(mmap.MADV_DONTNEED)


def _mapped(file: IO[bytes], size: int, start: int) -> NDArray[np.uint8]:
    held = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=start)
    _maps.add(held)
    return np.frombuffer(held, np.uint8)


def _is_mapped(array: NDArray[Any]) -> bool:
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return isinstance(base, mmap.mmap)

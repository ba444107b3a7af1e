"""`path`: an .npz file, or a folder of .npy files that stay on disk (memory-mapped). Never unpickles."""

import lzma
import math
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import psutil

from mlcompress.data.columns import Array, ArrayColumn, Column, Source, spell
from mlcompress.errors import DataError, one_line

_READ_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    KeyError,
    zipfile.BadZipFile,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
"""What zipfile and numpy raise on broken files; RuntimeError: encrypted or packed in an unknown way."""


def open_path(path: str, where: str) -> Source:
    """The arrays of an .npz file or of a folder of .npy files. Raises DataError."""
    place = Path(path)
    if place.is_dir():
        return _open_folder(place, where)
    if not place.exists():
        raise DataError(f"{where}.path: {path}: no such file or folder")
    if place.suffix in (".csv", ".parquet"):
        raise DataError(f"{where}.path: {path} is a table; write `table: {path}`")
    if place.suffix == ".npy":
        raise DataError(f"{where}.path: {path} is one array; put it into a folder and name the folder")
    return _open_npz(place, where)


def _open_npz(path: Path, where: str) -> Source:
    arrays, broken = {}, {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                if member.endswith(".npy"):
                    name = member.removesuffix(".npy")
                    try:
                        arrays[name] = spell(*_declared(archive, member))
                    except _READ_ERRORS as error:
                        broken[name] = one_line(error)
    except _READ_ERRORS as error:
        raise DataError(
            f"{where}.path: {path}: not a readable .npz file ({one_line(error)}); "
            "write it again with numpy.savez"
        ) from error
    if not arrays and not broken:
        raise DataError(f"{where}.path: {path}: holds no arrays; write it with numpy.savez")

    def read(name: str) -> Column:
        if name in broken:
            raise DataError(f"{where}.path: {path}: array {name!r} is unreadable: {broken[name]}")
        try:
            with zipfile.ZipFile(path) as archive:
                return ArrayColumn(_read_member(archive, f"{name}.npy"))
        except (*_READ_ERRORS, MemoryError) as error:
            raise DataError(
                f"{where}.path: {path}: array {name!r} is unreadable: {one_line(error)}"
            ) from error

    return Source("npz", {**arrays, **dict.fromkeys(broken, "(unreadable)")}, read)


def _declared(archive: zipfile.ZipFile, member: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """dtype and shape from a member's header, when its size agrees and this machine's memory can hold it.

    Raises ValueError, or what zipfile raises.
    """
    with archive.open(member) as stream:
        shape, dtype = _header(stream)
        promised, held = math.prod(shape) * dtype.itemsize, archive.getinfo(member).file_size - stream.tell()
    if promised != held:
        raise ValueError(f"its header says {promised} bytes, the file holds {held}")
    memory = psutil.virtual_memory().total
    if promised > memory:
        raise ValueError(
            f"it needs {promised / 2**30:.1f} GiB of memory and this machine has {memory / 2**30:.1f}; "
            "save it as a folder of .npy files, which is not loaded whole"
        )
    return dtype, shape


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f".npy version {version[0]}.{version[1]} holds records, not an array of numbers")
    stored = np.lib.format
    parse = stored.read_array_header_1_0 if version == (1, 0) else stored.read_array_header_2_0
    try:
        shape, _, dtype = parse(stream)
    except (SyntaxError, ValueError, tokenize.TokenError, Warning) as error:  # the header is a Python literal
        raise ValueError(f"damaged header ({one_line(error)})") from error
    _refuse_objects(dtype)
    if any(size < 0 for size in shape):
        raise ValueError(f"impossible shape {list(shape)}")
    return shape, dtype


def _refuse_objects(dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise ValueError("it holds pickled Python objects, which are never loaded; save numbers or text")


def _read_member(archive: zipfile.ZipFile, member: str) -> Array:
    _declared(archive, member)
    with archive.open(member) as stream:
        array: Array = np.lib.format.read_array(stream, allow_pickle=False)
    return array


def _open_folder(path: Path, where: str) -> Source:
    files = {file.stem: file for file in sorted(path.glob("*.npy"))}
    if not files:
        raise DataError(
            f"{where}.path: {path}: no .npy files in this folder; for pictures write `images: {path}` instead"
        )
    mapped: dict[str, Array] = {}
    broken: dict[str, str] = {}
    for name, file in files.items():
        try:
            with file.open("rb") as stream:
                _header(stream)
            mapped[name] = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        except _READ_ERRORS as error:
            broken[name] = one_line(error)

    def read(name: str) -> Column:
        if name in broken:
            raise DataError(f"{where}.path: {files[name]}: unreadable: {broken[name]}")
        return ArrayColumn(mapped[name])

    listed = {name: spell(array.dtype, array.shape) for name, array in mapped.items()}
    return Source("npy", {**listed, **dict.fromkeys(broken, "(unreadable)")}, read)

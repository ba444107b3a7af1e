"""`table`: columns of a CSV or Parquet file. They have no tensor types: numbers take their input's dtype."""

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from mlcompress.data.columns import Array, ArrayColumn, Source, is_float
from mlcompress.errors import DataError, UnsupportedError, one_line, shorten


def open_table(path: str, wanted: Iterable[str], where: str) -> Source:
    """The `wanted` columns that are there, as int64, float64 or text [N]; the others are only listed.

    Raises DataError, or UnsupportedError for Parquet without pyarrow.
    """
    here = f"{where}.table"
    place = Path(path)
    if not place.is_file():
        raise DataError(f"{here}: {path}: no such file")
    readers: dict[str, Callable[[Path, set[str], str], tuple[list[str], dict[str, Array]]]] = {
        ".csv": _read_csv,
        ".parquet": _read_parquet,
    }
    if place.suffix.lower() not in readers:
        raise DataError(f"{here}: {path}: not a .csv or .parquet file")
    names, columns = readers[place.suffix.lower()](place, set(wanted), here)
    listed = {name: columns[name].dtype.name if name in columns else "" for name in names}
    return Source("table", listed, lambda name: ArrayColumn(columns[name]))


def stack(source: Source, names: list[str], dtype: np.dtype[Any], here: str) -> ArrayColumn:
    """Columns side by side, [N, len(names)], in `dtype`. Raises DataError for text and for lost fractions."""
    columns = [source.read(name) for name in names]
    arrays = [column.whole() for column in columns]
    text = [
        _first_text(name, array) for name, array in zip(names, arrays, strict=True) if array.dtype.kind == "U"
    ]
    if text:
        raise DataError(f"{here}: {shorten(text)}; inputs need numbers")
    if not is_float(dtype):
        broken = [
            name
            for name, array in zip(names, arrays, strict=True)
            if not np.array_equal(array, np.rint(array))
        ]
        if broken:
            raise DataError(f"{here}: column {shorten(broken)} has fractions; the input takes {dtype.name}")
    return ArrayColumn(np.stack(arrays, axis=1).astype(dtype))


def _first_text(name: str, array: Array) -> str:
    for row, cell in enumerate(array):
        if _numbers([str(cell)]).dtype.kind == "U":
            return f"column {name!r} has {str(cell)!r} in sample {row}"
    return f"column {name!r} mixes numbers that no dtype holds"


def _read_csv(path: Path, wanted: set[str], here: str) -> tuple[list[str], dict[str, Array]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream, strict=True)
            names = next(rows, [])
            _check_names(path, names, here)
            places = {name: names.index(name) for name in names if name in wanted}
            cells: dict[str, list[str]] = {name: [] for name in places}
            for row in rows:
                if not row:
                    continue  # an empty line, usually the last
                if len(row) != len(names):
                    raise DataError(
                        f"{here}: {path}:{rows.line_num}: {len(row)} values here, {len(names)} in the header"
                    )
                for name, place in places.items():
                    cells[name].append(row[place])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{here}: {path}: not a readable CSV file in UTF-8: {one_line(error)}") from error
    return names, {name: _numbers(texts) for name, texts in cells.items()}


def _check_names(path: Path, names: list[str], here: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if not names or "" in names:
        raise DataError(f"{here}: {path}:1: a column has no name; the first row must name all columns")
    if twice:
        raise DataError(f"{here}: {path}:1: column {shorten(twice)} is named twice")


def _numbers(texts: list[str]) -> Array:
    """int64 if all cells are whole numbers, else float64 if all are numbers, else text as it stands."""
    if any("_" in text for text in texts):  # Python reads 1_000 as a number; no other reader of CSV does
        return np.array(texts)
    for kind, dtype in ((int, np.int64), (float, np.float64)):
        try:
            return np.array([kind(text) for text in texts], dtype)
        except (ValueError, OverflowError):
            continue
    return np.array(texts)


def _read_parquet(path: Path, wanted: set[str], here: str) -> tuple[list[str], dict[str, Array]]:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UnsupportedError(f"{here}: Parquet needs pyarrow; pip install mlcompress[tables]") from error
    try:
        with parquet.ParquetFile(path) as file:
            names = [str(name) for name in file.schema_arrow.names]
            _check_names(path, names, here)
            table = file.read(columns=[name for name in names if name in wanted])
    except (arrow.ArrowException, OSError) as error:
        raise DataError(f"{here}: {path}: not a readable Parquet file: {one_line(error)}") from error
    return names, {
        name: _from_arrow(table.column(name), f"{here}: {path}: column {name!r}")
        for name in table.column_names
    }


def _from_arrow(column: Any, here: str) -> Array:
    import pyarrow as arrow

    if column.null_count:
        raise DataError(f"{here}: {column.null_count} empty cells; fill or drop those rows")
    if arrow.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if arrow.types.is_string(column.type) or arrow.types.is_large_string(column.type):
        return np.array(column.to_pylist(), dtype=np.str_)
    is_number = (
        arrow.types.is_integer(column.type)
        or arrow.types.is_floating(column.type)
        or arrow.types.is_boolean(column.type)
    )
    if not is_number:
        raise DataError(f"{here}: type {column.type}; inputs and labels need numbers or text")
    array: Array = column.to_numpy()
    return array.astype(np.int64) if array.dtype.kind == "b" else array

"""CSV and Parquet tables."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest

from tests.data.opening import model, opened, refusal

TWO = model(3, x=("float32", ("N", 2)))
CSV = "a,b,kind\n1,2.5,dog\n3,4.5,cat\n5,6.5,eel\n"
ENTRY = {"inputs": {"x": ["a", "b"]}, "label": "kind"}


def csv(path: Path, text: str = CSV, encoding: str = "utf-8") -> str:
    path.write_text(text, encoding=encoding)
    return str(path)


def test_columns_are_stacked_in_the_order_named(tmp_path: Path) -> None:
    data = opened({"table": csv(tmp_path / "t.csv"), "inputs": {"x": ["b", "a"]}}, TWO)
    batch = data.take(np.arange(3)).inputs["x"]
    assert batch.dtype == np.float32
    np.testing.assert_array_equal(batch, [[2.5, 1], [4.5, 3], [6.5, 5]])


def test_text_labels_are_ids_of_the_sorted_classes(tmp_path: Path) -> None:
    data = opened({"table": csv(tmp_path / "t.csv"), **ENTRY}, TWO, labels=True)
    assert data.origin.classes == ("cat", "dog", "eel")
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 2]


def test_classes_come_from_the_whole_table_even_with_a_limit(tmp_path: Path) -> None:
    data = opened({"table": csv(tmp_path / "t.csv"), **ENTRY, "limit": 1}, TWO, labels=True)
    assert data.labels is not None
    assert data.labels.tolist() == [1]


def test_parquet_gives_what_csv_gives(tmp_path: Path) -> None:
    table = arrow.table(
        {"a": [1, 3, 5], "b": [2.5, 4.5, 6.5], "kind": arrow.array(["dog", "cat", "eel"]).dictionary_encode()}
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    from_parquet = opened({"table": str(tmp_path / "t.parquet"), **ENTRY}, TWO, labels=True)
    from_csv = opened({"table": csv(tmp_path / "t.csv"), **ENTRY}, TWO, labels=True)
    assert from_parquet.fingerprint == from_csv.fingerprint
    assert from_parquet.origin.classes == from_csv.origin.classes


def test_columns_named_like_inputs_byte_order_mark_and_quotes(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", 'age,"y"\n"20",1\n30,0\n\n', "utf-8-sig")
    data = opened({"table": path}, model(2, age=("int64", ("N",))), labels=True)
    assert data.take(np.arange(2)).inputs["age"].tolist() == [20, 30]
    assert data.origin.notes == ("data.train.label: labels come from 'y'",)


def test_transforms_apply_to_tables(tmp_path: Path) -> None:
    steps = [{"normalize": {"mean": [3, 4.5], "std": [2, 4]}}]
    data = opened({"table": csv(tmp_path / "t.csv"), **ENTRY, "transforms": steps}, TWO)
    np.testing.assert_array_equal(data.take(np.arange(3)).inputs["x"], [[-1, -0.5], [0, 0], [1, 0.5]])


T = "data.train.table: "
X = "data.train.inputs.x: "


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,b,kind\n1,2,dog\n3,4\n", T + "{path}:3: 2 values here, 3 in the header"),
        ("a,b,kind\n1,2,dog\n3,oops,cat\n", X + "column 'b' has 'oops' in sample 1; inputs need numbers"),
        ("a,b,kind\n1,2,dog\n3,,cat\n", X + "column 'b' has '' in sample 1; inputs need numbers"),
        ("a,b,kind\n1,2,dog\n3,1_000,cat\n", X + "column 'b' has '1_000' in sample 1; inputs need numbers"),
        ("a,c,kind\n1,2,dog\n", X + "no column 'b'; the data has a int64, c, kind"),
        ("a,b,b\n1,2,3\n", T + "{path}:1: column b is named twice"),
        ("a,,b\n1,2,3\n", T + "{path}:1: a column has no name; the first row must name all columns"),
        ("", T + "{path}:1: a column has no name; the first row must name all columns"),
        ("a,b,kind\n", "data.train: no samples"),
        ("a,b,kind\n1,nan,dog\n", X + "NaN or infinity in sample 0; mend or drop that sample"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str, line: str) -> None:
    path = csv(tmp_path / "t.csv", text)
    assert refusal({"table": path, "inputs": {"x": ["a", "b"]}}, TWO) == [line.format(path=path)]


def test_bad_quotes(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", 'a,b,kind\n1,"2"3,dog\n')
    (line,) = refusal({"table": path, "inputs": {"x": ["a", "b"]}}, TWO)
    assert line.startswith(f"{T}{path}: not a readable CSV file in UTF-8: ")


def test_bad_bytes_and_bad_files(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv", "a,b\n1,é\n", "latin-1")
    (line,) = refusal({"table": path, **ENTRY}, TWO)
    assert line.startswith(f"{T}{path}: not a readable CSV file in UTF-8: ")
    (tmp_path / "t.parquet").write_bytes(b"PAR1 and nothing else PAR1")
    (line,) = refusal({"table": str(tmp_path / "t.parquet"), **ENTRY}, TWO)
    assert line.startswith(f"{T}{tmp_path}/t.parquet: not a readable Parquet file: ")
    assert refusal({"table": "nowhere.csv"}, TWO) == [T + "nowhere.csv: no such file"]
    other = csv(tmp_path / "t.xlsx", "a")
    assert refusal({"table": other}, TWO) == [f"{T}{other}: not a .csv or .parquet file"]


def test_parquet_empty_cells_and_odd_types(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    parquet.write_table(arrow.table({"a": [1, None], "b": [1.0, 2.0]}), path)
    assert refusal({"table": str(path), "inputs": {"x": ["a", "b"]}}, TWO) == [
        f"{T}{path}: column 'a': 1 empty cells; fill or drop those rows"
    ]
    parquet.write_table(arrow.table({"a": [[1], [2]], "b": [1.0, 2.0]}), path)
    (line,) = refusal({"table": str(path), "inputs": {"x": ["a", "b"]}}, TWO)
    assert line.endswith("; inputs and labels need numbers or text")


def test_fractions_are_not_cut_for_integer_inputs(tmp_path: Path) -> None:
    path = csv(tmp_path / "t.csv")
    assert refusal({"table": path, "inputs": {"x": ["a", "b"]}}, model(3, x=("int64", ("N", 2)))) == [
        X + "column b has fractions; the input takes int64"
    ]


def test_without_pyarrow_parquet_names_the_extra_and_csv_works(tmp_path: Path) -> None:
    csv(tmp_path / "t.csv")
    (tmp_path / "t.parquet").write_bytes(b"any")
    program = f"""
import sys
sys.modules["pyarrow"] = None
from tests.data.opening import model, opened
from mlcompress.errors import UnsupportedError
two = model(3, x=("float32", ("N", 2)))
entry = {ENTRY!r}
print(len(opened({{"table": {str(tmp_path / "t.csv")!r}, **entry}}, two)))
try:
    opened({{"table": {str(tmp_path / "t.parquet")!r}, **entry}}, two)
except UnsupportedError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "3\ndata.train.table: Parquet needs pyarrow; pip install mlcompress[tables]\n"

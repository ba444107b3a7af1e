"""Broken and hostile files: refused with the exact line that tells why; nothing in them is executed."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.opening import model, npy, npz, refusal

THREE = model(3, x=("float32", ("N", 3)))
X = np.zeros((4, 3), np.float32)
P = "data.train.path: "


def test_files_of_the_wrong_kind(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x\n1\n")
    assert refusal({"path": f"{tmp_path}/a.csv"}) == [
        f"{P}{tmp_path}/a.csv is a table; write `table: {tmp_path}/a.csv`"
    ]
    np.save(tmp_path / "a.npy", X)
    assert refusal({"path": f"{tmp_path}/a.npy"}) == [
        f"{P}{tmp_path}/a.npy is one array; put it into a folder and name the folder"
    ]
    (tmp_path / "empty").mkdir()
    assert refusal({"path": f"{tmp_path}/empty"}) == [
        f"{P}{tmp_path}/empty: no .npy files in this folder; "
        f"for pictures write `images: {tmp_path}/empty` instead"
    ]
    assert refusal({"images": f"{tmp_path}/empty"}) == [
        f"data.train.images: {tmp_path}/empty: no images; put them into one sub-folder per class"
    ]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("notes.txt", "no arrays")
    assert refusal({"path": f"{tmp_path}/a.npz"}) == [
        f"{P}{tmp_path}/a.npz: holds no arrays; write it with numpy.savez"
    ]


@pytest.mark.parametrize("source", ["path", "images", "table"])
def test_what_the_system_refuses_to_open(source: str) -> None:
    name = "n" * 5000
    assert refusal({source: name}) == [f"data.train: {name}: File name too long"]


def test_not_a_zip_at_all_and_a_truncated_one(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_text("PK but not really")
    assert refusal({"path": str(path)}) == [
        f"{P}{path}: not a readable .npz file (File is not a zip file); write it again with numpy.savez"
    ]
    npz(path, x=np.zeros((100, 3)))
    path.write_bytes(path.read_bytes()[:-40])
    assert refusal({"path": str(path)}) == [
        f"{P}{path}: not a readable .npz file (File is not a zip file); write it again with numpy.savez"
    ]


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_damaged_bytes_are_noticed_in_every_packing(tmp_path: Path, packing: int) -> None:
    path = tmp_path / "a.npz"
    npz(path, packing, x=np.random.default_rng(0).normal(size=(4000, 3)).astype(np.float32))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    (line,) = refusal({"path": str(path)}, THREE)
    assert line.startswith(f"{P}{path}: array 'x' is unreadable: ")


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("packed", [True, False])
def test_pickles_are_refused_and_not_executed(tmp_path: Path, packed: bool) -> None:
    mark = tmp_path / "executed"
    array = np.array([Trap(mark)], object)
    pickle.loads(pickle.dumps(array))  # noqa: S301 - the control: this trap does spring
    assert mark.exists()
    mark.unlink()
    path = npz(tmp_path / "a.npz", x=array) if packed else npy(tmp_path / "a", x=array)
    (line,) = refusal({"path": path}, THREE)
    assert line.endswith(
        "unreadable: it holds pickled Python objects, which are never loaded; save numbers or text"
    )
    assert not mark.exists()


def test_a_bare_pickle_with_the_name_of_an_npz(tmp_path: Path) -> None:
    mark, path = tmp_path / "executed", tmp_path / "a.npz"
    path.write_bytes(pickle.dumps(Trap(mark)))
    (line,) = refusal({"path": str(path)}, THREE)
    assert line.startswith(f"{P}{path}: not a readable .npz file")
    assert not mark.exists()


def raw_header(shape: str, descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}"
    return b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text.encode() + b"\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            raw_header("(1000000000000,)") + b"\0" * 16,
            "its header says 4000000000000 bytes, the file holds 16",
        ),
        (raw_header("(4, 3)") + b"\0" * 40, "its header says 48 bytes, the file holds 40"),
        (
            raw_header("(4, 3").replace(b"\n", b"\x00"),
            "damaged header (",  # what Python says of it differs between its versions
        ),
        (raw_header("(-4, -3)") + b"\0" * 48, "impossible shape [-4, -3]"),
        (b"\x93NUMPY\x03\x00" + b"\0" * 8, ".npy version 3.0 holds records, not an array of numbers"),
        (b"", "EOF: reading magic string, expected 8 bytes got 0"),
    ],
)
def test_members_whose_header_lies(tmp_path: Path, content: bytes, reason: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    path = tmp_path / "a.npz"
    (line,) = refusal({"path": str(path)}, THREE)
    assert line.startswith(f"{P}{path}: array 'x' is unreadable: {reason}")


def test_headers_are_not_evaluated_as_code(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", raw_header(f"(open('{tmp_path}/executed', 'w'),)"))
    (line,) = refusal({"path": f"{tmp_path}/a.npz"}, THREE)
    assert line.startswith(f"{P}{tmp_path}/a.npz: array 'x' is unreadable: ")
    assert not (tmp_path / "executed").exists()


def test_more_than_the_memory_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Small:
        total = 1 << 20

    monkeypatch.setattr("psutil.virtual_memory", lambda: Small)
    path = npz(tmp_path / "a.npz", zipfile.ZIP_LZMA, x=np.zeros((1 << 17, 3), np.float32))
    (line,) = refusal({"path": path}, THREE)
    assert line == (
        f"{P}{path}: array 'x' is unreadable: it needs 0.0 GiB of memory and this machine has 0.0; "
        "save it as a folder of .npy files, which is not loaded whole"
    )


def test_truncated_npy_in_a_folder(tmp_path: Path) -> None:
    folder = Path(npy(tmp_path / "a", x=np.zeros((100, 3), np.float32)))
    (folder / "x.npy").write_bytes((folder / "x.npy").read_bytes()[:500])
    (line,) = refusal({"path": str(folder)}, THREE)
    assert line.startswith(f"{P}{folder}/x.npy: unreadable: ")

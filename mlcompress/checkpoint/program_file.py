"""The parts of a torch.export archive: its description (JSON) and its weights (raw numbers).

Torch's own loader unpickles the sample inputs, evaluates expressions of the description and compiles its
names as code. Here the description is only ever data, and what is stored as a pickle is not opened.
"""

import json
import math
import re
from typing import Any

import torch

from mlcompress.checkpoint.archive import Archive, printable
from mlcompress.errors import ModelError, UnsupportedError

SCHEMA = 8
"""Major version of the description; torch raises it when older readers would misread it."""
DTYPES = {
    1: torch.uint8,
    2: torch.int8,
    3: torch.int16,
    4: torch.int32,
    5: torch.int64,
    6: torch.float16,
    7: torch.float32,
    8: torch.float64,
    12: torch.bool,
}
"""By the number that the description has for them; only those that onnxruntime computes with on a CPU."""
_SYMBOL = re.compile(r"Symbol\('(\w+)'[^'()]*\)|(\w+)")
_LARGEST_JSON = 256 * 2**20
_AGAIN = "save it again with torch.export.save of torch 2.8 or newer"


def description(archive: Archive) -> dict[str, Any]:
    """The description of the one program in an archive.

    Raises UnsupportedError for compiled packages, for archives of several programs and for other versions,
    and ModelError for a damaged one.
    """
    models = archive.under("models/")
    if archive.under("data/aotinductor/"):
        raise UnsupportedError(
            "is compiled to machine code (AOTInductor); give the program it was compiled from"
        )
    if len(models) != 1:
        raise UnsupportedError(f"holds {len(models)} programs; save one alone")
    made = _json(archive, models[0])
    version = made.get("schema_version", {})
    if version.get("major") != SCHEMA:
        raise UnsupportedError(
            f"is a program of schema {version.get('major')} (torch "
            f"{printable(str(made.get('torch_version')))}), "
            f"not {SCHEMA}; {_AGAIN}"
        )
    return made


def name_of(archive: Archive) -> str:
    """`model` in models/model.json; its weights are filed under it."""
    return archive.under("models/")[0].removeprefix("models/").removesuffix(".json")


def tensors(archive: Archive, folder: str, config: str) -> dict[str, torch.Tensor]:
    """Weights or constants by name; tied ones are one object.

    Raises UnsupportedError for those stored as pickles, and ModelError for damaged ones.
    """
    if archive.entries.get("byteorder") and archive.read("byteorder") != b"little":
        raise UnsupportedError("was saved on a big-endian machine; save it on another")
    listed = _json(archive, config)["config"]
    if pickled := [name for name, entry in listed.items() if entry["use_pickle"] or not entry["tensor_meta"]]:
        raise UnsupportedError(
            f"stores {printable(pickled[0])} as a pickle, which is not opened because it can run code; "
            "save a program of plain tensors"
        )
    known: dict[str, torch.Tensor] = {}
    return {name: _tensor(archive, folder, name, entry, known) for name, entry in listed.items()}


def _tensor(
    archive: Archive, folder: str, name: str, entry: dict[str, Any], known: dict[str, torch.Tensor]
) -> torch.Tensor:
    meta = entry["tensor_meta"]
    key = json.dumps([entry["path_name"], entry["is_param"], meta], sort_keys=True)
    if key in known:
        return known[key]
    dtype = dtype_of(meta["dtype"], name)
    sizes, strides = ([_length(one, name) for one in meta[part]] for part in ("sizes", "strides"))
    offset = _length(meta["storage_offset"], name)
    data = archive.read(f"{folder}{entry['path_name']}")
    reach = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True)) + 1
    count = math.prod(sizes)
    if (count and reach * dtype.itemsize > len(data)) or count > len(data):
        raise ModelError(f"{printable(name)} is {sizes}, more than its {len(data)} bytes hold; save it again")
    if count == 0:
        tensor = torch.zeros(sizes, dtype=dtype)
    else:
        whole = torch.frombuffer(bytearray(data), dtype=dtype, count=len(data) // dtype.itemsize)
        tensor = whole.as_strided(sizes, strides, offset).clone()
    if entry["is_param"]:
        tensor = torch.nn.Parameter(tensor, requires_grad=dtype.is_floating_point)
    known[key] = tensor
    return tensor


def dtype_of(number: int, name: str) -> torch.dtype:
    """Raises UnsupportedError for dtypes that no graph here has."""
    if number not in DTYPES:
        raise UnsupportedError(
            f"{printable(name)} has a dtype (number {number}) that is not read; convert it to float32"
        )
    return DTYPES[number]


def axis_of(size: dict[str, Any], name: str) -> int | str:
    """A length, or the name of a free axis.

    Raises UnsupportedError for one computed from others.
    """
    if "as_int" in size:
        return _length(size, name)
    text = str(size["as_expr"]["expr_str"])
    found = _SYMBOL.fullmatch(text)
    if found is None:
        raise UnsupportedError(
            f"an axis of {printable(name)} is computed from another ({printable(text)}); export it with a "
            "free axis"
        )
    return found[1] or found[2]


def _length(size: dict[str, Any], name: str) -> int:
    value = size.get("as_int")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**62:
        raise ModelError(f"{printable(name)} has the length {printable(str(size))}; save it again")
    return value


def _json(archive: Archive, name: str) -> dict[str, Any]:
    info = archive.entries.get(name)
    if info is not None and info.file_size > _LARGEST_JSON:
        raise ModelError(f"{name} in it has {info.file_size} bytes, which no program needs; it is not opened")
    try:
        made = json.loads(archive.read(name))
    except (ValueError, RecursionError):
        raise ModelError(f"{name} in it is no JSON; copy or save it again") from None
    if not isinstance(made, dict):
        raise ModelError(f"{name} in it is no description; save it again")
    return made

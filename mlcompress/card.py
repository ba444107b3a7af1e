"""The card beside an artifact: what was done, to what, and what was measured."""

import json
from pathlib import Path
from typing import Any

from mlcompress import files

Card = dict[str, Any]
"""Top level: tool, stage, recipe, seed, parent, output, change, size, metric, latency, memory, gate, data,
environment."""


def path_for(artifact: Path) -> Path:
    """`int8.onnx` -> `int8.onnx.json`."""
    return artifact.with_name(artifact.name + ".json")


def data_of(artifact: Path) -> Path:
    """The file of its large tensors, where there is one: `int8.onnx` -> `int8.onnx.data`."""
    return artifact.with_name(artifact.name + ".data")


def identity(artifact: Path) -> dict[str, Any]:
    """What says which bytes a card belongs to: `sha256` of the artifact, and `data` for that of its data."""
    found: dict[str, Any] = {"sha256": files.sha256(artifact)}
    if (data := data_of(artifact)).exists():
        found["data"] = {"sha256": files.sha256(data), "bytes": data.stat().st_size}
    return found


def to_bytes(card: Card) -> bytes:
    """Readable JSON with the keys in the order they were put in; NaN is refused, since JSON has none."""
    return (json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def read(artifact: Path) -> tuple[Card | None, str | None]:
    """The card of `artifact`, and why there is none to trust.

    Returns:
        (card, None) if it belongs to exactly these bytes; (None, None) if there is no card; (None, reason) if
        the card is broken or belongs to other bytes.
    """
    path = path_for(artifact)
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None, None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        return None, f"{path}: not a readable card; make the artifact again"
    if not isinstance(card, dict) or not isinstance(card.get("output"), dict):
        return None, f"{path}: not a card of mlcompress; make the artifact again"
    if card["output"].get("sha256") != files.sha256(artifact):
        return None, f"{path}: belongs to other bytes than {artifact.name}; make the artifact again"
    if (data := card["output"].get("data")) and data != identity(artifact).get("data"):
        return None, f"{path}: belongs to other bytes than {data_of(artifact).name}; make the artifact again"
    return card, None

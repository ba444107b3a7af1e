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
    return card, None

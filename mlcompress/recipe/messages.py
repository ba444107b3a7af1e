"""Pydantic's findings as lines a user can act on: `file:line: key: what is wrong; what to do`."""

import difflib
from typing import Any

from pydantic import BaseModel, ValidationError

from mlcompress.recipe.reader import Document, KeyPath

STAGES = ("distill", "prune", "quantize", "report")

LATER = frozenset(
    [
        "share",
        "factorize",
        "search",
        "target",
        "storage",
        "regularize",
        "pattern",
        "rounding",
        "bias_correction",
        "equalize",
        "smooth",
        "classes",
        "weights",
        "generations",
        "sweep",
        "depth",
        "factory",
        "checkpoint",
    ]
)
"""Keys of the recipe language that some version will have, where this one does not know them."""


def describe(problem: ValidationError, document: Document, schema: type[BaseModel], source: str) -> list[str]:
    """One line per key that is wrong, in the order of the file."""
    schema_json = schema.model_json_schema()
    lines: dict[KeyPath, str] = {}
    for finding in problem.errors(include_url=False):
        names_key = finding["type"] in ("missing", "extra_forbidden")
        path = _real_path(finding["loc"], document.value, names_key)
        text = _text(dict(finding), path, document.value, schema_json)
        known = lines.get(path)
        if known is None or finding["type"] == "extra_forbidden":
            lines[path] = f"{_where(path, document, source)}: {_dotted(path)}{text}"
    return list(lines.values())


def _text(finding: dict[str, Any], path: KeyPath, value: Any, schema: dict[str, Any]) -> str:
    kind, context = finding["type"], finding.get("ctx", {})
    if kind == "missing":
        return "is required; add it"
    if kind == "extra_forbidden":
        return _unknown_key(path, value, schema)
    if kind in ("literal_error", "union_tag_invalid", "enum"):
        return _not_a_choice(
            finding["input"], str(context.get("expected") or context.get("expected_tags")), kind
        )
    if kind == "union_tag_not_found":
        return "needs a `name`; write the method's name, or {name: ..., options}"
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return f"is a section with keys of its own (got {_short(finding['input'])}); write {{key: value}}"
    if kind == "too_short":
        held, least = context["actual_length"], context["min_length"]
        return f"is empty; name at least {least}" if held == 0 else f"has {held}; name at least {least}"
    message = str(finding["msg"]).removeprefix("Value error, ")
    text = f"{message[:1].lower()}{message[1:]}"
    return text if ";" in message else f"{text} (got {_short(finding['input'])}); change it"


def _unknown_key(path: KeyPath, value: Any, schema: dict[str, Any]) -> str:
    word = str(path[-1])
    if len(path) == 1 and word in STAGES:
        return f"unknown key; this section belongs in the recipe of `mlcompress {word}`"
    if word in LATER:
        return "is not in this version; leave it out"
    keys = sorted(_keys_at(path[:-1], value, schema, schema))
    if close := difflib.get_close_matches(word, keys, n=1, cutoff=0.6):
        return f"unknown key; did you mean {close[0]!r}?"
    return f"unknown key; known here: {', '.join(keys)}" if keys else "unknown key; remove it"


def _not_a_choice(given: Any, expected: str, kind: str) -> str:
    word = given.get("name") if kind == "union_tag_invalid" and isinstance(given, dict) else given
    choices = [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]
    close = difflib.get_close_matches(str(word), choices, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(choices)}"
    return f"{_short(word)} is not known; {hint}"


def _keys_at(path: KeyPath, value: Any, schema: dict[str, Any], root: dict[str, Any]) -> set[str]:
    """The keys that the JSON schema allows at `path`, following references, unions and the named method."""
    if reference := schema.get("$ref"):
        return _keys_at(path, value, root["$defs"][reference.rsplit("/", 1)[-1]], root)
    options = schema.get("anyOf") or schema.get("oneOf")
    if options:
        if "discriminator" in schema and isinstance(value, dict) and not path:
            chosen = schema["discriminator"]["mapping"].get(value.get("name"))
            options = [{"$ref": chosen}] if chosen else options
        return set().union(*(_keys_at(path, value, option, root) for option in options))
    if not path:
        return set(schema.get("properties", {}))
    if isinstance(path[0], int):
        item = value[path[0]] if isinstance(value, list) else None
        return _keys_at(path[1:], item, schema.get("items", {}), root)
    child = schema.get("properties", {}).get(path[0], {})
    return _keys_at(path[1:], value.get(path[0]) if isinstance(value, dict) else None, child, root)


def _real_path(location: tuple[str | int, ...], value: Any, names_key: bool) -> KeyPath:
    """Pydantic's location without the names of union members, which are not keys of the recipe.

    `names_key`: the last part is a key, whether the recipe has it or not.
    """
    path: list[str | int] = []
    for i, part in enumerate(location):
        listed = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if listed or (isinstance(value, dict) and part in value):
            path.append(part)
            value = value[part]
        elif names_key and i == len(location) - 1 and isinstance(value, dict):
            path.append(part)
    return tuple(path)


def _where(path: KeyPath, document: Document, source: str) -> str:
    """Where the file or the command line says it; of a whole section, the override that changed it last."""
    inside = [place for key, place in document.origin.items() if key[: len(path)] == path]
    changed = [place for place in inside if place.startswith("--set ")]
    if changed:
        return changed[-1]
    for length in range(len(path), -1, -1):
        if found := document.origin.get(path[:length]):
            return found
    return source


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path) + ": " if path else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."

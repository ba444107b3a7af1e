"""Where each kind of method is registered; `list`, the docs and the tests read the registries through
this."""

import importlib
from typing import Any

from mlcompress.registry import Registry

REGISTRIES = {
    "losses": ("mlcompress.train.losses", "losses"),
    "criteria": ("mlcompress.prune.criteria", "criteria"),
    "layer_scores": ("mlcompress.prune.layer_scores", "layer_scores"),
    "allocations": ("mlcompress.prune.allocation", "allocations"),
    "regularizers": ("mlcompress.prune.regularize", "regularizers"),
    "schedules": ("mlcompress.prune.schedules", "schedules"),
    "observers": ("mlcompress.quantize.observers", "observers"),
    "roundings": ("mlcompress.quantize.rounding", "roundings"),
    "schemes": ("mlcompress.quantize.schemes", "schemes"),
    "encodings": ("mlcompress.graph.encodings", "encodings"),
}
"""Kind -> module and name of its registry."""


def registry(kind: str) -> Registry:
    """The registry of one kind, with its methods loaded."""
    module, name = REGISTRIES[kind]
    found: Registry = getattr(importlib.import_module(module), name)
    return found


def describe(kind: str) -> list[dict[str, Any]]:
    """One row a method: `name`, `summary` and `options` (`name`, `type`, `default`, `description`)."""
    found = registry(kind)
    return [
        {"name": name, "summary": found.summary(name), "options": _options(found, name)} for name in found
    ]


def _options(found: Registry, name: str) -> list[dict[str, Any]]:
    properties = found.schema(name).model_json_schema()["properties"]
    return [
        {
            "name": key,
            "type": _type(entry),
            "default": entry.get("default"),
            "description": entry.get("description", ""),
        }
        for key, entry in properties.items()
        if key != "name"
    ]


def _type(entry: dict[str, Any]) -> str:
    if "anyOf" in entry:
        return " or ".join(_type(option) for option in entry["anyOf"])
    if "enum" in entry:
        return " or ".join(str(value) for value in entry["enum"])
    return str(entry.get("type", "any"))


def markdown() -> str:
    """All registries as the reference page `docs/methods.md`."""
    lines = [
        "# Methods",
        "",
        "Every method that a recipe can name, with its options; printed by `mlcompress list --markdown`.",
    ]
    for kind in REGISTRIES:
        lines += ["", f"## {kind}", "", "| name | options | what it is |", "| --- | --- | --- |"]
        for row in describe(kind):
            options = "<br>".join(
                f"`{o['name']}` ({o['type']}, {o['default']}) {o['description']}".strip()
                for o in row["options"]
            )
            lines.append(f"| `{row['name']}` | {options} | {row['summary']} |")
    return "\n".join(lines) + "\n"

"""The tables of `docs/recipes.md`: every key of a recipe, from the schemas that validate it."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mlcompress.recipe.sections import Shared

Schema = dict[str, Any]
"""A JSON schema, or a part of one."""

PIECE = re.compile(r"(<!-- generated: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
"""A generated piece of a page; its words are top-level keys of one recipe."""


def renew_file(path: Path, schemas: Sequence[type[Shared]]) -> None:
    """Bring the generated pieces of the page at `path` up to date."""
    path.write_text(renew(path.read_text("utf-8"), schemas), "utf-8")


def renew(text: str, schemas: Sequence[type[Shared]]) -> str:
    """`text`, its generated pieces made anew, each from the first of `schemas` that has all of its keys.

    Raises:
        ValueError: a piece names keys that no schema has together.
    """

    def piece(found: re.Match[str]) -> str:
        keys = found[2].split()
        fitting = [schema for schema in schemas if set(keys) <= set(schema.model_fields)]
        if not fitting:
            raise ValueError(f"no recipe has all of: {found[2]}")
        return found[1] + markdown(fitting[0], *keys) + found[3]

    return PIECE.sub(piece, text)


def markdown(schema: type[Shared], *sections: str) -> str:
    """A table (key, type, default, meaning) of top-level keys and all that is below them.

    Keys are dotted as for `--set`; N stands for the number of a list entry. A section that occurs twice is
    spelt out where it occurs first.

    Raises:
        KeyError: `schema` has no such key.
    """
    root = schema.model_json_schema()
    seen: dict[str, str] = {}
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for section in sections:
        required = section in root.get("required", [])
        for row in _rows(section, root["properties"][section], required, root["$defs"], seen):
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def _rows(
    key: str, entry: Schema, required: bool, definitions: Schema, seen: dict[str, str]
) -> Iterator[tuple[str, str, str, str]]:
    """The row of `key` and those below it. `seen`: sections spelt out so far -> the key where."""
    below = list(_sections(key, entry))
    kind, meaning = _type(entry), entry.get("description")
    if below and meaning is None:
        meaning = definitions[below[0][1]].get("description")
    again = [seen[name] for _, name in below if name in seen]
    if again:
        kind = f"as `{again[0]}`"
    default = "required" if required else _default(entry, is_section=bool(below))
    yield f"`{key}`", kind, default, " ".join((meaning or "").split())
    for place, name in below:
        if name not in seen:
            seen[name] = place
            definition = definitions[name]
            for word, child in definition["properties"].items():
                needed = word in definition.get("required", [])
                yield from _rows(f"{place}.{word}", child, needed, definitions, seen)


def _sections(key: str, entry: Schema) -> Iterator[tuple[str, str]]:
    """(key, name of the definition) of each section that may stand at `entry`; methods are not among them."""
    if "$ref" in entry:
        yield key, entry["$ref"].rsplit("/", 1)[-1]
    for option in entry.get("anyOf", []):
        yield from _sections(key, option)
    if isinstance(entry.get("items"), dict):
        yield from _sections(f"{key}.N", entry["items"])


def _type(entry: Schema) -> str:
    """What may stand there, in words; None is left out, because it is the absence of the key."""
    if "discriminator" in entry:
        names = ", ".join(f"`{name}`" for name in entry["discriminator"]["mapping"])
        return f"{names}; or `{{name: ..., options}}`"
    if "anyOf" in entry:
        return " or ".join(_type(option) for option in entry["anyOf"] if option.get("type") != "null")
    if "enum" in entry:
        return ", ".join(f"`{_flow(value)}`" for value in entry["enum"])
    if "const" in entry:
        return f"`{_flow(entry['const'])}`"
    if "$ref" in entry:
        return "section"
    words = {"string": "text", "boolean": "`true`, `false`"}
    kind = entry.get("type", "anything")
    if kind == "array":
        parts = entry.get("prefixItems") or [entry["items"]]
        return "list: " + " and ".join(_type(part) for part in parts)
    if kind == "object":
        values = entry.get("additionalProperties")
        return f"mapping: name to {_type(values) if isinstance(values, dict) else 'anything'}"
    return f"{words.get(kind, kind)} {_bounds(entry)}".rstrip()


def _bounds(entry: Schema) -> str:
    if "minimum" in entry and "maximum" in entry:
        return f"{entry['minimum']:g} to {entry['maximum']:g}"
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    return ", ".join(f"{sign} {entry[bound]:g}" for bound, sign in signs.items() if bound in entry)


def _default(entry: Schema, *, is_section: bool) -> str:
    """As a recipe would say it; a section that is always there has the defaults of its keys."""
    value = entry.get("default")
    if value is None:
        return "none"
    return "" if is_section and isinstance(value, dict) else f"`{_flow(value)}`"


def _flow(value: Any) -> str:
    """YAML on one line. `{name: l2}` is said as `l2`, and keys without a value are left out."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        said = {key: _flow(item) for key, item in value.items() if item is not None}
        inside = ", ".join(f"{key}: {text}" for key, text in said.items())
        return said["name"] if list(said) == ["name"] else f"{{{inside}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return str(value)

"""YAML to plain values that remember their line.

Strict where PyYAML is lenient: `1e-4` is a number, `no` and `2:30` are strings, duplicate keys, anchors,
tags and documents of unreasonable size or depth are refused.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mlcompress.errors import RecipeError

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_DEPTH = 32


@dataclass
class Document:
    """Values of a recipe, and where each came from (`file:line`, or the `--set` that gave it)."""

    value: dict[str, Any] = field(default_factory=dict)
    origin: dict[KeyPath, str] = field(default_factory=dict)


class _Loader(yaml.SafeLoader):
    """Resolves scalars as YAML 1.2 does, and refuses what a recipe has no use for."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's protocol
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        for feature, refused in (("anchor", "anchors and aliases"), ("tag", "tags")):
            if getattr(event, feature, None) is not None:
                problem = f"{refused} are not used in recipes"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {MAX_DEPTH} levels", problem_mark=event.start_mark
            )
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false|True|False)$"), list("tfTF")
)
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$"), ["~", "n", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def read(path: str) -> Document:
    """Parse the recipe at `path`.

    Raises:
        RecipeError: not readable, not UTF-8, not YAML, not a mapping, or using a refused feature.
    """
    try:
        if not Path(path).is_file() and Path(path).exists():
            raise RecipeError(f"{path or '.'}: is not a file; name a recipe")
        with Path(path).open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as problem:
        raise RecipeError(f"{path}: cannot read the recipe ({problem.strerror}); check the path") from None
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{path}: more than {MAX_BYTES} bytes; is it a recipe?")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise RecipeError(f"{path}: not UTF-8 text; is it a recipe?") from None
    return parse(text, path)


def parse(text: str, source: str) -> Document:
    """Parse YAML `text`; `source` is what messages call it."""
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
    except yaml.YAMLError as problem:
        raise RecipeError(_syntax_error(problem, source)) from None
    if root is None:
        return Document()
    if not isinstance(root, yaml.MappingNode):
        raise RecipeError(f"{source}:1: a recipe is a mapping of sections; begin with `version: 1`")
    document = Document()
    problems: list[str] = []
    document.value = _build(loader, root, (), source, document.origin, problems)
    if problems:
        raise RecipeError(*problems)
    return document


def scalar(text: str, source: str = "--set") -> Any:
    """The value that `text` would have in a recipe; for `--set KEY=VALUE`."""
    values = parse(f"value: {text}", source).value
    if list(values) != ["value"]:
        raise RecipeError(f"{source}: is more than one value; give each its own --set")
    return values["value"]


def _build(
    loader: _Loader,
    node: yaml.Node,
    path: KeyPath,
    source: str,
    origin: dict[KeyPath, str],
    problems: list[str],
) -> Any:
    where = f"{source}:{node.start_mark.line + 1}"
    origin.setdefault(path, where)
    if isinstance(node, yaml.SequenceNode):
        return [
            _build(loader, item, (*path, i), source, origin, problems) for i, item in enumerate(node.value)
        ]
    if not isinstance(node, yaml.MappingNode):
        try:
            return loader.construct_object(node)
        except (yaml.YAMLError, ValueError):
            problems.append(f"{where}: {_dotted(path)}: cannot read this value; quote it if it is text")
            return None
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = f"{source}:{key_node.start_mark.line + 1}"
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(f"{line}: keys are plain words; quote or rename this one")
            continue
        key = str(key_node.value)
        if key in values:
            problems.append(f"{line}: {_dotted((*path, key))}: given twice; remove one")
        origin[(*path, key)] = line
        values[key] = _build(loader, value_node, (*path, key), source, origin, problems)
    return values


def _syntax_error(problem: yaml.YAMLError, source: str) -> str:
    if isinstance(problem, yaml.MarkedYAMLError) and problem.problem_mark is not None:
        return (
            f"{source}:{problem.problem_mark.line + 1}: not a valid recipe: {problem.problem}; mend this line"
        )
    return f"{source}: not a valid recipe: {' '.join(str(problem).split())}; is it YAML text?"


def _dotted(path: KeyPath) -> str:
    return ".".join(str(part) for part in path)

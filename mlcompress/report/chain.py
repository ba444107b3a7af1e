"""Who was made from whom, drawn from the parents' hashes that the cards hold.

teacher.onnx
└─ student.onnx   distill
   ├─ pruned.onnx   prune
   │  └─ int8.onnx   quantize
   └─ fp16.onnx   quantize
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mlcompress.report.rows import Row
from mlcompress.report.words import plain


@dataclass(frozen=True)
class Node:
    """A file in the chain. `row` is None for a parent that is not part of the report."""

    path: str
    row: Row | None
    children: tuple["Node", ...]


def link(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows with `parent` filled in: the file whose content has the parent's hash.

    Among copies of one file, the one under the path that the card names is taken. A row is never its own
    ancestor (a stage that changed nothing writes a file with its parent's hash).
    """
    parents: list[int | None] = []
    for index, row in enumerate(rows):
        found = [k for k, other in enumerate(rows) if k != index and other.sha256 == row.parent_sha256]
        found.sort(key=lambda k: rows[k].path != row.parent_path)  # stable: the named path first
        parents.append(next((k for k in found if index not in _ancestors(k, parents)), None))
    return tuple(replace(row, parent=parent) for row, parent in zip(rows, parents, strict=True))


def _ancestors(index: int, parents: Sequence[int | None]) -> Iterator[int]:
    """`index` and everything above it, as far as `parents` is known."""
    at: int | None = index
    while at is not None:
        yield at
        at = parents[at] if at < len(parents) else None


def forest(rows: Sequence[Row]) -> tuple[Node, ...]:
    """Trees of linked rows (see `link`), in the order of the rows; one absent parent is one node."""

    def grow(index: int) -> Node:
        children = tuple(grow(k) for k, row in enumerate(rows) if row.parent == index)
        return Node(rows[index].path, rows[index], children)

    roots: list[Node] = []
    absent: dict[str, int] = {}  # hash of a parent that is not reported -> its place in roots
    for index, row in enumerate(rows):
        if row.parent is not None:
            continue
        if row.parent_sha256 is None or row.parent_sha256 == row.sha256:
            roots.append(grow(index))
        elif row.parent_sha256 in absent:
            place = absent[row.parent_sha256]
            roots[place] = replace(roots[place], children=(*roots[place].children, grow(index)))
        else:
            absent[row.parent_sha256] = len(roots)
            roots.append(Node(row.parent_path or "unknown parent", None, (grow(index),)))
    return tuple(roots)


def draw(rows: Sequence[Row]) -> str:
    """The chain as lines of text, one file each."""
    return "\n".join(line for node in forest(rows) for line in _lines(node, "", ""))


def _lines(node: Node, first: str, rest: str) -> Iterator[str]:
    yield f"{first}{plain(node.path)}{note(node)}"
    for child in node.children:
        last = child is node.children[-1]
        branch, below = ("└─ ", "   ") if last else ("├─ ", "│  ")
        yield from _lines(child, rest + branch, rest + below)


def note(node: Node) -> str:
    """What is said behind the path: the stage, or that the file is not part of the report."""
    if node.row is None:
        return "   (not in this report)"
    return f"   {plain(node.row.stage)}" if node.row.stage else ""

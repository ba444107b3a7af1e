"""Chain from parents' hashes: branches, copies, absent parents, circles."""

from mlcompress.report import chain
from mlcompress.report.rows import Row


def row(
    path: str, own: str, parent: str | None = None, parent_path: str | None = None, stage: str | None = None
) -> Row:
    return Row(path, own, 10, 10, 1, stage=stage, parent_path=parent_path, parent_sha256=parent)


def test_branches_are_drawn_in_the_order_of_the_files():
    rows = chain.link(
        [
            row("teacher.onnx", "t"),
            row("int8.onnx", "i", "p", "pruned.onnx", "quantize"),  # given before its parent
            row("student.onnx", "s", "t", "teacher.onnx", "distill"),
            row("pruned.onnx", "p", "s", "student.onnx", "prune"),
            row("fp16.onnx", "h", "s", "student.onnx", "quantize"),
        ]
    )
    assert [r.parent for r in rows] == [None, 3, 0, 2, 2]
    assert chain.draw(rows).split("\n") == [
        "teacher.onnx",
        "└─ student.onnx   distill",
        "   ├─ pruned.onnx   prune",
        "   │  └─ int8.onnx   quantize",
        "   └─ fp16.onnx   quantize",
    ]


def test_a_parent_that_is_not_reported_is_drawn_once_and_says_so():
    rows = chain.link(
        [row("a.onnx", "a", "t", "teacher.onnx", "prune"), row("b.onnx", "b", "t", "teacher.onnx", "prune")]
    )
    assert chain.draw(rows).split("\n") == [
        "teacher.onnx   (not in this report)",
        "├─ a.onnx   prune",
        "└─ b.onnx   prune",
    ]


def test_the_hash_decides_and_not_the_path():
    """The file that now bears the parent's name has other bytes: it is not the parent."""
    rows = chain.link([row("teacher.onnx", "new"), row("s.onnx", "s", "old", "teacher.onnx", "distill")])
    assert rows[1].parent is None
    assert "teacher.onnx   (not in this report)" in chain.draw(rows)


def test_among_copies_the_one_under_the_named_path_is_the_parent():
    rows = chain.link(
        [row("copy.onnx", "t"), row("teacher.onnx", "t"), row("s.onnx", "s", "t", "teacher.onnx")]
    )
    assert rows[2].parent == 1


def test_a_stage_that_changed_nothing_is_not_its_own_parent():
    alone = chain.link([row("same.onnx", "t", "t", "teacher.onnx", "prune")])
    assert alone[0].parent is None
    assert chain.draw(alone) == "same.onnx   prune"
    both = chain.link([row("teacher.onnx", "t"), row("same.onnx", "t", "t", "teacher.onnx", "prune")])
    assert [r.parent for r in both] == [None, 0]


def test_two_cards_that_name_each_other_do_not_hang():
    rows = chain.link([row("a.onnx", "a", "b", "b.onnx"), row("b.onnx", "b", "a", "a.onnx")])
    assert [r.parent for r in rows] == [1, None]
    assert "a.onnx" in chain.draw(rows)
    assert "b.onnx" in chain.draw(rows)


def test_line_breaks_in_a_name_cannot_fake_a_line():
    assert chain.draw(chain.link([row("a\n└─ b.onnx", "a")])) == "a\N{REPLACEMENT CHARACTER}└─ b.onnx"

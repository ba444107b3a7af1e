"""The code of a TorchScript archive, looked through before torch compiles it.

It is Python in its grammar. Loading it runs what a `__setstate__` in it says, and running it may read and
write files: everything that is not plain arithmetic on tensors is refused here.
"""

import ast
import io
import pickletools
import re
from collections.abc import Iterator

from mlcompress.checkpoint.archive import printable
from mlcompress.checkpoint.operators import SIDE_EFFECTS, refusal
from mlcompress.errors import ModelError, UnsupportedError

_FUNCTIONS = frozenset(
    [
        "range",
        "int",
        "float",
        "bool",
        "complex",
        "str",
        "annotate",
        "unchecked_cast",
        "uninitialized",
        "getattr",
        "isinstance",
        "ord",
    ]
)
"""What code calls by a bare name: casts, and notes for the compiler."""
_LOCAL = re.compile(r"_\d+")
"""Names that torch gives to functions of the archive's own code."""
_HOOKS = frozenset(["__setstate__", "__del__", "__enter__", "__exit__"])
_TYPES = ("__torch__.", "__torch__ ", "torch._utils ", "torch.jit._pickle ", "collections ", "torch ")
"""What the weights' records may name: classes of the archive itself, and torch's way to write tensors."""
_INSTEAD = "export the module to ONNX, or give its state dict and `model.factory`"


def vetted(name: str, source: bytes) -> str:
    """The code of one file in an archive as torch may compile it, written anew from its syntax tree.

    So torch's own parser cannot read something else into it than was looked at.

    Raises ModelError for what is no TorchScript, and UnsupportedError for code that could do more than
    compute.
    """
    try:
        tree = ast.parse(source.decode("ascii"))
        text = ast.unparse(tree) + "\n"
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ModelError(f"{printable(name)} in it is no TorchScript code; save it again") from None
    for node in ast.walk(tree):
        if reason := _problem(node):
            raise UnsupportedError(reason)
    return text


def check_record(name: str, data: bytes) -> None:
    """Refuse a record of weights that names anything but tensors and classes of the archive's own code.

    Raises UnsupportedError for other names, and ModelError for what is no record.
    """
    try:
        found = list(_names(data))
    except (ValueError, IndexError, EOFError, UnicodeDecodeError, OverflowError, MemoryError):
        raise ModelError(f"{printable(name)} in it is damaged; copy or save it again") from None
    for named in found:
        if "torch.classes" in named.replace(" ", "."):
            raise UnsupportedError(f"holds an object of the C++ class {printable(named)}; {_INSTEAD}")
        if not named.startswith(_TYPES):
            raise UnsupportedError(f"{printable(name)} in it names {printable(named)}, which is never loaded")


def _names(data: bytes) -> Iterator[str]:
    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        if opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"):
            yield opcode.name
        elif opcode.name == "GLOBAL":
            yield str(argument)


def _problem(node: ast.AST) -> str | None:
    if isinstance(node, ast.FunctionDef) and node.name in _HOOKS:
        return f"its code has the method {node.name}, which would run while it is loaded; {_INSTEAD}"
    if isinstance(node, ast.With):
        return f"is scripted code with a `with` block, which a graph cannot hold; {_INSTEAD}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        called = node.func.id
        if called not in _FUNCTIONS and not _LOCAL.fullmatch(called):
            return f"its code calls {printable(called)}, which is never run; {_INSTEAD}"
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SIDE_EFFECTS:
        return refusal("aten", node.func.attr)
    if isinstance(node, ast.Attribute):
        chain = _chain(node)
        if chain[:3] == ["__torch__", "torch", "classes"]:
            return f"its code uses the C++ class {'.'.join(chain[3:])}; {_INSTEAD}"
        if chain[0] == "torch":
            return refusal("aten", ".".join(chain[1:]))
        if chain[0] == "ops" and len(chain) == 3:
            return refusal(chain[1], chain[2])
    return None


def _chain(node: ast.expr) -> list[str]:
    """`a.b.c` as its parts; the first is empty where it begins with anything but a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    parts.append(node.id if isinstance(node, ast.Name) else "")
    return parts[::-1]

"""Model file to graph."""

from pathlib import Path

import onnx
import onnx_ir as ir

from mlcompress import console
from mlcompress.errors import ModelError, UserError
from mlcompress.graph import external, finite, formats, names, sparse, structure
from mlcompress.graph.clean import clean
from mlcompress.graph.evaluate import overflows
from mlcompress.graph.save import is_small, to_bytes
from mlcompress.graph.session import ORT_ERRORS, Level, reason, session
from mlcompress.graph.shapes import infer_shapes
from mlcompress.graph.signature import signature

_LONGEST_LINE = 400
"""Characters of a message: names in a damaged file may have any length."""


def load(path: Path | str) -> ir.Model:
    """The cleaned graph (see `clean`) of an ONNX file that stock onnxruntime can load.

    External data must lie in the file's folder; it is memory-mapped, everything else is read into memory.
    The graph stays valid when the file is replaced (renamed over or unlinked), not when a data file is
    written into.

    Raises ModelError for files that are missing, damaged, malformed, that reach outside their folder, whose
    weights are NaN or that onnxruntime refuses, and UnsupportedError for other formats; one line for each
    problem, each with the path.
    """
    path = Path(path)
    proto = formats.read(path)
    _check_message(proto, path)
    try:
        model = _build(proto, path.parent)
        clean(model)
        _complete_outputs(model)
        signature(model)
        _check_numbers(model, path)
        source = to_bytes(model) if is_small(model) else path
    except UserError as error:
        raise type(error)(*(_line(path, line) for line in error.lines)) from None
    except Exception:
        # Nonsense breaks libraries in many ways; onnxruntime says what is wrong with it.
        _check_runs(path, path)
        # What it accepts is no nonsense: a bug.
        raise
    _check_runs(source, path)
    return model


def _line(path: Path, text: str) -> str:
    """One line that fits a screen, whatever the names in the file hold."""
    text = text if len(text) <= _LONGEST_LINE else text[: _LONGEST_LINE - 3] + "..."
    return f"{path}: " + "".join(mark if mark.isprintable() else "?" for mark in text)


def _check_message(proto: onnx.ModelProto, path: Path) -> None:
    found = [*structure.problems(proto), *external.problems(proto, path.parent)]
    if found:
        raise ModelError(*(_line(path, text) for text in found))


def _build(proto: onnx.ModelProto, folder: Path) -> ir.Model:
    sparse.densify(proto)
    names.name_nodes(proto)
    model = ir.serde.deserialize_model(proto)
    external.attach(model, folder)
    if not structure.is_sorted(proto.graph):
        model.graph.sort()
    return model


def _complete_outputs(model: ir.Model) -> None:
    """Some exporters declare outputs without shape or even type; what can be inferred is added."""
    if any(value.shape is None or value.type is None for value in model.graph.outputs):
        infer_shapes(model)


def _check_numbers(model: ir.Model, path: Path) -> None:
    divided = [
        f"node {node.name} divides the least integer by -1, which has no result; mend its constants"
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if node.op_type == "Div" and overflows(node)
    ]
    if found := [*finite.problems(model), *divided]:
        raise ModelError(*found)
    for text in finite.doubts(model):
        console.warn(_line(path, text))


def _check_runs(source: bytes | Path, path: Path) -> None:
    """onnxruntime has the last word: it knows ops, domains and versions."""
    try:
        session(source, Level.ORT_DISABLE_ALL)
    except ORT_ERRORS as error:
        text = f"onnxruntime cannot load it: {reason(error)}; only ops of a stock onnxruntime work"
        raise ModelError(_line(path, text)) from None

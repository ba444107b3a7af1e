"""Did onnxruntime run what was meant? Looks at the kernels of profiled runs, at the levels that users run."""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.errors import UnsupportedError, shorten
from mlcompress.graph.encodings import Codes
from mlcompress.graph.initializers import initializer
from mlcompress.graph.save import fits_message
from mlcompress.graph.session import Level
from mlcompress.graph.unused import remove_unused
from mlcompress.measure.executed import INTEGER_KERNELS, Executed, profile
from mlcompress.measure.session import Feeds

KINDS = {"Conv": ("Conv",), "Gemm or MatMul": ("Gemm", "MatMul"), "Add": ("Add",)}
"""How messages call the float ops that integer kernels stand for."""
LEVELS = (Level.ORT_ENABLE_EXTENDED, Level.ORT_ENABLE_ALL)
"""Optimisation levels at which stored weights must be expanded while a session is created."""
_INSTEAD = "use `storage: plain`, or int8, and tell the authors"


def check_stored(
    model: ir.Model, codes: Mapping[str, Codes], feed: Feeds, opset: int | None = None
) -> Executed:
    """The kernels of one run at level ALL, after checks of the stored weights, `codes` by their names.

    At every level of LEVELS no node of a decode chain may run, and against the same graph with the decoded
    values as plain initializers, in operator set `opset` where the storage has raised it, the same kernels
    must run and the outputs must have the same bits.

    Raises UnsupportedError when one of these does not hold.
    """
    data = graph.to_bytes(model)
    plain = _plain(model, codes, opset) if codes else None
    has_plain = plain is not None and fits_message(plain)
    for level in LEVELS if codes else LEVELS[-1:]:
        ran = profile(data, feed, level=level)
        if unfolded := decoded_at_run_time(model, codes, ran.names):
            listed = shorten(unfolded)
            raise UnsupportedError(
                f"quantize.storage: onnxruntime would decode at every inference: {listed}; {_INSTEAD}"
            )
        if plain is not None and has_plain:
            _compare(ran, profile(graph.to_bytes(plain), feed, level=level), level)
    return ran


def decoded_at_run_time(model: ir.Model, weights: Collection[str], ran: Collection[str]) -> list[str]:
    """Those stored `weights` of whose decode chain a node is among those that `ran`: it was not folded."""
    found = []
    for name, value in _decoded(model, weights).items():
        waiting, seen = [value.producer()], set[ir.Node]()
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [read.producer() for read in node.inputs if read is not None]
        if any(node.name in ran for node in seen):
            found.append(name)
    return found


def missing(kernels: Mapping[str, int], meant: Mapping[str, int]) -> list[str]:
    """One line per kind of node that runs as integers less often than it was `meant` to (op type: count)."""
    lines = []
    for kind, ops in KINDS.items():
        wanted = sum(meant.get(op, 0) for op in ops)
        ran = sum(kernels.get(kernel, 0) for op in ops for kernel in INTEGER_KERNELS[op])
        if ran < wanted:
            lines.append(f"{wanted - ran} of {wanted} {kind} nodes run in float; onnxruntime did not fuse")
    return lines


def _decoded(model: ir.Model, names: Collection[str]) -> dict[str, ir.Value]:
    """The values of these names that nodes make."""
    outputs = (value for node in model.graph for value in node.outputs)
    return {str(value.name): value for value in outputs if value.name in names}


def _plain(model: ir.Model, codes: Mapping[str, Codes], opset: int | None) -> ir.Model:
    """The same graph with the decoded numbers, computed here, as plain initializers."""
    made = graph.copy(model)
    made.opset_imports[""] = opset or made.opset_imports.get("", 1)
    for name, value in _decoded(made, codes).items():
        value.name = f"{name}/decoded"
        numbers = initializer(made.graph, name, codes[name].values())
        ir.convenience.replace_all_uses_with(value, numbers, replace_graph_outputs=True)
    remove_unused(made)
    return made


def _compare(stored: Executed, plain: Executed, level: Level) -> None:
    if stored.ops != plain.ops:
        ops = sorted(stored.ops.keys() | plain.ops.keys())
        other = [op for op in ops if stored.ops.get(op, 0) != plain.ops.get(op, 0)]
        raise UnsupportedError(
            f"quantize.storage: other kernels run than with plain weights at {level.name}: "
            f"{shorten(other)}; {_INSTEAD}"
        )
    pairs = zip(stored.outputs, plain.outputs, strict=True)
    if not all(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in pairs):
        raise UnsupportedError(
            f"quantize.storage: outputs at {level.name} are not those of the plain weights; {_INSTEAD}"
        )

"""Are stored weights decoded while a session is created, and to the right bits? By profiled runs."""

from collections.abc import Collection, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from mlcompress import graph
from mlcompress.errors import UnsupportedError, shorten
from mlcompress.graph.encodings import Codes
from mlcompress.graph.session import Level
from mlcompress.graph.unused import remove_unused
from mlcompress.measure.executed import Executed, profile
from mlcompress.measure.session import Feeds

LEVELS = (Level.ORT_ENABLE_EXTENDED, Level.ORT_ENABLE_ALL)
"""Optimisation levels at which stored weights must be expanded while a session is created."""
_INSTEAD = "use `storage: plain`, or int8, and tell the authors"


def check_stored(
    model: ir.Model,
    codes: Mapping[str, Codes],
    feed: Feeds,
    opset: int | None = None,
    folder: Path | None = None,
    where: str = "quantize.storage",
) -> Executed:
    """The kernels of one run at level ALL, after checks of the stored weights, `codes` by their names.

    At every level of LEVELS no node of a decode chain may run, and against the same graph with the decoded
    values as plain initializers, in operator set `opset` where the storage has raised it, the same kernels
    must run and the outputs must have the same bits. Large models are run from files in `folder`. Messages
    begin with `where`.

    Raises UnsupportedError when one of these does not hold.
    """
    with ExitStack() as stack:
        stored = stack.enter_context(graph.source(model, folder))
        plain = stack.enter_context(graph.source(_plain(model, codes, opset), folder)) if codes else None
        for level in LEVELS if codes else LEVELS[-1:]:
            ran = profile(stored, feed, level=level)
            if unfolded := decoded_at_run_time(model, codes, ran.names):
                listed = shorten(unfolded)
                raise UnsupportedError(
                    f"{where}: onnxruntime would decode at every inference: {listed}; {_INSTEAD}"
                )
            if plain is not None:
                _compare(ran, profile(plain, feed, level=level), level, where)
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
        plain = ir.Value(name=name, type=value.type, shape=value.shape)
        plain.const_value = _lazy(name, codes[name])
        made.graph.register_initializer(plain)
        ir.convenience.replace_all_uses_with(value, plain, replace_graph_outputs=True)
    remove_unused(made)
    return made


def _lazy(name: str, codes: Codes) -> ir.LazyTensor:
    """The decoded numbers, computed when they are written: all weights together may not fit into memory."""
    shape = ir.Shape(codes.decoded_shape)
    return ir.LazyTensor(partial(_tensor, codes), dtype=codes.kind, shape=shape, name=name)


def _tensor(codes: Codes) -> ir.TensorProtocol:
    return ir.tensor(codes.values())


def _compare(stored: Executed, plain: Executed, level: Level, where: str) -> None:
    if stored.ops != plain.ops:
        ops = sorted(stored.ops.keys() | plain.ops.keys())
        other = [op for op in ops if stored.ops.get(op, 0) != plain.ops.get(op, 0)]
        raise UnsupportedError(
            f"{where}: other kernels run than with plain weights at {level.name}: "
            f"{shorten(other)}; {_INSTEAD}"
        )
    pairs = zip(stored.outputs, plain.outputs, strict=True)
    if not all(np.array_equal(one, other, equal_nan=one.dtype.kind == "f") for one, other in pairs):
        raise UnsupportedError(
            f"{where}: outputs at {level.name} are not those of the plain weights; {_INSTEAD}"
        )

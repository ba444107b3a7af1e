"""Normal form of a graph: what every stage may rely on after load (in place, outputs unchanged).

- weights are initializers: Constant nodes lifted, local functions inlined, nothing listed as an input as
  well;
- inference mode: BatchNormalization uses running statistics, Dropout is gone;
- what does not depend on an input is computed (see `fold`), and with it the zero Conv bias that torch's
  exporter computes, which keeps onnxruntime from fusing BatchNormalization into Conv;
- where only the batch is dynamic, all other lengths are numbers (see `settle`);
- no two layers share a bias only because an exporter merged equal tensors (see `unshare`); ties stay;
- nothing unused; no notes of an exporter (they hold paths of its machine); every node and value has a name.

Names, BatchNormalization, operator sets, IR version (4 at least), the signature (names, order, types, dynamic
axes) and the model's own metadata are kept.

The cleaned graph computes bit for bit what the file does wherever onnxruntime runs both with the same
kernels. It takes other kernels, and float results may differ in the last digits, in two cases: weights that
the file computes, or lists as inputs, are packed for the matrix kernels once they are initializers; and at
the default optimisation level Conv and BatchNormalization are fused once the computed bias is gone.
"""

import onnx_ir as ir
import onnx_ir.passes.common as passes

from mlcompress.errors import UnsupportedError
from mlcompress.graph.fold import fold, is_folded
from mlcompress.graph.inference_mode import set_inference_mode
from mlcompress.graph.initializers import numbers, set_numbers
from mlcompress.graph.names import make_unique
from mlcompress.graph.notes import drop_notes
from mlcompress.graph.settle import settle
from mlcompress.graph.signature import known_axis
from mlcompress.graph.unshare import unshare
from mlcompress.graph.unused import remove_unused

_OLDEST_IR = 4
"""Older files must list initializers as inputs."""


def clean(model: ir.Model) -> None:
    """Bring `model` into the normal form, in place.

    Raises UnsupportedError for functions that cannot be inlined and for training-only outputs that are read.
    """
    _inline_functions(model)
    drop_notes(model)
    _take_weights_off_inputs(model)
    _lift_constants(model)
    set_inference_mode(model)
    declared = {graph: _declaration(graph) for graph in model.graphs()}
    _forget_declared_shapes(model)
    fold(model)
    _lift_constants(model)
    _drop_computed_zero_biases(model)
    remove_unused(model)
    unshare(model)
    settle(model)
    _own_tensors(model)
    drop_notes(model)  # folding leaves some
    for graph in model.graphs():
        for value, (name, kind, shape) in zip(_interface(graph), declared[graph], strict=True):
            value.name, value.type, value.shape = name, kind, shape
    make_unique(model)


def _interface(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.outputs]


def _declaration(graph: ir.Graph) -> list[tuple[str | None, ir.TypeProtocol | None, ir.Shape | None]]:
    return [(value.name, value.type, value.shape) for value in _interface(graph)]


def _inline_functions(model: ir.Model) -> None:
    if not model.functions:
        return
    domains = {function.domain for function in model.functions.values()}
    try:
        passes.InlinePass()(model)
    except (RuntimeError, ValueError, ir.passes.InvariantError) as error:
        raise UnsupportedError(
            f"local functions cannot be inlined: {error}; export the model without them"
        ) from None
    model.functions.clear()
    used = {node.domain for node in ir.traversal.RecursiveGraphIterator(model.graph)}
    for domain in domains - used:
        model.opset_imports.pop(domain, None)


def _take_weights_off_inputs(model: ir.Model) -> None:
    """An initializer that is also an input is a default a caller could override; here it is a weight."""
    passes.RemoveInitializersFromInputsPass()(model)
    model.ir_version = max(model.ir_version, _OLDEST_IR)


def _lift_constants(model: ir.Model) -> None:
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _forget_declared_shapes(model: ir.Model) -> None:
    """Files declare wrong ranks and shapes; only those of inputs are enforced when the model runs.

    Shapes that ONNX cannot infer again (outputs of contrib ops) stay. Axes named "?" are unknown, not equal.
    """
    for graph in model.graphs():
        inner = [] if graph is model.graph else graph.inputs
        for value in (*inner, *graph.outputs):
            value.shape = None
        for node in graph:
            for value in node.outputs if node.domain == "" else ():
                value.shape = None
    for value in model.graph.inputs:
        if value.shape is not None:
            value.shape = ir.Shape([known_axis(axis) for axis in value.shape])


def _drop_computed_zero_biases(model: ir.Model) -> None:
    for node in ir.traversal.RecursiveGraphIterator(model.graph):
        if node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) == 3:
            bias = node.inputs[2]
            if bias is not None and is_folded(bias) and not numbers(bias).any():
                node.resize_inputs(2)


def _own_tensors(model: ir.Model) -> None:
    """Each initializer holds its own named tensor over a read-only array, independent of the parsed file."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.dtype != ir.DataType.STRING:
                set_numbers(value, numbers(value))

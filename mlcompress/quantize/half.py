"""Graphs that compute in fp16 or bf16; float32 at inputs, at outputs, and where 16 bits are too few.

A node runs in 16 bits when its definition allows that and nothing of these holds: it sums or squares many
numbers (SUMS), it is named by `skip`, it reads a constant that 16 bits do not hold, or a value that may be
larger than they hold, or makes one, or integers are made of what it computes. Between the two kinds stand
Casts, one for each value and direction.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir

from mlcompress.graph.initializers import constant
from mlcompress.graph.insert import Insertion
from mlcompress.measure.tapped import tapped_session
from mlcompress.quantize.integer import in_domain

SUMS = (
    *("Pow", "Exp", "Log", "Sqrt", "Reciprocal", "CumSum", "Einsum", "Softmax", "LogSoftmax"),
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum"),
    *("ReduceLogSumExp", "LpNormalization", "LpPool", "InstanceNormalization", "GroupNormalization"),
    "MeanVarianceNormalization",
)
"""Ops that stay float32. LayerNormalization is not among them: by its definition it computes in float32."""
BOUNDED = ("Softmax", "Sigmoid", "HardSigmoid", "Tanh", "Softsign", "Erf", "Sin", "Cos", "Sign")
"""Ops whose results are small whatever they read."""
ARITHMETIC = (
    *("Add", "Sub", "Mul", "Div", "Floor", "Ceil", "Round", "Min", "Max", "Clip", "Concat"),
    *("Gather", "Slice", "Squeeze", "Unsqueeze", "Reshape", "Identity"),
)
"""Ops by which graphs compute lengths and places in floats, before a Cast makes integers of them again."""
_INTEGERS = (ir.DataType.INT32, ir.DataType.INT64)
MARGIN = 4
"""How much larger than in one run values may become in others."""
_FLOAT = "tensor(float)"


@dataclass(frozen=True)
class _Kind:
    """A 16-bit type by all its names."""

    dtype: ir.DataType
    type: np.dtype[Any]
    text: str
    largest: float


HALVES = {
    "fp16": _Kind(ir.DataType.FLOAT16, np.dtype(np.float16), "tensor(float16)", 65504.0),
    "bf16": _Kind(ir.DataType.BFLOAT16, np.dtype(ml_dtypes.bfloat16), "tensor(bfloat16)", 3.3895314e38),
}


@dataclass
class Halved:
    """Which nodes compute in 16 bits, and why others with floats do not."""

    nodes: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    weights: list[str] = field(default_factory=list)
    """Initializers that 16-bit nodes read."""


def large_values(model: ir.Model, kind: str, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """The float32 values, inputs among them, that come near the largest number of `kind`, or beyond, in a run
    on `arrays`."""
    outputs = (value for node in model.graph for value in node.outputs)
    made = [value.name for value in outputs if value.name and is_float(value)]  # "": left out
    found = tapped_session(model, made).run(None, dict(arrays)) if made else []
    given = {name: array for name, array in arrays.items() if array.dtype == np.float32}
    limit = HALVES[kind].largest / MARGIN
    return [
        name
        for name, array in (*given.items(), *zip(made, found, strict=True))
        if array.size and not np.abs(array).max() <= limit
    ]


def halve(model: ir.Model, kind: str, keep: Collection[str] = (), large: Collection[str] = ()) -> Halved:
    """Let the main graph compute in `kind` (fp16 or bf16), in place; nodes that `keep` names stay float32, as
    do those that make or read a value of `large`.

    The types of all values must be known. Inputs and outputs keep names and types; so does everything inside
    If, Loop and Scan.
    """
    found, wide = Halved(), {value for value in model.graph.inputs if value.name in large}
    insertion = Insertion(model.graph)
    halves: dict[ir.Value, ir.Value] = {}
    made: list[ir.Value] = []
    opset, exact = model.opset_imports.get("", 1), _counting(model.graph)
    for node in list(model.graph):
        wide.update(value for value in node.outputs if value.name in large)
        places, produces = _places(node, opset, kind)
        floats = [index for index, value in enumerate(node.inputs) if value is not None and is_float(value)]
        if not any(is_float(value) for value in node.outputs) or not floats:
            continue
        reason = _obstacle(node, kind, keep, wide, [index for index in floats if index in places], produces)
        if node in exact:
            reason = f"integers are made of its results, which {kind} does not hold exactly"
        if reason is not None:
            found.reasons[str(node.name)] = reason
            if not in_domain(node, BOUNDED) and any(_is_wide(value, kind, wide) for value in node.inputs):
                wide.update(node.outputs)
            continue
        found.nodes.append(str(node.name))
        for index in places:
            value = node.inputs[index]
            if value is not None and is_float(value):
                node.replace_input_with(index, _half(insertion, value, halves, kind, found))
        outputs = [value for value in node.outputs if is_float(value)]
        halves |= {value: value for value in outputs}
        made += outputs
    _restore(model, insertion, kind, made, set(found.nodes))
    insertion.drop_unread()
    return found


def _obstacle(
    node: ir.Node,
    kind: str,
    keep: Collection[str],
    wide: Collection[ir.Value],
    places: Collection[int],
    produces: bool,
) -> str | None:
    """Why a node with floats stays float32, or None; `places`: its float inputs that may have 16 bits."""
    if node.name in keep:
        return "`skip` names it"
    if in_domain(node, SUMS):
        return f"{node.op_type} sums, squares or exponentiates: {kind} may not hold it"
    if not produces or not places:
        return f"{node.op_type} is not defined for {kind}"
    if any(value in wide for value in node.outputs):
        return f"its results come near the largest {kind} number"
    values = [node.inputs[index] for index in places]
    if any(value in wide for value in values):
        return f"what it reads may be larger than {kind} can hold"
    if not all(_fits(constant(value), kind) for value in values):
        return f"it reads a constant that {kind} cannot hold"
    return None


def _counting(main: ir.Graph) -> set[ir.Node]:
    """Arithmetic whose results reach a Cast to 32 or 64-bit integers through nothing but arithmetic."""
    found = set[ir.Node]()
    for node in reversed(list(main)):
        readers = [use.node for value in node.outputs for use in value.uses()]
        if in_domain(node, ARITHMETIC) and any(one in found or _makes_integers(one) for one in readers):
            found.add(node)
    return found


def _makes_integers(node: ir.Node) -> bool:
    return in_domain(node, ("Cast",)) and node.outputs[0].dtype in _INTEGERS


def _places(node: ir.Node, opset: int, kind: str) -> tuple[list[int], bool]:
    """Inputs whose type the definition lets be 16-bit, and whether the float outputs then are."""
    has_body = any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values())
    if node.domain not in ("", "ai.onnx") or has_body:
        return [], False
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "")
    except onnx.defs.SchemaError:
        return [], False
    needed = {HALVES[kind].text, _FLOAT}
    able = {rule.type_param_str for rule in schema.type_constraints if needed <= set(rule.allowed_type_strs)}
    formals = [schema.inputs[min(index, len(schema.inputs) - 1)] for index in range(len(node.inputs))]
    places = [index for index, formal in enumerate(formals) if formal.type_str in able]
    bound = {formals[index].type_str for index in places}
    outputs = [
        schema.outputs[min(index, len(schema.outputs) - 1)]
        for index, value in enumerate(node.outputs)
        if is_float(value)
    ]
    unknown = any(value is not None and value.type is None for value in node.inputs)
    return places, not unknown and all(formal.type_str in bound for formal in outputs)


def is_float(value: ir.Value) -> bool:
    """Is it a float32 tensor?"""
    return isinstance(value.type, ir.TensorType) and value.dtype == ir.DataType.FLOAT


def _fits(array: np.ndarray | None, kind: str) -> bool:
    """No number becomes infinite, and they do not all become 0 (an epsilon)."""
    if array is None or array.dtype != np.float32 or array.size == 0:
        return True
    if float(np.abs(array).max()) > HALVES[kind].largest or not np.isfinite(array).all():
        return False
    return bool(array.astype(HALVES[kind].type).any() or (array == 0).all())


def _is_wide(value: ir.Value | None, kind: str, wide: Collection[ir.Value]) -> bool:
    """May it hold numbers that are larger than 16 bits can hold?"""
    array = constant(value)
    if array is None or array.dtype != np.float32 or array.size == 0:
        return value in wide
    return float(np.abs(array).max()) > HALVES[kind].largest


def _half(
    insertion: Insertion, value: ir.Value, halves: dict[ir.Value, ir.Value], kind: str, found: Halved
) -> ir.Value:
    """The 16-bit form of a float32 value: rounded numbers of a constant, else a Cast behind what makes it."""
    if value not in halves:
        array = constant(value)
        if array is not None and array.dtype == np.float32:
            halves[value] = insertion.constant(f"{value.name}_{kind}", array.astype(HALVES[kind].type))
            found.weights.append(str(value.name))
        else:
            halves[value] = _cast(insertion, value, HALVES[kind].dtype, kind)
    return halves[value]


def _restore(
    model: ir.Model, insertion: Insertion, kind: str, made: Collection[ir.Value], half: Collection[str]
) -> None:
    """float32 for whatever else reads the 16-bit values `made`: other nodes, inner bodies, the outputs."""
    main = model.graph
    for value in made:
        value.type = ir.TensorType(HALVES[kind].dtype)
        readers = [use for use in value.uses() if use.node.graph is not main or use.node.name not in half]
        if not readers and not value.is_graph_output():
            continue
        single = _cast(insertion, value, ir.DataType.FLOAT, "float")
        for use in readers:
            use.node.replace_input_with(use.idx, single)
        if value.is_graph_output():
            places = [index for index, output in enumerate(main.outputs) if output is value]
            name = str(value.name)
            value.name = insertion.fresh(f"{name}_{kind}")
            for index in places:
                main.outputs[index] = single
            single.name = name


def _cast(insertion: Insertion, value: ir.Value, dtype: ir.DataType, ending: str) -> ir.Value:
    to = {"to": int(dtype)}
    node = insertion.node("Cast", [value], f"{value.name}_{ending}", dtype, shape=value.shape, attributes=to)
    insertion.after(value, [node])
    return node.outputs[0]

"""The oracle of channel removal: onnxruntime runs the shortened graph and the masked one."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort

from mlcompress import graph
from mlcompress.graph import dependency

HEAD = '<ir_version: 10, opset_import: ["" : 18]> g '
IMAGE = HEAD + "(float[N,3,8,8] x) => (float[N,4] y) "
Arrays = dict[str, np.ndarray]


def ints(*numbers: int) -> np.ndarray:
    """An int64 vector: a shape, indices, axes."""
    return np.array(numbers, dtype=np.int64)


def net(text: str, weights: Mapping[str, Sequence[int]], seed: int = 0, **constants: np.ndarray) -> ir.Model:
    """A cleaned model from ONNX text, with random weights of these shapes and given constants."""
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    for name, shape in weights.items():
        fan_in = shape[-1] if len(shape) == 3 else int(np.prod(shape[1:]))  # 3-D: recurrent
        numbers = rng.standard_normal(shape) / np.sqrt(fan_in)
        if name.endswith("_var"):
            numbers = 0.5 + rng.random(shape)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(numbers.astype(np.float32), name))
    for name, array in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.serde.deserialize_model(proto)
    graph.clean(model)
    return model


def inputs(model: ir.Model, batch: int, seed: int = 1) -> Arrays:
    """Random inputs; every symbolic axis gets the length `batch`, integers count from 0 to 4."""
    rng = np.random.default_rng(seed)
    made = {}
    for value in model.graph.inputs:
        shape = [dim if isinstance(dim, int) else batch for dim in value.shape or ()]
        dtype = value.dtype.numpy() if value.dtype is not None else np.dtype(np.float32)
        made[value.name or ""] = (
            rng.integers(0, 5, shape).astype(dtype)
            if dtype.kind == "i"
            else rng.standard_normal(shape).astype(dtype)
        )
    return made


def run(model: ir.Model, feeds: Arrays) -> list[np.ndarray]:
    """Outputs from onnxruntime without graph optimisations, so that sums are done in the same way."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(graph.to_bytes(model), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def half(analysis: dependency.Analysis, seed: int = 2, *, soft: bool = False, share: float = 0.5) -> Arrays:
    """Random units: half of every family (soft ones only on request), one unit at least stays."""
    rng = np.random.default_rng(seed)
    chosen = {}
    for family in analysis.families:
        if soft or not family.soft:
            count = min(int(np.ceil(family.units * share)), family.units - 1)
            chosen[family.name] = rng.permutation(family.units)[:count]
    return chosen


def check(model: ir.Model, *, soft: bool = False, seed: int = 2, batches: Sequence[int] = (1, 3)) -> ir.Model:
    """Remove random units; asserts every law of one removal and returns the shortened model."""
    analysis = dependency.analyse(model)
    dead = half(analysis, seed, soft=soft)
    assert sum(len(units) for units in dead.values()), "nothing to remove"
    original, predicted = graph.to_bytes(model), dependency.shapes_after(model, analysis, dead)
    masked, short = dependency.mask(model, analysis, dead), graph.copy(model)
    dependency.remove(short, analysis, dead)
    assert graph.to_bytes(model) == original, "the original has changed"

    onnx.checker.check_model(onnx.load_from_string(graph.to_bytes(short)), full_check=True)
    assert graph.signature(short) == graph.signature(model)
    for name, shape in predicted.items():
        assert short.graph.initializers[name].const_value.shape.numpy() == shape
    assert 0 < numbers(short) < numbers(model)
    lost = sum(size(model, name) - int(np.prod(shape)) for name, shape in predicted.items())
    assert numbers(short) == numbers(model) - lost
    for batch in batches:
        feeds = inputs(model, batch)
        same(run(short, feeds), run(masked, feeds))
        assert differ(run(masked, feeds), run(model, feeds)), "masking changed nothing: the test is vacuous"
    return short


def check_two_steps(build: Callable[[], ir.Model], seed: int, *, soft: bool = False) -> None:
    """Half of what goes, then the rest, equals all at once; and nothing for nothing changes no byte."""
    once, twice = build(), build()
    analysis = dependency.analyse(once)
    before = graph.to_bytes(once)
    dependency.remove(once, analysis, {family.name: ints() for family in analysis.families})
    assert graph.to_bytes(once) == before
    dead = half(analysis, seed, share=0.7, soft=soft)
    dependency.remove(once, analysis, dead)
    first = {family: units[: len(units) // 2] for family, units in dead.items()}
    dependency.remove(twice, dependency.analyse(twice), first)
    again = dependency.analyse(twice)
    left = {f.name: np.delete(np.arange(f.units), first.get(f.name, ints())) for f in analysis.families}
    assert [(f.name, f.units) for f in again.families] == [(n, len(ids)) for n, ids in left.items()]
    second = {name: np.flatnonzero(np.isin(left[name], units)) for name, units in dead.items()}
    dependency.remove(twice, again, second)
    assert graph.to_bytes(twice) == graph.to_bytes(once)


def size(model: ir.Model, name: str) -> int:
    """Elements of an initializer."""
    return int(np.prod(model.graph.initializers[name].const_value.shape.numpy()))


def numbers(model: ir.Model) -> int:
    """Elements of all weights, integer vectors of 64 bits (shapes, indices) left out."""
    weights = model.graph.initializers.items()
    return sum(size(model, name) for name, value in weights if value.dtype != ir.DataType.INT64)


def same(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> None:
    """Equal within 1e-5 of the output scale: shorter float32 sums round differently (observed <= 1e-6)."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.shape == other.shape
        scale = max(float(np.abs(other).max()), 1e-6)
        assert float(np.abs(one.astype(np.float64) - other).max()) <= 1e-5 * scale


def differ(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> bool:
    """Some output differs by more than 1 % of its scale."""
    return any(
        float(np.abs(a - b).max()) > 0.01 * float(np.abs(b).max()) for a, b in zip(ours, theirs, strict=True)
    )

"""Each recipe of a loss trains a student by what its file says, without its command line, which costs more."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph
from mlcompress.context import Change, Context
from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.distill.run import run
from mlcompress.graph.insert import Insertion
from mlcompress.recipe.load import load
from tests import task
from tests.conftest import ROOT

TAPS = {"relu_12": "r3", "relu_8": "r2", "mean": "features"}
"""Tensors that the recipes name -> those of the task's net."""
RATES = {"distill-simkd": 0.5, "distill-dkd": 0.001}
"""The loss of the first alone is small, a mean over all numbers of a map; the second is strong (see its recipe)."""
ELSEWHERE = {
    "distill-soft",
    "distill-fresh-student",
    "distill-embedding",
    "distill-ensemble",
    "distill-transfer",
    "distill-texts",
}
"""Run by their command lines, in tests/recipe and test_texts.py."""
RECIPES = sorted({path.stem for path in (ROOT / "recipes").glob("distill-*.yaml")} - ELSEWHERE)
TRANSFORMER = """
<ir_version: 10, opset_import: ["" : 18]>
transformer (float[batch, 1, 8, 8] image) => (float[batch, 4] logits)
    <int64[3] as_tokens = {0, 8, 8}, int64[4] as_heads = {0, 8, 4, 4}, int64[3] merged = {0, 8, 16}, int64[1] tokens = {1},
     float half = {0.5}>
{
    x = Reshape (image, as_tokens)
    e = MatMul (x, embed)
    q = MatMul (e, query)
    k = MatMul (e, key)
    v = MatMul (e, value)
    qr = Reshape (q, as_heads)
    kr = Reshape (k, as_heads)
    vr = Reshape (v, as_heads)
    qt = Transpose <perm = [0, 2, 1, 3]> (qr)
    kt = Transpose <perm = [0, 2, 3, 1]> (kr)
    vt = Transpose <perm = [0, 2, 1, 3]> (vr)
    scores = MatMul (qt, kt)
    scaled = Mul (scores, half)
    attention = Softmax <axis = -1> (scaled)
    mixed = MatMul (attention, vt)
    turned = Transpose <perm = [0, 2, 1, 3]> (mixed)
    joined = Reshape (turned, merged)
    out = MatMul (joined, project)
    hidden = Add (out, e)
    pooled = ReduceMean <keepdims = 0> (hidden, tokens)
    logits = Gemm (pooled, head, bias)
}
"""


def transformer() -> ir.Model:
    """One layer of self-attention with four heads over the eight rows of a picture."""
    proto = onnx.parser.parse_model(TRANSFORMER)
    rng = np.random.default_rng(0)
    shapes = {"embed": (8, 16), "query": (16, 16), "key": (16, 16), "value": (16, 16), "project": (16, 16)}
    for name, shape in {**shapes, "head": (16, 4), "bias": (4,)}.items():
        array = rng.normal(size=shape).astype(np.float32) / 3
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    graph.clean(model)
    return model


@pytest.fixture(scope="module")
def teacher() -> ir.Model:
    model = ir.from_proto(task.solved())
    graph.clean(model)
    return model


def deeper(model: ir.Model) -> ir.Model:
    """Two residual layers where `model` has one; the second adds little."""
    made = graph.copy(model)
    insertion, end = Insertion(made.graph), next(v for n in made.graph for v in n.outputs if v.name == "r2")
    little = np.random.default_rng(0).normal(size=(16, 16, 3, 3)).astype(np.float32) / 1000
    attributes = {"kernel_shape": [3, 3], "pads": [1] * 4}
    conv = insertion.node(
        "Conv", [end, insertion.constant("more", little)], "c", ir.DataType.FLOAT, attributes=attributes
    )
    total = insertion.node("Add", [conv.outputs[0], end], "t", ir.DataType.FLOAT)
    relu = insertion.node("Relu", [total.outputs[0]], "r", ir.DataType.FLOAT)
    (reader,) = [node for node, _ in end.uses() if node is not conv and node is not total]
    made.graph.insert_before(reader, [conv, total, relu])
    reader.replace_input_with(0, relu.outputs[0])
    graph.infer_shapes(made)
    return made


def data(count: int, seed: int) -> Dataset:
    image, labels = task.samples(count, seed)
    return from_arrays({"image": image}, labels, name="data.train")


def trained(recipe: str, model: ir.Model) -> tuple[ir.Model, Change, DistillRecipe]:
    lines = [
        "train.epochs=8",
        f"train.optimizer.lr={RATES.get(recipe, 0.01)}",
        "train.batch_size=50",
        "train.threads=1",
        "train.augment=[]",
        "train.early_stop=null",
    ]
    loaded = load(f"{recipe}.yaml", DistillRecipe, lines)
    assert isinstance(loaded, DistillRecipe)
    moved = [
        loss.model_copy(update={key: TAPS.get(name, name) for key in ("teacher", "student", "deepest") if (name := getattr(loss, key, None))})
        for loss in loaded.distill.losses
    ]  # fmt: skip
    moved = [
        loss.model_copy(update={"heads": [TAPS[name] for name in loss.heads]})
        if hasattr(loss, "heads")
        else loss
        for loss in moved
    ]
    section = loaded.distill.model_copy(update={"losses": moved})
    loaded = loaded.model_copy(update={"distill": section})
    result, change = run(model, loaded, Context(0, train=data(300, 2), validation=data(100, 3)))
    return result, change, loaded


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains(
    recipe: str, teacher: ir.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (ROOT / "recipes").glob("*.yaml"):
        shutil.copy(path, tmp_path)
    monkeypatch.chdir(tmp_path)
    model = {"distill-transformer": transformer, "distill-depth": lambda: deeper(teacher)}.get(
        recipe, lambda: teacher
    )()
    result, change, loaded = trained(recipe, model)
    assert [row["name"] for row in change.details["losses"]] == [loss.name for loss in loaded.distill.losses]
    image, labels = task.samples(200, 9)
    session = ort.InferenceSession(graph.to_bytes(result), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": image})
    assert graph.signature(result) == graph.signature(model)
    added = {
        name
        for name, value in result.graph.initializers.items()
        if name not in model.graph.initializers and value.dtype == ir.DataType.FLOAT
    }
    assert all(name.startswith("simkd_") for name in added)  # no adapter is exported
    assert bool(added) == (recipe == "distill-simkd")
    if recipe != "distill-transformer":
        assert float((logits.argmax(1) == labels).mean()) > 0.6  # chance is 0.25

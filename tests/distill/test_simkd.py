"""The student that SimKD makes: its layers, the projector, and the teacher's own head, which stays as it is."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.distill.recipe import DistillRecipe, StudentSection
from mlcompress.distill.run import run
from mlcompress.distill.simkd import graft
from mlcompress.distill.student import make_student
from mlcompress.errors import ModelError, RecipeError, UnsupportedError, UserError
from mlcompress.train.losses import entry
from tests.train.nets import net, stripes, weights

MAPS = entry("simkd", teacher="r")


def student(teacher: ir.Model) -> ir.Model:
    return make_student(teacher, StudentSection(width=0.5), Context(0)).model


def output(model: ir.Model, data: np.ndarray, *taps: str) -> list[np.ndarray]:
    tapped = graph.copy(model)
    values = {value.name: value for node in tapped.graph for value in node.outputs}
    tapped.graph.outputs.extend(values[name] for name in taps)
    session = ort.InferenceSession(graph.to_bytes(tapped), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": data})


@pytest.mark.parametrize("tensor", ["r", "p"])
def test_the_head_is_the_teachers(tensor: str) -> None:
    """What the student answers is what the teacher's last layers make of the projected features."""
    teacher = net(seed=4)
    made, before = student(teacher), weights(teacher)
    narrow = graph.parameters(made)
    grown = graft(made, teacher, [MAPS.model_copy(update={"teacher": tensor})], seed=0)
    image = stripes(7).take(np.arange(7)).inputs["image"]
    logits, features = output(made, image, grown.losses[0].student)
    pooled = features.mean((2, 3)) if features.ndim == 4 else features
    np.testing.assert_allclose(logits, pooled @ before["w2"].T + before["b2"], rtol=0, atol=1e-5)  # float32
    assert features.shape == output(teacher, image, tensor)[1].shape
    assert graph.signature(made) == graph.signature(teacher)
    told = grown.description["simkd"]
    assert told["params_before"] == narrow
    assert graph.parameters(made) > narrow
    assert all(np.array_equal(before[name], array) for name, array in weights(teacher).items())


def test_training_moves_the_projector_and_not_the_head() -> None:
    recipe = DistillRecipe.model_validate(
        {
            "distill": {"losses": [{"name": "simkd", "teacher": "r"}]},
            "train": {"epochs": 2, "batch_size": 32, "threads": 1, "optimizer": {"name": "sgd", "lr": 0.1}},
        }
    )
    teacher = net(seed=4)
    context = Context(0, train=stripes(), validation=stripes(60, seed=1))
    result, change = run(teacher, recipe, context)
    after = weights(result)
    np.testing.assert_array_equal(after["simkd_head.w2"], weights(teacher)["w2"])
    first = student(teacher)
    graft(first, teacher, [MAPS], seed=0)
    assert not np.array_equal(after["simkd_projector.weight"], weights(first)["simkd_projector.weight"])
    losses = [row["loss"] for row in change.details["epochs"]]
    assert losses[-1] < losses[0]
    assert change.details["student"]["simkd"]["projector_params"] > 0
    assert "the student grows from 59 to 295 parameters" in change.warnings[0]
    again, _ = run(teacher, recipe, context)
    assert graph.to_bytes(result) == graph.to_bytes(again)


def pooled(size: int) -> ir.Model:
    """A student whose maps are `size` times as long and wide as the teacher's 6 x 6."""
    proto = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["" : 18]>
        other (float[batch, 1, 6, 6] image) => (float[batch, 3] logits)
        <float[4] scales = {{1, 1, {size}, {size}}}, int64[2] axes = {{2, 3}}>
        {{ up = Resize <mode = "nearest"> (image, , scales)
           big = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (up, w)
           mean = ReduceMean <keepdims = 0> (big, axes)
           logits = MatMul (mean, v) }}
    """)
    for name, shape in {"w": (2, 1, 3, 3), "v": (2, 3)}.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    return ir.from_proto(proto)


def test_larger_maps_are_averaged_first() -> None:
    made = pooled(2)
    grown = graft(made, net(), [entry("simkd", teacher="r", student="big")], seed=0)
    image = stripes(3).take(np.arange(3)).inputs["image"]
    assert output(made, image, grown.losses[0].student)[1].shape == (3, 8, 6, 6)


SKIPS = """
<ir_version: 10, opset_import: ["" : 18]>
skips (float[batch, 4] x) => (float[batch, 2] logits) <float[4, 4] a = {1}, float[4, 2] b = {1}, float[4, 2] c = {1}>
{ early = MatMul (x, a)
  late = Relu (early)
  one = MatMul (late, b)
  two = MatMul (early, c)
  logits = Add (one, two) }
"""


def skips() -> ir.Model:
    text = SKIPS.replace("float[4, 4] a = {1}", "float[4, 4] a = {" + ", ".join(["1"] * 16) + "}")
    for name in "bc":
        text = text.replace(
            f"float[4, 2] {name} = {{1}}", f"float[4, 2] {name} = {{" + ", ".join(["1"] * 8) + "}"
        )
    return ir.from_proto(onnx.parser.parse_model(text))


@pytest.mark.parametrize(
    ("losses", "models", "problem", "words"),
    [
        ([entry("simkd", teacher="q")], (net, net), RecipeError, "no tensor in the teacher's graph named 'q'"),
        ([MAPS, MAPS], (net, net), RecipeError, "name simkd once"),
        ([entry("simkd", teacher="logits")], (net, net), UnsupportedError, "is an output, so no head is left"),
        ([entry("simkd", teacher="c")], (net, net), UnsupportedError, "the head holds BatchNormalization norm"),
        ([entry("simkd", teacher="r", student="p")], (net, net), ModelError, "no projector joins them"),
        ([entry("simkd", teacher="late")], (skips, skips), UnsupportedError, "the outputs need .* which does not read late"),
        ([entry("simkd", teacher="r", student="big")], (lambda: pooled(1), net), None, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_grafted_is_refused(
    losses: list[object], models: tuple[object, object], problem: type[UserError] | None, words: str
) -> None:
    made, teacher = models[0](), models[1]()
    if problem is None:
        graft(made, teacher, losses, seed=0)
        return
    with pytest.raises(problem, match=words):
        graft(made, teacher, losses, seed=0)


def test_without_simkd_nothing_changes() -> None:
    made = net()
    before = graph.to_bytes(made)
    losses = [entry("soft")]
    grown = graft(made, net(), losses, seed=0)
    assert (grown.losses, grown.frozen, grown.description) == (losses, [], {})
    assert graph.to_bytes(made) == before

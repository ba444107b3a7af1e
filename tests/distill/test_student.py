"""Deriving a student: widths, which units are kept, fresh weights, and students that do not fit."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.data.dataset import from_arrays
from mlcompress.distill.recipe import StudentSection
from mlcompress.distill.student import make_student
from mlcompress.errors import ModelError, UnsupportedError
from tests import task
from tests.train.nets import net, stripes, weights


def student(
    teacher: ir.Model, *, given: ir.Model | None = None, seed: int = 0, **section: object
) -> ir.Model:
    return make_student(teacher, StudentSection.model_validate(section), Context(seed, student=given)).model


def test_the_strongest_units_are_inherited_and_the_teacher_stays() -> None:
    teacher = net()
    before = weights(teacher)
    w1, w2 = before["w1"].copy(), before["w2"].copy()
    strong = [1, 3, 4, 6]
    w1[strong] *= 5
    w2[:, strong] *= 5
    teacher.graph.initializers["w1"].const_value = ir.tensor(w1, name="w1")
    teacher.graph.initializers["w2"].const_value = ir.tensor(w2, name="w2")
    # large running statistics are no importance
    teacher.graph.initializers["v1"].const_value = ir.tensor(
        np.where(np.isin(np.arange(8), strong), 1, 1e6).astype(np.float32), name="v1"
    )
    made = student(teacher, width=0.5)
    np.testing.assert_array_equal(weights(made)["w1"], w1[strong])
    np.testing.assert_array_equal(weights(made)["w2"], w2[:, strong])
    np.testing.assert_array_equal(weights(teacher)["w1"], w1)
    assert graph.signature(made) == graph.signature(teacher)


def test_a_narrow_student_runs_in_onnxruntime() -> None:
    made = student(net(), width=0.25)
    session = ort.InferenceSession(graph.to_bytes(made), providers=["CPUExecutionProvider"])
    for size in (1, 5):
        (found,) = session.run(None, {"image": stripes(size).take(np.arange(size)).inputs["image"]})
        assert found.shape == (size, 3)
    assert weights(made)["w1"].shape == (2, 1, 3, 3)


def test_fresh_weights_are_seeded_and_scaled() -> None:
    one, again, other = (weights(student(net(), weights="fresh", width=1.0, seed=seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(one[name], again[name]) for name in one)
    assert not np.array_equal(one["w1"], other["w1"])
    assert not np.array_equal(one["w1"], weights(net())["w1"])
    assert np.all(one["g1"] == 1)
    assert np.all(one["v1"] == 1)
    assert not one["b1"].any()
    assert not one["m1"].any()
    assert not one["b2"].any()
    np.testing.assert_array_equal(one["axes"], [2, 3])
    assert one["w1"].std() == pytest.approx(np.sqrt(2 / 9), rel=0.25)  # 72 draws: standard error 8 %
    assert np.abs(one["w2"]).max() <= np.sqrt(6 / (8 + 3))


def test_inherited_layers_are_fitted_to_what_they_gave() -> None:
    """The task's net at half its width, untrained: least squares gives back most of its answers."""
    teacher = ir.from_proto(task.solved())
    graph.clean(teacher)
    image, labels = task.samples(300, 2)
    given = Context(0, train=from_arrays({"image": image}, labels, name="data.train"))
    image, labels = task.samples(200, 9)
    found = {}
    for fitted in (True, False):
        made = make_student(teacher, StudentSection(reconstruct=fitted), given)
        session = ort.InferenceSession(graph.to_bytes(made.model), providers=["CPUExecutionProvider"])
        found[fitted] = float((session.run(None, {"image": image})[0].argmax(1) == labels).mean())
        assert made.description.get("reconstructed") == (["/body", "/top", "/fc"] if fitted else None)
    assert found[True] > found[False] + 0.3  # 0.935 and 0.475; four classes


def test_layers_are_fitted_on_256_of_the_training_samples() -> None:
    image, labels = task.samples(400, 2)
    data = from_arrays({"image": image}, labels, name="data.train")
    drawn = data.subset(np.sort(np.random.default_rng(5).choice(400, 256, replace=False)))
    teacher = ir.from_proto(task.solved())
    graph.clean(teacher)
    given = {
        "few": Context(5, train=data),
        "drawn": Context(5, calibration=drawn),
        "all": Context(5, calibration=data),
    }
    made = {
        name: graph.to_bytes(make_student(teacher, StudentSection(), one).model)
        for name, one in given.items()
    }
    assert made["few"] == made["drawn"] != made["all"]


_WIDE = """
<ir_version: 10, opset_import: ["" : 18]>
wide (int64[n] ids, float[n, 8, 16] x) => (float[n, 32] y, float[n, 60, 19] z)
{
    e = Gather (table, ids)
    m = MatMul (e, w)
    y = Add (m, b)
    t = ConvTranspose <group = 2> (x, k)
    z = PRelu (t, slope)
}
"""


def test_fresh_weights_of_other_layers() -> None:
    proto = onnx.parser.parse_model(_WIDE)
    shapes = {"table": (50, 64), "w": (64, 32), "b": (32,), "k": (8, 30, 4), "slope": (60, 1), "unused": (3,)}
    arrays = {name: np.full(shape, 7, np.float32) for name, shape in shapes.items()}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in arrays.items())
    from mlcompress.distill.fresh import reinitialise

    model = ir.from_proto(proto)
    assert reinitialise(model, 0) == ["unused"]
    made = weights(model)
    assert made["table"].std() == pytest.approx(0.02, rel=0.05)  # 3200 draws
    assert np.abs(made["w"]).max() <= np.sqrt(6 / 96)
    assert made["w"].std() == pytest.approx(np.sqrt(6 / 96 / 3), rel=0.05)  # uniform: bound / sqrt 3
    assert not made["b"].any()
    assert made["k"].std() == pytest.approx(np.sqrt(2 / 16), rel=0.1)  # fan-in 8 / 2 groups * 4 taps
    assert np.all(made["slope"] == 0.25)
    assert np.all(made["unused"] == 7)


def test_a_given_student_is_taken_as_it_is() -> None:
    given = net(seed=9)
    made = student(net(), given=given)
    assert graph.to_bytes(made) == graph.to_bytes(given)
    assert made is not given  # several trials begin with it


def test_all_differences_of_a_student_are_said() -> None:
    with pytest.raises(ModelError) as caught:
        student(net(), given=net(classes=4))
    assert caught.value.lines == (
        "student: output 'logits' is float32 ['batch', 4], the teacher's float32 ['batch', 3];"
        " a student has the teacher's inputs and outputs",
    )
    with pytest.raises(ModelError) as caught:
        student(net(), given=net(softmax=True))
    assert [line.split(";")[0] for line in caught.value.lines] == [
        "student: output 'probabilities' is not one of the teacher's",
        "student: output 'logits' of the teacher is missing",
    ]


def test_a_model_without_channels_is_refused() -> None:
    text = '<ir_version: 10, opset_import: ["" : 18]> f (float[n, 3] x) => (float[n, 3] y) { y = Relu (x) }'
    with pytest.raises(UnsupportedError, match="no layer of this model can be narrowed"):
        student(ir.from_proto(onnx.parser.parse_model(text)))

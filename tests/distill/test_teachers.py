"""Several teachers from files: their names, inputs, classes and outputs, and what is kept of them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import checkpoint, graph, prepare
from mlcompress.context import Context, GivenTeacher
from mlcompress.data.augment import augment as change
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.distill.run import run
from mlcompress.errors import DataError, RecipeError, UnsupportedError, UserError
from mlcompress.job import Job
from mlcompress.train.batches import to_torch
from mlcompress.train.ensemble import Ensemble
from mlcompress.train.losses import entry
from tests import task
from tests.train.nets import net, stripes

DATA = {"train": {"path": "train.npz", "inputs": {"image": "image"}, "label": "y"}}
TRAIN = {
    "epochs": 3,
    "batch_size": 50,
    "threads": 1,
    "validation": 0.2,
    "optimizer": {"name": "sgd", "lr": 0.01},
}
HALF = 2e-2
"""float16 has 11 bits; the teachers' logits are below 32."""


def recipe(distill: dict[str, Any], **more: Any) -> DistillRecipe:
    return DistillRecipe.model_validate({"data": DATA, "train": TRAIN, "distill": distill} | more)


def opened(distill: dict[str, Any], *teachers: str, **more: Any) -> tuple[ir.Model, Context]:
    made = recipe(distill, **more)
    job = Job("distill", Path("teacher.onnx"), Path("o.onnx"), teachers=tuple(map(Path, teachers)))
    prepare.check(job, made)
    model = checkpoint.load(job.model)
    return model, prepare.context(job, made, model)


def save_second(path: str = "second.onnx", **changes: Any) -> None:
    """A wider net that takes `pixels` in thousandths, or has its classes in another order or names."""
    model = task.solved((24, 32), seed=5)
    names = {"image": changes.get("image", "image"), "logits": changes.get("logits", "logits")}
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    model.graph.input[0].name, model.graph.output[0].name = names["image"], names["logits"]
    for tensor in model.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if tensor.name == "stem.weight" and "scale" in changes:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array / np.float32(changes["scale"]), tensor.name))
        if tensor.name in ("fc.weight", "fc.bias") and "order" in changes:
            moved = np.empty_like(array)
            moved[list(changes["order"])] = array
            tensor.CopyFrom(onnx.numpy_helper.from_array(moved, tensor.name))
    onnx.save(model, path)


def probabilities(path: str, image: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: image})
    powers = np.exp(logits.astype(np.float64) / temperature)
    return powers / powers.sum(1, keepdims=True)


def said(model: ir.Model, context: Context, ids: np.ndarray, *, cache: Path | None = None) -> np.ndarray:
    """Class probabilities that the losses of a student like TEACHER get, at temperature 1."""
    ensemble = Ensemble(context.teachers)
    term = ensemble.resolve(entry("soft", temperature=1.0), model, "here")
    running = ensemble.start(term.teacher_values, threads=1)
    if cache is not None:
        assert running.cache(context.train, cache) == ""
    batch = to_torch(context.train.take(ids))
    return term.heard(running(batch), batch).softmax(1).numpy()


IDS = np.array([7, 3, 30, 4])


def wanted(context: Context, *files: tuple[str, float], order: tuple[int, ...] = (0, 1, 2, 3)) -> np.ndarray:
    """The mean of what stock onnxruntime says of each file on the samples `IDS` times a factor."""
    image = context.train.take(IDS).inputs["image"]
    first, *rest = [probabilities(file, image * np.float32(factor)) for file, factor in files]
    return np.mean([first, *(one[:, list(order)] for one in rest)], axis=0)


@pytest.mark.parametrize("kept", [True, False])
def test_teachers_with_own_inputs_names_and_classes_speak_as_one(inside: Path, kept: bool) -> None:
    order = (2, 0, 3, 1)
    save_second(image="pixels", logits="scores", scale=1000.0, order=order)
    each = {
        "file": "second.onnx",
        "inputs": {"pixels": "image"},
        "transforms": [{"scale": 1000.0}],
        "classes": dict(zip("abcd", order, strict=True)),
    }
    model, context = opened({"teachers": {"each": [each]}})
    assert [one.file for one in context.teachers] == ["teacher.onnx", "second.onnx"]
    expected = wanted(context, ("teacher.onnx", 1), ("second.onnx", 1000), order=order)
    got = said(model, context, IDS, cache=inside / "kept" if kept else None)
    np.testing.assert_allclose(got, expected, atol=HALF if kept else 1e-5)
    assert np.abs(expected - wanted(context, ("teacher.onnx", 1))).max() > 0.01  # the second is heard
    assert len(context.train) == 480  # a fifth is held out, in the same places for both


def test_a_teacher_of_equal_inputs_reads_the_students(inside: Path) -> None:
    save_second()
    model, context = opened({}, "second.onnx")
    assert [one.train for one in context.teachers] == [None, None]
    expected = wanted(context, ("teacher.onnx", 1), ("second.onnx", 1))
    np.testing.assert_allclose(said(model, context, IDS), expected, atol=1e-5)


def test_a_teacher_with_own_inputs_sees_the_same_changes(inside: Path) -> None:
    """Augmentation follows from seed, epoch and sample, so it can be done twice."""
    save_second(image="pixels")
    augment = [{"shift": 1}, {"flip": "horizontal"}, {"mixup": 0.3}]
    _, context = opened({"teachers": {"each": [{"file": "second.onnx"}]}})
    context.teachers = (context.teachers[1], GivenTeacher(context.teachers[1].model, "again"))
    changes = recipe({}, train={**TRAIN, "augment": augment}).train.augment
    ensemble = Ensemble(context.teachers)
    running = ensemble.start(["0:logits"], threads=1, changes=changes, seed=5)
    running.start_epoch(3)
    batch = change(context.train.take(IDS), changes, (5, 2))
    session = ort.InferenceSession("second.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"pixels": batch.inputs["image"]})
    np.testing.assert_allclose(running(to_torch(batch))["0:logits"].numpy(), logits, atol=1e-4)
    running.start_epoch(4)
    assert np.abs(running(to_torch(batch))["0:logits"].numpy() - logits).max() > 0.1


def test_the_card_tells_teachers_and_cache(inside: Path) -> None:
    save_second()
    section = {"cache": "kept", "teachers": {"combine": "weighted", "weights": [1, 3]}}

    def distilled(**train: Any) -> tuple[bytes, dict[str, Any]]:
        more = {"train": {**TRAIN, "epochs": 1, **train}}
        model, context = opened(section, "second.onnx", **more)
        student, done = run(model, recipe(section, **more), context)
        return graph.to_bytes(student), json.loads(json.dumps(done.details))

    students, told = zip(distilled(), distilled(), strict=True)
    assert students[0] == students[1]
    assert [one["teacher_cache_read"] for one in told] == [False, True]
    assert [one["teacher_cache"] for one in told] == [True, True]
    assert told[0]["teachers"] == {
        "files": [
            {"path": "teacher.onnx", "own_inputs": False},
            {"path": "second.onnx", "own_inputs": False},
        ],
        "combine": "weighted",
        "weights": [0.25, 0.75],
    }
    assert len(list(Path("kept").glob("*.json"))) == 2  # one for each teacher
    assert distilled(augment=[{"shift": 1}])[1]["teacher_cache"] is False


@pytest.mark.parametrize(
    ("teachers", "more", "words"),
    [
        ({}, ("teacher.onnx",), "--teacher: teacher.onnx is given twice"),
        ({"combine": "weighted", "weights": [1, 2, 3]}, ("second.onnx",), "3 for 2 teachers (teacher.onnx, second.onnx)"),
        ({"combine": "confidence"}, (), "distill.teachers.combine: there is one teacher"),
        ({"each": [{"file": "teacher.onnx", "transforms": []}]}, ("second.onnx",), "is TEACHER, which `data`"),
        ({"each": [{"file": "second.onnx", "outputs": {"logits": "x"}}]}, (), "has no output 'x'; it has logits"),
        ({"each": [{"file": "second.onnx", "classes": {"a": 0, "b": 4}}]}, (), "second.onnx has classes 0..3"),
        ({"each": [{"file": "second.onnx", "inputs": {"image": "x"}}]}, (), "no array 'x'"),
        ({"each": [{"file": "missing.onnx"}]}, (), "missing.onnx"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_the_work(
    teachers: dict[str, Any], more: tuple[str, ...], words: str, inside: Path
) -> None:
    save_second()
    with pytest.raises(UserError) as caught:
        opened({"teachers": teachers}, *more)
    assert words in "\n".join(caught.value.lines)


def pair() -> tuple[GivenTeacher, GivenTeacher]:
    return GivenTeacher(net(1), "a.onnx"), GivenTeacher(net(2), "b.onnx")


def test_which_teachers_speak_to_a_loss() -> None:
    ensemble = Ensemble(pair(), "weighted", (1.0, 3.0))

    def asked(**keys: Any) -> tuple[list[str], tuple[float, ...] | None]:
        term = ensemble.resolve(entry(**keys), net(), "here")
        assert term.panel is not None
        return [source.key for source in term.panel.sources], term.panel.weights

    assert asked(name="soft") == (["0:logits", "1:logits"], (0.25, 0.75))
    assert asked(name="mse") == (["0:logits", "1:logits"], (0.25, 0.75))
    assert asked(name="soft", teachers=[1]) == (["1:logits"], (1.0,))
    assert asked(name="hint", teacher="r") == (["0:r"], (1.0,))
    assert asked(name="hint", teacher="r", teachers=[1]) == (["1:r"], (1.0,))
    assert asked(name="similarity") == (["0:logits"], (1.0,))
    with pytest.raises(RecipeError, match=r"here.teachers: no teacher 2; there are 0 a.onnx, 1 b.onnx"):
        asked(name="soft", teachers=[2])
    with pytest.raises(RecipeError, match=r"here.teachers: hard asks no teacher"):
        asked(name="hard", teachers=[0])
    with pytest.raises(RecipeError, match=r"no tensor in the teacher's graph named 'x'"):
        asked(name="hint", teacher="x")
    with pytest.raises(UnsupportedError, match="confidence needs class scores, and mse compares plain"):
        Ensemble(pair(), "confidence").resolve(entry("mse"), net(), "here")


def test_losses_of_different_temperatures_get_their_own_mean() -> None:
    ensemble = Ensemble(pair())
    kinds = {"soft": 4.0, "dkd": 4.0, "dist": 1.0, "logit_std": 1.0}
    found = {name: ensemble.resolve(entry(name), net(), "here").panel for name in kinds}
    assert {name: made.temperature for name, made in found.items() if made} == kinds


def two_heads(seed: int = 0) -> ir.Model:
    """Conv - Relu - mean, and two Gemms: `kind` [batch, 3] and `bright` [batch, 2]."""
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 18]>
        net (float[batch, 1, 6, 6] image) => (float[batch, 3] kind, float[batch, 2] bright)
            <int64[2] axes = {2, 3}>
        {
            c = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (image, w1)
            r = Relu (c)
            p = ReduceMean <keepdims = 0> (r, axes)
            kind = Gemm <transB = 1> (p, w2, b2)
            bright = Gemm <transB = 1> (p, w3, b3)
        }
    """)
    rng = np.random.default_rng(seed)
    shapes = {"w1": (8, 1, 3, 3), "w2": (3, 8), "b2": (3,), "w3": (2, 8), "b3": (2,)}
    for name, shape in shapes.items():
        array = rng.normal(0, 0.5, shape).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


def divergence(student: ir.Model, output: str, teacher: ir.Model) -> float:
    """Mean KL(teacher || student) of one output on fresh samples, by onnxruntime."""
    image = stripes(200, seed=7).take(np.arange(200)).inputs["image"]
    found = []
    for model in (teacher, student):
        session = ort.InferenceSession(graph.to_bytes(model), providers=["CPUExecutionProvider"])
        (logits,) = session.run([output], {"image": image})
        powers = np.exp(logits.astype(np.float64))
        found.append(powers / powers.sum(1, keepdims=True))
    p, q = found
    return float((p * np.log(p / q)).sum(1).mean())


TWO = {
    "train": {"epochs": 8, "batch_size": 32, "threads": 1, "optimizer": {"name": "adam", "lr": 0.02}},
    "evaluate": {"metric": "agreement", "output": "kind"},
}
BOTH = [{"name": "soft", "output": "kind"}, {"name": "soft", "output": "bright"}]


def single(seed: int, classes: int, output: str) -> ir.Model:
    """A teacher of one task, whose last bias takes a side."""
    model = net(seed, classes=classes)
    model.graph.outputs[0].name = output
    bias = np.linspace(-1, 1, classes).astype(np.float32)
    model.graph.initializers["b2"].const_value = ir.tensor(bias, name="b2")
    return model


def test_two_teachers_of_one_task_each_teach_a_student_of_both() -> None:
    first, second = single(4, 3, "kind"), single(9, 2, "scores")
    context = Context(0, train=stripes(), validation=stripes(90, seed=1), student=two_heads())
    context.teachers = (
        GivenTeacher(first, "kind.onnx"),
        GivenTeacher(second, "bright.onnx", outputs={"bright": "scores"}),
    )
    student, _ = run(first, DistillRecipe.model_validate({**TWO, "distill": {"losses": BOTH}}), context)
    second.graph.outputs[0].name = "bright"
    for output, teacher in (("kind", first), ("bright", second)):
        assert divergence(student, output, teacher) < 0.2 * divergence(two_heads(), output, teacher)


def test_a_teacher_of_both_tasks_teaches_both() -> None:
    teacher, fresh = two_heads(3), {"width": 1.0, "weights": "fresh"}
    context = Context(0, train=stripes(), validation=stripes(90, seed=1))

    def taught(*losses: dict[str, str]) -> ir.Model:
        made = {**TWO, "distill": {"losses": list(losses), "student": fresh}}
        return run(teacher, DistillRecipe.model_validate(made), context)[0]

    both = taught(*BOTH)
    for output, other in (("kind", taught(BOTH[1])), ("bright", taught(BOTH[0]))):
        assert divergence(both, output, teacher) < 0.5 * divergence(other, output, teacher)


def test_an_output_that_nobody_teaches_is_refused() -> None:
    context = Context(0, train=stripes(), student=two_heads())
    context.teachers = (
        GivenTeacher(single(1, 2, "bright"), "a.onnx"),
        GivenTeacher(single(2, 2, "bright"), "b.onnx"),
    )
    made = DistillRecipe.model_validate({"distill": {"losses": [{"name": "soft", "output": "kind"}]}})
    with pytest.raises(UserError, match="output 'kind' is not one of the teacher's"):
        run(context.teachers[0].model, made, context)
    with pytest.raises(RecipeError, match=r"no teacher has an output 'kind'; say which one it is"):
        Ensemble(context.teachers).resolve(entry("soft", output="kind"), two_heads(), "here")


def test_samples_of_another_number_are_refused(inside: Path) -> None:
    save_second(image="pixels")
    arrays = dict(np.load("train.npz"))
    np.savez("train.npz", image=arrays["image"], small=arrays["image"][:100])
    section = {"teachers": {"each": [{"file": "second.onnx", "inputs": {"pixels": "small"}}]}}
    unlabelled = {"train": {"path": "train.npz", "inputs": {"image": "image"}}}
    with pytest.raises(DataError, match=r"each\[0\]: gives 100 samples, data.train 600"):
        opened({**section, "losses": ["soft"]}, data=unlabelled)

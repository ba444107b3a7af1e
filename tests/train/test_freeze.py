"""`train.freeze`: what it selects, that it stays to the byte, and that the rest still learns."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

from mlcompress import graph, pipeline
from mlcompress.cli.app import _status
from mlcompress.context import Context
from mlcompress.data.dataset import from_arrays
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.errors import RecipeError
from mlcompress.exits import Exit
from mlcompress.job import Job
from mlcompress.prune.recipe import PruneRecipe
from mlcompress.quantize.recipe import QuantizeRecipe
from mlcompress.quantize.run import run as quantize
from mlcompress.recipe.train import TrainSection
from mlcompress.train.executor import Executor
from mlcompress.train.losses import entry
from mlcompress.train.recover import learn, recover
from tests import task
from tests.train.nets import net, stripes, weights

NORM = ["b1", "g1", "m1", "v1"]


def settings(*freeze: str, **more: Any) -> TrainSection:
    rate = {"name": "sgd", "lr": 0.1, "weight_decay": 0.01}
    given = {"batch_size": 32, "threads": 1, "ema": 0.99, "optimizer": rate, "freeze": list(freeze), **more}
    return TrainSection.model_validate(given)


def moved(*freeze: str, model: ir.Model | None = None) -> tuple[set[str], list[str]]:
    """Names whose bytes three epochs on labels change, and what the card says was frozen."""
    model = model or net()
    before = {name: array.tobytes() for name, array in weights(model).items()}
    context = Context(0, train=stripes())
    told = recover(
        model, net(), settings(*freeze), context, epochs=3, label="t", losses=[entry("hard")]
    ).as_card()
    after = {name: array.tobytes() for name, array in weights(model).items()}
    return {name for name in before if before[name] != after[name]}, told.get("frozen", [])


@pytest.mark.parametrize(
    ("patterns", "kept"),
    [
        ([], []),
        (["w1"], ["w1"]),
        (["conv"], ["w1"]),
        (["fc"], ["b2", "w2"]),
        (["b2"], ["b2"]),
        (["op:BatchNormalization"], NORM),
        (["m1"], ["m1", "v1"]),  # one alone would be of another distribution than the other
        (["norm", "w?"], [*NORM, "w1", "w2"]),
        (["c"], ["w1"]),  # the output of the convolution
    ],
)
def test_what_is_frozen_stays_to_the_byte(patterns: list[str], kept: list[str]) -> None:
    changed, told = moved(*patterns)
    assert told == sorted(kept)
    assert changed == {"w1", "w2", "b2", *NORM} - set(kept)


def test_a_negative_zero_stays_one() -> None:
    """An average of weights would make it positive."""
    model = net()
    array = weights(model)["w1"]
    array[0, 0] = -0.0
    model.graph.initializers["w1"].const_value = ir.tensor(array, name="w1")
    assert "w1" not in moved("conv", model=model)[0]


def test_no_gradient_is_computed_for_it() -> None:
    executor = Executor(net()).train()
    executor.freeze(["conv"])
    batch = {"image": torch.from_numpy(stripes().take(np.arange(8)).inputs["image"])}
    executor(batch)["logits"].square().sum().backward()
    grads = {name: weight.grad for name, weight in executor.trainable.items()}
    assert {name for name, one in grads.items() if one is None} == {"w1"}


def test_a_frozen_norm_computes_what_the_exported_graph_does() -> None:
    """(x - mean) / sqrt(var + epsilon) * scale + bias with the file's numbers, in training mode."""
    model = net()
    rng = np.random.default_rng(3)
    given = {"m1": rng.normal(size=8), "v1": rng.uniform(0.5, 2, 8), "g1": rng.normal(size=8), "b1": rng.normal(size=8)}  # fmt: skip
    for name, array in given.items():
        model.graph.initializers[name].const_value = ir.tensor(array.astype(np.float32), name=name)
    image = torch.from_numpy(stripes().take(np.arange(8)).inputs["image"])

    def normalised(*patterns: str) -> tuple[np.ndarray, np.ndarray, bool]:
        executor = Executor(model).train()
        executor.freeze(patterns)
        with torch.no_grad():
            found = executor({"image": image}, ["c", "n"])
        before = torch.from_numpy(given["m1"].astype(np.float32))
        return found["c"].numpy(), found["n"].numpy(), bool((executor.statistics["m1"] == before).all())

    entering, got, is_kept = normalised("norm")
    mean, var, scale, bias = (given[name][None, :, None, None] for name in ("m1", "v1", "g1", "b1"))
    wanted = (entering - mean) / np.sqrt(var + 1e-5) * scale + bias
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert is_kept
    _, batch_wise, is_kept = normalised("conv")
    assert np.abs(batch_wise - wanted).max() > 0.1
    assert not is_kept


def test_nothing_left_to_train_is_refused_before_anything_is_trained() -> None:
    model = net()
    before = graph.to_bytes(model)
    with pytest.raises(
        RecipeError, match=r"train.freeze: none of the 5 weights is left to train by 'w\*' and '\?1' and 'b2'"
    ):
        moved("w*", "?1", "b2", model=model)
    assert graph.to_bytes(model) == before
    with pytest.raises(RecipeError, match="is left to train"):  # the rest is frozen by the stage itself
        learn(
            net(), net(), settings("fc", "norm"), Context(0, train=stripes()), losses=[entry("hard")],
            evaluate=QuantizeRecipe.model_validate({"quantize": {}}).evaluate, epochs=1, label="t",
            where="distill", frozen=["w1"],
        )  # fmt: skip


TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
net (float[n, 4] x, bool flag) => (float[n, 4] y)
    <float[4, 4] w = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}, float[4] b = {1,2,3,4}, int64[2] s = {-1, 4},
     float[4] inner = {1,2,3,4}>
{
    [turn] t = Transpose (w)
    [mul] m = MatMul (x, t)
    [add] a = Add (m, b)
    [shape] r = Reshape (a, s)
    [swap] z = Transpose <perm = [0, 1]> (r)
    [choice] y = If (flag) <then_branch = g () => (float[n, 4] p) { [scale] p = Mul (z, inner) },
                            else_branch = h () => (float[n, 4] q) { [same] q = Identity (z) }>
}
"""


def selected(pattern: str) -> list[str]:
    model = ir.from_proto(onnx.parser.parse_model(TEXT))
    return [str(value.name) for value in graph.weights_matching(model, [pattern])[pattern]]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("mul", ["w"]),  # behind the transposition
        ("op:MatMul", ["w"]),
        ("op:Transpose", ["w"]),  # the second transposes data
        ("a", ["b"]),
        ("b", ["b"]),
        ("choice", ["inner"]),  # in a body
        ("scale", ["inner"]),
        ("op:*", ["w", "b", "inner"]),
        ("shape", []),  # whole numbers
        ("nothing", []),
    ],
)
def test_globs_select_the_constants_behind_a_node(pattern: str, names: list[str]) -> None:
    assert selected(pattern) == names


def test_a_glob_that_selects_nothing_has_a_line_of_its_own() -> None:
    assert graph.unfrozen(net(), ["conv", "w9", "act"]) == [
        "train.freeze: 'w9' matches no node; did you mean 'w2'?",
        "train.freeze: 'act' matches no node that has weights; name another",
    ]


DATA = {
    "data": {"train": {"path": "train.npz", "label": "y"}, "evaluate": {"path": "val.npz"}},
    "train": {"threads": 1, "epochs": 1, "batch_size": 60, "optimizer": {"name": "sgd", "lr": 0.01}},
    "measure": {"repeats": 1},
}


def floats(path: str) -> dict[str, np.ndarray]:
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def test_a_pretrained_student_keeps_its_first_layers(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(task.solved((8, 16), seed=3), "student.onnx")
    Path("r.yaml").write_text(json.dumps({**DATA, "distill": {"student": "student.onnx"}}))
    arguments = ["distill", "teacher.onnx", "-r", "r.yaml", "-o", "o.onnx", "-q", "--set"]
    assert _status([*arguments, "train.freeze=[/stem, stem.wieght]", "--dry-run"]) == Exit.CANNOT_RUN
    assert (
        capsys.readouterr().err
        == "train.freeze: 'stem.wieght' matches no node; did you mean 'stem.weight'?\n"
    )
    assert _status([*arguments, "train.freeze=[/stem, /bn1]"]) == Exit.DONE
    before, after = floats("student.onnx"), floats("o.onnx")
    kept = [name for name in before if name.startswith(("stem.", "bn1."))]
    assert len(kept) == 5
    for name in before:
        assert (before[name].tobytes() == after[name].tobytes()) == (name in kept), name
    assert json.loads(Path("o.onnx.json").read_text())["change"]["details"]["frozen"] == sorted(kept)


def test_fine_tuning_after_pruning_heeds_it(inside: Path) -> None:
    made = {**DATA, "skip": ["/fc"], "prune": {"granularity": "element", "ratio": 0.5, "storage": "plain", "finetune": {}}}  # fmt: skip
    Path("r.yaml").write_text(json.dumps(made))
    before = floats("teacher.onnx")
    for override, kept in (((), False), (("train.freeze=[/fc]",), True)):
        outcome = pipeline.run(Job("prune", Path("teacher.onnx"), Path("o.onnx"), "r.yaml", override))
        after = floats("o.onnx")
        (history,) = outcome.card["change"]["details"]["finetune"]
        assert history.get("frozen") == (["fc.bias", "fc.weight"] if kept else None)
        assert history["best_epoch"] == 1  # so what was trained is what was written
        assert (after["fc.weight"].tobytes() == before["fc.weight"].tobytes()) == kept


def test_movement_needs_what_is_trained() -> None:
    section = {"granularity": "element", "ratio": 0.5, "criterion": "movement", "finetune": {}}
    with pytest.raises(ValueError, match=r"train.freeze: movement judges weights by their training"):
        PruneRecipe.model_validate({"prune": section, "train": {"freeze": ["fc"]}})


def test_fresh_weights_are_not_frozen() -> None:
    train = {"freeze": ["fc"]}
    with pytest.raises(ValueError, match=r"train.freeze: would keep random weights"):
        DistillRecipe.model_validate({"distill": {"student": {"weights": "fresh"}}, "train": train})
    DistillRecipe.model_validate({"train": train})


@pytest.mark.parametrize("attributes", ["spatial=1", "training_mode=0"])
def test_a_frozen_batch_norm_takes_the_attributes_of_the_plain_one(attributes: str) -> None:
    model = net()
    (norm,) = [node for node in model.graph if node.op_type == "BatchNormalization"]
    name, _, value = attributes.partition("=")
    norm.attributes[name] = ir.AttrInt64(name, int(value))
    changed, told = moved("op:BatchNormalization", model=model)
    assert told == NORM
    assert changed == {"w1", "w2", "b2"}


def test_quantisation_aware_training_keeps_weight_and_step() -> None:
    """The levels of a frozen layer are those of the untrained weights, within half a step of them."""
    image, labels = task.samples(300, seed=2)
    train = from_arrays({"image": image}, labels)
    original = ir.from_proto(task.solved())
    float_weight = original.graph.initializers["top.weight"].const_value.numpy().copy()

    def apart(*freeze: str) -> tuple[float, list[str]]:
        given = {**DATA["train"], "batch_size": 50, "epochs": 2, "freeze": list(freeze), "optimizer": {"name": "sgd", "lr": 0.05}, "clip": 1.0}  # fmt: skip
        made = {"quantize": {"mode": "qat", "placement": "all"}, "train": given}
        recipe = QuantizeRecipe.model_validate(made)
        model, change = quantize(
            ir.from_proto(task.solved()), recipe, Context(0, train=train, calibration=train)
        )
        codes = {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}
        (name,) = [n for n, one in codes.items() if one.shape == float_weight.shape and one.dtype == np.int8]
        per_channel = np.abs(float_weight).max(axis=(1, 2, 3), keepdims=True)
        unit = codes[name] / np.abs(codes[name]).max(axis=(1, 2, 3), keepdims=True)
        distance = float(np.abs(unit - float_weight / per_channel).max())
        return distance, change.details["qat"]["phases"][0].get("frozen", [])

    kept, told = apart("/top")
    assert told == ["top.bias", "top.weight", "top.weight#step"]
    assert kept <= 1 / 127
    assert apart()[0] > 2 * kept

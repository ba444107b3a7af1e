"""Losses on tensors inside the graphs: what they read, what is refused before training, what is left afterwards."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.data.dataset import from_arrays
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.distill.run import run
from mlcompress.errors import ModelError, RecipeError, UnsupportedError, UserError
from mlcompress.recipe.load import load
from mlcompress.train import loop, recover
from mlcompress.train.batches import TorchBatch
from mlcompress.train.losses import Ramp, annotation, entry
from mlcompress.train.objective import Objective
from tests.train.nets import catch_parts, net, stripes

TRAIN = {"epochs": 3, "batch_size": 32, "threads": 1, "optimizer": {"name": "sgd", "lr": 0.01}}
OBJECTIVES = [
    {"name": "hint", "teacher": "r", "weight": 1.0},
    {"name": "crd", "teacher": "p", "negatives": 16, "weight": 0.1},
    {"name": "soft"},
]


def distil(*losses: dict[str, Any], settings: dict[str, Any] | None = None, **given: Any) -> ir.Model:
    recipe = DistillRecipe.model_validate(
        {"distill": {"losses": losses}, "train": {**TRAIN, **(settings or {})}}
    )
    context = Context(**{"seed": 0, "train": stripes(), "validation": stripes(60, seed=1), **given})
    return run(net(seed=4), recipe, context)[0]


# ---------------------------------------------------------------- entries


def test_a_student_tensor_is_called_as_the_teachers() -> None:
    made = TypeAdapter(annotation()).validate_python({"name": "hint", "teacher": "r"})
    objective = Objective([made], net(), net(), where="x")
    assert (objective.student_values, objective.teacher_values) == (("r",), ("r",))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "hint"}, "compares tensors inside the graphs"),
        ({"name": "simkd"}, "compares tensors inside the graphs"),
        ({"name": "rkd", "student": "r"}, "name the teacher's too"),
        ({"name": "rkd", "teacher": "r", "output": "logits"}, "exclude each other"),
        ({"name": "mse", "teacher": "r", "classes": {"a": 1, "b": 0}}, "a tensor inside the graph has none"),
        ({"name": "soft", "teacher": "r"}, "not permitted"),
        ({"name": "attention", "teacher": "r", "mask": "m"}, "not permitted"),
        ({"name": "soft", "weight": {"from": 0, "to": 0, "epochs": 3}}, "a weight of 0 is no loss"),
        ({"name": "soft", "weight": {"from": 0, "to": 1}}, "required"),
        ({"name": "soft", "classes": {"a": 1}}, "at least 2"),
    ],
)
def test_wrong_entries_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(annotation()).validate_python(wrong)


def test_a_weight_may_rise_or_fall_over_the_epochs() -> None:
    rising, falling = Ramp(start=0, to=8, epochs=4), Ramp(start=1, to=0.2, epochs=2)
    assert [rising.at(epoch) for epoch in (1, 2, 4, 9)] == [2, 4, 8, 8]
    assert [falling.at(epoch) for epoch in (1, 2, 3)] == pytest.approx([0.6, 0.2, 0.2])


def test_a_wrong_weight_is_one_line_at_its_place(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        "distill:\n  losses:\n    - {name: soft, weight: -1}\n    - {name: soft, weight: {form: 0, to: 1, epochs: 3}}\n"
        "    - {name: hint}\n"
    )
    with pytest.raises(RecipeError) as caught:
        load(str(path), DistillRecipe)
    texts = [line.removeprefix(f"{path}:") for line in caught.value.lines]
    assert texts[0].startswith("3: distill.losses.0.weight: input should be greater than 0 (got -1)")
    assert texts[1] == "4: distill.losses.1.weight.form: unknown key; did you mean 'from'?"
    assert texts[2].startswith("5: distill.losses.2: hint compares tensors inside the graphs")
    assert len(texts) == 3


def test_the_loop_tells_the_objective_its_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    start = Objective.start_epoch
    monkeypatch.setattr(Objective, "start_epoch", lambda self, e: (seen.append(e), start(self, e))[1])
    ramp = {"from": 0, "to": 1, "epochs": 3}
    rising = distil({"name": "soft", "weight": ramp})
    assert seen == [1, 2, 3]
    assert graph.to_bytes(rising) != graph.to_bytes(distil({"name": "soft"}))


def test_a_ramp_weighs_the_loss() -> None:
    logits = {"logits": torch.tensor([[1.0, 0.0, -1.0]])}
    batch = TorchBatch({}, torch.tensor([0]), torch.arange(1))
    made = Objective([entry("hard", weight={"from": 0, "to": 4, "epochs": 4})], net(), net(), where="x")
    values = []
    for epoch in (1, 2, 5):
        made.start_epoch(epoch)
        values.append(float(made(logits, batch)))
    assert values == pytest.approx([values[0], 2 * values[0], 4 * values[0]])


def test_classes_of_the_teacher_are_put_in_the_students_order() -> None:
    student, teacher = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.5, 2.0, -3.0]])
    batch = TorchBatch({}, None, torch.arange(1))
    mapped = entry("soft", classes={"cat": 2, "dog": 0, "cow": 1})
    made = Objective([mapped], net(), net(), where="x").taught_by(lambda given: {"logits": teacher})
    plain = Objective([entry("soft")], net(), net(), where="x").taught_by(
        lambda given: {"logits": teacher[:, [2, 0, 1]]}
    )
    assert float(made({"logits": student}, batch)) == float(plain({"logits": student}, batch))
    with pytest.raises(RecipeError, match=r"classes: number 3, but the teacher has classes 0\.\.2"):
        Objective([entry("soft", classes={"a": 3, "b": 0})], net(), net(), where="x")


# ---------------------------------------------------------------- refused before training


def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop._Training, "train_epoch", lambda *a: pytest.fail("training began"))


@pytest.mark.parametrize(
    ("loss", "problem", "words"),
    [
        ({"name": "hint", "teacher": "rr"}, RecipeError, r"teacher: no tensor .* named 'rr'; did you mean 'r'\?"),
        ({"name": "hint", "teacher": "r", "student": "zzz"}, RecipeError, "student: no tensor .* named 'zzz'; it has"),
        ({"name": "hint", "teacher": "r", "student": "p"}, ModelError, r"no adapter joins student \[2, 4\] and teacher \[2, 8, 6, 6\]"),
        ({"name": "attention", "teacher": "p"}, ModelError, "attention maps need"),
        ({"name": "self_attention", "teacher": "p"}, ModelError, "of one length"),
        ({"name": "self_attention", "teacher": "r"}, UnsupportedError, "no probabilities; name what a Softmax gives"),
        ({"name": "mse", "teacher": "r"}, ModelError, "they must be equal"),
        ({"name": "hint", "teacher": "r", "mask": "masks"}, RecipeError, "no model input named 'masks'"),
        ({"name": "hint", "teacher": "r", "mask": "image"}, ModelError, r"a mask is \[batch, tokens\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    loss: dict[str, Any], problem: type[UserError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    untrained(monkeypatch)
    with pytest.raises(problem, match=rf"distill\.losses\[0\] \({loss['name']}\).*{words}"):
        distil(loss)


def test_dkd_needs_three_classes_and_whole_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    untrained(monkeypatch)
    with pytest.raises(UnsupportedError, match="leave `mixup` out"):
        distil({"name": "dkd"}, settings={"augment": [{"mixup": 0.2}]})
    two = net(classes=2)
    data = from_arrays({"image": np.zeros((40, 1, 6, 6), np.float32)}, np.arange(40) % 2)
    recipe = DistillRecipe.model_validate({"distill": {"losses": ["dkd"]}, "train": TRAIN})
    with pytest.raises(UnsupportedError, match=r"dkd\): undefined for 2 classes"):
        run(two, recipe, Context(0, train=data))


def test_a_memory_belongs_to_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    made = Objective([entry("crd", teacher="p")], net(), net(), where="x")
    made.taught_by(lambda given: {"p": torch.zeros(2, 8)})
    with pytest.raises(UnsupportedError, match="use `contrastive` with several processes"):
        made.prepare({"p": torch.zeros(2, 8)}, TorchBatch({}, None, torch.arange(2)), samples=9, seed=0)


def test_sequences_of_other_lengths_are_refused() -> None:
    made = Objective([entry("hint", teacher="r")], net(), net(), where="x")
    made.taught_by(lambda given: {"r": torch.zeros(2, 7, 3)})
    with pytest.raises(ModelError, match=r"student \[2, 6, 3\] and teacher \[2, 7, 3\] differ in length"):
        made.prepare({"r": torch.zeros(2, 6, 3)}, TorchBatch({}, None, torch.arange(2)), samples=9, seed=0)


def test_recipes_with_dkd_open_labelled_data() -> None:
    needs = {
        name: DistillRecipe.model_validate({"distill": {"losses": [name]}}).needs()["train"]
        for name in ("soft", "hard", "dkd", "contrastive")
    }
    assert needs == {"soft": False, "hard": True, "dkd": True, "contrastive": False}


# ---------------------------------------------------------------- training


def test_adapters_are_trained_resumed_and_never_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = distil(*OBJECTIVES)
    assert list(whole.graph.initializers) == list(net().graph.initializers)
    assert [node.name for node in whole.graph] == [node.name for node in net().graph]
    before = distil(*OBJECTIVES, settings={"optimizer": {"name": "sgd", "lr": 1e-9}})
    assert graph.to_bytes(before) != graph.to_bytes(whole)

    train_epoch = loop._Training.train_epoch

    def dies_in_the_third(self: Any, *rest: Any) -> None:
        if self.epoch == 2:
            raise KeyboardInterrupt
        train_epoch(self, *rest)

    monkeypatch.setattr(loop._Training, "train_epoch", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        distil(*OBJECTIVES, state_dir=tmp_path)
    monkeypatch.undo()
    assert graph.to_bytes(distil(*OBJECTIVES, state_dir=tmp_path)) == graph.to_bytes(whole)


def test_an_adapter_follows_its_gradient() -> None:
    """After some steps it is another one: it has parameter groups in the optimizer."""
    caught: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        catch_parts(patch, caught)
        distil(OBJECTIVES[0])
    _, (objective, first) = caught  # the first is of the check before training
    after = objective.parts.state_dict()
    assert [tuple(value.shape) for value in first.values()] == [(8, 4, 1, 1), (8,)]
    assert all(not torch.equal(first[name], after[name]) for name in first)


def test_large_features_are_not_cached_unless_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def details(cache: bool | str) -> tuple[bool, list[dict[str, str]], bytes]:
        recipe = DistillRecipe.model_validate(
            {"distill": {"losses": [OBJECTIVES[0]], "cache": cache}, "train": TRAIN}
        )
        model, change = run(net(seed=4), recipe, Context(0, train=stripes(), validation=stripes(60, seed=1)))
        return change.details["teacher_cache"], change.skipped, graph.to_bytes(model)

    monkeypatch.setattr(recover, "LARGEST_CACHE", 192 * 8 * 36 * 2 - 1)
    kept, skipped, _ = details(True)
    assert not kept
    assert [row["name"] for row in skipped] == ["teacher cache"]
    assert "`cache: DIR` keeps them" in skipped[0]["reason"]
    assert details(str(tmp_path))[:2] == (True, [])
    monkeypatch.setattr(recover, "LARGEST_CACHE", 192 * 8 * 36 * 2)
    assert details(True)[:2] == (True, [])


def test_what_may_hurt_is_said() -> None:
    pooled = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 18]>
        other (float[batch, 1, 6, 6] image) => (float[batch, 3] logits) <int64[2] axes = {2, 3}, float[3] b = {0, 0, 0}>
        { r = Conv <kernel_shape = [3, 3]> (image, w1)
          p = ReduceMean <keepdims = 0> (r, axes)
          logits = Gemm (p, w2, b) }
    """)
    for name, shape in {"w1": (8, 1, 3, 3), "w2": (8, 3)}.items():
        pooled.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(shape, np.float32), name))
    other = ir.from_proto(pooled)
    values = {"r": torch.zeros(2, 8, 4, 4), "logits": torch.zeros(2, 3)}
    entries = [entry("attention", teacher="r"), entry("dist")]
    assert Objective(entries, net(), net(), where="x").warnings(values, 32) == []
    first, second = Objective(entries, other, net(), where="x").warnings(values, 16)
    assert "different architectures" in first
    assert "train.batch_size is 16" in second

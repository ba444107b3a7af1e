"""Self-distillation: the heads of `byot` against numpy, where their gradients go, what is refused, what is left."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from mlcompress import console, graph
from mlcompress.cli.app import _status
from mlcompress.context import Change, Context
from mlcompress.data.dataset import Dataset
from mlcompress.distill.recipe import DistillRecipe
from mlcompress.distill.run import run
from mlcompress.errors import DataError, ModelError, RecipeError, UnsupportedError, UserError
from mlcompress.exits import Exit
from mlcompress.prune.recipe import PruneRecipe
from mlcompress.train import loop, recover
from mlcompress.train.adapters import ShallowHead
from mlcompress.train.batches import TorchBatch
from mlcompress.train.losses import annotation, byot, entry, is_labelled
from mlcompress.train.objective import Objective
from tests.train.nets import catch_parts, net, stripes

Array = np.ndarray
CLOSE = 1e-6
"""float64 on both sides: only the order of sums differs."""
RNG = np.random.default_rng(0)
HEADS, OWN = [RNG.normal(size=(4, 3)) for _ in range(2)], 2 * RNG.normal(size=(4, 3))
FEATURES, DEEPEST = [RNG.normal(size=(4, 5)) for _ in range(2)], RNG.normal(size=(4, 5))
LABELS = np.array([0, 2, 1, 2])
MIXED = np.array([[0.7, 0.3, 0.0], [0.0, 0.25, 0.75], [1.0, 0.0, 0.0], [0.5, 0.0, 0.5]])


def tensor(array: Array) -> torch.Tensor:
    return torch.tensor(array)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def by_hand(targets: Array | None, alpha: float, beta: float, t: float) -> float:
    """`targets` are class probabilities; no features with `beta` 0."""
    total = 0.0
    for logits, features in zip(HEADS, FEATURES, strict=True):
        for row in range(4):
            p, q = softmax(OWN[row] / t), softmax(logits[row] / t)
            total += alpha * t**2 * float((p * np.log(p / q)).sum()) / 4
            if targets is not None:
                total -= (1 - alpha) * float((targets[row] * np.log(softmax(logits[row]))).sum()) / 4
        total += beta * float(((features - DEEPEST) ** 2).sum()) / 20
    return total


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("labels", "targets", "alpha", "beta"),
    [
        (LABELS, np.eye(3)[LABELS], 0.3, 0.5),
        (MIXED, MIXED, 0.3, 0.0),
        (None, None, 1.0, 0.5),
    ],
)
def test_byot_is_the_sum_of_its_publication(
    labels: Array | None, targets: Array | None, alpha: float, beta: float
) -> None:
    got = byot(
        tensor(OWN),
        None if labels is None else tensor(labels),
        [tensor(x) for x in HEADS],
        [tensor(x) for x in FEATURES],
        tensor(DEEPEST) if beta else None,
        alpha=alpha,
        beta=beta,
        temperature=2.0,
    )
    assert float(got) == pytest.approx(by_hand(targets, alpha, beta, 2.0), rel=CLOSE)


def test_gradients_are_finite_differences_and_leave_the_deepest_alone() -> None:
    given = [tensor(x).requires_grad_() for x in (*HEADS, *FEATURES)]
    own, deepest = tensor(OWN).requires_grad_(), tensor(DEEPEST).requires_grad_()

    def loss(*values: torch.Tensor) -> torch.Tensor:
        value: torch.Tensor = byot(
            own, tensor(LABELS), values[:2], values[2:], deepest, alpha=0.4, beta=0.5, temperature=2.0
        )
        return value

    assert torch.autograd.gradcheck(loss, given)
    loss(*given).backward()
    assert own.grad is None
    assert deepest.grad is None


# ---------------------------------------------------------------- heads


def head(shape: tuple[int, ...], width: int | None) -> ShallowHead:
    made = ShallowHead(torch.zeros(shape), 3, torch.Generator().manual_seed(0), dim=4, width=width)
    return made.double()


def numbers(module: torch.nn.Module) -> dict[str, Array]:
    return {name: value.numpy() for name, value in module.state_dict().items()}


def test_a_head_on_a_map_is_a_convolution_a_mean_and_linear_layers() -> None:
    made, x = head((2, 3, 5, 4), 6), RNG.normal(size=(2, 3, 5, 4))
    w = numbers(made)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    pooled = np.zeros((2, 4))
    for i, j in np.ndindex(3, 2):
        patch = padded[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        found = np.einsum("bcij,ocij->bo", patch, w["layer.weight"]) + w["layer.bias"]
        pooled += np.maximum(found, 0) / 6
    features = pooled @ w["adapter.weight"].T + w["adapter.bias"]
    logits, got = made(tensor(x), None)
    np.testing.assert_allclose(got.detach(), features, rtol=CLOSE)
    expected = features @ w["classifier.weight"].T + w["classifier.bias"]
    np.testing.assert_allclose(logits.detach(), expected, rtol=CLOSE)


def test_a_head_on_tokens_averages_those_of_the_mask() -> None:
    made, x = head((2, 3, 5), None), RNG.normal(size=(2, 3, 5))
    w, mask = numbers(made), np.array([[True, True, False], [True, False, False]])
    found = np.maximum(x @ w["layer.weight"].T + w["layer.bias"], 0)
    pooled = np.stack([found[0, :2].mean(0), found[1, 0]])
    logits, _ = made(tensor(x), tensor(mask))
    expected = pooled @ w["classifier.weight"].T + w["classifier.bias"]
    np.testing.assert_allclose(logits.detach(), expected, rtol=CLOSE)


def objective(*entries: Any, model: ir.Model | None = None) -> Objective:
    student = model or net()
    return Objective(entries, student, student, where="x")


VALUES = {
    "r": torch.randn(4, 8, 6, 6, generator=torch.Generator().manual_seed(1)),
    "p": torch.randn(4, 8, generator=torch.Generator().manual_seed(2)),
    "logits": torch.randn(4, 3, generator=torch.Generator().manual_seed(3)),
}
BATCH = TorchBatch({}, tensor(LABELS), torch.arange(4))


def test_the_objective_reads_the_named_tensors_and_gives_them_to_the_heads() -> None:
    made = objective(entry("byot", heads=["c", "r"], deepest="p", alpha=0.3, beta=0.5, dim=4))
    assert made.student_values == ("logits", "c", "r", "p")
    assert made.teacher_values == ()
    assert made.labelled == ("byot",)
    values = {**VALUES, "c": VALUES["r"].flip(0)}
    made.prepare(values, BATCH, samples=4, seed=0)
    heads = list(made.parts[0]["shallow"])
    with torch.no_grad():
        found = [one(values[name], None) for one, name in zip(heads, "cr", strict=True)]
        expected = byot(VALUES["logits"], BATCH.labels, *zip(*found, strict=True), VALUES["p"], alpha=0.3, beta=0.5)  # fmt: skip
    assert found[0][1].shape == (4, 8)
    assert made(values, BATCH).item() == pytest.approx(float(expected), rel=1e-5)  # float32


def test_padding_does_not_count() -> None:
    proto = onnx.parser.parse_model("""
        <ir_version: 10, opset_import: ["" : 18]>
        tokens (float[batch, 3, 5] x, int64[batch, 3] mask) => (float[batch, 5] logits) <int64[1] axis = {1}>
        { h = Relu (x)
          d = Neg (h)
          logits = ReduceMean <keepdims = 0> (d, axis) }
    """)
    model = ir.from_proto(proto)
    made = objective(entry("byot", heads=["h"], deepest="d", mask="mask", alpha=1), model=model)
    values = {name: torch.randn(2, 3, 5) for name in "hd"} | {"logits": torch.randn(2, 5)}
    batch = TorchBatch({"mask": torch.tensor([[1, 1, 0], [1, 0, 0]])}, None, torch.arange(2))
    made.prepare(values, batch, samples=2, seed=0)
    before = made(values, batch).item()
    changed = {name: value.clone() for name, value in values.items()}
    for name in "hd":
        changed[name][0, 2], changed[name][1, 1:] = 7.0, -7.0
    assert made(changed, batch).item() == before
    changed["h"][0, 1] = 7.0
    assert made(changed, batch).item() != before


# ---------------------------------------------------------------- refused before training


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({}, "Field required"),
        ({"heads": []}, "at least 1"),
        ({"heads": ["r", "c", "r"]}, "heads: r is named twice"),
        ({"heads": ["r", "p"], "deepest": "p"}, "p is `deepest` and one of `heads`"),
        ({"heads": ["r"], "beta": 0.5}, "name it: `deepest: TENSOR`"),
        ({"heads": ["r"], "alpha": 1.1}, "less than or equal to 1"),
        ({"heads": ["r"], "teachers": [0]}, "asks no teacher but the student itself; leave `teachers` out"),
        ({"heads": ["r"], "teacher": "r"}, "not permitted"),
    ],
)
def test_wrong_entries_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(annotation()).validate_python({"name": "byot", **wrong})


@pytest.mark.parametrize("recipe", ["distill", "prune"])
def test_heads_alone_teach_no_output(recipe: str) -> None:
    alone = [{"name": "byot", "heads": ["r"]}]
    kinds: dict[str, tuple[Any, Any]] = {
        "distill": (DistillRecipe, {"distill": {"losses": alone}}),
        "prune": (PruneRecipe, {"prune": {"finetune": {"losses": alone}}}),
    }
    schema, given = kinds[recipe]
    with pytest.raises(ValidationError, match="nothing teaches its output; add `hard` or `soft`"):
        schema.model_validate(given)


def test_labels_are_needed_unless_the_output_teaches_all() -> None:
    assert is_labelled(entry("byot", heads=["r"]))
    assert not is_labelled(entry("byot", heads=["r"], alpha=1))
    both = [{"name": "soft"}, {"name": "byot", "heads": ["r"], "alpha": 1.0}]
    assert DistillRecipe.model_validate({"distill": {"losses": both}}).needs() == {"train": False}


TRAIN = {"epochs": 3, "batch_size": 32, "threads": 1, "optimizer": {"name": "sgd", "lr": 0.05}}
SELF = [{"name": "hard"}, {"name": "byot", "heads": ["c", "r"], "deepest": "p", "dim": 8}]


def distil(
    *losses: dict[str, Any], data: Dataset | None = None, model: ir.Model | None = None, **given: Any
) -> tuple[ir.Model, Change]:
    """A student of the teacher's own width."""
    section = {"losses": losses, "student": {"width": 1.0}}
    recipe = DistillRecipe.model_validate({"distill": section, "train": TRAIN})
    context = Context(seed=0, train=data or stripes(), validation=stripes(60, seed=1), **given)
    return run(model or net(seed=4), recipe, context)


@pytest.mark.parametrize(
    ("loss", "problem", "words"),
    [
        ({"heads": ["r", "rr"]}, RecipeError, r"heads: no tensor in the student's graph named 'rr'; did you mean 'r'\?"),
        ({"heads": ["r"], "deepest": "qq"}, RecipeError, "deepest: no tensor in the student's graph named 'qq'"),
        ({"heads": ["r"], "output": "logit"}, RecipeError, "output: the model has no output 'logit'"),
        ({"heads": ["r"], "mask": "masks"}, RecipeError, "no model input named 'masks'"),
        ({"heads": ["r"], "mask": "image"}, ModelError, r"r has shape \[2, 8, 6, 6\], and a mask is for \[batch, tokens, width\]"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(
    loss: dict[str, Any], problem: type[UserError], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop._Training, "train_epoch", lambda *a: pytest.fail("training began"))
    with pytest.raises(problem, match=rf"distill\.losses\[1\] \(byot\).*{words}"):
        distil({"name": "hard"}, {"name": "byot", **loss})


def test_missing_labels_and_classes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop._Training, "train_epoch", lambda *a: pytest.fail("training began"))
    with pytest.raises(DataError, match="byot needs labels"):
        distil({"name": "soft"}, SELF[1], data=stripes(labels=False))
    made = objective(entry("byot", heads=["r"], alpha=1))
    with pytest.raises(UnsupportedError, match=r"class logits are \[batch, classes\]"):
        made.prepare({**VALUES, "logits": VALUES["logits"][:, :1]}, BATCH, samples=4, seed=0)
    for odd in (torch.zeros(4), torch.zeros(4, 2, dtype=torch.int64), torch.zeros(1, 8)):
        with pytest.raises(ModelError, match=r"\(byot\): r is .*; name tensors of floats"):
            made.prepare({**VALUES, "r": odd}, BATCH, samples=4, seed=0)


# ---------------------------------------------------------------- training


def test_self_distillation_asks_no_teacher_and_exports_no_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recover, "Teacher", lambda *a, **k: pytest.fail("a teacher was asked"))
    plain, _ = distil(SELF[0])
    own, change = distil(*SELF)
    assert [node.name for node in own.graph] == [node.name for node in plain.graph]
    assert list(own.graph.initializers) == list(plain.graph.initializers)
    assert graph.to_bytes(own) != graph.to_bytes(plain)
    assert change.details["losses"][1]["heads"] == ["c", "r"]
    assert change.details["teacher_cache"] is False
    assert change.skipped == []


def test_heads_are_trained_and_nothing_flows_into_the_last_layer() -> None:
    """With `soft` against itself the output has no gradient; the heads' reaches the convolution only."""
    caught: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        catch_parts(patch, caught)
        patch.setattr(loop._Training, "_share_gradients", lambda self: caught.append(_gradients(self)))
        distil({"name": "soft", "weight": 1e-30}, {**SELF[1], "alpha": 0.5})
    _, (objective, first), *steps = caught  # the first is of the check before training
    after = objective.parts.state_dict()
    assert set(first) == {
        f"1.shallow.{k}.{layer}.{kind}"
        for k in (0, 1)
        for layer in ("layer", "adapter", "classifier")
        for kind in ("weight", "bias")
    }
    assert all(not torch.equal(first[name], after[name]) for name in first)
    assert max(step["w2"] for step in steps) < 1e-20
    assert min(step["w1"] for step in steps) > 1e-4


def _gradients(training: Any) -> dict[str, float]:
    return {
        name: float(value.grad.abs().max())
        for name, value in training._executor.trainable.items()
        if value.grad is not None
    }


def test_a_killed_run_ends_with_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, _ = distil(*SELF)
    train_epoch = loop._Training.train_epoch

    def dies_in_the_third(self: Any, *rest: Any) -> None:
        if self.epoch == 2:
            raise KeyboardInterrupt
        train_epoch(self, *rest)

    monkeypatch.setattr(loop._Training, "train_epoch", dies_in_the_third)
    with pytest.raises(KeyboardInterrupt):
        distil(*SELF, state_dir=tmp_path)
    monkeypatch.undo()
    console.set_quiet(False)  # a command of another test may have left it on
    resumed, _ = distil(*SELF, state_dir=tmp_path)
    assert "goes on after epoch 2 of 3" in capsys.readouterr().err
    assert graph.to_bytes(resumed) == graph.to_bytes(whole)


RECIPE = """
data: {train: {path: train.npz, label: y}, evaluate: {path: val.npz}}
distill:
  student: {width: 0.5}
  losses: [{name: soft}, {name: hard}%s]
train: {threads: 1, epochs: 1, batch_size: 50, optimizer: {name: sgd, lr: 0.01}}
gate: {max_drop: 1.0}
measure: {repeats: 1}
"""


def test_the_file_of_the_program_has_no_head(inside: Path) -> None:
    found = []
    for name, more in (("plain", ""), ("own", ", {name: byot, heads: [r1, r2], deepest: features}")):
        Path(f"{name}.yaml").write_text(RECIPE % more)
        command = ["distill", "teacher.onnx", "-r", f"{name}.yaml", "-o", f"{name}.onnx", "--quiet"]
        assert _status(command) == Exit.DONE
        found.append(onnx.load(f"{name}.onnx").graph)
    plain, own = found
    assert [node.name for node in own.node] == [node.name for node in plain.node]
    shapes = [[(x.name, list(x.dims)) for x in made.initializer] for made in found]
    assert shapes[0] == shapes[1]
    assert [x.raw_data for x in plain.initializer] != [x.raw_data for x in own.initializer]

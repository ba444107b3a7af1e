"""Depth: which residual branches go, by what their ends say; heads and width by the family's kind."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlcompress import pipeline
from mlcompress.data.dataset import from_arrays
from mlcompress.errors import UserError
from mlcompress.exits import Exit
from mlcompress.job import Job
from mlcompress.prune.blocks import Layers
from mlcompress.prune.layer_scores import Flow, change, influence, layer_scores
from mlcompress.prune.recipe import PruneSection
from tests.prune import direct

DATA = """
data:
  train: {path: train.npz, label: y}
  calibration: {samples: 64}
  evaluate: {path: val.npz}
train: {threads: 1, batch_size: 64, optimizer: {name: sgd, lr: 0.02}, epochs: 1}
measure: {repeats: 1}
"""


def prune(text: str, data: str = DATA) -> dict[str, Any]:
    Path("prune.yaml").write_text(data + text)
    outcome = pipeline.run(Job("prune", Path("teacher.onnx"), Path("out.onnx"), "prune.yaml", ()))
    assert outcome.exit == Exit.DONE
    return outcome.card


def test_scores_by_hand() -> None:
    flow = Flow(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[6.0, 8.0], [0.0, 1.0]]))
    np.testing.assert_allclose(influence(flow), [0.0, 1.0], atol=1e-12)  # same direction, right angle
    np.testing.assert_allclose(change(flow), [0.5, np.sqrt(2)], rtol=1e-12)


@pytest.mark.parametrize("score", ["influence", "change"])
def test_the_residual_branch_goes(inside: Path, score: str) -> None:
    card = prune(f"prune: {{granularity: layer, ratio: 0.5, layer_score: {score}}}")
    names = {tensor.name for tensor in onnx.load("out.onnx").graph.initializer}
    assert "stem.weight" in names
    assert not [name for name in names if name.startswith("body")]
    assert "1 of 1 residual layers removed" in card["change"]["summary"]
    (removed,) = json.loads(Path("out.onnx.json").read_text())["change"]["details"]["removed"]
    assert removed["score"] > 0


def test_a_threshold_below_all_scores_removes_nothing_and_says_so(inside: Path) -> None:
    card = prune("prune: {granularity: layer, threshold: 0.0}")
    assert card["change"]["details"]["removed"] == []
    assert any("nothing was removed" in warning for warning in card["change"]["warnings"])


def test_branches_that_stay_are_told_with_the_reason(
    inside: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"no residual layer .* \(/add: `skip` names a node of it\)"):
        prune("skip: [/add]\nprune: {granularity: layer, ratio: 0.5}")
    model = onnx.load("teacher.onnx")
    (total,) = [node for node in model.graph.node if node.name == "/add"]
    made = total.output[0]
    total.output[0] = "one"
    conv = next(node for node in model.graph.node if node.op_type == "Conv" and "body.weight" in node.input)
    again, weight = onnx.NodeProto(), onnx.TensorProto()
    again.CopyFrom(conv)
    again.name, again.input[0], again.input[1], again.output[0] = "/again", "one", "other.weight", "two"
    weight.CopyFrom(next(w for w in model.graph.initializer if w.name == "body.weight"))
    weight.name = "other.weight"
    model.graph.initializer.append(weight)
    place = list(model.graph.node).index(total) + 1
    model.graph.node.insert(place, again)
    model.graph.node.insert(place + 1, onnx.helper.make_node("Add", ["one", "two"], [made], name="/add2"))
    onnx.save(model, "teacher.onnx")
    card = prune("skip: [/again]\nprune: {granularity: layer, ratio: 0.5}")
    assert card["change"]["skipped"] == [{"name": "/add2", "reason": "`skip` names a node of it"}]
    assert "/add2 (`skip` names a node of it)" in capsys.readouterr().err


def test_without_samples_it_is_refused(inside: Path) -> None:
    with pytest.raises(UserError, match=r"add `data\.calibration`"):
        prune("prune: {granularity: layer, ratio: 0.5}", DATA.replace("  calibration: {samples: 64}\n", ""))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"granularity": "hidden", "ratio": 0.5}, "add `inexact: allow`"),
        ({"granularity": "layer", "ratio": 0.5, "criterion": "l1"}, "criterion"),
        ({"ratio": 0.5, "layer_score": "change"}, "layer_score"),
        ({"granularity": "layer", "target": {"macs": 0.5}}, "use `ratio`"),
    ],
)
def test_keys_that_do_not_go_together(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PruneSection.model_validate(given)


def test_no_heads_to_remove_is_said(inside: Path) -> None:
    with pytest.raises(UserError, match="no head of this model can be removed"):
        prune("prune: {granularity: head, ratio: 0.5}")


def test_steps_that_are_left_when_every_branch_is_gone_remove_nothing() -> None:
    model = direct.model()
    layers = Layers(model, layer_scores.choose("influence"), [], direct.samples(16))
    assert list(layers.prune(0.5)) == ["/add"]
    assert layers.prune(0.9) == {}


def test_samples_that_fill_up_a_fixed_batch_do_not_scale_the_scores() -> None:
    open_, fixed = direct.model(), direct.model()
    for value in (*fixed.graph.inputs, *fixed.graph.outputs):
        value.shape = ir.Shape([8, *value.shape[1:]])
    alike = from_arrays({"image": np.repeat(direct.samples(1).take(np.arange(1)).inputs["image"], 9, axis=0)})
    scores = [
        Layers(model, layer_scores.choose("influence"), [], alike).scores()["/add"]
        for model in (open_, fixed)
    ]
    assert scores[1] == pytest.approx(scores[0], rel=1e-5)  # float32 kernels differ with the batch

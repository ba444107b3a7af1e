"""Single weights: what stays gone over the steps of a schedule, and what `skip` keeps."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.data.dataset import from_arrays
from mlcompress.prune.run import run
from tests.prune import direct

TIED = """
    <ir_version: 10, opset_import: ["": 18]>
    net (float[N, 8] x) => (float[N, 8] y)
    <float[8, 8] w, float[8, 8] v> {
        [one] a = MatMul(x, w)
        [relu] b = Relu(a)
        [two] c = MatMul(b, w)
        [three] y = MatMul(c, v)
    }"""


@pytest.mark.parametrize("criterion", ["random", "gradient", "movement", "l1"])
@pytest.mark.parametrize("granularity", ["element", "kernel"])
def test_steps_end_at_the_ratio_with_as_many_zeros_as_the_card_says(criterion: str, granularity: str) -> None:
    """What has gone is not exchanged for something else at the next step, which would leave both zero."""
    schedule = {"name": "iterative", "steps": 2}
    weights, change = direct.prune(
        epochs=4, granularity=granularity, criterion=criterion, ratio=0.5, schedule=schedule, finetune={}
    )
    zeros = {name: int((weights[name] == 0).sum()) for name in change.details["zeros"]}
    assert zeros == change.details["zeros"]
    total = sum(weights[name].size for name in zeros)
    assert sum(zeros.values()) == pytest.approx(0.5 * total, abs=9)  # one kernel


def test_skip_keeps_a_weight_that_another_node_reads_too() -> None:
    proto = onnx.parser.parse_model(TIED)
    rng = np.random.default_rng(0)
    for name in ("w", "v"):
        array = rng.normal(size=(8, 8)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    graph.clean(model)
    recipe = direct.recipe(granularity="element", ratio=0.5).model_copy(update={"skip": ["two"]})
    data = from_arrays({"x": rng.normal(size=(4, 8)).astype(np.float32)})
    pruned, change = run(model, recipe, Context(seed=0, train=data))
    assert (direct.weights(pruned)["w"] != 0).all()
    assert (direct.weights(pruned)["v"] == 0).sum() == 32
    assert {"name": "w", "reason": "`skip` names its node"} in change.skipped

"""The prune stage on a real small net, through the pipeline: what goes, what stays, and how well it still works."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from mlcompress import pipeline
from mlcompress.errors import UserError
from mlcompress.exits import Exit
from mlcompress.job import Job
from tests import task
from tests.prune import direct

DATA = """
data:
  train: {path: train.npz, label: y}
  evaluate: {path: val.npz}
train: {threads: 1, batch_size: 64, optimizer: {name: sgd, lr: 0.02}, epochs: 4}
measure: {repeats: 1}
"""


def prune(
    text: str, *overrides: str, output: str = "out.onnx"
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Weights by name and the card of the pruned teacher."""
    Path("prune.yaml").write_text(DATA + text)
    outcome = pipeline.run(Job("prune", Path("teacher.onnx"), Path(output), "prune.yaml", overrides))
    assert outcome.exit == Exit.DONE
    return weights(output), outcome.card


def weights(path: str) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


@pytest.fixture
def original(inside: Path) -> dict[str, np.ndarray]:
    return weights("teacher.onnx")


def test_half_of_the_channels_of_each_family(original: dict[str, np.ndarray]) -> None:
    after, card = prune("prune: {ratio: 0.5, scope: local}")
    assert after["stem.weight"].shape == (8, 1, 3, 3)
    assert after["body.weight"].shape == (8, 8, 3, 3)  # stem and body share a residual sum
    assert after["top.weight"].shape == (16, 8, 3, 3)
    assert after["fc.weight"].shape == (4, 16)
    assert card["change"]["details"]["families"] == {"stem.weight": [16, 8], "top.weight": [32, 16]}
    trained = [array.size for name, array in after.items() if not name.endswith((".mean", ".var"))]
    assert card["size"]["after"]["params"] == sum(trained)


def test_the_channels_that_stay_are_those_of_the_largest_norm(original: dict[str, np.ndarray]) -> None:
    after, _ = prune("prune: {ratio: 0.5, scope: local, criterion: l2_first}", "skip=['/stem', '/body']")
    norms = np.sqrt(np.square(original["top.weight"].astype(float)).sum(axis=(1, 2, 3)))
    kept = np.sort(np.argsort(norms)[16:])
    assert np.array_equal(after["top.weight"], original["top.weight"][kept])
    assert np.array_equal(after["fc.weight"], original["fc.weight"][:, kept])


def test_skip_leaves_the_output_of_a_node_alone(original: dict[str, np.ndarray]) -> None:
    after, card = prune("prune: {ratio: 0.5}\nskip: ['/top']")
    assert after["top.weight"].shape[0] == 32
    assert {"name": "/top", "reason": "Conv: named in skip"} in card["change"]["skipped"]


def test_a_skip_that_matches_nothing_is_a_mistake(inside: Path) -> None:
    with pytest.raises(UserError, match=r"skip: '/tob' matches no node; did you mean '/top'\?"):
        prune("prune: {ratio: 0.5}\nskip: ['/tob']")
    assert not Path("out.onnx").exists()


def test_fine_tuning_recovers_most_of_what_pruning_lost(original: dict[str, np.ndarray]) -> None:
    prune("prune: {ratio: 0.75, scope: local}", output="bare.onnx")
    _, card = prune("prune: {ratio: 0.75, scope: local, finetune: {}}", output="tuned.onnx")
    teacher, bare, tuned = (task.accuracy(Path(name)) for name in ("teacher.onnx", "bare.onnx", "tuned.onnx"))
    assert tuned > bare + 0.5 * (teacher - bare)
    assert card["change"]["details"]["finetune"][0]["epochs"][-1]["epoch"] == 4


def test_iterative_steps_share_the_epochs_and_end_at_the_ratio(original: dict[str, np.ndarray]) -> None:
    after, card = prune(
        "prune: {ratio: 0.5, scope: local, schedule: {name: iterative, steps: 2}, finetune: {}}"
    )
    assert after["stem.weight"].shape[0] == 8
    assert after["top.weight"].shape[0] == 16
    assert [history["epochs"][-1]["epoch"] for history in card["change"]["details"]["finetune"]] == [2, 2]


def test_threshold_removes_what_scores_below_it(original: dict[str, np.ndarray]) -> None:
    norms = np.sqrt(np.square(original["top.weight"].astype(float)).sum(axis=(1, 2, 3)))
    limit = float(np.sort(norms)[8])
    recipe = f"prune: {{threshold: {limit}, criterion: l2_first, round_to: 1}}\nskip: ['/stem', '/body']"
    after, _ = prune(recipe)
    assert after["top.weight"].shape[0] == 24


def test_elements_are_zeroed_by_magnitude(original: dict[str, np.ndarray]) -> None:
    after, card = prune("prune: {granularity: element, ratio: 0.8}")
    names = ["stem.weight", "body.weight", "top.weight", "fc.weight"]
    magnitudes = np.sort(np.abs(np.concatenate([original[name].ravel() for name in names])))
    limit = magnitudes[round(0.8 * len(magnitudes))]
    for name in names:
        assert np.array_equal(after[name], np.where(np.abs(original[name]) < limit, 0, original[name]))
    assert np.array_equal(after["bn1.weight"], original["bn1.weight"])
    assert "smaller only when compressed" in card["change"]["warnings"][0]


def test_elements_local_zeroes_the_same_share_of_each(original: dict[str, np.ndarray]) -> None:
    after, _ = prune("prune: {granularity: element, ratio: 0.5, scope: local}")
    for name in ("stem.weight", "body.weight", "top.weight", "fc.weight"):
        assert (after[name] == 0).mean() == pytest.approx(0.5, abs=0.5 / after[name].size)


def test_zeros_stay_zero_through_fine_tuning(original: dict[str, np.ndarray]) -> None:
    bare, _ = prune("prune: {granularity: element, ratio: 0.8}", output="bare.onnx")
    tuned, _ = prune("prune: {granularity: element, ratio: 0.8, finetune: {}}", output="tuned.onnx")
    assert np.array_equal(tuned["top.weight"] == 0, bare["top.weight"] == 0)
    assert not np.array_equal(tuned["top.weight"], bare["top.weight"])


def test_without_fine_tuning_statistics_follow_where_there_is_data(original: dict[str, np.ndarray]) -> None:
    recipe = "prune: {ratio: 0.5, scope: local}"
    bare, _ = prune(recipe, output="bare.onnx")
    settled, _ = prune(recipe, "data.calibration={path: train.npz}", output="settled.onnx")
    assert np.array_equal(bare["stem.weight"], settled["stem.weight"])
    proto = onnx.load("settled.onnx")
    proto.graph.output.append(
        onnx.helper.make_tensor_value_info("c1", onnx.TensorProto.FLOAT, ["batch", 8, 8, 8])
    )
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    stem = session.run(["c1"], {"image": np.load("train.npz")["image"][:512]})[0]  # whole batches of 128
    assert settled["bn1.mean"] == pytest.approx(
        stem.mean(axis=(0, 2, 3)), abs=1e-4
    )  # float32 sums over 32,768 values
    assert bare["bn1.mean"] != pytest.approx(stem.mean(axis=(0, 2, 3)), abs=1e-2)


def test_fine_tuning_needs_no_labels(inside: Path) -> None:
    image, _ = task.samples(300, seed=5)
    np.savez("train.npz", image=image)
    Path("prune.yaml").write_text(
        "data: {train: {path: train.npz}}\ntrain: {threads: 1, epochs: 1}\nmeasure: {repeats: 1}\n"
        "evaluate: {metric: agreement}\nprune: {ratio: 0.5, finetune: {}}"
    )
    assert pipeline.run(Job("prune", Path("teacher.onnx"), Path("out.onnx"), "prune.yaml")).exit == Exit.DONE


def test_pruned_equals_masked(original: dict[str, np.ndarray]) -> None:
    """Oracle without the analysis: the original whose consumers ignore the channels that went."""
    prune("prune: {ratio: 0.5, scope: local, criterion: l2_first}", "skip=['/stem', '/body']")
    norms = np.sqrt(np.square(original["top.weight"].astype(float)).sum(axis=(1, 2, 3)))
    masked = onnx.load("teacher.onnx")
    for tensor in masked.graph.initializer:
        if tensor.name == "fc.weight":
            array = numpy_helper.to_array(tensor).copy()
            array[:, np.argsort(norms)[:16]] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    image, _ = task.samples(50, seed=11)

    def run(model: bytes) -> np.ndarray:
        session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"image": image})[0])

    pruned, expected = run(Path("out.onnx").read_bytes()), run(masked.SerializeToString())
    assert np.abs(pruned - expected).max() <= 1e-5 * np.abs(expected).max()  # float32 sums in another order
    assert np.abs(expected - run(Path("teacher.onnx").read_bytes())).max() > 0.01 * np.abs(expected).max()


def test_same_command_same_bytes(inside: Path) -> None:
    recipe = "prune: {ratio: 0.5, finetune: {}}"
    prune(recipe, output="one.onnx"), prune(recipe, output="two.onnx")
    assert Path("one.onnx").read_bytes() == Path("two.onnx").read_bytes()
    prune(recipe, "seed=1", output="three.onnx")
    assert Path("one.onnx").read_bytes() != Path("three.onnx").read_bytes()


def test_a_missed_gate_keeps_the_result_beside_output(inside: Path) -> None:
    Path("out.onnx").write_bytes(b"what was there")
    Path("prune.yaml").write_text(
        DATA + "prune: {ratio: 0.75}\ngate: {max_drop: 0.0001, max_size_ratio: 0.01}"
    )
    outcome = pipeline.run(Job("prune", Path("teacher.onnx"), Path("out.onnx"), "prune.yaml"))
    assert outcome.exit == Exit.GATE_MISSED
    assert Path("out.onnx").read_bytes() == b"what was there"
    card = json.loads(Path("out.onnx.rejected.json").read_text())
    assert card["gate"]["missed"] == ["max_drop", "max_size_ratio"]
    assert task.accuracy(Path("out.onnx.rejected")) > 0


@pytest.mark.parametrize(
    "text",
    [
        "prune: {}",
        "prune: {ratio: 0.5, threshold: 0.1}",
        "prune: {ratio: 1}",
        "prune: {threshold: 0.1, schedule: iterative}",
        "prune: {ratio: 0.5, schedule: {name: oneshot, steps: 3}}",
        "prune: {ratio: 0.5, granularity: element, round_to: 8}",
        "prune: {ratio: 0.5, finetune: {teacher: none, temperature: 2}}",
        "prune: {ratio: 0.5, schedule: {name: iterative, steps: 5}, finetune: {}}",  # 4 epochs
    ],
)
def test_combinations_without_sense_are_refused(text: str, inside: Path) -> None:
    with pytest.raises(UserError):
        prune(text)


EMBEDDED = """
    <ir_version: 10, opset_import: ["" : 18]>
    net (int64[N] x, bool c) => (float[N, 16] y) {
        h = Gather(table, x)
        [product] g = MatMul(h, w)
        y = If (c) <then_branch = t () => (float[N, 16] a) { a = MatMul(g, inner) },
                    else_branch = e () => (float[N, 16] b) { b = Identity(g) }>
    }
"""


def test_weights_that_keep_their_elements_are_listed_with_why(inside: Path) -> None:
    proto = onnx.parser.parse_model(EMBEDDED)
    rng = np.random.default_rng(0)
    for name, shape in {"table": (40, 16), "w": (16, 16), "inner": (16, 16)}.items():
        values = rng.standard_normal(shape).astype(np.float32)
        proto.graph.initializer.append(numpy_helper.from_array(values, name))
    onnx.save(proto, "teacher.onnx")
    Path("r.yaml").write_text("prune: {granularity: element, ratio: 0.5}\nmeasure: {repeats: 1}\n")
    with pytest.raises(UserError, match="read inside an If"):
        pipeline.run(Job("prune", Path("teacher.onnx"), Path("x.onnx"), "r.yaml", ("skip=[product]",)))
    card = pipeline.run(Job("prune", Path("teacher.onnx"), Path("out.onnx"), "r.yaml", ())).card
    assert card["change"]["details"]["zeros"] == {"w": 128}
    kept = {entry["name"]: entry["reason"] for entry in card["change"]["skipped"]}
    assert kept.keys() == {"table", "inner"}
    assert kept["table"].startswith("read by Gather")
    assert kept["inner"].startswith("read inside an If")


def test_a_refusal_says_what_stands_in_the_way(inside: Path) -> None:
    net = """<ir_version: 10, opset_import: ["" : 18]> net (float[N, 4] x) => (float[N, 2] y)
        <float[4, 2] w = {1, 2, 3, 4, 5, 6, 7, 8}> { y = MatMul(x, w) }"""
    onnx.save(onnx.parser.parse_model(net), "teacher.onnx")
    Path("r.yaml").write_text("prune: {ratio: 0.5}\nmeasure: {repeats: 1}\n")
    with pytest.raises(
        UserError, match="no channel of this model can be removed \\(all are tied to its inputs"
    ):
        pipeline.run(Job("prune", Path("teacher.onnx"), Path("out.onnx"), "r.yaml", ()))


def test_a_net_without_attention_has_no_heads_to_remove() -> None:
    with pytest.raises(UserError, match=r"no head of this model can be removed \(no attention is recognised"):
        direct.prune(granularity="head", ratio=0.5)


def test_a_file_that_grows_is_told(inside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Clean-up folds a constant that the file computes: 4 kB more for a file of 4 kB."""
    net = """<ir_version: 10, opset_import: ["" : 18]> net (float[N, 16] x) => (float[N, 16] y)
        <int64[2] s = {16, 16}, float[1] one = {1}> { e = Expand(one, s)  c = Add(e, w)  h = MatMul(x, c)
        d = Mul(e, w)  y = MatMul(h, d) }"""
    proto = onnx.parser.parse_model(net)
    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    onnx.save(proto, "teacher.onnx")
    Path("r.yaml").write_text("prune: {granularity: element, ratio: 0.5}\nmeasure: {repeats: 1}\n")
    card = pipeline.run(Job("prune", Path("teacher.onnx"), Path("out.onnx"), "r.yaml", ())).card
    sizes = [Path(name).stat().st_size for name in ("teacher.onnx", "out.onnx")]
    assert sizes[1] > 1.01 * sizes[0]
    told = f"the file grows from {sizes[0]} to {sizes[1]} bytes: weights that it computed"
    assert card["change"]["warnings"][-1].startswith(told)
    assert "the file grows" in capsys.readouterr().err


def test_an_output_that_cannot_be_judged_is_told_before_the_work(inside: Path) -> None:
    net = """<ir_version: 10, opset_import: ["" : 18]> net (float[N, 1, 8, 8] image) => (float[M] y)
        <float[16, 16] w> { f = Flatten(image)  h = MatMul(f, a)  g = MatMul(h, b)  y = ReduceSum<keepdims = 0>(g, zero) }"""
    proto = onnx.parser.parse_model(net.replace("<float[16, 16] w>", "<int64[1] zero = {0}>"))
    rng = np.random.default_rng(0)
    for name, shape in {"a": (64, 32), "b": (32, 4)}.items():
        proto.graph.initializer.append(
            numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        )
    onnx.save(proto, "teacher.onnx")
    Path("r.yaml").write_text(DATA + "prune: {ratio: 0.5, finetune: {}}\nevaluate: {metric: mse}\n")
    epochs: list[int] = []
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="has no batch axis"):
        patch.setattr("mlcompress.train.recover.fit", lambda *a, **k: epochs.append(1))
        pipeline.run(Job("prune", Path("teacher.onnx"), Path("out.onnx"), "r.yaml", ()))
    assert not epochs


def test_fine_tuning_that_changed_nothing_is_told(inside: Path) -> None:
    """Labels of the teacher's own answers: nothing is pruned, so nothing can be better."""
    _, card = prune("prune: {ratio: 0, finetune: {}}\nevaluate: {metric: agreement}\n", "train.epochs=1")
    assert any("fine-tune 1: no epoch was better" in line for line in card["change"]["warnings"])


def test_integer_weights_are_ranked_by_what_they_stand_for(inside: Path) -> None:
    """int8 rows of equal size whose scales differ: the channels of the least scales go."""
    net = """<ir_version: 10, opset_import: ["" : 18]> net (float[N, 4] x) => (float[N, 2] y)
        <float[2] small = {0.1, 0.1}> {
        w = DequantizeLinear<axis = 1>(codes, scale)  h = MatMul(x, w)
        v = DequantizeLinear<axis = 1>(last, small)  y = MatMul(h, v) }"""
    proto = onnx.parser.parse_model(net)
    scale = np.array([3, 1, 4, 1.5, 5, 9, 2, 6], np.float32)
    codes = np.random.default_rng(0).permuted(np.tile(np.arange(4, dtype=np.int8), (8, 1)), axis=1).T
    for name, array in {"codes": codes, "scale": scale, "last": np.ones((8, 2), np.int8)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
    onnx.save(proto, "teacher.onnx")
    Path("r.yaml").write_text("prune: {ratio: 0.5, criterion: l2_first}\nmeasure: {repeats: 1}\n")
    pipeline.run(Job("prune", Path("teacher.onnx"), Path("out.onnx"), "r.yaml", ()))
    after = weights("out.onnx")
    assert after["codes"].dtype == np.int8
    np.testing.assert_array_equal(after["codes"], codes[:, [2, 4, 5, 7]])
    np.testing.assert_array_equal(after["scale"], [4, 5, 9, 6])

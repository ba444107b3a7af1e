"""Targets: what is left, measured on the written file, and plans that repeat it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

from mlcompress import graph, pipeline
from mlcompress.data.dataset import from_arrays
from mlcompress.errors import UserError
from mlcompress.exits import Exit
from mlcompress.graph.dependency import analyse, remove
from mlcompress.job import Job
from mlcompress.prune.amounts import Ranked, towards
from mlcompress.prune.distortion import Families, curves
from mlcompress.prune.targets import reach, reach_latency
from tests import task

DATA = """
data:
  train: {path: train.npz, label: y}
  calibration: {samples: 64}
  evaluate: {path: val.npz}
train: {threads: 1, batch_size: 64, optimizer: {name: sgd, lr: 0.02}, epochs: 2}
measure: {repeats: 1}
"""


def prune(text: str, *overrides: str, output: str = "out.onnx") -> dict[str, Any]:
    Path("prune.yaml").write_text(DATA + text)
    outcome = pipeline.run(Job("prune", Path("teacher.onnx"), Path(output), "prune.yaml", overrides))
    assert outcome.exit == Exit.DONE
    return outcome.card


@pytest.fixture
def wide(inside: Path) -> Path:
    """The task's net, wide enough that widths have a fine grid."""
    onnx.save(task.solved((64, 96)), "teacher.onnx")
    return inside


def conv_macs(path: str) -> int:
    """Multiply-accumulates of the task's net, from the shapes of its weights: 8x8 maps, then 4x4."""
    weights = {i.name: list(i.dims) for i in onnx.load(path).graph.initializer}
    places = {"stem.weight": 64, "body.weight": 64, "top.weight": 16, "fc.weight": 1}
    return sum(int(np.prod(weights[name])) * count for name, count in places.items())


@pytest.mark.parametrize("allocation", ["uniform", "global", "sensitivity"])
def test_macs_are_reached_as_counted_from_the_file(wide: Path, allocation: str) -> None:
    card = prune(f"prune: {{target: {{macs: 0.5}}, allocation: {allocation}, round_to: 4}}")
    ratio = conv_macs("out.onnx") / conv_macs("teacher.onnx")
    assert ratio == pytest.approx(0.5, rel=0.02)
    assert card["change"]["details"]["target"]["reached"] == pytest.approx(ratio, abs=2e-3)


def test_params_and_size(wide: Path) -> None:
    prune("prune: {target: {params: 0.4}, round_to: 4}", output="p.onnx")
    count = {
        path: sum(int(np.prod(i.dims)) for i in onnx.load(path).graph.initializer)
        for path in ("p.onnx", "teacher.onnx")
    }
    assert count["p.onnx"] / count["teacher.onnx"] == pytest.approx(0.4, rel=0.03)  # with statistics
    prune("prune: {target: {size: 0.3}, round_to: 4}", output="s.onnx")
    assert Path("s.onnx").stat().st_size / Path("teacher.onnx").stat().st_size == pytest.approx(0.3, rel=0.03)


def test_a_plan_repeats_the_bytes(wide: Path) -> None:
    recipe = "prune: {target: {macs: 0.5}, allocation: global, round_to: 4, finetune: {}}"
    first = prune(recipe, output="a.onnx")
    again = prune(recipe, "prune.target=null", "prune.plan=a.onnx.json", output="b.onnx")
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()
    assert first["change"]["details"]["families"] == again["change"]["details"]["families"]


def test_a_plan_of_another_model_is_refused(wide: Path) -> None:
    prune("prune: {target: {macs: 0.5}, round_to: 4}", output="a.onnx")
    onnx.save(task.solved((16, 32)), "teacher.onnx")
    with pytest.raises(UserError, match=r"prune\.plan: a\.onnx\.json: does not fit this model or recipe"):
        prune("prune: {plan: a.onnx.json}", output="b.onnx")
    Path("empty.json").write_text(json.dumps({"change": {}}))
    with pytest.raises(UserError, match="holds no widths"):
        prune("prune: {plan: empty.json}", output="b.onnx")
    with pytest.raises(UserError, match="no such file"):
        prune("prune: {plan: missing.json}", output="b.onnx")


def test_what_cannot_be_reached_is_said(wide: Path) -> None:
    with pytest.raises(UserError, match=r"prune\.target: 0\.001 cannot be reached: 0\.0\d+ is left"):
        prune("prune: {target: {macs: 0.001}}")


def test_steps_end_at_the_target(wide: Path) -> None:
    recipe = "prune: {target: {macs: 0.5}, round_to: 4, schedule: {name: iterative, steps: 2}, finetune: {}}"
    card = prune(recipe)
    assert conv_macs("out.onnx") / conv_macs("teacher.onnx") == pytest.approx(0.5, rel=0.02)
    assert len(card["change"]["details"]["finetune"]) == 2


@pytest.mark.parametrize(("name", "strength"), [("growing_l2", 1e-2), ("group_lasso", 1e-3)])
def test_training_towards_sparsity_comes_before_the_cut(inside: Path, name: str, strength: float) -> None:
    penalty = f"{{name: {name}, strength: {strength:g}}}"
    recipe = f"prune: {{ratio: 0.5, scope: local, finetune: {{regularize: {penalty}}}}}"
    card = prune(recipe, "train.epochs=4", "train.optimizer.lr=0.002")
    assert len(card["change"]["details"]["towards_sparsity"]["epochs"]) == 2
    assert len(card["change"]["details"]["finetune"][0]["epochs"]) == 3  # before training, and two more
    images, labels = task.samples(400, seed=9)
    run = ort.InferenceSession("out.onnx", providers=["CPUExecutionProvider"])
    assert (run.run(None, {"image": images})[0].argmax(1) == labels).mean() > 0.7


# ---------------------------------------------------------------- the search alone


def family(name: str, units: int) -> Ranked:
    return Ranked(name, np.arange(units, dtype=float), 1, units)


def test_single_families_are_moved_where_the_path_is_too_coarse() -> None:
    ranked = [family("a", 10), family("b", 1000)]

    def path(strength: float) -> dict[str, int]:  # only two points
        return {"a": 10, "b": 1000} if strength < 0.5 else {"a": 5, "b": 100}

    found = reach(ranked, path, lambda keep: keep, lambda keep: (keep["a"] * 100 + keep["b"]) / 2000, 0.35)  # type: ignore[arg-type, return-value]
    assert found.keep == {"a": 6, "b": 100}
    assert found.ratio == pytest.approx(0.35)


def test_latency_takes_the_least_that_is_fast_enough() -> None:
    class Machine:
        """A clock that follows the widths exactly."""

        latency = staticmethod(lambda models: [float(model) for model in models])

    def path(strength: float) -> dict[str, int]:
        return {"a": round(1000 * (1 - strength))}

    found = reach_latency(path, lambda keep: keep["a"], 1000, Machine(), 0.6)  # type: ignore[arg-type, return-value]
    assert 0.55 <= found.ratio <= 0.6
    with pytest.raises(UserError, match="cannot be reached"):
        reach_latency(path, lambda keep: keep["a"] + 500, 1000, Machine(), 0.3)  # type: ignore[arg-type, return-value]


def test_towards_goes_in_shares_of_the_way() -> None:
    ranked = [Ranked("a", np.arange(64.0), 8, 64)]
    assert towards(ranked, {"a": 32}, 0.5) == {"a": 48}
    assert towards(ranked, {"a": 32}, 1.0) == {"a": 32}


def test_a_target_that_the_grid_of_widths_misses_is_told(inside: Path) -> None:
    card = prune("prune: {target: {macs: 0.9}, round_to: 16}")
    reached = conv_macs("out.onnx") / conv_macs("teacher.onnx")
    assert abs(reached - 0.9) > 0.02 * 0.9
    assert any(
        "prune.target" in warning and "0.9 was asked for" in warning for warning in card["change"]["warnings"]
    )


# ---------------------------------------------------------------- sensitivity alone


def damage(model: ir.Model) -> dict[str, list[tuple[int, float]]]:
    """Of a narrower `up` in a net of two products."""
    data = from_arrays({"x": np.random.default_rng(1).normal(size=(16, 4)).astype(np.float16)})

    def trial(keep: Mapping[str, int]) -> ir.Model:
        made = graph.copy(model)
        remove(made, analyse(made), {name: np.arange(8 - units) for name, units in keep.items()})
        return made

    return curves(Families([family("up", 8)], trial, model, data), 16, 4)


def two_products(last: str = "", output: str = "float16[N, 4] y", scale: float = 1.0) -> ir.Model:
    proto = onnx.parser.parse_model(f"""
        <ir_version: 10, opset_import: ["": 18]>
        net (float16[N, 4] x) => ({output}) <float16[4, 8] up, float16[8, 4] down> {{
            a = MatMul(x, up)
            b = Relu(a)
            {"y" if not last else "c"} = MatMul(b, down)
            {last}
        }}""")
    rng = np.random.default_rng(0)
    for name, shape in (("up", (4, 8)), ("down", (8, 4))):
        array = (scale * rng.normal(size=shape)).astype(np.float16)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model = ir.from_proto(proto)
    graph.clean(model)
    return model


def test_half_precision_outputs_are_compared_too() -> None:
    values = [value for _, value in damage(two_products())["up"]]
    assert values == sorted(values)
    assert values[0] > 1e-3


def test_answers_that_are_no_numbers_are_the_worst() -> None:
    values = [value for _, value in damage(two_products("y = Log(c)"))["up"]]
    assert values[-1] == np.inf


def test_without_float_outputs_sensitivity_is_refused() -> None:
    with pytest.raises(UserError, match="allocation: global"):
        damage(two_products("y = ArgMax <axis: int = 1, keepdims: int = 0> (c)", "int64[N] y"))


# ---------------------------------------------------------------- losses of fine-tuning


def test_fine_tuning_takes_the_losses_of_the_recipe(inside: Path) -> None:
    losses = (
        "[{name: mse}, {name: hint, teacher: r3, weight: 0.1}]"  # r3 is narrower now: an adapter joins them
    )
    recipe = f"prune: {{ratio: 0.5, scope: local, finetune: {{losses: {losses}}}}}"
    card = prune(recipe, "train.epochs=4", "train.optimizer.lr=0.002")
    assert [entry["name"] for entry in card["recipe"]["prune"]["finetune"]["losses"]] == ["mse", "hint"]
    assert task.accuracy(Path("out.onnx")) > 0.7
    names = {tensor.name for tensor in onnx.load("out.onnx").graph.initializer}
    assert names == {tensor.name for tensor in onnx.load("teacher.onnx").graph.initializer}  # no adapter


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        ("{losses: [{name: simkd, teacher: r3}]}", "simkd gives the model another head"),
        ("{losses: [mse], temperature: 2}", "temperature would have no effect here"),
        ("{losses: [{name: hint, teacher: r33}]}", "no tensor in the teacher's graph named 'r33'"),
    ],
)
def test_losses_that_cannot_be_are_refused(inside: Path, finetune: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prune(f"prune: {{ratio: 0.5, finetune: {finetune}}}")

"""What can be refused before any training is: plans, targets, stored forms, samples. In a dry run too."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress import pipeline
from mlcompress.context import Context
from mlcompress.errors import DataError, RecipeError, UnsupportedError, UserError
from mlcompress.job import Job
from mlcompress.prune import inputs
from mlcompress.prune.run import check, run
from mlcompress.prune.targets import counted
from tests.prune.direct import model, recipe, samples, weights

MOVED: dict[str, Any] = {"criterion": "movement", "finetune": {}, "round_to": 1}


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any training fails the test."""

    def trained(*_: object, **__: object) -> None:
        pytest.fail("trained before it was refused")

    monkeypatch.setattr("mlcompress.train.recover.recover", trained)


def refused(kind: type[UserError], made: ir.Model | None = None, **section: Any) -> str:
    """The one line that both the run and the check of a dry run end with."""
    lines = []
    for act in (run, check):
        context = Context(seed=0, train=samples(16), latency=lambda models: [1.0] * len(models))
        with pytest.raises(kind) as caught:
            act(made or model(), recipe(**section), context)
        lines += caught.value.lines
    assert lines[0] == lines[1]
    return str(lines[0])


def test_movement_with_a_target_out_of_reach(untrained: None) -> None:
    assert "cannot be reached" in refused(UnsupportedError, **MOVED, target={"params": 0.001})


def test_movement_with_a_latency_out_of_reach(untrained: None) -> None:
    """It is timed, so a dry run does not look."""
    context = Context(seed=0, train=samples(16), latency=lambda models: [1.0] * len(models))
    given = recipe(**MOVED, target={"latency": 0.5})
    check(model(), given, context)
    with pytest.raises(UnsupportedError, match=r"0\.5 cannot be reached: 1\.000 is left"):
        run(model(), given, context)


def test_movement_with_a_target_that_is_just_in_reach_is_not_refused() -> None:
    from mlcompress.prune.channels import Channels
    from mlcompress.prune.material import Material

    base, context = model(), Context(seed=0, train=samples(16))
    given = recipe(**MOVED, target={"params": 0.5})
    channels = Channels(base, Material(base, given, context), [], np.random.default_rng(0))
    units = channels.unranked()
    least = channels.trial(units, {family.name: family.floor() for family in units})
    share = counted("params", base, context)(least)
    check(base, recipe(**MOVED, target={"params": share}), context)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        (None, "no such file"),
        ("{", "cannot be read"),
        ({"change": {}}, "holds no widths"),
        ({"change": {"details": {"families": {"other": [4, 2]}}}}, "does not fit this model"),
    ],
)
def test_movement_with_a_plan_of_no_use(untrained: None, tmp_path: Path, card: object, message: str) -> None:
    path = tmp_path / "plan.json"
    if card is not None:
        path.write_text(card if isinstance(card, str) else json.dumps(card))
    assert message in refused(RecipeError, **MOVED, plan=str(path))


@pytest.mark.parametrize("storage", ["auto", "bitmask", "relative", "rice"])
def test_an_operator_set_without_the_decoding_ops(untrained: None, storage: str) -> None:
    old = model()
    old.opset_imports[""] = 10
    line = refused(UnsupportedError, old, granularity="element", ratio=0.9, finetune={}, storage=storage)
    assert line.startswith(f"prune.storage: {storage} fits no weight")
    assert "needs operator set 11, the model has 10" in line


def test_weights_of_another_type_cannot_be_stored(untrained: None) -> None:
    half = model()
    for value in half.graph.initializers.values():
        if value.const_value is not None and value.dtype == ir.DataType.FLOAT:
            value.const_value = ir.tensor(value.const_value.numpy().astype(np.float16), name=value.name)
            value.dtype = ir.DataType.FLOAT16
    with pytest.raises(UnsupportedError, match=r"bitmask fits no weight .* is not float32"):
        check(half, recipe(granularity="element", ratio=0.9, storage="bitmask"), Context(seed=0))


def test_a_decoding_that_onnxruntime_leaves_for_later(untrained: None, monkeypatch: Any) -> None:
    """What running the file would find after the training is found on a trial copy before it."""
    asked = []

    def unfolded(_: object, codes: object, *__: object) -> list[str]:
        asked.append(list(codes))  # type: ignore[call-overload]
        return ["fc.weight"]

    monkeypatch.setattr("mlcompress.measure.stored.decoded_at_run_time", unfolded)
    line = refused(UnsupportedError, granularity="element", ratio=0.9, finetune={}, storage="auto")
    assert "would decode at every inference: fc.weight" in line
    assert "body.weight" in asked[0]


@pytest.mark.parametrize(
    ("criterion", "first", "second"),
    [("activation", "calibration", "train"), ("wanda", "calibration", "train"),
     ("taylor", "train", "calibration"), ("fisher", "train", "calibration")],
)  # fmt: skip
def test_samples_that_are_missing_are_asked_for_by_the_best_name(
    criterion: str, first: str, second: str
) -> None:
    given = recipe(criterion=criterion, ratio=0.5).model_dump()
    given["data"] = {}
    made = type(recipe(ratio=0.5)).model_validate(given)
    assert made.needs() == {"calibration": False}
    for act in (run, check):
        with pytest.raises(DataError, match=f"data: {{{first}: .* or `data.{second}`"):
            act(model(), made, Context(seed=0))


def test_a_dry_run_says_so_too(inside: Path) -> None:
    Path("prune.yaml").write_text("prune: {criterion: activation, ratio: 0.5}\nmeasure: {repeats: 1}\n")
    with pytest.raises(DataError, match=r"add `data: \{calibration:"):
        pipeline.dry_run(Job("prune", Path("teacher.onnx"), Path("out.onnx"), "prune.yaml", ()))


@pytest.mark.parametrize(
    "section",
    [
        {"criterion": "reconstruction", "ratio": 0.5, "round_to": 1},
        {"granularity": "element", "criterion": "sparsegpt", "ratio": 0.5},
        {"granularity": "element", "criterion": "sparsegpt", "ratio": 0.5, "scope": "global"},
        {"granularity": "n:m", "criterion": "sparsegpt"},
    ],
)
def test_second_moments_in_groups_give_the_same_weights(
    section: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    observe = inputs.observe

    def counting(*given: Any) -> None:
        passes.append(1)
        observe(*given)

    monkeypatch.setattr("mlcompress.prune.observed_channels.observe", counting)
    monkeypatch.setattr("mlcompress.prune.observed_elements.observe", counting)

    def made() -> dict[str, np.ndarray]:
        passes.clear()
        return weights(run(model(), recipe(**section), Context(seed=0, train=samples(32)))[0])

    whole = made()
    at_once = len(passes)
    monkeypatch.setattr(inputs, "MOMENT_BYTES", 1)
    apart = made()
    assert len(passes) > at_once
    assert all(np.array_equal(whole[name], apart[name]) for name in whole)


def test_groups_keep_the_order_and_the_limit() -> None:
    sizes = {"a": 3, "b": 4, "c": 9, "d": 1, "e": 6}
    assert inputs.portions(sizes, 7) == [["a", "b"], ["c"], ["d", "e"]]
    assert inputs.portions({}, 7) == []

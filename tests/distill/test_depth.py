"""Students of fewer layers, and of planned widths."""

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.data.dataset import from_arrays
from mlcompress.distill.depth import spread
from mlcompress.distill.recipe import StudentSection
from mlcompress.distill.student import make_student
from mlcompress.errors import RecipeError, UnsupportedError
from mlcompress.graph.dependency import analyse
from tests.graph.dependency.test_layers import answers, post_norm, resnet
from tests.train.nets import net


def derived(teacher: ir.Model, **section: Any) -> tuple[ir.Model, dict[str, Any]]:
    made = make_student(teacher, StudentSection.model_validate(section), Context(0))
    return made.model, made.description


def test_layers_are_spread_as_those_of_distilbert() -> None:
    assert spread(12, 0.5) == [0, 2, 4, 7, 9, 11]  # Sanh et al. 2019, scripts/extract_distilbert.py
    assert spread(6, 0.5) == [0, 3, 5]
    assert spread(5, 0.01) == [4]
    assert spread(4, 1.0) == [0, 1, 2, 3]


def test_half_the_layers_with_their_weights() -> None:
    teacher = post_norm(range(6))
    before = graph.to_bytes(teacher)
    student, told = derived(teacher, depth=0.5)
    np.testing.assert_allclose(answers(student), answers(post_norm([0, 3, 5])), rtol=1e-5)  # float32
    assert told["layers_kept"] == ["x0", "x3", "x5"]
    assert told["layers_dropped"] == ["x1", "x2", "x4"]
    assert all(old == new for old, new in told["units"].values())
    assert graph.to_bytes(teacher) == before


def test_depth_and_width_together() -> None:
    teacher = resnet(range(4))
    student, told = derived(teacher, depth=0.5, width=0.5, round_to=1)
    assert len(told["layers_kept"]) == 2
    assert all(units == [8, 4] for units in told["units"].values())
    assert answers(student).shape == (2, 3)
    assert graph.parameters(student) < graph.parameters(derived(teacher, depth=0.5)[0]) / 2


def test_a_family_keeps_what_the_plan_says() -> None:
    student, told = derived(net(), units={"w1": 3})
    assert told["units"] == {"w1": [8, 3]}
    assert student.graph.initializers["w1"].const_value.shape[0] == 3
    teacher = resnet(range(4))
    first, *rest = [family.name for family in analyse(teacher).families]
    _, told = derived(teacher, units={first: 5}, width=0.5, round_to=1)
    assert told["units"][first] == [8, 5]
    assert all(told["units"][name] == [8, 4] for name in rest)


def test_plans_that_do_not_fit_are_refused_all_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        derived(net(), units={"w": 3, "w1": 9})
    assert caught.value.lines == (
        "distill.student.units: no family 'w' in this model; did you mean 'w1'?",
        "distill.student.units: w1 has 8 units and cannot keep 9; say 1..8",
    )


def test_a_width_of_one_keeps_every_unit() -> None:
    """Also where the count is no multiple of the block."""
    teacher = post_norm(range(2))
    student, _ = derived(teacher, width=1.0, round_to=3)
    assert graph.parameters(student) == graph.parameters(teacher)


def test_depth_without_layers_to_leave_out_is_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"no layers x \+ f\(x\)"):
        derived(net(), depth=0.5)
    with pytest.raises(UnsupportedError, match=r"0\.9 of 3 layers is all of them; choose less than 0\.833"):
        derived(post_norm(range(3)), depth=0.9)


def test_what_stays_is_fitted_to_what_all_layers_gave() -> None:
    """On training samples, before any training; the answers to others come nearer to the teacher's."""
    teacher = resnet(range(4))
    rng = np.random.default_rng(1)
    train = from_arrays({"image": rng.normal(size=(64, 3, 8, 8)).astype(np.float32)})
    errors = {}
    for fitted in (True, False):
        section = StudentSection(depth=0.5, reconstruct=fitted)
        made = make_student(teacher, section, Context(0, train=train))
        errors[fitted] = np.square(answers(made.model) - answers(teacher)).sum()
        names = [node.name for node in made.model.graph if node.outputs[0].name in ("j", "l3")]
        assert made.description.get("reconstructed") == (names if fitted else None)
    assert errors[True] < 0.7 * errors[False]

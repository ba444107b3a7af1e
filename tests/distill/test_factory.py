"""A student from the user's own function."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from safetensors.torch import save_file

from mlcompress import graph
from mlcompress.context import Context
from mlcompress.distill.factory import build_student
from mlcompress.distill.recipe import DistillRecipe, StudentSection
from mlcompress.distill.student import make_student
from mlcompress.errors import RecipeError, UserError
from mlcompress.job import Job
from mlcompress.prepare import check
from tests.train.nets import net, stripes

CODE = """
import torch
def build(width, classes=3):
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, width, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(width * 16, classes)
    )
def nothing():
    return 3
"""


@pytest.fixture
def _code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "student_nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)


def section(**keys: object) -> StudentSection:
    return StudentSection.model_validate({"factory": "student_nets:build", "kwargs": {"width": 4}, **keys})


@pytest.mark.usefixtures("_code")
def test_a_module_gets_the_teachers_names_and_the_files_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    module = torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64, 3)
    )
    save_file(module.state_dict(), tmp_path / "init.safetensors")
    made = build_student(section(checkpoint="init.safetensors"), net())
    taken = make_student(net(), section(checkpoint="init.safetensors"), Context(0, student=made)).model
    assert [t.name for t in graph.signature(taken).inputs + graph.signature(taken).outputs] == [
        "image",
        "logits",
    ]
    images = stripes(5).take(np.arange(5)).inputs["image"]
    found = answers(taken, images)
    np.testing.assert_allclose(found, module(torch.from_numpy(images)).detach().numpy(), rtol=1e-5, atol=1e-6)
    other = answers(build_student(section(), net()), images)
    assert not np.allclose(other, found, atol=1e-2)  # weights of its own


def answers(model: ir.Model, images: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(graph.to_bytes(model), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"image": images})[0]
    return found


@pytest.mark.usefixtures("_code")
@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"factory": "student_nets:nothing", "kwargs": {}}, "distill.student.factory: student_nets:nothing returned int"),
        ({"factory": "student_nets:none"}, "distill.student.factory: student_nets has no function 'none'"),
        ({"kwargs": {"depth": 4}}, "distill.student.factory: student_nets:build raised TypeError"),
        ({"checkpoint": "none.safetensors"}, "none.safetensors: cannot be read as weights"),
    ],
)  # fmt: skip
def test_what_a_factory_can_do_wrong_is_one_line(keys: dict[str, object], words: str) -> None:
    with pytest.raises(UserError) as caught:
        build_student(section(**keys), net())
    (line,) = caught.value.lines
    assert line.startswith(words)


@pytest.mark.usefixtures("_code")
def test_another_number_of_classes_is_refused() -> None:
    made = build_student(section(kwargs={"width": 2, "classes": 4}), net())
    with pytest.raises(UserError, match="the teacher's float32"):
        make_student(net(), section(), Context(0, student=made))


def test_no_code_forbids_the_factory(tmp_path: Path) -> None:
    recipe = DistillRecipe.model_validate({"distill": {"student": {"factory": "a:b"}}})
    path = tmp_path / "teacher.onnx"
    path.write_bytes(graph.to_bytes(net()))
    job = Job(stage="distill", model=path, output=tmp_path / "s.onnx", no_code=True)
    with pytest.raises(RecipeError, match="'a:b' is code, and --no-code forbids running it"):
        check(job, recipe)

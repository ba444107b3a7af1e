"""What is tried before the first step of training."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from mlcompress.context import Context, GivenTeacher
from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.errors import DataError, RecipeError, UnsupportedError, UserError
from mlcompress.recipe.train import TrainSection
from mlcompress.train.ensemble import Ensemble
from mlcompress.train.lesson import begin, check_batch
from mlcompress.train.losses import entry
from mlcompress.train.recover import recover
from tests.train.nets import net, stripes, weights
from tests.train.test_padding import sentences, tokens

SPLICED = {"batch_size": 16, "threads": 1, "augment": [{"splice": "mask"}]}


def labelled() -> Dataset:
    plain = sentences()
    inputs = plain.take(plain.rows).inputs
    return from_arrays(inputs, plain.rows % 2)


def refused(kind: type[UserError], *losses: Any, data: Dataset, **settings: Any) -> str:
    train = TrainSection.model_validate(SPLICED | settings)
    with pytest.raises(kind) as caught:
        begin(tokens(), tokens(), train, Context(0, train=data), losses=losses, where="distill")
    return str(caught.value)


def test_spliced_texts_are_new_ones() -> None:
    """The student has the weights of the teacher but for noise; what is learned depends on the texts alone."""
    trained = []
    for augment in ([], [{"splice": "mask"}], [{"splice": "mask"}]):
        settings = TrainSection.model_validate(SPLICED | {"augment": augment})
        student = tokens()
        student.graph.initializers["w"].const_value = ir.tensor(weights(student)["w"] + 0.1, name="w")
        recover(
            student,
            tokens(),
            settings,
            Context(0, train=labelled()),
            epochs=2,
            label="r",
            losses=[entry("mse")],
        )
        trained.append(weights(student)["w"])
    plain, first, second = trained
    assert abs(plain - first).max() > 1e-3
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", ["hard", "dkd", "crd"])
def test_a_spliced_text_has_no_label_and_no_number(name: str) -> None:
    line = refused(RecipeError, entry("mse"), entry(name), data=labelled())
    assert f"a spliced text is no sample and has no label, which {name} of distill need" in line


def test_confidence_by_labels_is_refused_with_splice() -> None:
    train = TrainSection.model_validate(SPLICED)
    both = Ensemble((GivenTeacher(tokens(), "a"), GivenTeacher(tokens(), "b")), "confidence")

    def attempt(data: Dataset) -> None:
        given = Context(0, train=data, teachers=both.teachers)
        begin(tokens(), tokens(), train, given, losses=[entry("soft")], where="x", ensemble=both)

    attempt(sentences())  # by entropy
    with pytest.raises(RecipeError, match="combine: confidence"):
        attempt(labelled())


def test_augmentation_that_does_not_fit_the_inputs() -> None:
    assert "no input 'masks'" in refused(
        DataError, entry("mse"), data=labelled(), augment=[{"splice": "masks"}]
    )
    assert "flip needs images" in refused(
        DataError, entry("mse"), data=labelled(), augment=[{"flip": "horizontal"}]
    )
    train = TrainSection.model_validate(SPLICED)
    with pytest.raises(DataError, match="splice: no input 'mask'"):
        begin(net(), net(), train, Context(0, train=stripes()), losses=[entry("soft")], where="x")


def test_a_teacher_that_reads_tokens_of_its_own_knows_no_new_text() -> None:
    own = Ensemble((GivenTeacher(tokens(), "a"), GivenTeacher(tokens(), "b", sentences())), "mean")
    given = Context(0, train=sentences(), teachers=own.teachers)
    train = TrainSection.model_validate(SPLICED)
    with pytest.raises(RecipeError, match=r"splice makes a new text .* and b reads inputs of its own"):
        begin(tokens(), tokens(), train, given, losses=[entry("mse")], where="x", ensemble=own)


def test_confidence_that_no_loss_uses_is_no_obstacle() -> None:
    both = Ensemble((GivenTeacher(tokens(), "a"), GivenTeacher(tokens(), "b")), "confidence")
    given = Context(0, train=labelled(), teachers=both.teachers)
    train = TrainSection.model_validate(SPLICED)
    begin(tokens(), tokens(), train, given, losses=[entry("soft", teachers=[1])], where="x", ensemble=both)


WORDS = """
<ir_version: 10, opset_import: ["" : 18]>
words (int64[batch, 5] ids, int64[batch, 5] mask) => (float[batch, 5, 2] y)
<float[4, 2] table = {1, 0, 2, -1, 0, 1, 1, 1}>
{ found = Gather (table, ids)
  counted = Cast <to = 1> (mask)
  kept = Unsqueeze (counted, last)
  y = Mul (found, kept) }
"""


def words(lengths: list[int]) -> tuple[ir.Model, Dataset]:
    """A table of four words, and texts of these lengths."""
    text = WORDS.replace("1, 1}>", "1, 1}, int64[1] last = {2}>")
    mask = (np.arange(5) < np.array(lengths)[:, None]).astype(np.int64)
    return ir.from_proto(onnx.parser.parse_model(text)), from_arrays({"ids": mask, "mask": mask})


@pytest.mark.parametrize(("end", "fits"), [(4, True), (5, False), (2**64, False)])
def test_token_numbers_that_the_student_has_not(end: int, fits: bool) -> None:
    model, data = words([3, 5, 2])
    replace = {"input": "ids", "mask": "mask", "tokens": [1, end]}
    train = TrainSection.model_validate(SPLICED | {"augment": [{"splice": "mask"}, {"replace": replace}]})

    def attempt() -> None:
        begin(model, model, train, Context(0, train=data), losses=[entry("mse")], where="x")

    if fits:
        attempt()
        return
    with pytest.raises(UserError, match=r"replace\.tokens: .*(not take 4|beyond int64)"):
        attempt()


def test_padding_in_front_of_a_late_text_is_found_before_training() -> None:
    model, data = words([3, 5, 2, 4])
    inputs = {name: array.copy() for name, array in data.take(np.arange(4)).inputs.items()}
    inputs["mask"][3] = inputs["mask"][3, ::-1]
    train = TrainSection.model_validate(SPLICED)
    with pytest.raises(DataError, match="padding at the end, and 'mask' has it elsewhere"):
        begin(model, model, train, Context(0, train=from_arrays(inputs)), losses=[entry("mse")], where="x")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"early_stop": {"patience": 1}, "validation": 0}, "early_stop: needs validation"),
        ({"precision": "fp16"}, "needs a CUDA device"),
    ],
)
def test_what_training_would_refuse_is_refused_before(settings: dict[str, Any], problem: str) -> None:
    assert problem in refused(UserError, entry("mse"), data=sentences(), **settings)


@pytest.mark.parametrize("fixed", [1, 2, 3])
def test_a_fixed_batch_of_any_length_is_refused_and_a_fixed_text_is_not(fixed: int) -> None:
    model, data = words([3, 5, 2, 4])
    check_batch(model, data, "x")
    for value in model.graph.inputs:
        value.shape = ir.Shape([fixed, 5])
    with pytest.raises(UnsupportedError, match=rf"input ids is \[{fixed}, 5\], a batch of fixed length"):
        check_batch(model, data, "x")

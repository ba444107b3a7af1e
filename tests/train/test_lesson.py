"""What is tried before the first step of training."""

from typing import Any

import onnx_ir as ir
import pytest

from mlcompress.context import Context, GivenTeacher
from mlcompress.data.dataset import Dataset, from_arrays
from mlcompress.errors import DataError, RecipeError, UserError
from mlcompress.recipe.train import TrainSection
from mlcompress.train.ensemble import Ensemble
from mlcompress.train.lesson import begin
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
    """The student has the weights of the teacher but for noise; what is learned depends on the texts."""
    trained = []
    for augment in ([], [{"splice": "mask"}]):
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
    assert abs(trained[0] - trained[1]).max() > 1e-3


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

"""Which values the losses of a recipe read, how they are added, and what is refused."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mlcompress.data.augment import augment
from mlcompress.errors import DataError, ModelError, RecipeError, UnsupportedError
from mlcompress.recipe.train import Augment
from mlcompress.train.batches import TorchBatch, to_torch
from mlcompress.train.losses import entry
from mlcompress.train.objective import Objective
from tests.train.nets import net, stripes

LOGITS = torch.tensor([[1.0, 0.0, -1.0], [0.5, 0.5, 2.0]])
OTHER = torch.tensor([[2.0, 1.0, -1.0], [0.0, 3.0, -1.0]])


def batch(labels: torch.Tensor | None) -> TorchBatch:
    return TorchBatch({}, labels, torch.arange(2))


def objective(*entries: object, softmax: bool = False) -> Objective:
    made = Objective(entries, net(softmax=softmax), net(softmax=softmax), where="distill.losses")
    return made.taught_by(lambda given: {"logits": OTHER, "probabilities": OTHER.softmax(1)})


def test_losses_are_added_with_their_weights() -> None:
    soft, hard = entry("soft", weight=0.9, temperature=2.0), entry("hard", weight=0.1)
    labels = torch.tensor([0, 2])
    got = objective(soft, hard)({"logits": LOGITS}, batch(labels))
    alone = [
        objective(one)({"logits": LOGITS}, batch(labels))
        for one in (entry("soft", temperature=2.0), entry("hard"))
    ]
    assert float(got) == pytest.approx(0.9 * float(alone[0]) + 0.1 * float(alone[1]), rel=1e-6)  # float32


def test_logit_losses_read_what_enters_the_softmax() -> None:
    made = objective(entry("soft"), entry("mse"), softmax=True)
    assert made.student_values == ("logits", "probabilities")
    assert made.teacher_values == ("logits", "probabilities")
    assert made.notes == (
        "distill.losses[0] (soft): the output ends in Softmax; its input logits is used as logits",
    )
    assert objective(entry("soft")).student_values == ("logits",)
    assert objective(entry("soft")).notes == ()


def test_the_only_teacher_has_number_0() -> None:
    assert objective(entry("soft", teachers=[0])).teacher_values == ("logits",)
    for asked in ([3], [0, 3]):
        with pytest.raises(RecipeError, match=r"losses\[0\] \(soft\)\.teachers: no teacher 3; there is only"):
            objective(entry("soft", teachers=asked))


def test_hard_alone_asks_no_teacher() -> None:
    made = objective(entry("hard"))
    assert made.teacher_values == ()
    assert made.labelled == ("hard",)
    assert float(made({"logits": LOGITS}, batch(torch.tensor([0, 2])))) == pytest.approx(
        float(functional.cross_entropy(LOGITS, torch.tensor([0, 2]))), rel=1e-6
    )


def test_mixup_mixes_the_targets() -> None:
    mixed = to_torch(augment(stripes(9).take(np.arange(9)), [Augment(mixup=0.4)], (0, 0)))
    logits = torch.randn(9, 3, generator=torch.Generator().manual_seed(0))
    own = functional.cross_entropy(logits, mixed.labels, reduction="none")
    other = functional.cross_entropy(logits, mixed.partners, reduction="none")
    expected = (mixed.shares * own + (1 - mixed.shares) * other).mean()
    got = objective(entry("hard"))({"logits": logits}, mixed)
    assert float(got) == pytest.approx(float(expected), rel=1e-5)  # float32
    assert float(got) != pytest.approx(float(own.mean()), rel=1e-3)


def test_half_precision_values_are_compared_in_float32() -> None:
    got = objective(entry("mse"))({"logits": LOGITS.bfloat16()}, batch(None))
    assert got.dtype == torch.float32


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(
        RecipeError,
        match=r"distill.losses\[0\] \(soft\).output: the model has no output 'logit'; it has logits",
    ):
        objective(entry("soft", output="logit"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "needs labels, and data.train has none"),
        (torch.tensor([0, 3]), "labels go from 0 to 3, but the output has classes 0..2"),
        (torch.tensor([-1, 0]), "labels go from -1 to 0"),
        (torch.tensor([0.5, 1.0]), "needs class numbers"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: torch.Tensor | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        objective(entry("hard"))({"logits": LOGITS}, batch(labels))


def test_shapes_must_agree() -> None:
    with pytest.raises(ModelError, match=r"student logits has shape \[2, 2\], teacher logits \[2, 3\]"):
        objective(entry("mse"))({"logits": LOGITS[:, :2]}, batch(None))


def test_one_column_is_no_set_of_classes() -> None:
    made = Objective([entry("soft")], net(), net(), where="x").taught_by(
        lambda given: {"logits": OTHER[:, :1]}
    )
    with pytest.raises(UnsupportedError, match=r"class logits are \[batch, classes\]"):
        made({"logits": LOGITS[:, :1]}, batch(None))


def test_class_scores_of_length_one_are_warned_of() -> None:
    logits = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    made = Objective([entry("soft")], net(), net(), where="x")
    (line,) = made.warnings({"logits": logits}, 32)
    assert "logits has length 1 in every sample, as embeddings have" in line
    assert made.warnings({"logits": 2 * logits}, 32) == []

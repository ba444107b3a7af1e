"""A teacher that has learnt the task of `tests.train.nets`."""

import onnx_ir as ir
import pytest

from mlcompress.context import Context
from mlcompress.recipe.train import TrainSection
from mlcompress.train.losses import entry
from mlcompress.train.recover import recover
from tests.train.nets import net, stripes

TRAIN = {"epochs": 4, "batch_size": 32, "threads": 1, "optimizer": {"name": "sgd", "lr": 0.1}}


@pytest.fixture(scope="module")
def teacher() -> ir.Model:
    model = net(seed=4)
    settings = TrainSection.model_validate({**TRAIN, "optimizer": {"name": "sgd", "lr": 0.3}})
    recover(model, net(), settings, Context(0, train=stripes()), epochs=8, label="t", losses=[entry("hard")])
    return model

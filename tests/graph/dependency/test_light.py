"""Removed equals masked on nine real topologies; what stays, stays for a named reason."""

import pytest

from mlcompress.graph import dependency
from tests.graph.dependency.light import light
from tests.graph.dependency.oracle import check, numbers

NETS = {
    "bvlc_alexnet": (5, 0.29, {"LRN", "Softmax"}),
    "densenet121": (120, 0.34, set()),
    "inception_v1": (55, 0.31, {"LRN", "Softmax"}),
    "inception_v2": (69, 0.30, {"Softmax"}),
    "resnet50": (37, 0.29, {"Softmax"}),
    "shufflenet": (17, 0.38, {"Softmax"}),
    "squeezenet": (25, 0.36, {"Softmax"}),
    "vgg19": (18, 0.27, {"Softmax"}),
    "zfnet512": (5, 0.28, {"LRN", "Softmax"}),
}
"""Name -> families, the largest share of weights left at half of every family (at an eighth of the width, where
the classifier and rounding weigh more), and the ops that keep channels."""


@pytest.mark.parametrize("name", NETS)
def test_removed_equals_masked(name: str) -> None:
    families, share, keepers = NETS[name]
    model = light(name)
    analysis = dependency.analyse(model)
    assert (len(analysis.families), any(family.soft for family in analysis.families)) == (families, False)
    assert {item.op for item in analysis.frozen} - {"output"} == keepers
    assert numbers(check(model, batches=(1, 2))) <= share * numbers(model)

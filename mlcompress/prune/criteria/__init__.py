"""How important a unit is: weights and what was measured in, one score per unit out. Low scores go first.

A *unit* is the smallest thing that can go: a channel with all its slices, a kernel, or one weight. The same
function serves every granularity, because a group only says which weights belong to which unit. Its
positional parameters name what it is given, the fields of `Group`; its keyword-only parameters are its
recipe options. `GRANULARITIES` says which go together.

Adding a criterion is adding one function to a module of this package.
"""

from mlcompress.prune.criteria.activation import activation, apoz, entropy
from mlcompress.prune.criteria.baseline import random
from mlcompress.prune.criteria.elementwise import sparsegpt, wanda
from mlcompress.prune.criteria.gradient import fisher, gradient, movement, snip, taylor
from mlcompress.prune.criteria.group import (
    ACTIVATIONS,
    GRADIENTS,
    INPUTS,
    Group,
    Layer,
    Scores,
    criteria,
    measured,
    needs,
    rank,
)
from mlcompress.prune.criteria.magnitude import (
    bn_scale,
    fpgm,
    l1,
    l1_first,
    l2,
    l2_first,
    lamp,
    weight_entropy,
)
from mlcompress.prune.criteria.reconstruction import reconstruction
from mlcompress.prune.criteria.refusals import COMPARABLE, refusal

__all__ = [
    "ACTIVATIONS",
    "COMPARABLE",
    "GRADIENTS",
    "INPUTS",
    "Group",
    "Layer",
    "Scores",
    "activation",
    "apoz",
    "bn_scale",
    "criteria",
    "entropy",
    "fisher",
    "fpgm",
    "gradient",
    "l1",
    "l1_first",
    "l2",
    "l2_first",
    "lamp",
    "measured",
    "movement",
    "needs",
    "random",
    "rank",
    "reconstruction",
    "refusal",
    "snip",
    "sparsegpt",
    "taylor",
    "wanda",
    "weight_entropy",
]

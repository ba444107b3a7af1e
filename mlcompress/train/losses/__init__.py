"""What a student is taught with. A loss is one function here.

Its positional parameters say what it needs; its keyword-only parameters are its recipe options:

- `student_logits`, `teacher_logits`: [B, C], class logits; the value before a final Softmax where a graph
  ends in one
- `labels`: int64 [B], or float [B, C] class probabilities after mixup; `target`: int64 [B] in any case
- `student`, `teacher`: values as they are, of equal shape [B, ...]
- `student_features`, `teacher_features`: values as they are; shapes may differ
- `adapted`, `target_features`: the same, brought to one shape by an adapter (see `train.adapters`)
- `student_embedding`, `teacher_embedding`: both projected to [B, dim], `dim` being an option of the loss
- `mask`: bool [B, T], the tokens that are no padding; None where the recipe names no mask
- `head_logits`, `head_features`: lists of [B, C] and [B, D], of classifiers on tensors inside the student;
  `deepest_features`: [B, D] or None; `labels` may be None beside them
- `bank`, `ids`: a `MemoryBank` of all training samples, and which of them these are

It returns a scalar: the mean over the batch, so that a weight means the same at every batch size. torch is
imported inside the functions, because validating a recipe reads this package.
"""

from mlcompress.train.losses.contrastive import contrastive, crd
from mlcompress.train.losses.entry import (
    FeatureEntry,
    HeadsEntry,
    LossEntry,
    Ramp,
    annotation,
    entry,
    is_labelled,
    losses,
    needs,
    refuse_heads_alone,
)
from mlcompress.train.losses.features import attention, cosine, hint, mse, self_attention, simkd
from mlcompress.train.losses.logits import dist, dkd, hard, logit_std, pseudo, soft
from mlcompress.train.losses.own import byot
from mlcompress.train.losses.relations import pkt, rkd, similarity

__all__ = [
    "FeatureEntry",
    "HeadsEntry",
    "LossEntry",
    "Ramp",
    "annotation",
    "attention",
    "byot",
    "contrastive",
    "cosine",
    "crd",
    "dist",
    "dkd",
    "entry",
    "hard",
    "hint",
    "is_labelled",
    "logit_std",
    "losses",
    "mse",
    "needs",
    "pkt",
    "pseudo",
    "refuse_heads_alone",
    "rkd",
    "self_attention",
    "similarity",
    "simkd",
    "soft",
]

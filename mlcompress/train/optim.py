"""Optimizer, learning rate and weight average, as a `train` section asks for them."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mlcompress.recipe.train import Optimizer, Schedule

_ONECYCLE_START = 25.0
_ONECYCLE_END = 1e4


def optimizer(
    parameters: Iterable[nn.Parameter], settings: Optimizer, *, beside: Iterable[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum, Adam or AdamW; no weight decay on rank 0 and 1 (biases, norm scales).

    Parameters `beside` the model's are groups of their own.
    """
    groups = [*_groups(parameters, settings.weight_decay), *_groups(beside, settings.weight_decay)]
    groups = [group for group in groups if group["params"]]
    if settings.name == "sgd":
        momentum = settings.momentum
        return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0)
    kind = torch.optim.Adam if settings.name == "adam" else torch.optim.AdamW
    return kind(groups, lr=settings.lr, betas=settings.betas)


def _groups(parameters: Iterable[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    listed = [parameter for parameter in parameters if parameter.requires_grad]
    return [
        {"params": [p for p in listed if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in listed if p.ndim <= 1], "weight_decay": 0.0},
    ]


def learning_rate(step: int, total: int, schedule: Schedule, peak: float) -> float:
    """Rate of optimizer step `step` (from 0) of `total`; no state, so that a resumed run needs none.

    W = round(warmup * total) steps rise linearly, peak * (step + 1) / W. After them, with progress
    t = (step - W) / (total - W):
    - constant: peak
    - cosine: peak * (1 + cos(pi t)) / 2
    - step: peak * gamma^n, n the milestones passed, which are shares of `total`
    - onecycle (Smith 2018): W steps rise as half a cosine from peak / 25, the rest falls likewise to
      peak / 25e4
    """
    rise = round(schedule.warmup * total)
    if step < rise:
        if schedule.name == "onecycle":
            return _half_cosine(peak / _ONECYCLE_START, peak, step / rise)
        return peak * (step + 1) / rise
    progress = (step - rise) / max(1, total - rise)
    if schedule.name == "cosine":
        return _half_cosine(peak, 0.0, progress)
    if schedule.name == "onecycle":
        return _half_cosine(peak, peak / _ONECYCLE_START / _ONECYCLE_END, progress)
    if schedule.name == "step":
        passed = sum(step >= milestone * total for milestone in schedule.milestones)
        return float(peak * schedule.gamma**passed)
    return peak


def _half_cosine(first: float, last: float, progress: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * progress)) / 2


class Average:
    """Exponential moving average of weights and running statistics.

    a <- d a + (1 - d) w with d = min(decay, (1 + n) / (10 + n)) at update n = 1, 2, ...: a fixed decay would
    keep the starting weights in the average of a short run (TensorFlow's ExponentialMovingAverage does the
    same).
    """

    def __init__(self, tensors: Mapping[str, Tensor], decay: float) -> None:
        self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        self.updates = 0
        self._decay = decay

    @torch.no_grad()
    def update(self, tensors: Mapping[str, Tensor]) -> None:
        """Take one step towards `tensors` (same names and shapes as at the start); integers are copied."""
        self.updates += 1
        decay = min(self._decay, (1 + self.updates) / (10 + self.updates))
        for name, averaged in self.tensors.items():
            if averaged.is_floating_point():
                averaged.lerp_(tensors[name], 1 - decay)
            else:
                averaged.copy_(tensors[name])

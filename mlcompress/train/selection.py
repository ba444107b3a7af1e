"""Which epoch's weights are kept, and the record of all epochs."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from mlcompress.errors import DivergedError


@dataclass
class History:
    """What a training run did, for the card."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    """`{"epoch": 1, "loss": mean over the epoch, "lr": of the last step, "metric": validation}`; no metric
    without validation; epoch 0, where it competes, has a metric only."""
    best_epoch: int = 0
    """The epoch whose weights are kept; 0 is the state before training."""
    best_metric: float | None = None
    resumed_after: int = 0
    """Epochs that an earlier, interrupted run had done."""
    stopped: bool = False
    """Ended by `early_stop`."""
    frozen: list[str] = field(default_factory=list)
    """Weights and statistics that `train.freeze` kept; names."""

    def as_card(self) -> dict[str, Any]:
        """JSON types only; without `resumed_after`, so that a resumed run writes the same card."""
        unsaid = {"resumed_after"} | ({"frozen"} if not self.frozen else set())
        return {key: value for key, value in asdict(self).items() if key not in unsaid}


class Selection:
    """The best weights so far."""

    def __init__(self, *, higher_is_better: bool, patience: int | None) -> None:
        self.history = History()
        self.tensors: dict[str, Tensor] = {}
        """Copies of the weights of `history.best_epoch`."""
        self._higher_is_better = higher_is_better
        self._patience = patience

    def judge(self, epoch: int, metric: float | None, tensors: Mapping[str, Tensor]) -> None:
        """Record the metric of `tensors` after `epoch`, and copy them if they are the best; None keeps any.

        Raises:
            DivergedError: the metric is not a finite number.
        """
        history = self.history
        if metric is not None:
            if not math.isfinite(metric):
                raise DivergedError(
                    f"train: the validation metric is {metric} after epoch {epoch}; lower train.optimizer.lr,"
                    " or set train.clip: 1.0"
                )
            if epoch == 0:
                history.epochs.append({"epoch": 0})
            history.epochs[-1]["metric"] = metric
        if metric is None or self._improves(metric):
            history.best_epoch, history.best_metric = epoch, metric
            self.tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        elif self._patience is not None:
            history.stopped = epoch - history.best_epoch >= self._patience

    def _improves(self, metric: float) -> bool:
        best = self.history.best_metric
        return best is None or (metric > best if self._higher_is_better else metric < best)

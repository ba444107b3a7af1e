"""The training loop of every stage: optimizer steps, one validation per epoch, the best weights at the end.

The same data, settings, seed and number of threads give the same bytes, also after a kill: each epoch depends
on (seed, epoch) and on the state that the epoch before it wrote.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from mlcompress import console
from mlcompress.data.dataset import Dataset
from mlcompress.errors import DataError, DivergedError
from mlcompress.recipe.train import TrainSection
from mlcompress.train import device
from mlcompress.train.batches import EpochOrder, TorchBatch, loader
from mlcompress.train.device import from_first_process, reproducible
from mlcompress.train.executor import Executor
from mlcompress.train.optim import Average, learning_rate, optimizer
from mlcompress.train.selection import History, Selection
from mlcompress.train.state import (
    State,
    load_optimizer,
    load_state,
    optimizer_tensors,
    save_state,
    tensors_hash,
)

Loss = Callable[[Mapping[str, Tensor], TorchBatch], Tensor]
Validate = Callable[[], float]


def fit(
    executor: Executor,
    loss: Loss,
    data: Dataset,
    settings: TrainSection,
    *,
    seed: int,
    validate: Validate | None,
    higher_is_better: bool,
    epochs: int,
    state_dir: Path | None,
    label: str,
    frozen: Collection[str] = (),
    after_step: Callable[[], None] | None = None,
    taps: Collection[str] = (),
    beside: nn.Module | None = None,
    before_epoch: Callable[[int], None] | None = None,
    keep_initial: bool = False,
    key: str = "",
) -> History:
    """Train `executor` in place; it ends on the CPU, in eval mode, with the weights of the best epoch.

    Args:
        loss: (outputs and tapped values by name, batch) -> scalar.
        validate: the metric of the executor's present weights, called in eval mode; None: the last is kept.
        epochs: passes over the data; `settings.epochs` is not read, because stages share it out over steps.
        state_dir: where a killed run can go on; None keeps nothing.
        label: names progress bar and state file; distinct within `state_dir`.
        frozen: initializer names that are not trained.
        after_step: called after each optimizer step, and after averaged weights are put in place; re-applies
            masks.
        taps: names of values, beside the outputs, that `loss` reads.
        beside: what `loss` trains for itself, such as adapters: in parameter groups of its own, kept in the
            state, neither averaged nor selected.
        before_epoch: told the number of each epoch, from 1.
        keep_initial: the weights before training compete as epoch 0.
        key: hash of what `loss` and `validate` depend on (teacher, entries, metric, validation data).
            Settings, seed, data and first weights are added here.

    Raises:
        DataError: no samples, or `early_stop` without validation.
        UnsupportedError: device or precision that this machine lacks.
        DivergedError: the loss or the metric is not a finite number.
        UserError: several processes that cannot share batches of this size.
    """
    if len(data) == 0:
        raise DataError("data.train: no samples to train on")
    device.check_settings(settings, len(data), has_validation=validate is not None)
    path = None if state_dir is None else state_dir / f"{re.sub(r'[^A-Za-z0-9]+', '-', label)}.safetensors"
    with reproducible(settings.threads):
        if path is not None:
            facts = [key, settings.model_dump_json(), seed, epochs, sorted(frozen), keep_initial]
            key = _key(executor, data, facts)
        training = _Training(executor, data, settings, seed, epochs, frozen, higher_is_better, beside)
        training.after_step = after_step or training.after_step
        training.before_epoch = before_epoch or training.before_epoch
        training.validate = validate
        state = None if path is None else load_state(path, key)
        if state is not None:
            training.restore(state)
            console.say(f"{label}: goes on after epoch {training.epoch} of {epochs}")
        elif keep_initial:
            training.judge()
        device.check_together(training.machine, training.epoch)
        with console.progress(label, training.batches_left()) as advance:
            while training.epoch < epochs and not training.selection.history.stopped:
                training.train_epoch(loss, taps, advance)
                if path is not None and training.machine.is_main_process:
                    save_state(path, key, training.state())
        return training.finish()


def _key(executor: Executor, data: Dataset, facts: list[object]) -> str:
    """Hash of everything that the bytes of a run depend on."""
    machine = [torch.__version__, torch.get_num_threads()]
    everything = [tensors_hash(executor.state_dict()), data.fingerprint, *machine, *facts]
    return hashlib.sha256(json.dumps(everything).encode()).hexdigest()


def _kept(epoch: int) -> str:
    """What is left of a run that stops after `epoch` whole epochs."""
    return f" (the state of epoch {epoch} is kept beside OUTPUT)" if epoch else ""


class _Training:
    """The moving parts of one `fit`."""

    after_step: Callable[[], None] = staticmethod(lambda: None)
    before_epoch: Callable[[int], None] = staticmethod(lambda epoch: None)
    validate: Validate | None = None

    def __init__(
        self,
        executor: Executor,
        data: Dataset,
        settings: TrainSection,
        seed: int,
        epochs: int,
        frozen: Collection[str],
        higher_is_better: bool,
        beside: nn.Module | None,
    ) -> None:
        self.machine = device.accelerator(settings)
        self.epoch = 0
        patience = None if settings.early_stop is None else settings.early_stop.patience
        self.selection = Selection(higher_is_better=higher_is_better, patience=patience)
        self._executor = executor
        self._settings = settings
        self._seed = seed
        self._epochs = epochs
        self._step = 0
        self._learning = [value for name, value in executor.trainable.items() if name not in set(frozen)]
        self._beside = (beside or nn.Module()).to(self.machine.device)
        self._order = EpochOrder(len(data), settings.batch_size, settings.grow, seed)
        device.set_layout(executor, torch.channels_last)  # before the gradients get their buffers
        self._model, self._optimizer, self._loader = self.machine.prepare(
            executor,
            optimizer(self._learning, settings.optimizer, beside=self._beside.parameters()),
            loader(data, settings.augment, self._order, seed),
        )
        self._average = None if settings.ema is None else Average(self._tensors(), settings.ema)
        self._steps = sum(math.ceil(self._batches(epoch) / settings.accumulate) for epoch in range(epochs))

    def _tensors(self) -> dict[str, Tensor]:
        """Weights and running statistics, live."""
        tensors: dict[str, Tensor] = self._executor.state_dict()
        return tensors

    def _batches(self, epoch: int) -> int:
        return self._order.batches(epoch)

    def batches_left(self) -> int:
        """Over the epochs that are still to come."""
        return sum(self._batches(epoch) for epoch in range(self.epoch, self._epochs))

    def train_epoch(self, loss: Loss, taps: Collection[str], advance: Callable[[int], None]) -> None:
        """One pass over the data, then validation."""
        self._order.epoch = self.epoch
        self.before_epoch(self.epoch + 1)
        torch.manual_seed(self._seed + self.epoch)  # random ops of a graph, if any
        self._executor.train()
        total = torch.zeros((), device=self.machine.device)
        for batch in self._loader:
            total += self._train_batch(batch, loss, taps)
            advance(1)
        mean = float(self.machine.reduce(total, "mean")) / self._batches(self.epoch)
        rate = float(self._optimizer.param_groups[0]["lr"])
        self.epoch += 1
        self.selection.history.epochs.append({"epoch": self.epoch, "loss": mean, "lr": rate})
        self.judge()

    def _train_batch(self, batch: TorchBatch, loss: Loss, taps: Collection[str]) -> Tensor:
        """Backward pass of one batch, and an optimizer step when `accumulate` batches are in."""
        settings = self._settings
        rate = learning_rate(self._step, self._steps, settings.schedule, settings.optimizer.lr)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        with self.machine.accumulate(self._model):
            value = loss(self._model(batch.inputs, taps), batch)
            if not bool(torch.isfinite(value)):
                raise DivergedError(
                    f"train: the loss is {float(value.detach())} in epoch {self.epoch + 1}, step"
                    f" {self._step + 1}; lower train.optimizer.lr ({settings.optimizer.lr:g}),"
                    f" or set train.clip: 1.0{_kept(self.epoch)}"
                )
            self.machine.backward(value)
            if self.machine.sync_gradients:
                self._share_gradients()
            if self.machine.sync_gradients and settings.clip is not None:
                self.machine.clip_grad_norm_([*self._learning, *self._beside.parameters()], settings.clip)
            self._optimizer.step()
            self._optimizer.zero_grad()
        if self.machine.sync_gradients:
            self._step += 1
            self.after_step()
            if self._average is not None:
                self._average.update(self._tensors())
        return value.detach()

    def _share_gradients(self) -> None:
        """Average the gradients beside the model over the processes, as DistributedDataParallel does its."""
        if self.machine.num_processes > 1:
            for parameter in self._beside.parameters():
                parameter.grad = self.machine.reduce(parameter.grad, "mean")

    def judge(self) -> None:
        """Validate the present weights, with `ema` their average, as those of the present epoch."""
        present = self._put_average_in_place()
        metric = None
        if self.validate is not None:
            self._executor.eval()
            found = self.validate() if self.machine.is_main_process else 0.0
            metric = float(from_first_process(self.machine, torch.tensor(found, dtype=torch.float64)))
        self.selection.judge(self.epoch, metric, self._tensors())
        if present is not None:
            self._load(present)

    def _put_average_in_place(self) -> dict[str, Tensor] | None:
        """With `ema`: load the averaged weights and return those they replace."""
        if self._average is None:
            return None
        present = {name: tensor.detach().clone() for name, tensor in self._tensors().items()}
        self._load(self._average.tensors)
        self.after_step()
        return present

    @torch.no_grad()
    def _load(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in self._tensors().items():
            tensor.copy_(tensors[name])

    def state(self) -> State:
        """Everything that the next epoch depends on."""
        scaler = self.machine.scaler
        facts = {"history": asdict(self.selection.history), "step": self._step}
        facts["scaler"] = None if scaler is None else scaler.state_dict()
        tensors = {
            "weights": self._tensors(),
            "best": self.selection.tensors,
            "optimizer": optimizer_tensors(self._optimizer),
            "beside": self._beside.state_dict(),
        }
        if self._average is not None:
            facts["updates"] = self._average.updates
            tensors["average"] = self._average.tensors
        return State(self.epoch, tensors, facts)

    def restore(self, state: State) -> None:
        """Go on from what `state` gave."""
        self.epoch, self._step = state.epoch, state.facts["step"]
        self.selection.history = History(**{**state.facts["history"], "resumed_after": state.epoch})
        best = state.tensors["best"]
        self.selection.tensors = {name: tensor.to(self.machine.device) for name, tensor in best.items()}
        self._load(state.tensors["weights"])
        self._beside.load_state_dict(state.tensors.get("beside", {}))
        load_optimizer(self._optimizer, state.tensors.get("optimizer", {}))
        if self._average is not None:
            self._average.updates = state.facts["updates"]
            for name, tensor in state.tensors["average"].items():
                self._average.tensors[name].copy_(tensor)
        if self.machine.scaler is not None:
            self.machine.scaler.load_state_dict(state.facts["scaler"])

    def finish(self) -> History:
        """Put the best weights in place and leave the executor as an ordinary module on the CPU."""
        best = self.selection.tensors
        if best:  # not so after zero epochs
            self._load({name: from_first_process(self.machine, tensor) for name, tensor in best.items()})
        module: nn.Module = self.machine.unwrap_model(self._model, keep_fp32_wrapper=False)
        module.to("cpu").eval()
        device.set_layout(self._executor, torch.contiguous_format)
        return self.selection.history

"""From a `Dataset` of numpy arrays to the torch batches of an epoch.

The order of an epoch depends on (seed, epoch) alone, so a resumed run sees the batches of an uninterrupted
one. Under `torchrun` Accelerate splits each batch: an optimizer step sees batch_size samples, of which each
process has its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from mlcompress.data.augment import augment
from mlcompress.data.dataset import Batch, Dataset
from mlcompress.recipe.train import Augment, Grow


@dataclass(frozen=True)
class TorchBatch:
    """One batch on one device. `inputs` by graph input name; `ids` int64 [B], positions in the data set."""

    inputs: dict[str, Tensor]
    labels: Tensor | None
    """int64 [B] classes, or float targets [B, ...]."""
    ids: Tensor
    partners: Tensor | None = None
    """After mixup: labels of the samples that were mixed in."""
    shares: Tensor | None = None
    """After mixup: float32 [B], what is left of the sample itself."""

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TorchBatch:
        """The same batch on `device` (Accelerate calls this)."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=non_blocking)

        inputs = {name: value.to(device, non_blocking=non_blocking) for name, value in self.inputs.items()}
        ids = self.ids.to(device, non_blocking=non_blocking)
        return TorchBatch(inputs, moved(self.labels), ids, moved(self.partners), moved(self.shares))


def to_torch(batch: Batch) -> TorchBatch:
    """Wrap the arrays of `batch`, without a copy where numpy lets torch share them."""
    inputs = {name: _tensor(value) for name, value in batch.inputs.items()}
    labels = None if batch.labels is None else _tensor(batch.labels)
    if batch.mix is None:
        return TorchBatch(inputs, labels, _tensor(batch.ids))
    partners = None if batch.mix.labels is None else _tensor(batch.mix.labels)
    return TorchBatch(inputs, labels, _tensor(batch.ids), partners, _tensor(batch.mix.lam))


def _tensor(array: np.ndarray) -> Tensor:
    whole = np.require(array, requirements=["C", "W"])  # torch warns about arrays that it must not write to
    # numpy may give an axis of length 1 any stride, and torch picks kernels by strides
    return torch.from_numpy(whole).reshape(-1).reshape(whole.shape)


class EpochOrder:
    """The batches of one epoch as lists of sample ids; the loop sets `epoch` before each pass.

    With `grow`, an epoch draws from a share of the samples that rises linearly from `from` to all of them at
    epoch `grow.epochs`; the shares are nested. The ragged last batch is left out (a batch of one sample has
    no batch statistics), unless it is the only one.
    """

    drop_last = False  # BatchSamplerShard reads it; dropping is done here

    def __init__(self, samples: int, batch_size: int, grow: Grow | None, seed: int) -> None:
        self.batch_size = batch_size
        self.epoch = 0
        self._samples = samples
        self._grow = grow
        self._seed = seed

    def samples(self, epoch: int) -> int:
        """How many samples `epoch` (counted from 0) draws from; at least one batch where the data has one."""
        if self._grow is None:
            return self._samples
        reached = min(1.0, epoch / self._grow.epochs)
        share = self._grow.start + (1.0 - self._grow.start) * reached
        return max(min(self.batch_size, self._samples), round(share * self._samples))

    def batches(self, epoch: int) -> int:
        """Batches of `epoch`; every process has a part of each."""
        return max(1, self.samples(epoch) // self.batch_size)

    def __len__(self) -> int:
        return self.batches(self.epoch)

    def __iter__(self) -> Iterator[list[int]]:
        nested = np.random.default_rng([self._seed, 0]).permutation(self._samples)[: self.samples(self.epoch)]
        order = np.random.default_rng([self._seed, 1, self.epoch]).permutation(nested)
        for number in range(len(self)):
            yield order[number * self.batch_size : (number + 1) * self.batch_size].tolist()


class _Batches(TorchDataset[TorchBatch]):
    """Lists of ids to augmented torch batches, a whole batch per call."""

    def __init__(self, data: Dataset, changes: Sequence[Augment], order: EpochOrder, seed: int) -> None:
        self._data = data
        self._changes = list(changes)
        self._order = order
        self._seed = seed

    def __len__(self) -> int:
        return len(self._data)

    def __getitems__(self, ids: list[int]) -> TorchBatch:
        batch = self._data.take(np.asarray(ids, dtype=np.int64))
        if self._changes:
            batch = augment(batch, self._changes, (self._seed, self._order.epoch))
        return to_torch(batch)


def loader(data: Dataset, changes: Sequence[Augment], order: EpochOrder, seed: int) -> DataLoader[TorchBatch]:
    """A DataLoader over the batches of `order`, for `Accelerator.prepare`."""
    batches = _Batches(data, changes, order, seed)
    return DataLoader(batches, batch_sampler=order, collate_fn=_as_is)  # type: ignore[arg-type]


def _as_is(batch: TorchBatch) -> TorchBatch:
    return batch

"""Classifiers on tensors inside the student that its own output teaches; trained with it, never exported."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mlcompress.errors import ModelError
from mlcompress.train.adapters import ShallowHead, vector
from mlcompress.train.batches import TorchBatch
from mlcompress.train.masks import token_mask


@dataclass(frozen=True)
class Shallow:
    """The tensors of the student that `heads` sit on, and the one whose features theirs go to."""

    heads: tuple[str, ...]
    deepest: str | None
    mask: str | None
    where: str

    @property
    def values(self) -> tuple[str, ...]:
        return self.heads if self.deepest is None else (*self.heads, self.deepest)

    def build(
        self, outputs: Mapping[str, Tensor], logits: Tensor, dim: int, generator: torch.Generator
    ) -> nn.ModuleList:
        """One head for each tensor, for values of these shapes; `logits` [B, classes] are the student's.

        Raises:
            ModelError: a value that is no map, vector or sequence of the samples.
        """
        for name in self.values:
            given = outputs[name]
            fits = 2 <= given.ndim <= 5 and given.is_floating_point() and len(given) == len(logits)
            if not fits:
                raise ModelError(
                    f"{self.where}: {name} is {str(given.dtype).removeprefix('torch.')} {list(given.shape)};"
                    " name tensors of floats, [batch, channels, height, width], [batch, tokens, width] or"
                    " [batch, width]"
                )
        width = None
        if self.deepest is not None:
            width = vector(outputs[self.deepest], None).shape[1]
        return nn.ModuleList(
            ShallowHead(outputs[name].float(), logits.shape[1], generator, dim=dim, width=width)
            for name in self.heads
        )

    def given(self, heads: nn.Module, outputs: Mapping[str, Tensor], batch: TorchBatch) -> dict[str, object]:
        """What the loss reads of the `heads` that were built.

        Raises:
            ModelError: a mask that does not fit.
        """
        found = [
            head(outputs[name].float(), self._mask(name, outputs[name], batch))
            for head, name in zip(heads.children(), self.heads, strict=True)
        ]
        deepest = None
        if self.deepest is not None:
            value = outputs[self.deepest].float()
            deepest = vector(value, self._mask(self.deepest, value, batch) if value.ndim == 3 else None)
        return {
            "head_logits": [logits for logits, _ in found],
            "head_features": [features for _, features in found],
            "deepest_features": deepest,
        }

    def _mask(self, name: str, value: Tensor, batch: TorchBatch) -> Tensor | None:
        if self.mask is None:
            return None
        if value.ndim != 3:
            raise ModelError(
                f"{self.where}.mask: {name} has shape {list(value.shape)}, and a mask is for"
                " [batch, tokens, width]; name such tensors in a loss of their own"
            )
        return token_mask(batch, self.mask, name, value, self.where)

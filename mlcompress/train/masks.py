"""Which tokens of a batch are no padding."""

from torch import Tensor

from mlcompress.errors import ModelError
from mlcompress.train.batches import TorchBatch


def token_mask(batch: TorchBatch, name: str, value: str, given: Tensor, where: str) -> Tensor:
    """bool [B, T] from the model input `name`, for the tokens of `given`, [B, T, D] or [B, heads, T, T].

    Raises:
        ModelError: the input is not [B, T], or `given`, which is called `value`, has no such tokens.
    """
    mask = batch.inputs[name] != 0
    tokens = given.shape[-1] if given.ndim == 4 else given.shape[1]
    if mask.shape != (len(given), tokens) or given.ndim < 3:
        raise ModelError(
            f"{where}.mask: {name} has shape {list(mask.shape)}, {value} {list(given.shape)};"
            " a mask is [batch, tokens]"
        )
    return mask

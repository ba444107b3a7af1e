"""The labels of a batch, as losses on classes take them."""

from torch import Tensor
from torch.nn import functional

from mlcompress.errors import DataError, UnsupportedError
from mlcompress.train.batches import TorchBatch


def distribution(batch: TorchBatch, classes: int, where: str) -> Tensor:
    """int64 [B], or class probabilities [B, C] where mixup mixed two samples.

    Raises:
        DataError: there are none, or they are no numbers of these classes.
    """
    labels = _checked(batch.labels, classes, where)
    if batch.partners is None or batch.shares is None:
        return labels
    share = batch.shares[:, None]
    own, other = functional.one_hot(labels, classes), functional.one_hot(batch.partners.long(), classes)
    return share * own + (1 - share) * other


def single(batch: TorchBatch, classes: int, where: str) -> Tensor:
    """int64 [B]: one class a sample, of three or more.

    Raises:
        DataError: as `distribution`. UnsupportedError: two classes, or samples that mixup mixed.
    """
    if classes < 3:
        raise UnsupportedError(
            f"{where}: undefined for {classes} classes, where nothing is left beside the label; use `soft`"
        )
    if batch.partners is not None:
        raise UnsupportedError(f"{where}: a mixed sample has two labels; leave `mixup` out of train.augment")
    return _checked(batch.labels, classes, where)


def _checked(labels: Tensor | None, classes: int, where: str) -> Tensor:
    if labels is None:
        raise DataError(
            f"{where}: needs labels, and data.train has none; name its `label` array or drop this loss"
        )
    if labels.ndim != 1 or labels.is_floating_point():
        raise DataError(
            f"{where}: needs class numbers, one per sample, and data.train has {labels.dtype} labels of shape"
            f" {list(labels.shape)}; use the loss `mse`, or name the array of classes"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise DataError(
            f"{where}: labels go from {low} to {high}, but the output has classes 0..{classes - 1};"
            " mend the labels"
        )
    return labels.long()

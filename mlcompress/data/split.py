"""A held-out share of a data set, for choosing the best epoch where a recipe names no validation data."""

import numpy as np

from mlcompress.data.columns import Array
from mlcompress.data.dataset import Dataset
from mlcompress.errors import DataError


def split(dataset: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """(rest, held out): round(share * N) samples drawn without replacement, at one rate from all classes.

    Both keep the order of `dataset`. Without class labels the draw is plain. Raises DataError when a part is
    empty.
    """
    count = round(share * len(dataset))
    if not 0 < count < len(dataset):
        raise DataError(
            f"{dataset.name}: cannot hold out a share of {share:g} from {len(dataset)} samples; "
            "change `train.validation` or name `data.validation`"
        )
    drawn = _draw(_groups(dataset), count, np.random.default_rng(seed))
    held = np.zeros(len(dataset), bool)
    held[drawn] = True
    return dataset.subset(np.flatnonzero(~held)), dataset.subset(np.flatnonzero(held))


def _groups(dataset: Dataset) -> list[Array]:
    labels = dataset.labels
    if labels is None or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return [np.arange(len(dataset))]
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def _draw(groups: list[Array], count: int, rng: np.random.Generator) -> Array:
    """`count` members, each group giving its share rounded down or up (largest remainders up)."""
    sizes = np.array([len(group) for group in groups])
    exact = sizes * count / sizes.sum()
    takes = np.floor(exact).astype(np.int64)
    order = np.argsort(takes - exact, kind="stable")  # largest remainder first
    takes[order[: count - takes.sum()]] += 1
    return np.concatenate([rng.permutation(group)[:take] for group, take in zip(groups, takes, strict=True)])

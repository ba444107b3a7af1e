"""`synthetic: true`: seeded random inputs, for timing and smoke tests; card and report say so."""

from collections.abc import Mapping, Sequence

from mlcompress.data.columns import ArrayColumn, Column, ModelInput, RandomColumn, Source, spell
from mlcompress.errors import DataError
from mlcompress.recipe.sections import DataEntry

DEFAULT_SAMPLES = 64


def open_synthetic(
    entry: DataEntry, inputs: Sequence[ModelInput], shapes: Mapping[str, Sequence[int]], where: str, seed: int
) -> Source:
    """Random columns named like the model's inputs; `samples` or `limit` says how many rows (64 by default).

    The first axis is the batch. Other dynamic axes take their size from `shapes` ({input: [1, 128]}).
    Raises DataError for a dynamic axis without a size.
    """
    given = [number for number in (entry.samples, entry.limit) if number is not None]
    count = min(given) if given else DEFAULT_SAMPLES
    batch = batch_names(inputs)
    columns: dict[str, Column] = {}
    problems = []
    for place, tensor in enumerate(inputs):
        sizes = _sizes(tensor, shapes.get(tensor.name, ()), batch)
        if sizes is None:
            problems.append(
                f"{where}.synthetic: input {tensor} has dynamic axes, and random data cannot choose "
                f"their sizes; write `measure: {{shapes: {{{tensor.name}: [1, ...]}}}}`"
            )
        elif not tensor.shape or (batch and isinstance(tensor.shape[0], int)):  # one value for all samples
            drawn = RandomColumn((1, *sizes), tensor.dtype, (seed, place)).whole()
            columns[tensor.name] = ArrayColumn(drawn.reshape(sizes))
        else:
            columns[tensor.name] = RandomColumn((count, *sizes[1:]), tensor.dtype, (seed, place))
    if problems:
        raise DataError(*problems)
    listed = {name: spell(column.dtype, column.shape) for name, column in columns.items()}
    return Source("synthetic", listed, columns.__getitem__)


def batch_names(inputs: Sequence[ModelInput]) -> set[str | None]:
    """Names of the dynamic first axes of the inputs; empty when the model has a fixed batch size."""
    return {tensor.shape[0] for tensor in inputs if tensor.shape and not isinstance(tensor.shape[0], int)}


def _sizes(tensor: ModelInput, chosen: Sequence[int], batch: set[str | None]) -> list[int] | None:
    """Sizes of the model, else 1 for the batch, else those chosen; None when an axis has no size."""
    sizes: list[int] = []
    for axis, size in enumerate(tensor.shape):
        if isinstance(size, int):
            sizes.append(size)
        elif axis == 0 or (size is not None and size in batch):
            sizes.append(1)
        elif len(chosen) == len(tensor.shape):
            sizes.append(chosen[axis])
        else:
            return None
    return sizes

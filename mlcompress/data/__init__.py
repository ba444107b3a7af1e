"""Samples as batches keyed by model input. numpy only; Pillow and pyarrow where a recipe needs them."""

from mlcompress.data.dataset import Batch, Dataset, Mix, describe, from_arrays
from mlcompress.data.keys import inherit
from mlcompress.data.open import open_data
from mlcompress.data.split import split

__all__ = ["Batch", "Dataset", "Mix", "describe", "from_arrays", "inherit", "open_data", "split"]

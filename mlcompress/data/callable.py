"""`python: pkg.module:function`: the user's own code makes the arrays."""

from typing import Any

import numpy as np

from mlcompress import callables
from mlcompress.data.columns import ArrayColumn, Source, spell
from mlcompress.errors import DataError


def forbidden(reference: str, where: str) -> str:
    """The line for code under --no-code."""
    return f"{where}.python: {reference!r} is code, and --no-code forbids running it; save the arrays as .npz"


def open_python(reference: str, kwargs: dict[str, Any], where: str, no_code: bool) -> Source:
    """The arrays that `pkg.module:function` returns for `kwargs`, as {name: array}.

    Raises DataError, also when the function itself raises or when `no_code` forbids calling it.
    """
    here = f"{where}.python"
    if no_code:
        raise DataError(forbidden(reference, where))
    returned = callables.call(reference, kwargs, here, DataError)
    if not isinstance(returned, dict) or not all(isinstance(name, str) for name in returned):
        raise DataError(
            f"{here}: {reference} returned {type(returned).__name__}; return a dict of name: array"
        )
    arrays = {name: np.asarray(value) for name, value in returned.items()}
    objects = [name for name, array in arrays.items() if array.dtype.hasobject]
    if objects:
        raise DataError(
            f"{here}: {reference} returned Python objects under {objects[0]!r}; return numeric arrays"
        )
    listed = {name: spell(array.dtype, array.shape) for name, array in arrays.items()}
    return Source("python", listed, lambda name: ArrayColumn(arrays[name]))

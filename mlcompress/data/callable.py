"""`python: pkg.module:function`: the user's own code makes the arrays."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any, cast

import numpy as np

from mlcompress.data.columns import ArrayColumn, Source, one_line, spell
from mlcompress.errors import DataError


def open_python(reference: str, kwargs: dict[str, Any], where: str, no_code: bool) -> Source:
    """The arrays that `pkg.module:function` returns for `kwargs`, as {name: array}.

    Raises DataError, also when the function itself raises or when `no_code` forbids calling it.
    """
    here = f"{where}.python"
    if no_code:
        raise DataError(
            f"{here}: {reference!r} is code, and --no-code forbids running it; save the arrays as .npz"
        )
    function = _find(reference, here)
    try:
        returned = function(**kwargs)
    except Exception as error:  # whatever the user's code raises is the user's to mend
        raise DataError(f"{here}: {reference} raised {type(error).__name__}: {one_line(error)}") from error
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


def _find(reference: str, here: str) -> Callable[..., Any]:
    module_name, colon, attribute = reference.partition(":")
    if not (colon and module_name and attribute):
        raise DataError(f"{here}: {reference!r} is not of the form pkg.module:function")
    folder = os.getcwd()  # modules are found from the working directory, as other paths of a recipe are
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the module runs on import: it may raise anything
        raise DataError(
            f"{here}: cannot import {module_name}: {type(error).__name__}: {one_line(error)}"
        ) from error
    finally:
        sys.path.remove(folder)
    function = getattr(module, attribute, None)
    if not callable(function):
        raise DataError(f"{here}: {module_name} has no function {attribute!r}")
    return cast(Callable[..., Any], function)

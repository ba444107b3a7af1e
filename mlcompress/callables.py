"""`pkg.module:function` in a recipe: the user's own code, found from the working directory."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any, cast

from mlcompress.errors import UserError, one_line


def call(reference: str, kwargs: dict[str, Any], here: str, kind: type[UserError]) -> Any:
    """What the function returns for `kwargs`; whatever it prints goes to stderr.

    Args:
        here: the recipe key that names it, which errors begin with.
        kind: of the errors: the function cannot be found, or it raises.
    """
    with _from_working_directory(), redirect_stdout(sys.stderr):  # stdout carries data alone
        function = _find(reference, here, kind)
        try:
            return function(**kwargs)
        except (Exception, SystemExit) as error:  # whatever the user's code raises is the user's to mend
            told = f"{type(error).__name__}: {one_line(error)}"
            raise kind(f"{here}: {reference} raised {told}") from error


def _find(reference: str, here: str, kind: type[UserError]) -> Callable[..., Any]:
    module_name, colon, attribute = reference.partition(":")
    if not (colon and module_name and attribute):
        raise kind(f"{here}: {reference!r} is not of the form pkg.module:function")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # the module runs on import: it may raise anything
        told = f"{type(error).__name__}: {one_line(error)}"
        raise kind(f"{here}: cannot import {module_name}: {told}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise kind(f"{here}: {module_name} has no function {attribute!r}")
    return cast(Callable[..., Any], function)


@contextmanager
def _from_working_directory() -> Iterator[None]:
    """Modules are found from the working directory, as other paths of a recipe are."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)

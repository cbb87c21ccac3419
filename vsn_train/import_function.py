"""A function of the user's own, named in a config as module.function."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from vsn_train.errors import InputError


def import_function(path: str, key: str) -> Callable[..., Any]:
    """ "module.function" -> the function. This runs the module: only for paths that the user has given.

    The module is looked for where Python looks, then in the folder in which the command was started. key: what names
    the function, for messages. Raises InputError where there is no such module or function; what goes wrong inside the
    module is its author's to see, with its traceback.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"{key}={path}: expected module.function, such as my_file.my_function")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file here never stands in for an installed package
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and one that it imports is not
        raise InputError(
            f"{key}={path}: found no module {error.name}; expected {module_name.replace('.', '/')}.py in {os.getcwd()} "
            "or on PYTHONPATH: start the command in the folder of that file, or put the folder on PYTHONPATH"
        ) from None
    function = getattr(module, name, None)
    if not callable(function):
        found = "no" if function is None else f"a {type(function).__name__} and no function"
        where = getattr(module, "__file__", None) or module_name
        raise InputError(f"{key}={path}: {where} has {found} {name}; correct the name, or define it there")
    return function


def find_operator(name: str) -> str | Callable[..., Any]:
    """What `create_model` takes for an operator that a script's user names: module.function is imported."""
    return import_function(name, "operator") if "." in name else name

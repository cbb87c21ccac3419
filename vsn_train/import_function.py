"""Import a user's own function, which a config names as module.function."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from vsn_train.errors import InputError


def import_function(path: str, key: str) -> Callable[..., Any]:
    """ "module.function" -> the function. This runs the module, so use it only for paths that the user has given.

    Searches Python's path, then the working folder. key: the config key, for messages. Raises InputError if there is no
    such module or function. Errors inside the module are raised unchanged, with their traceback.
    """
    module_name, _, name = path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in path.split(".")):
        raise InputError(f"{key}={path}: expected module.function, such as my_file.my_function")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last: a file here must not hide an installed package
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module exists, but not one that it imports
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
    """The `operator` argument of `create_model` for a name on a command line; imports module.function."""
    return import_function(name, "operator") if "." in name else name

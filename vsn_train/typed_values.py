"""Check values from files against the types of dataclass fields."""

from __future__ import annotations

import math
import types
from typing import Any, Union, get_args, get_origin

WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "text", list: "a list",
    dict: "a table of keys", type(None): "null",
}  # fmt: skip
LARGEST = 2**63  # bound of 64-bit integers


def misfit(value: Any, kind: Any, key: str) -> str:
    """A message that names the key of the first value of a wrong type; "" if all types are right.

    kind: a type annotation: int, list[str], dict[str, Any], float | None. An int is also valid for float, a bool for
    neither; numbers must be finite. Self-referencing values are not supported.
    """
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return ""
    if origin in (Union, types.UnionType):
        found = [misfit(value, each, key) for each in inner]
        if "" in found:
            return ""
        if value is not None and type(None) in inner and len(inner) == 2:
            return next(text for text, each in zip(found, inner, strict=True) if each is not type(None))
        return f"{key} is {shown(value)}, expected {' or '.join(_word(each) for each in inner)}"
    if origin is list and isinstance(value, list | tuple):
        parts = (misfit(each, inner[0], f"{key}[{place}]") for place, each in enumerate(value))
        return next(filter(None, parts), "")
    if origin is dict and isinstance(value, dict):
        for name, each in value.items():
            if text := misfit(name, inner[0], f"a key of {key}") or misfit(each, inner[1], f"{key}.{name}"):
                return text
        return ""
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and not -LARGEST <= value < LARGEST:
        return f"{key} is {shown(value)}, expected a whole number of 64 bits"
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return "" if math.isfinite(value) else f"{key} is {value}, expected a finite number"
    if isinstance(value, origin or kind) and not (kind is int and isinstance(value, bool)):
        return ""
    return f"{key} is {shown(value)}, expected {_word(kind)}"


def shown(value: Any) -> str:
    """Format a value for a message: short, on one line."""
    if isinstance(value, bool | None):
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, str | int | float):
        try:
            text = ascii(value) if isinstance(value, str) and not value.isprintable() else repr(value)
        except ValueError:  # a number of thousands of digits
            return "a very long number"
        return text if len(text) <= 60 else f"{text[:57]}…"
    return f"a {type(value).__name__}" + (f" of {len(value)}" if isinstance(value, list | tuple | dict) else "")


def _word(kind: Any) -> str:
    return WORDS.get(get_origin(kind) or kind, f"a {getattr(kind, '__name__', kind)}".lower())

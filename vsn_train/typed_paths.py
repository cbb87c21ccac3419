"""Quote paths on the command line for Hydra, and format commands that can be pasted into a shell.

Most special characters (commas, brackets, equal signs, quotes, …) have a meaning in Hydra's grammar. A path from the
shell must be taken literally, so it is quoted for Hydra here, for all commands.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

SWEEP_FLAGS = ("--multirun", "-m")
# Hydra's options that take the next word.
_WITH_VALUE = ("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd",
               "--experimental-rerun")  # fmt: skip
_SWEEP_FUNCTION = re.compile(r"(choice|glob|range|interval|shuffle|sort|tag|extend_list)\(.*\)", re.S)
_QUOTED = re.compile(r"'.*'|\".*\"", re.S)


def hydra_words(
    words: Sequence[str], paths: Collection[str], lists: Collection[str] = (), positional: Sequence[str] = ()
) -> list[str]:
    """A command line with every path quoted for Hydra.

    paths: keys whose values are paths. lists: those of them that also accept [a.mp4,b.mp4]. positional: keys of the
    positional arguments, in order; the last one gets all remaining words.
    """
    sweeps = any(word in SWEEP_FLAGS for word in words)
    found: list[str] = []
    loose: list[str] = []
    takes_value = False
    for word in words:
        key, equals, value = word.partition("=")
        if takes_value or word.startswith("-"):
            takes_value = not takes_value and word in _WITH_VALUE
            found.append(word)
        elif positional and (not equals or os.path.exists(word)):
            loose.append(word)
        elif key in paths and equals:
            found.append(f"{key}={_override(value, sweeps, key in lists)}")
        else:
            found.append(word)
    for place, key in enumerate(positional):
        mine = loose[place:] if place == len(positional) - 1 else loose[place : place + 1]
        if len(mine) > 1 and key in lists:
            found.append(f"{key}=[{','.join(quoted(with_home(each)) for each in mine)}]")
        else:
            found += [f"{key}={quoted(with_home(each))}" for each in mine]
    return found


def _override(value: str, sweeps: bool, is_list: bool) -> str:
    """Quote the value of a path key for Hydra. A path that exists is always treated as a path."""
    path = with_home(value)
    if os.path.lexists(path):
        return quoted(path)
    if value in ("", "null", "???") or _QUOTED.fullmatch(value):
        return value
    if "${" in value and re.search(r"\$\{[\w.]+(:.*)?\}", value):
        return value  # the user's own ${oc.env:…} or ${dataset.root}
    if is_list and value.startswith("[") and value.endswith("]"):
        return f"[{','.join(_override(part.strip(), False, False) for part in _parts(value[1:-1]))}]"
    if sweeps and _SWEEP_FUNCTION.fullmatch(value):
        return value
    if sweeps and len(parts := _parts(value)) > 1:
        return ",".join(_override(part, False, is_list) for part in parts)
    return quoted(path)


def _parts(text: str) -> list[str]:
    """Split at commas outside of quotes and brackets."""
    parts, depth, quote = [""], 0, ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "'\"" and not parts[-1].strip():
            quote = letter
        elif letter in "[]":
            depth += 1 if letter == "[" else -1
        elif letter == "," and not depth:
            parts.append("")
            continue
        parts[-1] += letter
    return parts


def quoted(value: str) -> str:
    """Quote a text so that Hydra and OmegaConf read exactly this text."""
    text = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + "\\${", value)  # no interpolation
    text = re.sub(r"(\\*)'", lambda match: match[1] * 2 + "\\'", text)
    text = re.sub(r"\\+$", lambda match: match[0] * 2, text)
    return f"'{text}'"


def with_home(path: str) -> str:
    """Expand ~/videos: in key=~/videos the shell does not."""
    return os.path.expanduser(path) if path == "~" or path.startswith("~/") else path


def paste(*words: str, **values: str | Path) -> str:
    """A command line for a shell: words, then key=value. A dot in a key is passed as two underscores."""
    return shlex.join([*words, *(f"{key.replace('__', '.')}={value}" for key, value in values.items())])

"""A trained model as a folder for model hubs: model.safetensors, config.json and a README.md.

config.json has the content of a checkpoint without its tensors. Reading the folder runs no code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from vsn_train.atomic import atomic_folder, write_atomic
from vsn_train.errors import InputError

CONFIG, TENSORS, CARD = "config.json", "model.safetensors", "README.md"
LEFT_OUT: dict[str, Any] = {"average": None, "optimizer": {}, "scaler": {}}  # of a checkpoint's content


def is_model_folder(path: Path) -> bool:
    return all((path / name).is_file() for name in (CONFIG, TENSORS))


def files_of(path: Path) -> list[Path]:
    """The files that define a model: the file itself, or config.json and model.safetensors of a folder."""
    return [path / CONFIG, path / TENSORS] if path.is_dir() else [path]


def write_model_folder(folder: Path, tensors: dict[str, Tensor], about: dict[str, Any], card: str) -> None:
    """Write a model folder. about: a checkpoint's content without its tensors, and further metadata; plain types.

    Raises InputError if the folder is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: already exists; expected a new or empty folder: choose another name")
    with atomic_folder(folder) as written:
        packed = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomic(written / TENSORS, save(packed, metadata={"format": "pt"}))
        write_atomic(written / CONFIG, json.dumps(about, indent=2) + "\n")
        write_atomic(written / CARD, card)


def read_model_folder(folder: Path) -> dict[str, Any]:
    """Read the content of the exported checkpoint; "model" has the exported weights.

    Raises InputError for other folders and damaged files.
    """
    if not is_model_folder(folder):
        raise InputError(
            f"{folder}: a folder without {CONFIG} and {TENSORS}; expected a file, or a folder that vsn-tools export "
            "format=folder has written"
        )
    path = folder / CONFIG
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged, or not JSON ({error}); copy or write it again") from error
    if not isinstance(about, dict):
        raise InputError(f"{path}: found a {type(about).__name__}, expected a table of keys; copy or write it again")
    return about | LEFT_OUT | {"model": read_safetensors(folder / TENSORS)}


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a .safetensors file. Raises InputError for another or a damaged file."""
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        raise InputError(f"{path}: truncated, or not a .safetensors file ({error}); copy or write it again") from error

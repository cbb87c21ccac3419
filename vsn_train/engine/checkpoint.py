"""Checkpoints: written aside, flushed, then renamed, so that a half-written one is never read."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from vsn_train.errors import InputError
from vsn_train.models.weights import read_tensors

FORMAT = 1
KEYS = ("model", "optimizer", "epoch", "step", "best_top1", "config", "class_names", "flip_pairs")


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and plain types. A crash at any moment leaves the previous file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with open(aside, "wb") as file:
        torch.save({"format": FORMAT} | content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint that `save_checkpoint` wrote. Raises InputError for anything else."""
    content = read_tensors(path)
    if content.get("format") != FORMAT or any(key not in content for key in KEYS):
        raise InputError(
            f"{path}: not a checkpoint of this version of vsn-train; expected one that vsn-train wrote. Weights from "
            "elsewhere start a training: vsn-train weights=FILE"
        )
    return content


def file_hash(path: Path) -> str:
    """First 16 hex digits of the file's SHA-256."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()[:16]

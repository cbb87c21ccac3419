"""What a run says of itself: config.yaml, environment.json, versions."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import yaml

from vsn_train import __version__
from vsn_train.atomic import write_atomic
from vsn_train.engine.distributed import launch_id
from vsn_train.versions import installed


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def versions() -> dict[str, str]:
    """Of what decides numbers: this program, torch, torchvision and the decoders."""
    found = {"vsn-train": __version__, "python": platform.python_version()}
    return found | installed("torch", "torchvision", "decord", "av", "torchcodec", "numpy")


def write_config(run_folder: Path, given: dict[str, Any]) -> None:
    """config.yaml and environment.json: what was asked for and where it ran."""
    write_atomic(run_folder / "config.yaml", yaml.safe_dump(given, sort_keys=False, allow_unicode=True))
    write_atomic(run_folder / "environment.json", json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, Any]:
    return {
        "command": sys.argv,
        "launch": launch_id(),
        "versions": versions(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }

"""What a run records about itself: config.yaml, environment.json, versions."""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from vsn_train import __version__
from vsn_train.atomic import write_atomic
from vsn_train.engine.distributed import Process, launch_id
from vsn_train.engine.precision import resolve_precision
from vsn_train.versions import installed


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def versions() -> dict[str, str]:
    """Versions of everything that affects the numbers: this program, torch, torchvision and the decoders."""
    found = {"vsn-train": __version__, "python": platform.python_version()}
    return found | installed("torch", "torchvision", "decord", "av", "torchcodec", "numpy", "scipy", "pillow")


def computed(precision: str, model: nn.Module, process: Process) -> dict[str, Any]:
    """Device, precision and memory format as used, never "auto"; for the records of all commands."""
    weights = [each for each in model.parameters() if each.dim() == 4 and each.shape[1] > 1 and each.shape[2] > 1]
    last = any(each.is_contiguous(memory_format=torch.channels_last) for each in weights[:1])
    return {
        "device": process.device.type,
        "precision": resolve_precision(precision, process.device),
        "memory_format": "channels_last" if last else "contiguous",
    }


def write_config(run_folder: Path, given: dict[str, Any], used: dict[str, Any], model: nn.Module) -> None:
    """config.yaml and environment.json: the config, and where it runs. used: see `computed`."""
    write_atomic(run_folder / "config.yaml", yaml.safe_dump(given, sort_keys=False, allow_unicode=True))
    facts = environment() | {"computed": used, "parameters": sum(each.numel() for each in model.parameters())}
    write_atomic(run_folder / "environment.json", json.dumps(facts, indent=2) + "\n")


def environment() -> dict[str, Any]:
    return {
        "command": sys.argv,
        "launch": launch_id(),
        "versions": versions(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "processes": int(os.environ.get("WORLD_SIZE", 1)),
        "threads": torch.get_num_threads(),  # of each process
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }

"""Runs side by side: what differs in their settings, and how far each came."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from vsn_train.analysis.tables import text_table

# Of every run its own, and no setting that is compared.
OWN = ("name", "resume")


def compare_runs(folders: Sequence[Path]) -> str:
    """A table: one row a run folder, the settings in which they differ, best and last validation.

    A run without a validation shows dashes: it failed, or has not come that far.
    """
    configs = [_settings(folder) for folder in folders]
    keys = sorted({key for config in configs for key in config if key not in OWN})
    differing = [key for key in keys if len({repr(config.get(key)) for config in configs if config}) > 1]
    header = ["run", *differing, "best val top1", "epoch", "last val top1", "epochs"]
    rows = [
        [folder.name, *(str(config.get(key, "-")) for key in differing), *_result(folder)]
        for folder, config in zip(folders, configs, strict=True)
    ]
    return text_table(header, rows)


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "config.yaml"
    return _flatten(yaml.safe_load(path.read_text())) if path.exists() else {}


def _flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def _result(folder: Path) -> list[float | int | None]:
    path = folder / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    lines = [line for line in lines if line["split"] == "val"]
    if not lines:
        return [None] * 4
    best = max(lines, key=lambda line: (line["top1"], -line["epoch"]))
    return [best["top1"], best["epoch"], lines[-1]["top1"], lines[-1]["epoch"]]

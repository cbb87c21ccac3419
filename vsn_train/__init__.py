"""vsn-train: train and evaluate efficient video-recognition networks (TSN, TSM, VSN, STH)."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """load_model, imported on first use: `import vsn_train` alone loads no torch."""
    if name == "load_model":
        return importlib.import_module("vsn_train.trained").load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

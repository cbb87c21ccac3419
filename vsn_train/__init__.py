"""vsn-train: train and evaluate efficient video-recognition networks (TSN, TSM, VSN, STH)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vsn_train.trained import load_model as load_model

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """load_model, imported on first use: `import vsn_train` alone loads no torch."""
    if name == "load_model":
        from vsn_train.trained import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

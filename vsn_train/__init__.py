"""vsn-train: train and evaluate efficient video-recognition networks (TSN, TSM, VSN, STH)."""

__version__ = "0.1.0"

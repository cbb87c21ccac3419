"""Numeric precision: autocast, the loss scaler for fp16, TF32."""

from __future__ import annotations

from typing import Any

import torch

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device) -> str:
    """ "auto" -> bf16 if the hardware supports it, fp32 otherwise; other values are unchanged."""
    if precision != "auto":
        return precision
    return "bf16" if _multiplies_bf16(device) else "fp32"


def autocast_for(precision: str, device: torch.device) -> torch.autocast:
    """precision "auto", "fp32", "bf16" or "fp16" as an autocast context."""
    precision = resolve_precision(precision, device)
    dtype = PRECISIONS.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype=dtype, enabled=precision in PRECISIONS)


def scaler_for(precision: str, device: torch.device) -> torch.amp.GradScaler:
    """A loss scaler, which keeps small fp16 gradients from vanishing; disabled in other precisions."""
    return torch.amp.GradScaler(device.type, enabled=resolve_precision(precision, device) == "fp16")


def _multiplies_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    # CPUs without AMX accept bf16, but most run it slower than fp32; `runtime=auto` measures it.
    amx: Any = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(amx and amx())


def allow_tf32(allowed: bool) -> None:
    """Set whether CUDA may round the factors of fp32 products to TF32 (10 bits of mantissa)."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed

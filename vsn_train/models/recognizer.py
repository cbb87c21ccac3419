"""Frames in, logits out: backbone, dropout, classifier, mean over frames (TSN's segmental consensus)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from vsn_train.errors import InputError
from vsn_train.models.backbone import build_backbone
from vsn_train.models.weights import load_weights


class Recognizer(nn.Module):
    """A 2D network over T frames whose per-frame logits are averaged (Wang et al., TSN, ECCV 2016, equation 1).

    forward: float (B, T, C, H, W), normalised -> logits (B, K). Raises ValueError when T differs from the model's:
    an operator mixes a fixed number of frames.
    """

    def __init__(self, backbone: nn.Module, features: int, num_frames: int, num_classes: int, dropout: float) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_classes)
        # Small, so that the first logits are near zero and the backbone's gradient starts gently (TSM's choice).
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)

    def forward(self, video: Tensor) -> Tensor:
        batch, frames = video.shape[:2]
        if frames != self.num_frames:
            raise ValueError(f"the clip has {frames} frames; this model was built for {self.num_frames}")
        features = self.backbone(video.flatten(0, 1))
        logits = self.head(self.dropout(features))
        return logits.unflatten(0, (batch, frames)).mean(dim=1)


def create_model(
    operator: str,
    arch: str,
    num_frames: int,
    num_classes: int,
    weights: str | None = None,
    modality: str = "rgb",
    dropout: float = 0.5,
    **operator_options: Any,
) -> Recognizer:
    """Build a recognizer.

    operator: "tsn" or "tsm" (option fold_div, default 8). arch: "resnet18" or "resnet50". num_frames: T.
    weights: a file for `load_weights`; None starts from random weights. modality: "rgb", 3 channels a frame, or
    "flow", 10. Raises InputError for anything else.
    """
    for key, value in {"num_frames": num_frames, "num_classes": num_classes}.items():
        if value < 1:
            raise InputError(f"{key} {value}: expected at least 1")
    backbone, features = build_backbone(operator, arch, num_frames, modality, **operator_options)
    model = Recognizer(backbone, features, num_frames, num_classes, dropout)
    if weights is not None:
        load_weights(model, weights)
    return model

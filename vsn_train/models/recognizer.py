"""The recognizer: backbone, dropout, classifier, mean of the logits over frames (TSN's segmental consensus)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vsn_train.errors import InputError
from vsn_train.models.backbone import build_backbone
from vsn_train.models.hybrid import HybridConv2d
from vsn_train.models.weights import load_weights


class Recognizer(nn.Module):
    """A 2D network over T frames whose per-frame logits are averaged (Wang et al., TSN, ECCV 2016, equation 1).

    forward: normalized float (B, T, C, H, W) -> logits (B, K). Raises ValueError if T differs from the model's: an
    operator mixes a fixed number of frames.
    partial_bn: freeze statistics and affine parameters of all batch norms except the first, which helps with few videos
    (TSN's partial BN). frozen_bn: freeze all of them.
    """

    def __init__(
        self,
        backbone: nn.Module,
        features: int,
        num_frames: int,
        num_classes: int,
        dropout: float,
        partial_bn: bool = False,
        frozen_bn: bool = False,
    ) -> None:
        super().__init__()
        self.num_frames = num_frames
        self.partial_bn, self.frozen_bn = partial_bn, frozen_bn
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_classes)
        # Small weights, so that the first logits are near zero and the backbone's first gradients small (as TSM).
        nn.init.normal_(self.head.weight, std=0.001)
        nn.init.zeros_(self.head.bias)
        for norm in self._frozen_norms():
            norm.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> Recognizer:
        super().train(mode)
        for norm in self._frozen_norms():
            norm.eval()
        return self

    def _frozen_norms(self) -> list[nn.Module]:
        norms: list[nn.Module] = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        return norms if self.frozen_bn else norms[1:] if self.partial_bn else []

    def forward(self, video: Tensor) -> Tensor:
        features = self._features_of_frames(video)
        logits = self.head(self.dropout(features))
        return logits.unflatten(0, video.shape[:2]).mean(dim=1)

    def logits_and_features(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) -> float32 (B, K + D): the logits of `forward`, then `features`, in one pass."""
        features = self._features_of_frames(video)
        both = (self.head(self.dropout(features)), features)
        return torch.cat([each.unflatten(0, video.shape[:2]).mean(dim=1).float() for each in both], dim=1)

    def features(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B, D): the input of the classifier, averaged over the frames."""
        return self._features_of_frames(video).unflatten(0, video.shape[:2]).mean(dim=1)

    def _features_of_frames(self, video: Tensor) -> Tensor:
        """(B, T, C, H, W) -> (B*T, D)."""
        if video.shape[1] != self.num_frames:
            raise ValueError(f"the clip has {video.shape[1]} frames; this model was built for {self.num_frames}")
        return self.backbone(video.flatten(0, 1))

    def diagnostics(self) -> dict[str, dict[str, float]]:
        """Scalars of the last forward pass for TensorBoard, as {group: {name: scalar}}.

        attention: the mean weight of the temporal branch, 0 to 1, for each STH layer with attention.
        """
        shares = {
            name: float(module.last_attention[:, 0].mean())
            for name, module in self.named_modules()
            if isinstance(module, HybridConv2d) and module.last_attention is not None
        }
        return {"attention": shares}


def create_model(
    operator: str | Callable[..., None],
    arch: str,
    num_frames: int,
    num_classes: int,
    weights: str | None = None,
    modality: str = "rgb",
    dropout: float = 0.5,
    partial_bn: bool = False,
    frozen_bn: bool = False,
    **operator_options: Any,
) -> Recognizer:
    """Build a recognizer.

    operator: "tsn", "tsm", "tsm_online", "vsn_compact", "vsn_headtail" or "sth"; or your own function, which is called
    with the 2D network, T and the options and inserts modules into the network. arch: "resnet18", "resnet34",
    "resnet50", "resnet101" or "mobilenet_v2". num_frames: T. weights: a file for `load_weights`; None: random weights.
    modality: "rgb" (3 channels per frame) or "flow" (10). partial_bn, frozen_bn: see `Recognizer`. Options:

    tsm            fold_div=8; placement="residual" or "inplace" (the shortcut is shifted too)
    tsm_online     fold_div=8
    vsn_compact,   standard_block="tsm" or "plain"; where="last" block of a stage or "all"; remainder="error" or "keep"
    vsn_headtail   (channels that do not split into T groups)
    sth            variant="hybrid" or "merge"; p=0.25; integration="attention" or "sum"

    `placement` in models/backbone.py lists the operator of each block. Raises InputError for anything else.
    """
    for key, value in {"num_frames": num_frames, "num_classes": num_classes}.items():
        if value < 1:
            raise InputError(f"{key} {value}: expected at least 1")
    backbone, features = build_backbone(operator, arch, num_frames, modality, **operator_options)
    model = Recognizer(backbone, features, num_frames, num_classes, dropout, partial_bn, frozen_bn)
    if weights is not None:
        load_weights(model, weights)
    return model

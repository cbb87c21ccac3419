"""Puts an operator into a torchvision network. A new operator is one more branch of `insert_operator`."""

from __future__ import annotations

from typing import Any

import torchvision
from torch import nn

from vsn_train.errors import InputError
from vsn_train.models.shift import ShiftedConv2d

OPERATORS: dict[str, dict[str, Any]] = {"tsn": {}, "tsm": {"fold_div": 8}}  # with their options and defaults
ARCHS = ("resnet18", "resnet50")
FLOW_STACK = 5  # consecutive flow fields that stand for one frame, x and y each: 10 channels
STAGES = ("layer1", "layer2", "layer3", "layer4")


def build_backbone(operator: str, arch: str, num_frames: int, modality: str, **options: Any) -> tuple[nn.Module, int]:
    """A network from frames (B*T, C, H, W) to features (B*T, D) and its D.

    Raises InputError for an unknown operator, arch, modality or option.
    """
    for key, value, choices in (
        ("operator", operator, tuple(OPERATORS)),
        ("arch", arch, ARCHS),
        ("modality", modality, ("rgb", "flow")),
    ):
        if value not in choices:
            raise InputError(f"{key} {value!r}: expected one of {', '.join(choices)}")
    if unknown := set(options) - set(OPERATORS[operator]):
        known = ", ".join(OPERATORS[operator]) or "none"
        raise InputError(f"{operator} has no option {', '.join(sorted(unknown))}; its options: {known}")
    network = getattr(torchvision.models, arch)(weights=None)
    features = network.fc.in_features
    network.fc = nn.Identity()
    if modality == "flow":
        stem = network.conv1
        network.conv1 = nn.Conv2d(2 * FLOW_STACK, stem.out_channels, 7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    insert_operator(network, operator, num_frames, **(OPERATORS[operator] | options))
    return network, features


def insert_operator(network: nn.Module, operator: str, num_frames: int, **options: Any) -> None:
    """Put the operator into the residual blocks of a torchvision ResNet, in place."""
    for stage in STAGES:
        for block in getattr(network, stage):
            if operator == "tsm":
                block.conv1 = ShiftedConv2d(block.conv1, num_frames, **options)

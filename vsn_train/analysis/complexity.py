"""Parameters and multiply-accumulate operations (MACs) of a recognizer, layer by layer.

Counts the MACs of convolutions and linear layers, which the papers call FLOPs; not batch norm, activations, pooling and
the channel shifts of the operators. A hybrid convolution counts 9 (1 - p) + 3 p MACs per pair of channels and output
pixel, as defined in the paper, whatever kernel computes it. The network runs on the meta device, without computation.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn

from vsn_train.models import Recognizer, create_model
from vsn_train.models.hybrid import DepthwiseHybridConv2d, HybridConv2d


@dataclass(frozen=True)
class LayerCost:
    name: str
    kind: str  # class of the layer
    parameters: int
    macs: int  # of one clip


def count_layers(model: Recognizer, size: int = 224) -> list[LayerCost]:
    """Every layer with parameters or MACs, in the order of the network; MACs of one clip (1, T, C, size, size)."""
    network = copy.deepcopy(model).to("meta").eval()
    channels = next(network.backbone.parameters()).shape[1]
    macs = dict.fromkeys((name for name, _ in network.named_modules()), 0)

    def count(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            macs[name] += macs_of(module, inputs[0], output)

        return hook

    for name, module in network.named_modules():
        module.register_forward_hook(count(name))
    with torch.no_grad():
        network(torch.empty(1, network.num_frames, channels, size, size, device="meta"))
    costs = [
        LayerCost(
            name,
            nn.Conv2d.__name__ if isinstance(module, nn.Conv2d) else type(module).__name__,
            sum(parameter.numel() for parameter in module.parameters(recurse=False)),
            macs[name],
        )
        for name, module in network.named_modules()
    ]
    return [cost for cost in costs if cost.parameters or cost.macs]


def macs_of(module: nn.Module, x: Tensor, output: Tensor) -> int:
    """The MACs of one call of a layer without its children; 0 for layers that are not counted."""
    if isinstance(module, nn.Linear):
        return module.weight.numel() * (x.numel() // module.in_features)
    if isinstance(module, nn.Conv2d):
        weights = module.weight.numel()
    elif isinstance(module, (HybridConv2d, DepthwiseHybridConv2d)):
        weights = module.spatial.numel() + module.temporal.numel()
    else:
        return 0
    frames, _, height, width = output.shape
    return weights * frames * height * width  # every weight is used once at every output pixel


def total(costs: list[LayerCost]) -> tuple[int, int]:
    """Parameters, MACs."""
    return sum(cost.parameters for cost in costs), sum(cost.macs for cost in costs)


def complexity(
    operator: str | Callable[..., None],
    arch: str,
    num_frames: int,
    num_classes: int,
    size: int = 224,
    modality: str = "rgb",
    **options: Any,
) -> list[LayerCost]:
    """`count_layers` of a network built on the meta device. Arguments: see `create_model`."""
    with torch.device("meta"):
        model = create_model(operator, arch, num_frames, num_classes, modality=modality, **options)
    return count_layers(model, size)


def layer_table(costs: list[LayerCost]) -> str:
    """A table with one line per layer, and the total."""
    parameters, macs = total(costs)
    rows = [(cost.name, cost.kind, f"{cost.parameters:,}", f"{cost.macs / 1e6:,.2f}") for cost in costs]
    rows = [("layer", "kind", "parameters", "MMACs"), *rows, ("total", "", f"{parameters:,}", f"{macs / 1e6:,.2f}")]
    return tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "left", "right", "right"))

"""Insert an operator into a torchvision network. A new operator is another branch of `insert_operator`, or a user's own
function (docs/add-an-operator.md).

The residual branch of a block with each operator (papers: TSM section 4.1; VSN's block figures and architecture table;
STH figures 3 and 5). Shortcuts are unchanged. dw: the depthwise 3x3.

| operator     | Bottleneck (ResNet-50, 101)     | BasicBlock (ResNet-18, 34)   | InvertedResidual (MobileNetV2)   |
|--------------|---------------------------------|------------------------------|----------------------------------|
| tsm          | shift, 1x1, 3x3, 1x1            | shift, 3x3, 3x3              | shift, 1x1, dw, 1x1              |
| tsm_online   | as tsm, with the shift from the previous frame only                                           |
| vsn_compact  | 1x1, shuffle, 3x3, restore, 1x1 | 3x3, shuffle, 3x3, restore   | shuffle, 1x1, dw, restore, 1x1   |
| vsn_headtail | shuffle, 1x1, 3x3, 1x1, restore | shuffle, 3x3, 3x3, restore   | shuffle, 1x1, dw, 1x1, restore   |
| sth          | 1x1, hybrid 3x3, 1x1            | hybrid 3x3, hybrid 3x3       | 1x1, hybrid dw, 1x1              |

The papers define only bottlenecks; the other two columns are ours. Between VSN's shuffle and restore there must be a
convolution that mixes channels, or frames would not mix. So compact uses the second 3x3 of a basic block, which follows
an ordinary one as in a bottleneck, and MobileNetV2's expansion with its depthwise 3x3, which alone would not mix
channels. Batch norm belongs to its convolution: a restore follows norm and ReLU.

The blocks that get the operator. tsm, tsm_online, as in the TSM code: every block; if the third stage has 23 blocks or
more (ResNet-101), every second one of each stage, starting with the first, but with an in-place shift all of them; in
MobileNetV2 those with expansion and shortcut. vsn: the last block of each stage (where="all": every block); the others
are standard blocks: as in tsm, or plain (standard_block="plain"); in MobileNetV2 the last block of each run of equal
widths that has blocks with expansion and shortcut (where="all": all of these). sth: every block.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import torchvision
from tabulate import tabulate
from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock, Bottleneck

from vsn_train.errors import InputError
from vsn_train.models.hybrid import (
    INTEGRATIONS,
    OUTER_TAPS,
    TEMPORAL_STARTS,
    VARIANTS,
    DepthwiseHybridConv2d,
    HybridConv2d,
)
from vsn_train.models.shift import OnlineShiftedConv2d, ShiftedBlock, ShiftedConv2d
from vsn_train.models.shuffle import REMAINDERS, RestoredNorm2d, ShuffledConv2d
from vsn_train.models.single_pixel import use_conv3x3

_VSN = {"standard_block": "tsm", "where": "last", "remainder": "error"}
OPERATORS: dict[str, dict[str, Any]] = {  # with their options and defaults
    "tsn": {},
    "tsm": {"fold_div": 8, "placement": "residual"},
    "tsm_online": {"fold_div": 8},
    "vsn_compact": _VSN,
    "vsn_headtail": _VSN,
    "sth": {
        "variant": "hybrid",
        "p": 0.25,
        "integration": "attention",
        "temporal_start": "auto",
        "outer_taps": OUTER_TAPS,
    },
}
CHOICES = {
    "placement": ("residual", "inplace"),
    "standard_block": ("tsm", "plain"),
    "where": ("last", "all"),
    "remainder": REMAINDERS,
    "variant": VARIANTS,
    "integration": INTEGRATIONS,
    "temporal_start": TEMPORAL_STARTS,
}
ARCHS = ("resnet18", "resnet34", "resnet50", "resnet101", "mobilenet_v2")
FLOW_STACK = 5  # consecutive flow fields that form one frame, x and y each: 10 channels
STAGES = ("layer1", "layer2", "layer3", "layer4")


def build_backbone(
    operator: str | Callable[..., None], arch: str, num_frames: int, modality: str, **options: Any
) -> tuple[nn.Module, int]:
    """Build a network from frames (B*T, C, H, W) to features (B*T, D); also returns D.

    operator: one of OPERATORS, or the user's own function operator(network, num_frames, **options), which inserts
    modules into a torchvision network. Raises InputError for an unknown operator, arch, modality, option or choice of
    an option, and if the operator's groups do not divide the channels of a layer.
    """
    for key, value, choices in (("arch", arch, ARCHS), ("modality", modality, ("rgb", "flow"))):
        if value not in choices:
            raise InputError(f"{key} {value!r}: expected one of {', '.join(choices)}")
    if callable(operator):
        check_own_options(operator, options)
    else:
        options = check_options(operator, options)
    network = getattr(torchvision.models, arch)(weights=None)
    if arch == "mobilenet_v2":
        features, network.classifier = network.last_channel, nn.Identity()
        stem_of, stem_name = network.features[0], "0"
    else:
        features, network.fc = network.fc.in_features, nn.Identity()
        stem_of, stem_name = network, "conv1"
    if modality == "flow":
        old = stem_of.get_submodule(stem_name)
        stem = nn.Conv2d(
            2 * FLOW_STACK, old.out_channels, old.kernel_size, stride=old.stride, padding=old.padding, bias=False
        )
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
        setattr(stem_of, stem_name, stem)
    if callable(operator):
        operator(network, num_frames, **options)
    else:
        insert_operator(network, operator, num_frames, **options)
    use_conv3x3(network)
    return network, features


def check_options(operator: str, options: dict[str, Any]) -> dict[str, Any]:
    """All options of an operator, including the defaults of those not given. Raises InputError."""
    if operator not in OPERATORS:
        raise InputError(f"operator {operator!r}: expected one of {', '.join(OPERATORS)}")
    if unknown := set(options) - set(OPERATORS[operator]):
        known = ", ".join(OPERATORS[operator]) or "none"
        raise InputError(f"{operator} has no option {', '.join(sorted(unknown))}; its options: {known}")
    options = OPERATORS[operator] | options
    for key, value in options.items():
        if key in CHOICES and value not in CHOICES[key]:
            raise InputError(f"{key} {value!r}: expected one of {', '.join(CHOICES[key])}")
    if options.get("fold_div", 2) < 2:
        raise InputError(f"fold_div {options['fold_div']}: expected at least 2, since two parts of the channels move")
    if not 0 <= options.get("outer_taps", 0) < math.inf:
        raise InputError(f"outer_taps {options['outer_taps']}: expected 0 or more standard deviations")
    return options


def check_own_options(operator: Callable[..., None], options: dict[str, Any]) -> None:
    """Raise InputError unless the user's function takes (network, num_frames, **options)."""
    signature = inspect.signature(operator)
    try:
        signature.bind(None, 0, **options)
    except TypeError as error:
        name = f"{operator.__module__}.{operator.__qualname__}"
        raise InputError(
            f"operator {name}{signature} cannot be called with network, num_frames"
            f"{''.join(f', {key}={value!r}' for key, value in options.items())}: {error}"
        ) from None


def parse_option(text: str) -> tuple[str, int | float | str]:
    """Parse an operator's option: "p=0.25" -> ("p", 0.25). Raises InputError without a "="."""
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"option {text!r}: expected KEY=VALUE")
    for kind in (int, float):
        try:
            return key, kind(value)
        except ValueError:
            continue
    return key, value


def insert_operator(network: nn.Module, operator: str, num_frames: int, **options: Any) -> None:
    """Insert the operator into the residual blocks of a torchvision ResNet or MobileNetV2, in place."""
    for stage in stages(network):
        deep = len(getattr(network, "layer3", ())) >= 23
        shiftable = _shiftable(stage, every_second=deep and options.get("placement") != "inplace")
        if operator in ("tsm", "tsm_online"):
            for name in shiftable:
                _shift(network, name, num_frames, online=operator == "tsm_online", **options)
        elif operator in ("vsn_compact", "vsn_headtail"):
            residual = [name for name, block in stage if _has_residual_branch(block)]
            shuffled = residual if options["where"] == "all" else residual[-1:]
            for name in shuffled:
                _shuffle(network, name, operator, num_frames, options["remainder"])
            for name in shiftable if options["standard_block"] == "tsm" else ():
                if name not in shuffled:
                    _shift(network, name, num_frames)
        elif operator == "sth":
            for name, block in stage:
                _hybridise(name, block, num_frames, **options)


def stages(network: nn.Module) -> list[list[tuple[str, nn.Module]]]:
    """The residual blocks with their names, by stage. In MobileNetV2 a stage is a run of blocks of equal width."""
    if not hasattr(network, "features"):
        return [[(f"{stage}.{i}", block) for i, block in enumerate(getattr(network, stage))] for stage in STAGES]
    runs: list[list[tuple[str, nn.Module]]] = []
    width = None
    for i, block in enumerate(network.features):  # type: ignore[arg-type]
        if isinstance(block, InvertedResidual):
            if block.out_channels != width:
                runs.append([])
            width = block.out_channels
            runs[-1].append((f"features.{i}", block))
    return runs


def _has_residual_branch(block: nn.Module) -> bool:
    """Whether a block has a residual branch: every ResNet block; in MobileNetV2 those with shortcut and expansion."""
    return not isinstance(block, InvertedResidual) or (block.use_res_connect and len(block.conv) == 4)


def _shiftable(stage: list[tuple[str, nn.Module]], every_second: bool) -> list[str]:
    return [name for name, block in stage[:: 2 if every_second else 1] if _has_residual_branch(block)]


def _shift(
    network: nn.Module,
    name: str,
    num_frames: int,
    fold_div: int = 8,
    placement: str = "residual",
    online: bool = False,
) -> None:
    block: Any = network.get_submodule(name)
    shifted = OnlineShiftedConv2d if online else ShiftedConv2d
    if placement == "inplace":
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, ShiftedBlock(block, num_frames, fold_div))
    elif isinstance(block, InvertedResidual):
        block.conv[0][0] = shifted(block.conv[0][0], num_frames, fold_div)
    else:
        block.conv1 = shifted(block.conv1, num_frames, fold_div)


def _shuffle(network: nn.Module, name: str, operator: str, num_frames: int, remainder: str) -> None:
    """Wrap the convolution after the shuffle, and the convolution (or norm) before (or after) which it is restored."""
    block = network.get_submodule(name)
    compact = operator == "vsn_compact"
    if isinstance(block, InvertedResidual):
        first, last = "conv.0.0", "conv.2" if compact else "conv.3"
    elif isinstance(block, Bottleneck):
        first, last = ("conv2", "conv3") if compact else ("conv1", "bn3")
    else:
        first, last = ("conv2" if compact else "conv1", "bn2")
    for path, restores in ((first, False), (last, True)):
        inner: Any = block.get_submodule(path)
        parent, _, child = path.rpartition(".")
        label = f"{name}.{path}"
        if isinstance(inner, nn.BatchNorm2d):
            wrapped: nn.Module = RestoredNorm2d(inner, num_frames, remainder, label)
        else:
            wrapped = ShuffledConv2d(inner, num_frames, remainder, restores, label)
        setattr(block.get_submodule(parent), child, wrapped)


def _hybridise(
    name: str,
    block: nn.Module,
    num_frames: int,
    variant: str,
    p: float,
    integration: str,
    temporal_start: str,
    outer_taps: float,
) -> None:
    """Replace the block's 3x3 convolutions. Each is initialized from the random weights of the replaced one."""
    for path, conv in list(block.named_modules()):
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (3, 3):
            continue
        inputs, outputs, stride = conv.in_channels, conv.out_channels, conv.stride[0]
        start: dict[str, Any] = {"temporal_start": temporal_start, "outer_taps": outer_taps}
        try:
            if conv.groups > 1:
                hybrid: Any = DepthwiseHybridConv2d(inputs, num_frames, stride, p, **start)
            else:
                hybrid = HybridConv2d(inputs, outputs, num_frames, stride, p, variant, integration, **start)
        except InputError as error:
            raise InputError(f"{name}.{path}: {error}") from None
        hybrid.init_from_conv2d(conv.weight, trained=False)
        parent, _, child = path.rpartition(".")
        setattr(block.get_submodule(parent), child, hybrid)


def placement(model: nn.Module) -> list[tuple[str, str]]:
    """The operator of each residual block, read from the modules: [("layer1.0", "shift 1/8 before conv1"), …]."""
    blocks = {
        name: block
        for name, block in model.named_modules()
        if isinstance(block, (BasicBlock, Bottleneck, InvertedResidual, ShiftedBlock))
    }
    table = []
    for name, block in blocks.items():
        if isinstance(blocks.get(name.rpartition(".")[0]), ShiftedBlock):
            continue  # its wrapper has been listed
        found = [text for path, module in block.named_modules() if (text := _describe(path, module))]
        table.append((name.removeprefix("backbone."), ", ".join(found) or "-"))
    around = [  # users' own modules around blocks and between them
        (name.removeprefix("backbone."), _describe_own(module))
        for name, module in model.named_modules()
        if name and is_own(module) and not any(f"{name}.".startswith(f"{block}.") for block in blocks)
    ]
    return table + around


def placement_table(model: nn.Module) -> str:
    """`placement` as a text table, to print the operators of a model."""
    return tabulate(placement(model), tablefmt="plain", disable_numparse=True)


def _describe(path: str, module: nn.Module) -> str:
    if isinstance(module, ShiftedBlock):
        return f"shift 1/{module.fold_div} before block and shortcut"
    if isinstance(module, ShiftedConv2d | OnlineShiftedConv2d):
        online = " from the past" if isinstance(module, OnlineShiftedConv2d) else ""
        return f"shift 1/{module.fold_div}{online} before {path}"
    if isinstance(module, ShuffledConv2d):
        return f"{'restore' if module.restores else 'shuffle'} before {path}"
    if isinstance(module, RestoredNorm2d):
        return f"restore after {path}"
    if isinstance(module, HybridConv2d):
        return f"{module.variant} 1/{module.groups} {module.integration} at {path}"
    if isinstance(module, DepthwiseHybridConv2d):
        return f"depthwise hybrid 1/{module.groups} at {path}"
    if path and is_own(module):
        return f"{_describe_own(module)} at {path}"
    return ""


def is_own(module: nn.Module) -> bool:
    """Whether a module is a user's own, from neither torch nor this package."""
    return not type(module).__module__.startswith(("torch.", "torchvision.", "vsn_train."))


def _describe_own(module: nn.Module) -> str:
    return f"{type(module).__name__}({module.extra_repr()})"

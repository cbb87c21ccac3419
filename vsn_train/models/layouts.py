"""Map the tensor names of weight files to torchvision's names for the same network.

Layouts, recognized by their keys (versions read: torchvision 0.29, mit-han-lab/temporal-shift-module 1f6a834,
open-mmlab/mmaction2 4d6c934 = 1.x):

| layout         | first convolution          | shifted convolution                     | classifier            |
| torchvision    | conv1.weight               | -                                       | fc, classifier.1      |
| TSM repository | base_model.conv1.weight    | base_model.layer1.0.conv1.net.weight    | new_fc, base_model.fc |
| mmaction2      | backbone.conv1.conv.weight | backbone.layer1.0.conv1.conv.net.weight | cls_head.fc_cls       |
| mmaction 0.x   | backbone.conv1.weight      | -                                       | cls_head.fc_cls       |

MobileNetV2: torchvision and the TSM repository have features.0 … features.18; inside a block torchvision is nested and
the TSM repository flat; mmaction2 has layer1 … layer7 between conv1 and conv2. All names may have the prefixes
`module.` (DataParallel) and `_orig_mod.` (torch.compile). Our own files have the names of the network that their config
describes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vsn_train.errors import InputError
from vsn_train.models.backbone import build_backbone, is_own, placement
from vsn_train.models.shift import OnlineShiftedConv2d, ShiftedBlock, ShiftedConv2d
from vsn_train.models.shuffle import RestoredNorm2d, ShuffledConv2d
from vsn_train.typed_values import misfit

TORCHVISION, TSM, MMACTION2, MMACTION = "torchvision", "TSM repository", "mmaction2", "mmaction 0.x"
CLASSIFIER = "fc."  # prefix of the classifier here, for every network

MOBILENET_BLOCKS = (1, 2, 3, 4, 3, 3, 1)  # in mmaction2's layer1 … layer7
CLASSIFIER_NAMES = re.compile(
    r"^(new_fc|base_model\.fc|base_model\.classifier|cls_head\.fc_cls|classifier\.1|classifier)\."
)
NORMALISATION = re.compile(r"^data_preprocessor\.(mean|std)$")
OURS = "vsn-train"
# A wrapper module of an operator -> its attribute for the wrapped layer; in users' own modules it is WRAPPED.
WRAPPERS = {
    ShiftedConv2d: "conv",
    OnlineShiftedConv2d: "conv",
    ShiftedBlock: "block",
    ShuffledConv2d: "conv",
    RestoredNorm2d: "norm",
}
WRAPPED = "wrapped"
HEAD_KEYS = (
    "dropout",
    "partial_bn",
    "frozen_bn",
)  # keys of a checkpoint's config.backbone that belong to the recognizer

RESIDUAL, INPLACE = "shift of the residual branch", "shift of the whole block"
Mixing = dict[str, str]  # block -> its operator, for the blocks that mix frames


@dataclass(frozen=True)
class WeightsFile:
    """The tensors of a file under torchvision's names, and facts about their network."""

    layout: str
    tensors: dict[str, Tensor]
    names: dict[str, str]  # torchvision's name -> name in the file
    ignored: dict[str, str]  # name in the file -> why it is no part of a network
    mixing: Mixing | None  # of our own files with a config
    shifted: Mixing  # of others: RESIDUAL or INPLACE, for the blocks whose names indicate a shift
    class_names: list[str] | None  # of our own files


def identify(content: dict[str, Any], model: nn.Module) -> WeightsFile:
    """Identify the tensors of a file of any known layout. model: gives the names for our own files without a config.

    Raises InputError for another layout, and for parts of a network that are not supported here.
    """
    state = next((content[key] for key in ("model", "state_dict") if isinstance(content.get(key), dict)), content)
    foreign = [f"{name} ({type(value).__name__})" for name, value in state.items() if not isinstance(value, Tensor)]
    if foreign:
        raise InputError(f"expected tensors, found {few(foreign)}; save only the state dict")
    layout = layout_of(map(strip_wrappers, state))
    mixing: Mixing | None = None
    shifted: Mixing = {}
    if layout:
        names, shifted = torchvision_names(state, layout)
    elif not state or any(strip_wrappers(name).startswith(("backbone.", "head.")) for name in state):
        names, mixing = own_names(state, content, model)
        layout = OURS
    else:
        raise InputError(
            f"found tensors named {few(state)}; expected those of a torchvision, TSM, mmaction2 or vsn-train file"
        )
    if len(set(names.values())) < len(names):
        twice = [plain for plain, count in Counter(names.values()).items() if count > 1]
        raise InputError(f"several tensors map to {few(twice)}; keep one of each")
    return WeightsFile(
        layout,
        {plain: state[name] for name, plain in names.items()},
        {plain: name for name, plain in names.items()},
        {name: "no part of the network" for name in state if name not in names},
        mixing,
        shifted,
        content.get("class_names") if layout == OURS else None,
    )


def _backbone_of(content: dict[str, Any]) -> dict[str, Any]:
    """The backbone config of one of our own files. Raises InputError for a file that vsn-train did not write."""
    kinds: dict[str, Any] = {
        "config": dict[str, Any] | None, "mixing": dict[str, str] | None, "class_names": list[str] | None
    }  # fmt: skip
    problems = [misfit(content.get(key), kind, key) for key, kind in kinds.items()]
    config = content.get("config")
    backbone: Any = config.get("backbone") if isinstance(config, dict) else None
    backbone = {} if backbone is None else backbone
    problems.append(misfit(backbone, dict[str, Any], "config.backbone"))
    if isinstance(backbone, dict):
        problems.append(misfit(backbone.get("operator", ""), str, "config.backbone.operator"))
        problems.append(misfit(backbone.get("num_frames", 1), int, "config.backbone.num_frames"))
    if problem := next(filter(None, problems), ""):
        raise InputError(f"{problem}; vsn-train did not write this file, or it is damaged")
    return backbone


def own_names(
    state: dict[str, Tensor], content: dict[str, Any], model: nn.Module
) -> tuple[dict[str, str], Mixing | None]:
    """Names of one of our files -> torchvision's, and its operator, from the network that its config describes."""
    config = _backbone_of(content)
    own_operator = "." in config.get("operator", "")
    trained = model
    if config and not own_operator:  # a user's own operator is not rebuilt: that would run code named by a file
        arguments = {"modality": "rgb"} | {key: value for key, value in config.items() if key not in HEAD_KEYS}
        try:
            with torch.device("meta"):  # only names and modules are needed
                backbone, _ = build_backbone(**arguments)
        except (InputError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise InputError(f"its config is not one of this version of vsn-train: {error}") from error
        trained = nn.ModuleDict({"backbone": backbone})
    known = plain_names(trained)
    names = {}
    for name in state:
        bare = strip_wrappers(name)
        plain = (
            f"{CLASSIFIER}{bare.removeprefix('head.')}" if bare.startswith("head.") else bare.removeprefix("backbone.")
        )
        names[name] = known.get(bare, plain.replace(f".{WRAPPED}.", ".") if own_operator else plain)
    if own_operator:
        return names, content.get("mixing")
    return names, mixing_of(trained) if config else None


def plain_names(model: nn.Module) -> dict[str, str]:
    """Name of each tensor of a recognizer -> torchvision's name, without the levels added by operators."""
    names: dict[str, str] = {}

    def walk(module: nn.Module, name: str, plain: str) -> None:
        for tensor, _ in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
            names[name + tensor] = plain + tensor
        for child, inner in module.named_children():
            is_wrapped = child == WRAPPERS.get(type(module), WRAPPED)
            walk(inner, f"{name}{child}.", plain if is_wrapped else f"{plain}{child}.")

    for child, inner in model.named_children():
        walk(inner, f"{child}.", {"backbone": "", "head": CLASSIFIER}.get(child, f"{child}."))
    return names


def own_tensors(model: nn.Module) -> set[str]:
    """Names of the tensors of the user's own modules, which no file of a 2D network has."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if path and is_own(module)
        for name in module.state_dict()
        if not f".{name}".startswith(f".{WRAPPED}.")
    }


def mixing_of(model: nn.Module) -> Mixing:
    """Block -> its operator, for the blocks that mix frames.

    Includes the number of frames if the weights depend on it: a shuffle gives each frame its own channels.
    """
    lengths = {f"{m.num_frames} frames" for m in model.modules() if isinstance(m, (ShuffledConv2d, RestoredNorm2d))}
    return {
        block: ", ".join([what, *lengths] if "restore" in what else [what])
        for block, what in placement(model)
        if what != "-"
    }


def strip_wrappers(name: str) -> str:
    """Strip the prefixes of DataParallel, DistributedDataParallel and torch.compile."""
    while name.startswith(("module.", "_orig_mod.")):
        name = name.partition(".")[2]
    return name


def layout_of(names: Iterable[str]) -> str | None:
    """The code base that wrote a state dict with these names, wrappers stripped; None if unknown."""
    names = set(names)
    if any(name.startswith("base_model.") for name in names):
        return TSM
    if any(name.startswith("backbone.conv1.conv.") for name in names):
        return MMACTION2
    if any(name.startswith("cls_head.") for name in names):
        return MMACTION
    if names & {"conv1.weight", "features.0.0.weight"}:
        return TORCHVISION
    return None


def torchvision_names(names: Iterable[str], layout: str) -> tuple[dict[str, str], Mixing]:
    """File's name -> torchvision's name, and block -> RESIDUAL or INPLACE for the blocks with a shift.

    Blocks have torchvision's names: "layer3.5", "features.4". Tensors that are not part of the network (the constants
    of mmaction2's preprocessing) are left out. Raises InputError for parts that are not supported here.
    """
    names = list(names)
    bare = {name: strip_wrappers(name) for name in names if not NORMALISATION.match(strip_wrappers(name))}
    flat = any(re.search(r"features\.1\.conv\.3\.weight$", name) for name in bare.values())  # torchvision ends at 2
    mobilenet = any(name.startswith("backbone.conv2.") for name in bare.values())  # of mmaction2
    renamed, shifted = {}, {}
    for name, plain in bare.items():
        if CLASSIFIER_NAMES.match(plain):
            renamed[name] = CLASSIFIER_NAMES.sub(CLASSIFIER, plain)
            continue
        plain = plain.removeprefix({TSM: "base_model.", TORCHVISION: ""}.get(layout, "backbone."))
        refuse_unknown_parts(name, plain)
        unshifted, place = without_shift(plain)
        if layout == MMACTION2:
            unshifted = from_mmaction2(unshifted, mobilenet)
        elif flat:
            unshifted = from_flat_mobilenet(unshifted)
        if place:
            shifted[".".join(unshifted.split(".")[:2])] = place
        renamed[name] = unshifted
    return renamed, shifted


def refuse_unknown_parts(name: str, plain: str) -> None:
    for pattern, part in (
        (r"\.(nl|non_local_block)\.", "non-local blocks"),
        (r"^layer\d\.net\.", "temporal pooling"),
    ):
        if re.search(pattern, plain):
            raise InputError(
                f"the file's network has {part} ({name}), which are not supported; use a file of a network without them"
            )


def without_shift(name: str) -> tuple[str, str | None]:
    """The name without the level added by a shift, and the place of the shift, if any.

    A shifted convolution has its weight under `.net`; with an in-place shift, the whole block is under `.net`.
    """
    for pattern, place in (
        (r"^(layer\d\.\d+)\.net\.(.+)$", INPLACE),
        (r"^(layer\d\.\d+\.conv1(?:\.conv)?)\.net\.(weight)$", RESIDUAL),
        (r"^(features\.\d+\.conv\.0)\.net\.(weight)$", RESIDUAL),
        (r"^(layer\d\.\d+\.conv\.0)\.net\.((?:conv|bn)\..+)$", RESIDUAL),
    ):
        if match := re.match(pattern, name):
            return f"{match[1]}.{match[2]}", place
    return name, None


def from_mmaction2(name: str, mobilenet: bool) -> str:
    """Convert names of mmaction2, where mmcv groups a convolution and its batch norm: `x.conv` and `x.bn`."""
    if mobilenet:
        if match := re.fullmatch(r"conv([12])\.(conv|bn)\.(\w+)", name):
            return f"features.{ {'1': 0, '2': 18}[match[1]] }.{int(match[2] == 'bn')}.{match[3]}"
        if match := re.fullmatch(r"layer(\d)\.(\d+)\.conv\.(\d)\.(conv|bn)\.(\w+)", name):
            features = 1 + sum(MOBILENET_BLOCKS[: int(match[1]) - 1]) + int(match[2])
            return inverted_residual(features, int(match[3]), match[4] == "bn", match[5])
    elif match := re.fullmatch(r"(layer\d\.\d+\.downsample)\.(conv|bn)\.(\w+)", name):
        return f"{match[1]}.{int(match[2] == 'bn')}.{match[3]}"
    elif match := re.fullmatch(r"((?:layer\d\.\d+\.)?)conv(\d)\.(conv|bn)\.(\w+)", name):
        return f"{match[1]}{match[3]}{match[2]}.{match[4]}"
    return name


def from_flat_mobilenet(name: str) -> str:
    """features.2.conv.7.weight -> features.2.conv.3.weight: the flat form numbers convolution, norm and ReLU singly."""
    match = re.fullmatch(r"features\.(\d+)\.conv\.(\d)\.(\w+)", name)
    if not match:
        return name
    index = int(match[2])
    return inverted_residual(int(match[1]), index // 3, index % 3 == 1, match[3])


def inverted_residual(features: int, position: int, is_norm: bool, tensor: str) -> str:
    """torchvision's name in a MobileNetV2 block: its last convolution, without activation, is not nested."""
    last = 1 if features == 1 else 2  # the first block does not expand: one convolution fewer
    if position == last:
        return f"features.{features}.conv.{position + is_norm}.{tensor}"
    return f"features.{features}.conv.{position}.{int(is_norm)}.{tensor}"


def few(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names) - most} more)" if len(names) > most else "")

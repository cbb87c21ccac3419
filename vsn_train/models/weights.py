"""Load weights from a local file: ImageNet files of torchvision and timm, checkpoints of the TSM repository and of
mmaction2 (layouts.py maps their names), and our own."""

from __future__ import annotations

import pickle
import re
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsn_train.errors import InputError
from vsn_train.models.hybrid import DepthwiseHybridConv2d, HybridConv2d, halve_statistics
from vsn_train.models.imagenet import IMAGENET, imagenet_file
from vsn_train.models.layouts import (
    CLASSIFIER,
    INPLACE,
    OURS,
    RESIDUAL,
    Mixing,
    WeightsFile,
    few,
    identify,
    mixing_of,
    own_tensors,
    plain_names,
)
from vsn_train.models.model_folder import read_model_folder, read_safetensors

STEMS = ("conv1.weight", "features.0.0.weight")
HYBRID_PARTS = ("spatial", "temporal")
NEW_HEAD = "weights_new_head=true (in Python: new_head=True)"
# Blocks of the third stage, and whether they have three convolutions.
RESNETS = {(2, False): "resnet18", (6, False): "resnet34", (6, True): "resnet50", (23, True): "resnet101"}


@dataclass(frozen=True)
class WeightsReport:
    """The outcome for each tensor: names of the model; for `renamed` and `skipped` also those of the file."""

    loaded: tuple[str, ...]  # the model's tensors that were set from the file
    adapted: dict[str, str]  # those of them that were computed from tensors of the file -> how
    renamed: dict[str, str]  # file's name -> model's name
    skipped: dict[str, str]  # file's name -> why it was not used
    missing: tuple[str, ...]  # the model's tensors that are not in the file: they keep their initial values
    layout: str = OURS  # code base that wrote the file
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        counts = {"renamed": self.renamed, "adapted": self.adapted, "skipped": self.skipped, "missing": self.missing}
        lines = [
            f"{self.layout} layout, {len(self.loaded)} tensors loaded"
            + "".join(f", {len(each)} {title}" for title, each in counts.items() if each)
        ]
        for title, reasons in (("adapted", self.adapted), ("skipped", self.skipped)):
            for reason in dict.fromkeys(reasons.values()):
                lines.append(f"{title} ({reason}): {few(name for name in reasons if reasons[name] == reason)}")
        if self.missing:
            lines.append(f"missing, at their initial values: {few(self.missing)}")
        return "\n  ".join([*lines, *self.notes])


def load_weights(
    model: nn.Module,
    path: str | Path,
    *,
    new_head: bool = False,
    allow_other_operator: bool = False,
    class_order: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
) -> WeightsReport:
    """Copy the tensors of a file into a `Recognizer`, in place, and report the outcome for each.

    path: a file written by torch.save, a .safetensors file, a folder written by vsn-tools export, or "imagenet":
    torchvision's weights for this network.

    A 3x3 kernel is converted to the kernels of a hybrid convolution by the rule in hybrid.py; an RGB stem is converted
    to a flow stem as in TSN (Wang et al., ECCV 2016, section 3.1): the mean over its channels, for each channel of
    flow. The classifier is loaded unless `new_head` is set or its number of classes differs. class_order: the class of
    each row of the file's classifier; class_names: the model's classes, to whose order the rows are permuted. Code
    bases order the same classes differently. Our own checkpoints store their order, so class_names is enough.

    Weights of a network without an operator, such as torchvision's, can start any operator. If the file's network had
    an operator, the model must have the same one, with the same settings in the same places: the shapes would also fit
    otherwise, but the accuracy would silently be ruined. `allow_other_operator` skips this check.

    Raises InputError, and leaves the model unchanged, for a file that cannot be read, surplus or missing tensors,
    tensors of another shape, another operator, and classes that do not match `class_names`.
    """
    plain_of = plain_names(model)
    here = arch_of(plain_of.values())
    if str(path) == IMAGENET:
        if here is None:
            raise InputError(f"weights={IMAGENET}: torchvision has none for this network; name a file: weights=FILE")
        path = imagenet_file(here)
    path = Path(path)
    content = read_tensors(path)
    try:
        file = identify(content, model)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    own = model.state_dict()
    there = arch_of(file.tensors)
    if there and here and there != here:
        raise InputError(
            f"{path}: its network is a {there}, this model a {here}; set backbone.arch={there}, or use a file of a "
            f"{here}"
        )
    notes = [] if allow_other_operator else check_operator(path, file, model)
    names = {plain: name for name, plain in plain_of.items()}
    hybrids = hybrid_convolutions(model, plain_of)
    why_new_head = reason_for_new_head(file, len(own["head.bias"]), new_head)
    loaded: dict[str, Tensor] = {}
    kernels: dict[str, Tensor] = {}  # 2D kernels for the model's hybrid convolutions
    adapted: dict[str, str] = {}
    renamed: dict[str, str] = {}
    skipped = dict(file.ignored)
    left_over, misfits = [], []
    for plain, tensor in file.tensors.items():
        source, target = file.names[plain], names.get(plain)
        if plain.startswith(CLASSIFIER) and why_new_head:
            skipped[source] = why_new_head
            continue
        if plain in hybrids:
            kernels[plain] = tensor
            expected = kernel_shape(hybrids[plain])
            adapted |= {
                names[plain.replace(".weight", f".{part}")]: "from the taps of a 2D kernel" for part in HYBRID_PARTS
            }
        elif target is None:
            left_over.append(source)
            continue
        else:
            expected = tuple(own[target].shape)
            if plain in STEMS and tensor.shape[1:2] == (3,) and expected[1] > 3:
                tensor = tensor.mean(1, keepdim=True).expand(-1, expected[1], -1, -1)
                adapted[target] = "mean over RGB, for each channel of flow"
            loaded[target] = tensor
            if target != source:
                renamed[source] = target
        if tuple(tensor.shape) != expected:
            misfits.append(f"{source} is {tuple(tensor.shape)}, in this model {expected}")
    given = tuple(name for name in own if name in loaded or name in adapted)
    # Files written before PyTorch 0.4.1 do not count batches; nothing reads the count.
    missing = tuple(name for name in own if name not in given and not name.endswith("num_batches_tracked"))
    may_lack = {plain.replace(".weight", ".attention.weight") for plain in kernels}
    may_lack |= {plain_of[name] for name in own_tensors(model)}
    lacking = [
        name
        for name in missing
        if plain_of[name] not in may_lack and not (why_new_head and plain_of[name].startswith(CLASSIFIER))
    ]
    raise_misfits(path, left_over, misfits, lacking)
    used = [file.names[plain] for plain, each in file.tensors.items() if not _is_finite(each)]
    if used := [name for name in used if name not in skipped]:
        raise InputError(
            f"{path}: {used[0]} has values that are not finite: no training can start from it; use another file"
        )
    if not why_new_head:
        notes += order_classifier(path, loaded, file, class_order, class_names)
    model.load_state_dict(loaded, strict=False)
    for plain, kernel in kernels.items():
        hybrids[plain].init_from_conv2d(kernel)
        if getattr(hybrids[plain], "attention", None) is not None:
            norm: Any = model.get_submodule(names[norm_behind(plain)].removesuffix(".weight"))
            halve_statistics(norm)
    return WeightsReport(given, adapted, renamed, skipped, missing, file.layout, tuple(notes))


def read_tensors(path: str | Path, mmap: bool = False) -> dict[str, Any]:
    """Read a file of `torch.save`, a .safetensors file, or an exported folder (model_folder.py), without running code
    in it.

    mmap: memory-map the tensors; for files of the current torch.save. Raises InputError for a missing, truncated or
    foreign file, and for one with anything but tensors and plain types.
    """
    path = Path(path)
    if path.is_dir():
        content: Any = read_model_folder(path)
    elif not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint or weights file")
    elif path.suffix == ".safetensors":
        content = read_safetensors(path)
    else:
        content = _unpickled(path, mmap)
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected a dict of tensors")
    try:
        check_extent(content)
    except InputError as error:
        raise InputError(f"{path}: {error}; use another file") from error
    return content


# What torch.load and the zip reader below it raise for files that torch.save did not write.
NOT_SAVED = (
    RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError, LookupError, TypeError, AttributeError,
    AssertionError, ArithmeticError, MemoryError, struct.error,
)  # fmt: skip


def _unpickled(path: Path, mmap: bool) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the unpickler about other protocols: such files end in an error below
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap and zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: it is damaged, or holds Python objects that would run code when loaded; expected "
            "tensors and plain types only, as torch.save writes of a state dict"
        ) from error
    except NOT_SAVED as error:
        raise InputError(f"{path}: truncated, or not a checkpoint; copy or write it again") from error


MOST_PARTS = 2_000_000  # parts of a file; a list that is referred to several times counts each time
DEEPEST = 20


def check_extent(content: dict[str, Any]) -> None:
    """Raise InputError, with the key, for a small file that expands to something huge or endless.

    That is a list that contains itself, deeply nested lists, or a tensor larger than its stored data.
    """
    left = MOST_PARTS
    parts: list[tuple[str, Any, int]] = [("", content, 0)]
    while parts:
        key, value, depth = parts.pop()
        left -= 1
        if left < 0 or depth > DEEPEST:
            raise InputError(f"{key[:80]}: its lists and tables are endless, or have too many parts")
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized or value.is_complex():
                raise InputError(f"{key} is a tensor of an unusual kind; expected dense real numbers")
            if value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise InputError(f"{key} is {tuple(value.shape)}, more than the data in the file")
        elif isinstance(value, dict):
            parts += [(f"{key}.{name}" if key else str(name)[:80], each, depth + 1) for name, each in value.items()]
        elif isinstance(value, list | tuple | set):
            parts += [(f"{key}[{place}]", each, depth + 1) for place, each in enumerate(value)]


def arch_of(names: Iterable[str]) -> str | None:
    """The network with tensors of these names (torchvision's); None for any other."""
    blocks, bottlenecks = set(), False
    for name in names:
        if name.startswith("features."):
            return "mobilenet_v2"
        if match := re.match(r"layer3\.(\d+)\.", name):
            blocks.add(match[1])
            bottlenecks = bottlenecks or ".conv3." in name
    return RESNETS.get((len(blocks), bottlenecks))


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def check_operator(path: Path, file: WeightsFile, model: nn.Module) -> list[str]:
    """Raise InputError if the file's network mixes frames differently from the model.

    Returns notes for the report.
    """
    here = mixing_of(model)
    there = file.shifted if file.mixing is None else file.mixing
    if file.shifted:  # such files have the place of a shift, not its size
        here = {block: _shift_place(what) for block, what in here.items()}
    if there and there != here:
        where = next(block for block in (*there, *here) if there.get(block) != here.get(block))
        raise InputError(
            f"{path}: trained with {describe_mixing(there)}; this model has {describe_mixing(here)}, first difference "
            f"in {where}. The shapes may fit, but the accuracy would be ruined: choose the backbone of the file, or "
            "set weights_other_operator=true (in Python: allow_other_operator=True) to start from it"
        )
    if here and not there:
        return [f"2D weights start an operator: {describe_mixing(here)}"]
    return []


def _shift_place(what: str) -> str:
    """Convert a description of `placement` to the terms of layouts.py for foreign files."""
    if not what.startswith("shift"):
        return what
    return INPLACE if what.endswith("shortcut") else RESIDUAL


def describe_mixing(mixing: Mixing) -> str:
    """E.g. "shift 1/8 before conv1 in 16 blocks"."""
    counts = Counter(mixing.values())
    return "; ".join(f"{what} in {count} block{'s' * (count > 1)}" for what, count in counts.items()) or "no operator"


def hybrid_convolutions(model: nn.Module, plain_of: dict[str, str]) -> dict[str, HybridConv2d | DepthwiseHybridConv2d]:
    """torchvision's name of the 2D kernel that a hybrid convolution replaces -> the module."""
    return {
        f"{plain_of[f'{name}.spatial'].removesuffix('.spatial')}.weight": module
        for name, module in model.named_modules()
        if isinstance(module, (HybridConv2d, DepthwiseHybridConv2d))
    }


def norm_behind(plain: str) -> str:
    """The weight of the batch norm that follows a ResNet's convolution, by torchvision's names."""
    return plain.replace("conv", "bn")


def kernel_shape(module: HybridConv2d | DepthwiseHybridConv2d) -> tuple[int, ...]:
    """The shape of the 2D kernel for `init_from_conv2d`."""
    if isinstance(module, HybridConv2d):
        return (module.out_channels, module.in_channels, 3, 3)
    return (module.channels, 1, 3, 3)


def reason_for_new_head(file: WeightsFile, num_classes: int, new_head: bool) -> str | None:
    """Why the file's classifier is not used; None if it is."""
    if new_head:
        return "a new classifier was requested"
    rows = file.tensors.get(f"{CLASSIFIER}weight")
    if rows is not None and len(rows) != num_classes:
        return f"a classifier of {len(rows)} classes, this model has {num_classes}"
    return None


def raise_misfits(path: Path, left_over: list[str], misfits: list[str], lacking: list[str]) -> None:
    found = [
        f"{len(each)} tensors {what}: {few(each)}"
        for each, what in (
            (left_over, "of the file are not in this model"),
            (misfits, "have another shape"),
            (lacking, "are missing in the file"),
        )
        if each
    ]
    if found:
        only_head = not left_over and not misfits and all(name.startswith("head.") for name in lacking)
        hint = (
            f"set {NEW_HEAD} to start with a new classifier"
            if only_head
            else "check backbone.arch, backbone.operator and data.modality"
        )
        raise InputError(f"{path}: {'; '.join(found)}; {hint}")


def order_classifier(
    path: Path,
    loaded: dict[str, Tensor],
    file: WeightsFile,
    class_order: Sequence[str] | None,
    class_names: Sequence[str] | None,
) -> list[str]:
    """Permute the classifier's rows from the file's class order to the model's. Returns notes for the report."""
    order = class_order if class_order is not None else file.class_names
    if class_names is None:
        if class_order is not None:
            raise InputError("class_order needs class_names too, the model's classes in order")
        return []
    if order is None:
        return ["the classifier's rows stay in the order of the file, which does not name its classes"]
    rows = len(loaded["head.bias"])
    given = "weights_class_order" if class_order is not None else "the file's list of classes"
    for title, names in ((given, order), ("the data set", class_names)):
        if len(names) != rows or len(set(names)) != rows:
            raise InputError(f"{path}: {title} has {len(set(names))} different names, the classifier {rows} rows")
    if others := [name for name in order if name not in set(class_names)]:
        raise InputError(
            f"{path}: its classifier has the classes {few(map(repr, others))}, which this model lacks; set "
            f"{NEW_HEAD} to start with a new classifier"
        )
    if list(order) == list(class_names):
        return []
    places = {name: row for row, name in enumerate(order)}
    rows_of = torch.tensor([places[name] for name in class_names])
    for name in ("head.weight", "head.bias"):
        loaded[name] = loaded[name][rows_of]
    moved = int((rows_of != torch.arange(rows)).sum())
    return [f"{moved} of the classifier's {rows} rows moved to the class order of this model"]

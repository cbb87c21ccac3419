"""Weights in: torchvision's ImageNet files and our own checkpoints, from a local file."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsn_train.errors import InputError


@dataclass(frozen=True)
class WeightsReport:
    """What became of each tensor: the model's names, and the file's for `renamed` and `skipped`."""

    loaded: tuple[str, ...]
    renamed: dict[str, str]  # file's name -> model's name
    skipped: dict[str, str]  # file's name -> why it was not used
    missing: tuple[str, ...]  # the model's tensors that the file does not give: they keep their random values

    def __str__(self) -> str:
        text = f"{len(self.loaded)} tensors loaded, {len(self.skipped)} skipped, {len(self.missing)} missing"
        reasons = [f"{name} ({why})" for name, why in self.skipped.items()]
        return text + "".join(
            f"; {title}: {', '.join(each[:4])}{' …' * (len(each) > 4)}"
            for title, each in (("skipped", reasons), ("missing", list(self.missing)))
            if each
        )


def read_tensors(path: str | Path) -> dict[str, Any]:
    """What `torch.save` wrote, loaded without running any code that the file may hold.

    Raises InputError for a missing, truncated or foreign file, and for one with more than tensors and plain types.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a checkpoint or weights file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the unpickler about other protocols: such files end in an error below
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: it is damaged, or holds Python objects that would run code when loaded; expected "
            "tensors and plain types only, as torch.save writes of a state dict"
        ) from error
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError, LookupError) as error:
        raise InputError(f"{path}: truncated, or not a checkpoint; copy or write it again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected a dict of tensors")
    return content


def load_weights(model: nn.Module, path: str | Path) -> WeightsReport:
    """Copy a file's tensors into a `Recognizer`, in place.

    Takes a torchvision ImageNet state dict or a vsn-train checkpoint. The classifier is skipped where the number of
    classes or the source differs; any other tensor that is missing, left over or of another shape is an InputError.
    """
    content = read_tensors(path)
    ours = "model" in content
    tensors: dict[str, Tensor] = content["model"] if ours else content
    own = model.state_dict()
    # A shifted convolution holds its weights one level down; torchvision's names have no such level.
    plain_names = {name.replace(".conv.weight", ".weight"): name for name in own}
    loaded, renamed, skipped = {}, {}, {}
    for name, tensor in tensors.items():
        source = name.replace(".conv.weight", ".weight") if ours else f"backbone.{name}"
        target = plain_names.get(source)
        if name.startswith(("fc.", "head.")) and (target is None or own[target].shape != tensor.shape):
            skipped[name] = "classifier of other classes"
        elif target is None:
            raise InputError(f"{path}: {name} has no place in this model; check backbone.operator and backbone.arch")
        elif own[target].shape != tensor.shape:
            raise InputError(
                f"{path}: {name} is {tuple(tensor.shape)}, this model has {tuple(own[target].shape)}; "
                "check backbone.arch"
            )
        else:
            loaded[target] = tensor
            if target != name:
                renamed[name] = target
    # Files written before PyTorch 0.4.1 do not count batches; nothing reads the count.
    missing = tuple(name for name in own if name not in loaded and not name.endswith("num_batches_tracked"))
    if lacking := [name for name in missing if not name.startswith("head.")]:
        raise InputError(f"{path}: {len(lacking)} tensors are missing, first {lacking[0]}; check backbone.arch")
    model.load_state_dict(loaded, strict=False)
    return WeightsReport(tuple(loaded), renamed, skipped, missing)

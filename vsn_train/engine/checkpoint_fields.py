"""Validate the content of a checkpoint, which may come from an untrusted source, and its match with the network."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from vsn_train.engine.state import FORMAT, Checkpoint, TrainState, lacking
from vsn_train.errors import InputError
from vsn_train.typed_values import misfit, shown

GROUPS = ("dataset", "backbone", "protocol", "data", "runtime")  # groups of the config that vsn-eval starts from
PRECISIONS = ("fp32", "bf16", "fp16")
MOST_CLASSES = 1_000_000
FOREIGN = (
    "not a checkpoint of this version of vsn-train; expected one that vsn-train wrote. To start a training from other "
    "weights: vsn-train weights=FILE"
)
# The state that an optimizer keeps for a parameter that it has updated.
MEMORIES: dict[type, set[str]] = {
    torch.optim.SGD: {"momentum_buffer"},
    torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"},
}


def check_content(content: dict[str, Any]) -> None:
    """Raise InputError with the key of the first field that is missing, of a wrong type, out of range or inconsistent.

    content: of a file, as `read_tensors` returns it. The values within a group of the config are checked in config.py,
    which knows their types.
    """
    form = content.get("format")
    if type(form) is int and form > FORMAT:
        by = content.get("version")
        raise InputError(
            f"written by a newer vsn-train{f' ({by})' if isinstance(by, str) and by else ''}: its format is {form}, "
            f"this version reads {FORMAT}; update vsn-train"
        )
    if type(form) is not int or form != FORMAT:
        raise InputError(FOREIGN)
    problem = next(filter(None, _problems(content)), "")
    if problem:
        raise InputError(f"{problem}; vsn-train did not write this file, or it is damaged: take another checkpoint")


def _problems(content: dict[str, Any]) -> Iterator[str]:
    yield from (f"{key} is missing" for key in lacking(content))
    for key, kind in get_type_hints(Checkpoint).items():
        if key in content and (text := misfit(content[key], kind, key)):
            yield text
    found = Checkpoint.of(content)
    assert found is not None
    groups = (key for key in GROUPS if key in found.config)
    yield from filter(None, (misfit(found.config[key], dict[str, Any], f"config.{key}") for key in groups))
    yield from _plain(found.config, "config")
    yield from _plain(found.choices, "choices")
    for key in ("epoch", "step", "videos", "unreadable", "step_videos", "metrics_bytes"):
        if getattr(found, key) < 0:
            yield f"{key} is {getattr(found, key)}, expected 0 or more"
    if found.processes < 1:
        yield f"processes is {found.processes}, expected 1 or more"
    if not 1 <= len(found.class_names) <= MOST_CLASSES:
        yield f"class_names has {len(found.class_names)} names, expected 1 to {MOST_CLASSES}"
    for place, name in enumerate(found.class_names):
        try:
            name.encode()
        except UnicodeEncodeError:
            yield f"class_names[{place}] is {shown(name)}, expected text that UTF-8 can encode"
    classes = len(found.class_names)
    for place, pair in enumerate(found.flip_pairs):
        if len(pair) != 2 or not all(0 <= each < classes for each in pair):
            yield f"flip_pairs[{place}] is {shown(str(list(pair)))}, expected two of the {classes} classes, from 0"
    for place, row in enumerate(found.sums):
        if len(row) != 4:
            yield f"sums[{place}] has {len(row)} numbers, expected 4"
    for place, row in enumerate(found.best):
        if len(row) != 2 or not 0 <= row[0] < math.inf or row[1] < 1 or row[1] != int(row[1]):
            yield f"best[{place}] is {shown(str(list(row)))}, expected an accuracy or a loss, and the epoch"
    if found.choices and found.choices.get("precision") not in PRECISIONS:
        yield f"choices.precision is {shown(found.choices.get('precision'))}, expected one of {', '.join(PRECISIONS)}"
    if found.choices:
        yield misfit(found.choices.get("channels_last"), bool, "choices.channels_last")
    for title, tensors in (("model", found.model), ("average", found.average or {})):
        rows = tensors.get("head.bias")
        if rows is not None and tuple(rows.shape) != (classes,):
            yield f"{title}.head.bias is {tuple(rows.shape)}, but class_names has {classes} names"


def _plain(value: Any, key: str) -> Iterator[str]:
    """Check that a value is plain, as in YAML: no tensors, no bytes."""
    if isinstance(value, dict):
        for name, each in value.items():
            if not isinstance(name, str):
                yield f"{key} has the key {shown(name)}, expected text"
            yield from _plain(each, f"{key}.{name}")
    elif isinstance(value, list | tuple):
        for place, each in enumerate(value):
            yield from _plain(each, f"{key}[{place}]")
    elif isinstance(value, bool | None):
        return
    elif isinstance(value, int | float):
        yield misfit(value, int if isinstance(value, int) else float, key)
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            yield f"{key} is {shown(value)}, expected text that UTF-8 can encode"
    else:
        yield f"{key} is {shown(value)}, expected a plain value"


def load_network(model: nn.Module, tensors: Mapping[str, Tensor], key: str = "model") -> None:
    """Copy a checkpoint's tensors into its network. key: the field of the file that holds them, for messages.

    Raises InputError, and changes nothing, if the network of the file's own config has other tensors.
    """
    own = model.state_dict()
    others = {
        "is not in its network": [name for name in tensors if name not in own],
        "is missing": [name for name in own if name not in tensors],
    }
    for what, names in others.items():
        if names:
            raise InputError(
                f"{key}.{names[0]} {what}{f' (one of {len(names)})' if len(names) > 1 else ''}: the tensors are not "
                "those of the network that its config.backbone describes; take another checkpoint"
            )
    for name, tensor in tensors.items():
        if tensor.shape != own[name].shape:
            raise InputError(
                f"{key}.{name} is {tuple(tensor.shape)}, expected {tuple(own[name].shape)} for the network that its "
                "config.backbone describes; take another checkpoint"
            )
    model.load_state_dict(dict(tensors))


def resume_state(state: TrainState, checkpoint: Checkpoint) -> None:
    """Restore a training from its checkpoint. Raises InputError with a key that does not fit network or optimizer."""
    load_network(state.model, checkpoint.model)
    if state.average is not None and checkpoint.average:
        load_network(state.average.module, checkpoint.average, "average")
    problem = next(filter(None, _optimizer_problems(checkpoint.optimizer, state.optimizer)), "")
    if not problem and state.scaler.is_enabled() and checkpoint.scaler:
        own = state.scaler.state_dict()
        found = (misfit(checkpoint.scaler.get(key), type(value), f"scaler.{key}") for key, value in own.items())
        problem = next(filter(None, found), "")
    if problem:
        raise InputError(f"{problem}; vsn-train did not write this file, or it is damaged: take another checkpoint")
    state.load_state_dict(checkpoint.content())


def _optimizer_problems(content: dict[str, Any], optimizer: torch.optim.Optimizer) -> Iterator[str]:
    own = optimizer.state_dict()["param_groups"]
    groups, states = content.get("param_groups"), content.get("state")
    yield misfit(groups, list[dict[str, Any]], "optimizer.param_groups")
    yield misfit(states, dict[int, dict[str, Any]], "optimizer.state")
    if len(groups) != len(own):  # type: ignore[arg-type]
        yield f"optimizer.param_groups has {len(groups)} groups, expected {len(own)}"  # type: ignore[arg-type]
    for place, (group, expected) in enumerate(zip(groups, own, strict=True)):  # type: ignore[arg-type]
        key = f"optimizer.param_groups[{place}]"
        if group.get("params") != expected["params"]:
            yield f"{key}.params is not the list of this network's parameters"
        for name, value in expected.items():
            if name == "params" or name not in group:  # versions of torch differ in these
                continue
            found = group[name]
            if isinstance(value, bool | None):
                yield misfit(found, bool | None, f"{key}.{name}")
            elif isinstance(value, list | tuple):
                yield misfit(found, list[float], f"{key}.{name}")
            else:
                yield misfit(found, float if isinstance(value, int | float) else str, f"{key}.{name}")
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    memories = next((names for kind, names in MEMORIES.items() if isinstance(optimizer, kind)), None)
    for number, state in states.items():  # type: ignore[union-attr]
        key = f"optimizer.state.{number}"
        if not 0 <= number < len(parameters):
            yield f"{key} belongs to no parameter, expected 0 to {len(parameters) - 1}"
        if memories is not None and state and not memories <= state.keys():
            yield f"{key}.{min(memories - state.keys())} is missing"
        for name, value in state.items():
            if name == "step":  # Adam's
                yield misfit(value, Tensor | float, f"{key}.{name}")
                if isinstance(value, Tensor) and value.numel() != 1:
                    yield f"{key}.{name} is {tuple(value.shape)}, expected one number"
            else:
                yield misfit(value, Tensor | None, f"{key}.{name}")
                if value is not None and value.shape != parameters[number].shape:
                    shapes = f"{tuple(value.shape)}, expected {tuple(parameters[number].shape)}"
                    yield f"{key}.{name} is {shapes}, as its parameter"

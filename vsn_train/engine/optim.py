"""How weights move: SGD with TSM's parameter groups, learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from vsn_train.models import Recognizer


def parameter_groups(
    model: Recognizer, lr: float, weight_decay: float, head_lr_factor: float = 5.0
) -> list[dict[str, object]]:
    """Every trainable parameter in exactly one group, as the TSM code does.

    | group                          | learning rate           | weight decay |
    | weights of convolutions        | lr                      | weight_decay |
    | biases of convolutions         | 2 lr                    | 0            |
    | batch norm                     | lr                      | 0            |
    | classifier's weight            | head_lr_factor × lr     | weight_decay |
    | classifier's bias              | 2 head_lr_factor × lr   | 0            |
    """
    groups = {"weight": (1.0, 1.0), "bias": (2.0, 0.0), "norm": (1.0, 0.0)}
    groups |= {"head_weight": (head_lr_factor, 1.0), "head_bias": (2 * head_lr_factor, 0.0)}
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = "bias" if name == "bias" else "weight"
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                kind = "norm"
            elif module is model.head:
                kind = f"head_{kind}"
            members[kind].append(parameter)
    return [
        {"name": name, "params": members[name], "lr": lr * lr_factor, "weight_decay": weight_decay * decay_factor}
        for name, (lr_factor, decay_factor) in groups.items()
        if members[name]
    ]


def build_optimizer(model: Recognizer, lr: float, momentum: float, weight_decay: float, head_lr_factor: float) -> SGD:
    return SGD(parameter_groups(model, lr, weight_decay, head_lr_factor), lr=lr, momentum=momentum)


def lr_factor(
    step: int, steps_per_epoch: int, epochs: int, warmup_epochs: float, milestones: Sequence[float], factor: float
) -> float:
    """What the base learning rate is multiplied by at an optimizer step, counted from 0.

    A linear warm-up over warmup_epochs first. Then, with milestones (shares of all epochs), `factor` for each epoch
    boundary passed; without, half a cosine from 1 to 0 over the steps that the warm-up leaves.
    """
    warmup = round(warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if milestones:
        epoch = step // steps_per_epoch
        return factor ** sum(epoch >= max(1, round(share * epochs)) for share in milestones)
    share = (step - warmup) / max(1, steps_per_epoch * epochs - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


def build_schedule(
    optimizer: SGD,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float,
    milestones: Sequence[float],
    factor: float,
    steps_done: int = 0,
) -> LambdaLR:
    """Set every group's learning rate for the optimizer step that follows `steps_done`; see `lr_factor`."""
    factor_at = partial(
        lr_factor,
        steps_per_epoch=steps_per_epoch,
        epochs=epochs,
        warmup_epochs=warmup_epochs,
        milestones=milestones,
        factor=factor,
    )
    return LambdaLR(optimizer, factor_at, last_epoch=steps_done - 1)

"""TSM's parameter groups, SGD and AdamW, and the learning rate as a pure function of the position."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vsn_train.models import Recognizer


def parameter_groups(
    model: Recognizer,
    lr: float,
    weight_decay: float,
    head_lr_factor: float = 5.0,
    flow_stem_lr_factor: float = 5.0,
) -> list[dict[str, object]]:
    """Every trainable parameter in exactly one group, as the TSM code does.

    | group                          | learning rate             | weight decay |
    | weights of convolutions        | lr                        | weight_decay |
    | biases of convolutions         | 2 lr                      | 0            |
    | first convolution, of flow     | flow_stem_lr_factor × lr  | weight_decay |
    | batch norm                     | lr                        | 0            |
    | classifier's weight            | head_lr_factor × lr       | weight_decay |
    | classifier's bias              | 2 head_lr_factor × lr     | 0            |

    The first convolution of a flow network was converted from RGB weights, so it gets a higher learning rate. In an RGB
    network it is a convolution like the others. It has no bias in either.
    """
    groups = {"weight": (1.0, 1.0), "bias": (2.0, 0.0), "norm": (1.0, 0.0), "flow_stem": (flow_stem_lr_factor, 1.0)}
    groups |= {"head_weight": (head_lr_factor, 1.0), "head_bias": (2 * head_lr_factor, 0.0)}
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    stem = next(module for module in model.modules() if isinstance(module, nn.Conv2d))
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            kind = "bias" if name == "bias" else "weight"
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                kind = "norm"
            elif module is model.head:
                kind = f"head_{kind}"
            elif module is stem and stem.in_channels > 3:
                kind = "flow_stem"
            members[kind].append(parameter)
    return [
        {"name": name, "params": members[name], "lr": lr * lr_factor, "weight_decay": weight_decay * decay_factor}
        for name, (lr_factor, decay_factor) in groups.items()
        if members[name]
    ]


def build_sgd(
    model: Recognizer,
    lr: float,
    momentum: float,
    weight_decay: float,
    head_lr_factor: float,
    nesterov: bool = False,
    fused: bool | None = None,
    flow_stem_lr_factor: float = 5.0,
) -> SGD:
    """SGD with the groups of `parameter_groups`. fused: one kernel for all parameters; None: torch decides."""
    groups: Any = parameter_groups(model, lr, weight_decay, head_lr_factor, flow_stem_lr_factor)
    optimizer = SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)
    if fused and momentum:
        # If the gradient of the very first step overflows, a fused kernel skips the update, leaves the momentum
        # uninitialized and uses it in the next step. Zeros give the same first update: 0 x momentum + gradient.
        for parameter in (each for group in optimizer.param_groups for each in group["params"]):
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def build_adamw(
    model: Recognizer,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    head_lr_factor: float,
    fused: bool | None = None,
    flow_stem_lr_factor: float = 5.0,
) -> AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019), with the groups of `parameter_groups`."""
    groups: Any = parameter_groups(model, lr, weight_decay, head_lr_factor, flow_stem_lr_factor)
    return AdamW(groups, lr=lr, betas=betas, eps=eps, fused=fused)


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """A moving average of all weights and statistics: after each step, decay × average + (1 - decay) × model."""
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def scaled_lr(lr: float, step_videos: int, reference_videos: int) -> float:
    """The linear scaling rule (Goyal et al., "Accurate, Large Minibatch SGD", 2017). reference_videos 0: no scaling."""
    return lr * step_videos / reference_videos if reference_videos else lr


def lr_factor(
    step: float,
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float,
    milestones: Sequence[float] | None,
    factor: float,
    per: str = "step",
) -> float:
    """The factor of the base learning rate at an optimizer step, counted from 0.

    Starts with a linear warm-up over warmup_epochs. Then, with milestones (epochs), multiplies by `factor` at each one;
    with None, half a cosine from 1 to 0 over the remaining steps. per: "step", or "epoch" for a rate that is constant
    within an epoch.
    """
    if per == "epoch":
        step, steps_per_epoch = step // steps_per_epoch, 1
    warmup = round(warmup_epochs * steps_per_epoch)
    if step < warmup:
        return (step + 1) / warmup
    if milestones is not None:
        return factor ** sum(step / steps_per_epoch >= epoch for epoch in milestones)
    share = (step - warmup) / max(1, steps_per_epoch * epochs - warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, share)))


class Schedule:
    """Sets the learning rate of every group for the next step. Stateless: a resumed run needs only its position.

    factor_at: optimizer steps done -> factor of the groups' initial rates.
    """

    def __init__(self, optimizer: Optimizer, factor_at: Callable[[float], float]) -> None:
        self.optimizer, self.factor_at = optimizer, factor_at
        self.rates = [group["lr"] for group in optimizer.param_groups]

    def step(self, steps: float) -> None:
        factor = self.factor_at(steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor

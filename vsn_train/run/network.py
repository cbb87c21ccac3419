"""Build the network, load its weights, and choose its fastest settings."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vsn_train import config as schema
from vsn_train.data.datasets.annotations import numbered_lines
from vsn_train.data.loader import Batch
from vsn_train.engine.checkpoint import OpenedCheckpoint
from vsn_train.engine.distributed import Process, rebuild_buckets
from vsn_train.engine.interleave import interleave
from vsn_train.engine.precision import allow_tf32, autocast_for, resolve_precision
from vsn_train.engine.state import Checkpoint
from vsn_train.errors import InputError
from vsn_train.import_function import import_function
from vsn_train.models import Recognizer
from vsn_train.models.imagenet import IMAGENET, imagenet_file
from vsn_train.models.saving import recompute_blocks
from vsn_train.models.weights import load_weights
from vsn_train.run.state import trial_state, trial_step
from vsn_train.trained import TrainedModel, build_network, trained_model


def build_model(backbone: schema.Backbone, num_classes: int, modality: str) -> Recognizer:
    arguments = asdict(backbone)
    try:
        return build_network(arguments, num_classes, modality, own_operator(backbone))
    except InputError as error:
        key = str(error).partition(" ")[0]  # create_model names its arguments, the user types keys
        raise InputError(f"backbone.{error}" if key in arguments else str(error)) from error


def check_network(backbone: schema.Backbone, modality: str) -> None:
    """Raise InputError for invalid network options, before the data set is read.

    Builds the network on the meta device, without memory or time. Skips a user's own operator, which may need real
    tensors.
    """
    if not isinstance(backbone, schema.OwnOperator):
        with torch.device("meta"):
            build_model(backbone, 1, modality)


# Data set -> the weights that its recipe starts from (docs/recipes.md).
STARTS = dict.fromkeys(("something_v1", "something_v2", "jester", "kinetics400"), "ImageNet") | dict.fromkeys(
    ("ucf101", "hmdb51", "custom"), "Kinetics-400 or ImageNet"
)


def note_random_start(config: schema.Train) -> str | None:
    """A warning if the training starts from random weights and the data set's recipe from trained ones, else None."""
    start = STARTS.get(config.dataset.name)
    if config.weights or start is None:
        return None
    return (
        f"WARNING: RANDOM WEIGHTS. The recipe of {config.dataset.name} starts from {start} weights; without them "
        "accuracy stays far lower. Set weights=imagenet or weights=FILE; docs/recipes.md lists sources of files"
    )


def fetch_weights(config: schema.Train, process: Process) -> None:
    """Download torchvision's file once, before every process looks for it in the cache."""
    if config.weights == IMAGENET:
        process.on_rank_zero(lambda: imagenet_file(config.backbone.arch))


def start_weights(model: Recognizer, config: schema.Train, class_names: Sequence[str]) -> str:
    """Load config.weights if set. Returns a summary of loaded and skipped tensors for the log."""
    if not config.weights:
        return "none: random start"
    order = config.weights_class_order
    if order is not None and order != "sorted":
        if not Path(order).is_file():
            raise InputError(
                f"weights_class_order={order}: no such file; expected sorted, or a file with one class name per line"
            )
        names = [name for _, name in numbered_lines(Path(order))]
    else:
        names = sorted(class_names)
    return str(
        load_weights(
            model,
            config.weights,
            new_head=config.weights_new_head,
            allow_other_operator=config.weights_other_operator,
            class_order=names if order else None,
            class_names=class_names,
        )
    )


def load_trained(config: schema.Eval | schema.Predict, opened: OpenedCheckpoint, process: Process) -> TrainedModel:
    """The checkpoint's network, with the protocol and the settings of the command line.

    Raises InputError if backbone or modality differ from the checkpoint's.
    """
    check_same_network(opened.checkpoint, config.backbone, config.data.modality, config.checkpoint)
    settings = {"data": asdict(config.data), "runtime": asdict(config.runtime)}
    return trained_model(opened, process.device, settings, config.protocol, own_operator(config.backbone))


def check_same_network(checkpoint: Checkpoint, backbone: schema.Backbone, modality: str, path: str) -> None:
    """Raise InputError if backbone or modality differ from the checkpoint's. path: for messages."""
    trained = checkpoint.config["data"].get("modality", "rgb")
    if modality != trained:
        raise InputError(
            f"data.modality={modality}, but {path} was trained on {trained}; leave data.modality out, or use a "
            f"checkpoint that was trained on {modality}"
        )
    for key, asked in asdict(backbone).items():
        trained = checkpoint.config["backbone"].get(key, asked)  # older files lack the keys that came later
        if asked != trained:
            raise InputError(
                f"backbone.{key}={asked}, but {path} was trained with {trained}; leave backbone.{key} out, or train "
                "with the other value"
            )


def own_operator(backbone: schema.Backbone) -> Callable[..., None] | None:
    """The function of the user's own that the config names; None for an operator of vsn-train."""
    if isinstance(backbone, schema.OwnOperator):
        return import_function(backbone.operator, "backbone.operator")
    return None


def prepare_model(model: Recognizer, runtime: schema.Runtime, process: Process) -> Recognizer:
    """Apply the runtime switches that change the network's modules. Raises InputError if the device lacks one."""
    allow_tf32(runtime.tf32)
    if runtime.sync_bn:
        if process.device.type != "cuda":
            raise InputError("runtime.sync_bn=true needs CUDA; leave it out, or freeze batch norms: backbone.frozen_bn")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if runtime.recompute:
        recompute_blocks(model.backbone)
    wanted = runtime.channels_last
    if wanted or (wanted is None and process.device.type == "cuda"):
        model.to(memory_format=torch.channels_last)
    return model


def clip_shape(config: schema.Train, model: Recognizer) -> tuple[int, ...]:
    """The shape (B, T, C, H, W) of a full batch of training clips."""
    channels, side = next(model.backbone.parameters()).shape[1], config.data.crop_size
    return config.data.batch_size, config.backbone.num_frames, channels, side, side


def choose_speed(
    config: schema.Train, model: Recognizer, process: Process, before: dict[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """Choose precision and memory format where the config leaves them open; also returns the reasons for the log.

    before: the choices of the run's first launch, which a resumed run keeps.
    """
    runtime, device = config.runtime, process.device
    rule = {"precision": resolve_precision(runtime.precision, device), "channels_last": runtime.channels_last}
    if runtime.channels_last is None:
        rule["channels_last"] = device.type == "cuda"
    if before:
        given = {"precision": runtime.precision != "auto", "channels_last": runtime.channels_last is not None}
        kept = {key: rule[key] if given[key] else before[key] for key in rule}
        memory = "channels_last" if kept["channels_last"] else "contiguous"
        if all(given.values()):
            return kept, []
        return kept, [f"{kept['precision']} with {memory} memory, as when the run started"]
    if not runtime.measure or (runtime.precision != "auto" and runtime.channels_last is not None):
        reasons = []
        if runtime.precision == "auto":
            if rule["precision"] == "bf16":
                why = f"this {device.type} device multiplies bf16 in hardware"
            elif device.type == "cuda":
                why = "this GPU does not multiply bf16 in hardware"
            else:  # bf16 products of AVX-512 round differently and are not always faster
                why = "this CPU has no AMX; runtime=auto measures whether bf16 is faster nevertheless"
            reasons.append(f"precision {rule['precision']}: {why}")
        return rule, reasons
    formats = [False, True] if runtime.channels_last is None else [runtime.channels_last]
    states = {}
    for channels_last in formats:
        network = copy.deepcopy(model)
        network.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        states[channels_last] = trial_state(config, network, process)
    count = config.data.batch_size if device.type == "cuda" else min(2, config.data.batch_size)
    clips = torch.randint(256, (count, *clip_shape(config, model)[1:]), dtype=torch.uint8, device=device)
    batch = Batch(clips, torch.zeros(count, dtype=torch.int64, device=device), ())

    def step(precision: str, channels_last: bool) -> None:
        trial_step(config, states[channels_last], batch, count, autocast_for(precision, device))

    precisions = ["fp32", "bf16"] if runtime.precision == "auto" else [runtime.precision]
    precision, channels_last, reasons = process.on_rank_zero(lambda: fastest_choices(step, precisions, formats, device))
    return {"precision": precision, "channels_last": channels_last}, reasons


def wrap_network(config: schema.Train, model: Recognizer, process: Process) -> nn.Module:
    """The module that a training step calls: the model, compiled if requested, in DDP with several processes."""
    runtime = config.runtime
    network: nn.Module = torch.compile(model) if runtime.compile else model  # type: ignore[assignment]
    if process.world_size == 1:
        return network
    # A harmless warning: the strides of a 1x1 kernel can be written in two ways.
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    network = DistributedDataParallel(
        network, gradient_as_bucket_view=runtime.gradient_as_bucket_view, static_graph=runtime.static_graph
    )
    clip = torch.zeros(clip_shape(config, model), device=process.device)
    rebuild_buckets(network.train(), clip, autocast_for(runtime.precision, process.device))
    return network


def fastest_choices(
    step: Callable[[str, bool], None], precisions: list[str], formats: list[bool], device: torch.device, rounds: int = 3
) -> tuple[str, bool, list[str]]:
    """Time a training step with each precision and memory format that the config leaves open, in interleaved rounds.

    step(precision, channels_last) computes one step. Returns the fastest precision and memory format, and lines for the
    log. fp16 is no candidate: whether its range suffices depends on the model.
    """
    candidates = [(precision, channels_last) for precision in precisions for channels_last in formats]
    actions = {each: partial(step, *each) for each in candidates}
    times = {
        each: float(np.median(seconds)) for each, seconds in interleave(actions, rounds, device=device.type).items()
    }
    best = min(times, key=lambda each: times[each])
    lines = [
        f"runtime=auto: {_name(*each)} {1000 * seconds:.0f} ms per step"
        + (", the fastest: chosen" if each == best else "")
        for each, seconds in sorted(times.items(), key=lambda pair: pair[1])
    ]
    return *best, lines


def _name(precision: str, channels_last: bool) -> str:
    return f"{precision} with {'channels_last' if channels_last else 'contiguous'} memory"

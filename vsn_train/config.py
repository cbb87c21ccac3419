"""The schema of all config keys: type, default, unit and description.

Hydra fills these dataclasses, so a misspelt key or a wrong type fails before anything heavy is imported. The `check_*`
functions hold the constraints that a type cannot express. Below trained.py, which checks those of foreign checkpoints,
no module sees a config.

The comment on a key, or directly above it, is its description in `--help` and in docs/reference/config.md; see
config_keys.py. It starts with the unit in square brackets where the value is a number: `# [seconds] …`.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from vsn_train.data.protocol import Protocol
from vsn_train.errors import InputError
from vsn_train.typed_values import misfit, shown


@dataclass
class Dataset:
    name: str = MISSING  # name of the data set in results and log lines
    root: str = MISSING  # folder of the videos


@dataclass
class Motion(Dataset):
    """Embedded data set, generated into `root` on first use."""

    # what defines the class: the "direction" of time, the "appearance" of the shape, or the "order" of two events
    variant: str = "direction"
    train_videos: int = MISSING  # [videos] size of the training split
    val_videos: int = MISSING  # [videos] size of the validation split
    size: int = MISSING  # [pixels] height and width of the videos
    num_frames: int = MISSING  # [frames] length of each video
    seed: int = 0  # [number] seed of the generated videos


@dataclass
class Official(Dataset):
    """A data set as its authors distribute it: Something-Something V1 and V2, Jester, Kinetics-400."""

    annotations: str | None = None  # folder of the official lists; null: in or next to `root`
    class_order: str = "official"  # "official", or "sorted" by name for checkpoints that were trained on sorted names
    max_missing_share: float = 0.0  # [share 0 to 1] videos of a split that may be missing; more are an error
    # count the frames of all videos once, before training; a frame folder is then not listed for every clip
    count_frames: bool = False


@dataclass
class OfficialSplits(Official):
    """UCF101, HMDB51."""

    split: int = 1  # [number] official split: 1, 2 or 3


@dataclass
class Custom(Dataset):
    """Lists of path,label[,num_frames], or folders of classes; all paths are relative to `root`."""

    train: str | None = None  # list or folder; null: train.csv, train.txt or train/
    val: str | None = None  # list or folder; null: val.csv, val.txt or val/
    test: str | None = None  # list or folder, labels optional; null: test.csv, test.txt or test/
    classes: str | None = None  # file with one class name per line, in index order; null: those of the training list
    # labels of lists without a column class or class_index: "names", "indices" from 0, or "auto": indices if all labels
    # are whole numbers. Folder names are always class names
    labels: str = "auto"
    flip_pairs: list[list[str]] = field(default_factory=list)  # pairs of classes that a horizontal flip exchanges
    # horizontal flips: "allowed", "forbidden", or "auto": forbidden if a class without a flip pair is named after a
    # direction
    flips: str = "auto"
    # [share 0 to 1] videos of each class to draw for validation, from the training list or from class folders directly
    # in `root`; 0: use the given validation split
    val_share: float = 0.0
    seed: int = 0  # [number] seed of the split that val_share draws; dataset=custom sets it to the seed of the run
    allow_overlap: bool = False  # accept videos that are in both the training and the validation split
    max_missing_share: float = 0.0  # [share 0 to 1] videos of a split that may be missing; more are an error
    # count the frames of all videos once, before training; a frame folder is then not listed for every clip
    count_frames: bool = False


@dataclass
class OwnDataset(Dataset):
    """A data set read by your own function (docs/add-a-data-set.md)."""

    loader: str = MISSING  # module.function: (root, split, **options) -> Manifest
    options: dict[str, Any] = field(default_factory=dict)  # further keyword arguments of the function
    allow_overlap: bool = False  # accept videos that are in both the training and the validation split
    # count the frames of all videos once, before training; a frame folder is then not listed for every clip
    count_frames: bool = False


@dataclass
class Backbone:
    operator: str = MISSING  # what mixes frames: "tsn", "tsm", "tsm_online", "vsn_compact", "vsn_headtail" or "sth"
    arch: str = "resnet50"  # 2D network: "resnet18", "resnet34", "resnet50", "resnet101" or "mobilenet_v2"
    num_frames: int = 8  # [frames] length T of a clip
    dropout: float = 0.5  # [share 0 to 1] dropout probability before the classifier
    partial_bn: bool = False  # freeze all batch norms except the first
    frozen_bn: bool = False  # freeze all batch norms: neither statistics nor parameters change


@dataclass
class Tsm(Backbone):
    fold_div: int = 8  # [divisor] 1/fold_div of the channels come from the next frame, as many from the previous one
    placement: str = "residual"  # "residual": shift the residual branch only; "inplace": the shortcut as well


@dataclass
class TsmOnline(Backbone):
    fold_div: int = 8  # [divisor] 1/fold_div of the channels come from the previous frame


@dataclass
class Vsn(Backbone):
    standard_block: str = "tsm"  # operator of the blocks without shuffle: "tsm" or "plain"
    where: str = "last"  # blocks with shuffle: the "last" one of each stage, or "all"
    # if the channels do not divide into num_frames groups: "error", or "keep" the remaining channels in place
    remainder: str = "error"


@dataclass
class Sth(Backbone):
    # "hybrid": each kernel is temporal on some input channels and spatial on the others; "merge": each kernel is
    # temporal or spatial
    variant: str = "hybrid"
    p: float = 0.25  # [share 0 to 1] temporal channels: 1/2, 1/3, 1/4, …; merge: temporal kernels
    # how the temporal and the spatial branch are combined: "attention" or "sum"; without effect in MobileNetV2, whose
    # depthwise convolutions have one branch per channel
    integration: str = "attention"
    # initialization of the temporal kernels: "random"; "rows": the row sums of the 2D kernel become the taps in time;
    # "centre": its sum at the centre tap, zero elsewhere; "mixed": as "centre", with random outer taps; "auto": "rows"
    # if there are pretrained 2D weights, "random" otherwise
    temporal_start: str = "auto"
    outer_taps: float = 3.0  # [factor] temporal_start=mixed: standard deviation of the outer taps / of the spatial taps


@dataclass
class OwnOperator(Backbone):
    """`operator` is module.function, your own function (docs/add-an-operator.md)."""

    options: dict[str, Any] = field(default_factory=dict)  # further keyword arguments of the function


@dataclass
class Data:
    batch_size: int = 8  # [videos] batch size of each process
    workers: int = 2  # [processes] data loader workers of each training process; 0: decode in the training process
    decoder: str = "auto"  # video reader: "auto", "pyav", "decord" or "torchcodec"
    modality: str = "rgb"  # "rgb", or "flow": optical flow in folders of x and y images
    sampling: str = "uniform"  # frames of a training clip: "uniform" segments, or a "dense" window of 64 frames
    short_side: int = 256  # [pixels] short side of a frame after resizing
    crop_size: int = 224  # [pixels] height and width of the network's input
    # class balance of an epoch: "none": every video once; "classes": as many clips, with every class equally often
    balance: str = "none"
    max_bad_share: float = 0.01  # [share 0 to 1] videos of an epoch that may be undecodable; more stop the training
    timeout: float = 120.0  # [seconds] time limit for one video, after which its worker is replaced; 0: no limit


@dataclass
class Augment:
    """Augmentation of training clips. All frames of a clip get the same random parameters."""

    crop: str = "multiscale"  # "multiscale" (TSN), "random_resized" (Inception) or "center" (as in a test)
    # [factor] crop=multiscale: crop size / short side; null: TSN's 1, 0.875, 0.75 and, for RGB, 0.66
    scales: list[float] | None = None
    # [share 0 to 1] crop=random_resized: smallest and largest area of the crop / area of the frame
    area: list[float] = field(default_factory=lambda: [0.08, 1.0])
    # [factor] crop=random_resized: smallest and largest width / height
    aspect: list[float] = field(default_factory=lambda: [0.75, 1.3333])
    flip: bool = True  # flip horizontally with probability 1/2; labels follow the flip pairs of the data set
    rand_augment: int = 0  # [operations] RandAugment: number of operations per clip (N); 0: off
    magnitude: int = 9  # [number] RandAugment: magnitude of the operations (M), 0 to 30
    brightness: float = 0.0  # [factor] colour jitter: drawn from 1 - value to 1 + value; 0: off
    contrast: float = 0.0  # [factor] colour jitter: drawn from 1 - value to 1 + value; 0: off
    saturation: float = 0.0  # [factor] colour jitter: drawn from 1 - value to 1 + value; 0: off
    hue: float = 0.0  # [share 0 to 1] colour jitter: largest shift around the colour circle, at most 0.5; 0: off
    # [number] alpha of mixup's Beta(alpha, alpha); 0: off. If cutmix is set too, each batch gets one of the two
    mixup: float = 0.0
    cutmix: float = 0.0  # [number] alpha of CutMix's Beta(alpha, alpha); 0: off


@dataclass
class Optimizer:
    """Keys of all optimizers; the parameter groups are TSM's."""

    lr: float = MISSING  # [learning rate] for an effective batch size of reference_batch; if that is 0, for any
    reference_batch: int = 0  # [videos] effective batch size that lr is for; lr is scaled linearly; 0: no scaling
    accumulate: int = 1  # [batches] gradient accumulation: batches of data.batch_size videos per process and step
    weight_decay: float = MISSING  # [factor] weight decay, not applied to biases and norms
    clip_norm: float = 20.0  # [gradient norm] gradients are clipped to this norm; 0: no clipping
    head_lr_factor: float = 5.0  # [factor] learning rate of the classifier / lr; twice that for its bias
    flow_stem_lr_factor: float = 5.0  # [factor] data.modality=flow: learning rate of the first convolution / lr
    # weight of each class in the loss: null: 1; "balanced": videos / (classes * videos of the class); or a file with
    # one class,weight per line
    class_weights: str | None = None
    label_smoothing: float = 0.0  # [share 0 to 1] target probability spread evenly over all classes
    # [share 0 to 1] decay per step of the moving average of the weights, which is validated and evaluated; 0: off
    ema: float = 0.0


@dataclass
class Sgd(Optimizer):
    lr: float = 0.01
    weight_decay: float = 5e-4
    momentum: float = 0.9  # [factor] momentum of SGD
    nesterov: bool = False  # Nesterov momentum


@dataclass
class AdamW(Optimizer):
    lr: float = 1e-4
    weight_decay: float = 0.05
    # [share 0 to 1] decay of the moving averages of the gradient and of its square
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8  # [number] added to the denominator


@dataclass
class Schedule:
    shape: str = MISSING  # "step", "multistep" or "cosine"; set by the choice of schedule
    epochs: int = 50  # [epochs] length of the training
    warmup_epochs: float = 0.0  # [epochs] linear warm-up from 0
    per: str = "step"  # update the learning rate after every "step" or every "epoch"
    patience: int = 0  # [epochs] stop after this many epochs without a better validation; 0: never


@dataclass
class Step(Schedule):
    # [share 0 to 1] shares of `epochs` after which the learning rate is multiplied by `factor`
    milestones: list[float] = field(default_factory=lambda: [0.4, 0.8])
    every: int = 0  # [epochs] distance between equally spaced milestones, which replace `milestones`; 0: off
    factor: float = 0.1  # [factor] multiplies the learning rate at each milestone


@dataclass
class Multistep(Schedule):
    # [epochs] epochs after which the learning rate is multiplied by `factor`
    milestones: list[int] = field(default_factory=lambda: [20, 40])
    factor: float = 0.1  # [factor] multiplies the learning rate at each milestone


@dataclass
class Checkpoints:
    """Checkpoints in addition to those at the end of each epoch, and those kept besides last.pt and best.pt."""

    every_minutes: float = 10.0  # [minutes] time between two saves of last.pt; 0: off
    every_steps: int = 0  # [optimizer steps] steps between two saves of last.pt; 0: off
    keep_best: int = 1  # [epochs] number of best epochs to keep; above 1 also as epoch_<n>.pt
    best_by: str = "top1"  # validation metric of the best epoch: "top1", "mean_class" (mean class accuracy) or "loss"
    milestones: list[int] = field(default_factory=list)  # [epochs] epochs to keep as epoch_<n>.pt


@dataclass
class Runtime:
    device: str = "auto"  # "auto", "cpu" or "cuda"
    devices: int = 1  # [processes] number of processes on this machine, one per GPU; ignored under torchrun and srun
    precision: str = "auto"  # "fp32", "bf16", "fp16", or "auto": bf16 if the device supports it, fp32 otherwise
    # channels-last memory format; null: on CUDA, and on any device in vsn-eval and vsn-predict
    channels_last: bool | None = None
    measure: bool = False  # with precision=auto or channels_last=null: time the choices, and use the fastest
    compile: bool = False  # compile the network with torch.compile
    tf32: bool = True  # CUDA: allow TF32 in fp32 matrix products and convolutions
    fused_optimizer: bool | None = None  # update all parameters in one kernel; null: on CUDA only
    sync_bn: bool = False  # CUDA: compute batch-norm statistics over all processes
    recompute: bool = False  # activation checkpointing: recompute blocks in the backward pass to save memory
    gradient_as_bucket_view: bool = True  # DDP: gradients are views of the all-reduce buckets, to save memory
    static_graph: bool = False  # DDP: every step uses the same parameters
    prefetch: bool = True  # CUDA: copy the clips of the next step to the GPU during the current step
    threads: int = 0  # [threads] CPU threads per process; 0: OMP_NUM_THREADS if set, cores / processes otherwise
    restarts: int = 0  # [restarts] restarts of the local processes from the last checkpoint if one of them fails
    views_per_batch: int = 16  # [views] batch size at test time
    log_every: int = 10  # [optimizer steps] steps between two log entries
    rank_logs: bool = False  # every rank except 0 writes its own log_rank<n>.txt


def _interpolations(group: str, node: Any) -> dict[str, Any]:
    return {key: f"${{{group}.{key}}}" for key in node.__dataclass_fields__}


@dataclass
class Train:
    # name of the run; its folder is runs/<name>/<time>
    name: str = "${dataset.name}_${backbone.operator}_${backbone.arch}"
    seed: int = 0  # [number] seed of initialization, sampling and augmentation
    resume: Any = False  # true: continue from the newest checkpoint of the run; "auto": only if there is one
    resume_other_videos: bool = False  # resume although videos were added, removed or relabelled
    check: bool = False  # do not train: describe two batches, name the bottleneck, and draw augmented clips
    # pretrained weights: "imagenet" (torchvision's for backbone.arch); a file (.pth, .pt, .safetensors) of torchvision,
    # timm, the TSM repository, mmaction2 or vsn-train; or a folder written by vsn-tools export
    weights: str | None = None
    weights_new_head: bool = False  # initialize a new classifier even if the number of classes matches
    weights_other_operator: bool = False  # accept weights that were trained with another operator or placement
    weights_class_order: str | None = None  # class order of the file: "sorted", or a file with one class name per line
    dataset: Dataset = MISSING
    backbone: Backbone = MISSING
    protocol: Protocol = MISSING
    validation: Protocol = field(
        # Validation follows the protocol key by key, so that it can use one view of a protocol with a hundred.
        default_factory=lambda: Protocol(**_interpolations("protocol", Protocol))
    )
    data: Data = MISSING
    on_bad_video: str = "error"  # unreadable videos in validation: "error", or count them as "wrong"
    augment: Augment = MISSING
    optimizer: Optimizer = MISSING
    schedule: Schedule = MISSING
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    runtime: Runtime = MISSING


@dataclass
class Eval:
    checkpoint: str = MISSING  # checkpoint file, run folder (its best.pt), or folder written by vsn-tools export
    split: str = "val"  # split to evaluate: "train", "val", or "test" if the data set has one
    resume: Any = False  # true or "auto": continue an interrupted evaluation
    on_bad_video: str = "error"  # unreadable videos: "error" stops the evaluation, "wrong" counts them as wrong
    # write the scores of single views to scores.npz: "always", "never", or "auto": if they take at most 512 MB
    keep_views: str = "auto"
    features: bool = False  # write features.npz: the input of the classifier for each video, float32 (N, D)
    report: bool = True  # write report.html
    dataset: Any = MISSING
    backbone: Any = MISSING
    protocol: Protocol = MISSING
    data: Data = MISSING
    runtime: Runtime = MISSING


@dataclass
class Predict:
    checkpoint: str = MISSING  # checkpoint file, run folder (its best.pt), or folder written by vsn-tools export
    # file, folder of videos, glob, or a list of these: [a.mp4,b.mp4]; with live=true also a pipe, camera or address
    video: Any = MISSING
    start: float = 0.0  # [seconds] start of the time range
    end: float | None = None  # [seconds] end of the time range; null: the end of the video
    top_k: int = 5  # [classes] number of best classes in prediction.json
    # [seconds] window length for a long video; with live=true the time that num_frames frames span
    window: float | None = None
    stride: float | None = None  # [seconds] time between the starts of two windows; null: half of window
    live: bool = False  # score live video frame by frame: a file, a pipe, a camera or a network address
    backbone: Any = MISSING
    protocol: Protocol = MISSING
    data: Data = MISSING
    runtime: Runtime = MISSING


# What a checkpoint's "dataset", "backbone" and "schedule" entries are, by the name that they carry.
DATASETS: dict[str, type[Dataset]] = {
    "motion": Motion,
    "motion_static": Motion,
    "motion_order": Motion,
    "something_v1": Official,
    "something_v2": Official,
    "jester": Official,
    "kinetics400": Official,
    "ucf101": OfficialSplits,
    "hmdb51": OfficialSplits,
    "custom": Custom,
}
BACKBONES: dict[str, type[Backbone]] = {
    "tsn": Backbone,
    "tsm": Tsm,
    "tsm_online": TsmOnline,
    "vsn_compact": Vsn,
    "vsn_headtail": Vsn,
    "sth": Sth,
}


# Keys whose values are paths, and those of them that take a list of paths.
PATHS = {
    "checkpoint", "video", "weights", "weights_class_order", "dataset.root", "dataset.annotations", "dataset.train",
    "dataset.val", "dataset.test", "dataset.classes", "optimizer.class_weights", "hydra.run.dir", "hydra.sweep.dir",
}  # fmt: skip
PATH_LISTS = {"video"}


def config_folder() -> Path:
    """The YAML files: inside the installed package, or at the top of the source tree."""
    package = Path(__file__).resolve().parent
    for folder in (package / "configs", package.parent / "configs"):
        if folder.is_dir():
            return folder
    raise InputError(f"found no configs folder in or next to {package}; install vsn-train again")


def register_schemas() -> None:
    """Make every dataclass known to Hydra under the name by which the YAML files extend it."""
    store = ConfigStore.instance()
    for name, node in {"train": Train, "eval": Eval, "predict": Predict}.items():
        store.store(name=f"{name}_schema", node=node)
    groups: dict[str, dict[str, Any]] = {
        "dataset": {
            "motion": Motion,
            "official": Official,
            "official_splits": OfficialSplits,
            "custom": Custom,
            "own": OwnDataset,
        },
        "backbone": BACKBONES | {"own": OwnOperator},
        "protocol": {"protocol": Protocol},
        "data": {"data": Data},
        "augment": {"augment": Augment},
        "optimizer": {"sgd": Sgd, "adamw": AdamW},
        "schedule": {"step": Step, "multistep": Multistep, "cosine": Schedule},
        "runtime": {"runtime": Runtime},
    }
    for group, nodes in groups.items():
        for name, node in nodes.items():
            store.store(group=group, name=f"{name}_schema", node=node)


def plain(config: Train) -> dict[str, Any]:
    """The values of a config, as config.yaml and checkpoints keep them; folders with their absolute paths."""
    values = asdict(config)
    for key in ("root", "annotations"):  # a checkpoint is used from other folders
        if values["dataset"].get(key):
            values["dataset"][key] = os.path.abspath(os.path.expanduser(values["dataset"][key]))
    return values


def resume_choice(value: Any) -> bool | str:
    """True, False or "auto". Raises InputError for anything else."""
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    text = str(value).lower()
    if text != "auto" and text not in words:
        raise InputError(f"resume={value}: expected true or false, or auto")
    return words.get(text, "auto")


def _literal(value: Any) -> Any:
    """Text that OmegaConf gives back as it is."""
    if isinstance(value, dict):
        return {key: _literal(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_literal(each) for each in value]
    return value.replace("${", "\\${") if isinstance(value, str) else value


def register_checkpoint(config: dict[str, Any] | None) -> None:
    """Make a checkpoint's own config what vsn-eval and vsn-predict start from. config: plain values.

    None stands for "no checkpoint read yet": keys can then be checked before torch is imported, every data set's and
    every backbone's keys being accepted until it is known which one it is.
    """
    if config is None:
        nodes: dict[str, Any] = {
            "dataset": dict.fromkeys(_keys([*DATASETS.values(), OwnDataset]), MISSING),
            "backbone": dict.fromkeys(_keys([*BACKBONES.values(), OwnOperator]), MISSING),
            "protocol": Protocol,
            "data": Data,
            "runtime": Runtime,
        }
    else:
        config = {key: _literal(value) for key, value in config.items()}
        # The views' sizes follow those of the data, as in configs/protocol.
        protocol = dict(config["protocol"])
        for key, followed in (("short_side", ["short_side"]), ("crop_size", ["crop_size", "short_side"])):
            same = [each for each in followed if config["data"].get(each) == protocol[key]]
            protocol[key] = f"${{data.{same[0]}}}" if same else protocol[key]
        nodes = {  # which check_checkpoint has looked at
            "dataset": _type_of(config, "dataset", "name", DATASETS)(**config["dataset"]),
            "backbone": _type_of(config, "backbone", "operator", BACKBONES)(**config["backbone"]),
            "protocol": Protocol(**protocol),
            "data": Data(**config["data"]),
            "runtime": Runtime(**config["runtime"]),
        }
        for group, key in own_functions(config):
            setattr(nodes[group], key, MISSING)  # a file must not choose what is imported: the user names it again
    for group, node in nodes.items():
        ConfigStore.instance().store(group=group, name="from_checkpoint", node=node)


# Keys with a default that every checkpoint has; another value is another network, or other input to it.
NEVER_MISSING = (
    "config.data.short_side", "config.data.crop_size", "config.backbone.arch", "config.backbone.num_frames"
)  # fmt: skip


def check_checkpoint(config: dict[str, Any], path: str) -> None:
    """Raise InputError, which names file and key, unless a file's config is one that vsn-train wrote.

    config: plain values. Keys that came later may be missing; a key that is not known is a newer version's.
    """
    for group in ("dataset", "backbone", "protocol", "data", "runtime"):
        if not isinstance(config.get(group), dict):
            raise _not_ours(path, f"config.{group} is {'not a table of keys' if group in config else 'missing'}")
    for group, key in (("dataset", "name"), ("backbone", "operator")):
        if problem := misfit(config[group].get(key), str, f"config.{group}.{key}"):
            raise _not_ours(path, problem)
    types = {
        "dataset": _type_of(config, "dataset", "name", DATASETS),
        "backbone": _type_of(config, "backbone", "operator", BACKBONES),
        "protocol": Protocol,
        "data": Data,
        "runtime": Runtime,
    }
    nodes: dict[str, Any] = {}
    for group, kind in types.items():
        values, hints = config[group], get_type_hints(kind)
        for each in fields(kind):
            key = f"config.{group}.{each.name}"
            needed = each.default in (MISSING, dataclasses.MISSING) and each.default_factory is dataclasses.MISSING
            if each.name not in values and (needed or key in NEVER_MISSING):
                raise _not_ours(path, f"{key} is missing")
            if each.name in values and (problem := misfit(values[each.name], hints[each.name], key)):
                raise _not_ours(path, problem)
        if unknown := [key for key in values if key not in hints]:
            raise InputError(
                f"{path}: config.{group}.{unknown[0]} is a key that this version of vsn-train does not know; use the "
                "version that wrote the file"
            )
        nodes[group] = kind(**values)
    if problem := misfit(config.get("seed", 0), int, "config.seed"):
        raise _not_ours(path, problem)
    try:
        check_seed("seed", config.get("seed", 0))
        _check_finite(config)
        _check_common(nodes["data"], nodes["runtime"], nodes["backbone"].num_frames)
        _check_dataset(nodes["dataset"])
        _check_backbone(nodes["backbone"])
        _check_protocol("protocol", nodes["protocol"], nodes["data"])
    except InputError as error:
        raise _not_ours(path, f"its config has {error}") from error


def _not_ours(path: str, problem: str) -> InputError:
    return InputError(
        f"{path}: {problem}; vsn-train did not write this file, or it is damaged: take another checkpoint"
    )


def own_functions(config: dict[str, Any]) -> dict[tuple[str, str], str]:
    """(group, key) -> module.function, for the functions of the user's own that a checkpoint's config names."""
    operator, loader = config["backbone"]["operator"], config["dataset"].get("loader")
    named = {("backbone", "operator"): operator if "." in operator else None, ("dataset", "loader"): loader}
    return {place: function for place, function in named.items() if function}


def _keys(types: Iterable[Any]) -> list[str]:
    return [key for each in types for key in each.__dataclass_fields__]


def _type_of(config: dict[str, Any], group: str, key: str, types: dict[str, Any]) -> Any:
    name = config[group][key]
    if group == "dataset" and "loader" in config[group]:
        return OwnDataset
    if group == "backbone" and "." in name:
        return OwnOperator
    if name not in types:
        raise InputError(
            f"the checkpoint's config.{group}.{key} is {shown(name)}, but this version of vsn-train knows "
            f"{', '.join(types)}; use the version that wrote it"
        )
    return types[name]


def check_train(config: Train) -> None:
    """Raise InputError for values that the types allow and the work does not."""
    _check_finite(asdict(config))
    check_seed("seed", config.seed)
    resume_choice(config.resume)
    _check_common(config.data, config.runtime, config.backbone.num_frames)
    _check_dataset(config.dataset)
    _check_backbone(config.backbone)
    _check_protocol("protocol", config.protocol, config.data)
    _check_protocol("validation", config.validation, config.data)
    if config.weights is not None:
        _check_path("weights", config.weights)
    _choice("on_bad_video", config.on_bad_video, ("error", "wrong"))
    _choice("schedule.shape", config.schedule.shape, ("step", "multistep", "cosine"))
    _choice("schedule.per", config.schedule.per, ("step", "epoch"))
    _choice("checkpoints.best_by", config.checkpoints.best_by, ("top1", "mean_class", "loss"))
    if isinstance(config.dataset, Custom) and config.dataset.val_share and config.dataset.val:
        raise InputError(
            f"dataset.val_share={config.dataset.val_share} with dataset.val={config.dataset.val}: the validation "
            "videos are either drawn or listed; leave one of them out"
        )
    if config.optimizer.class_weights is not None:
        _check_path("optimizer.class_weights", config.optimizer.class_weights)
    _between("optimizer.label_smoothing", config.optimizer.label_smoothing, 0, 1, "below 1")
    _between("optimizer.ema", config.optimizer.ema, 0, 1, "below 1")
    for key, value in {
        "optimizer.lr": config.optimizer.lr,
        "optimizer.head_lr_factor": config.optimizer.head_lr_factor,
        "optimizer.flow_stem_lr_factor": config.optimizer.flow_stem_lr_factor,
        "optimizer.accumulate": config.optimizer.accumulate,
        "schedule.epochs": config.schedule.epochs,
        "checkpoints.keep_best": config.checkpoints.keep_best,
        "runtime.log_every": config.runtime.log_every,
    }.items():
        _positive(key, value)
    for key, value in {
        "optimizer.weight_decay": config.optimizer.weight_decay,
        "optimizer.clip_norm": config.optimizer.clip_norm,
        "optimizer.reference_batch": config.optimizer.reference_batch,
        "schedule.warmup_epochs": config.schedule.warmup_epochs,
        "schedule.patience": config.schedule.patience,
        "checkpoints.every_minutes": config.checkpoints.every_minutes,
        "checkpoints.every_steps": config.checkpoints.every_steps,
        "runtime.restarts": config.runtime.restarts,
    }.items():
        _not_negative(key, value)
    if config.runtime.static_graph and config.optimizer.accumulate > 1:
        raise InputError(
            "runtime.static_graph=true with optimizer.accumulate above 1: DDP cannot skip the all-reduce in a static "
            "graph; leave one of them out"
        )
    if isinstance(config.optimizer, Sgd):
        _between("optimizer.momentum", config.optimizer.momentum, 0, 1, "below 1")
        if config.optimizer.nesterov and not config.optimizer.momentum:
            raise InputError("optimizer.nesterov=true needs momentum: set optimizer.momentum above 0")
    if isinstance(config.optimizer, AdamW):
        if len(config.optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in config.optimizer.betas):
            raise InputError(f"optimizer.betas={config.optimizer.betas}: expected two numbers from 0 to below 1")
        _positive("optimizer.eps", config.optimizer.eps)
    for key, epochs in {
        "checkpoints.milestones": config.checkpoints.milestones,
        "schedule.milestones": config.schedule.milestones if isinstance(config.schedule, Multistep) else [],
    }.items():
        if any(epoch < 1 for epoch in epochs):
            raise InputError(f"{key}={list(epochs)}: expected epochs, counted from 1")
    if isinstance(config.schedule, Step | Multistep):
        _positive("schedule.factor", config.schedule.factor)
        if list(config.schedule.milestones) != sorted(config.schedule.milestones):
            raise InputError(f"schedule.milestones={config.schedule.milestones}: expected them in ascending order")
    if isinstance(config.schedule, Step):
        _not_negative("schedule.every", config.schedule.every)
        if any(not 0 < share < 1 for share in config.schedule.milestones):
            raise InputError(
                f"schedule.milestones={config.schedule.milestones}: expected shares of schedule.epochs between 0 and "
                "1; epochs are given with schedule=multistep"
            )
    _check_augment(config.augment, config.data.modality)


def _check_finite(values: Any, key: str = "") -> None:
    """No value of any key may be infinite or not a number: nothing here means anything by it."""
    if isinstance(values, dict):
        for name, each in values.items():
            _check_finite(each, f"{key}.{name}" if key else str(name))
    elif isinstance(values, list | tuple):
        for each in values:
            if isinstance(each, float) and not math.isfinite(each):
                raise InputError(f"{key}={list(values)}: expected finite numbers")
            _check_finite(each, key)
    elif isinstance(values, float) and not math.isfinite(values):
        raise InputError(f"{key}={values}: expected a finite number")


def check_seed(key: str, value: int) -> None:
    """What both NumPy and torch take for a seed. Raises InputError."""
    if not 0 <= value < 2**63:
        raise InputError(f"{key}={value}: expected a whole number from 0 to 2^63 - 1")


def _check_path(key: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        raise InputError(f"{key}={'null' if value is None else value}: expected a path")


def _check_augment(augment: Augment, modality: str) -> None:
    _choice("augment.crop", augment.crop, ("multiscale", "random_resized", "center"))
    if augment.scales is not None and not (augment.scales and all(0 < scale <= 1 for scale in augment.scales)):
        raise InputError(f"augment.scales={augment.scales}: expected one or more numbers above 0 and at most 1")
    if len(augment.area) != 2 or not 0 < augment.area[0] <= augment.area[1] <= 1:
        raise InputError(f"augment.area={augment.area}: expected [least, largest], both above 0 and at most 1")
    if len(augment.aspect) != 2 or not 0 < augment.aspect[0] <= augment.aspect[1]:
        raise InputError(f"augment.aspect={augment.aspect}: expected [from, to], both above 0")
    _between("augment.magnitude", augment.magnitude, 0, 30, "at most 30")
    _between("augment.hue", augment.hue, 0, 0.5, "at most 0.5")
    _within("augment.rand_augment", augment.rand_augment, 0, 100)
    for key in ("brightness", "contrast", "saturation", "mixup", "cutmix"):
        if getattr(augment, key) < 0:
            raise InputError(f"augment.{key}={getattr(augment, key)}: expected zero or more")
    for key in ("rand_augment", "brightness", "contrast", "saturation", "hue"):
        if modality == "flow" and getattr(augment, key):
            raise InputError(
                f"augment.{key}={getattr(augment, key)} with data.modality=flow: flow has no colours; set it to 0"
            )


def check_eval(config: Eval) -> None:
    _check_finite(asdict(config))
    _check_path("checkpoint", config.checkpoint)
    resume_choice(config.resume)
    _check_common(config.data, config.runtime, config.backbone.num_frames)
    _check_dataset(config.dataset)
    _check_backbone(config.backbone)
    _check_protocol("protocol", config.protocol, config.data)
    _choice("split", config.split, ("train", "val", "test"))
    _choice("on_bad_video", config.on_bad_video, ("error", "wrong"))
    _choice("keep_views", config.keep_views, ("always", "never", "auto"))


def check_predict(config: Predict) -> None:
    _check_finite(asdict(config))
    _check_path("checkpoint", config.checkpoint)
    given = config.video if isinstance(config.video, list) else [config.video]
    if not given:
        raise InputError("video=[]: expected one or more files, folders or patterns")
    for each in given:
        _check_path("video", each)
    _check_common(config.data, config.runtime, config.backbone.num_frames)
    _check_backbone(config.backbone)
    _check_protocol("protocol", config.protocol, config.data)
    _positive("top_k", config.top_k)
    if config.start < 0 or (config.end is not None and config.end <= config.start):
        raise InputError(f"start={config.start} end={config.end}: expected seconds with 0 <= start < end")
    if config.stride is not None and config.window is None:
        raise InputError(f"stride={config.stride}: is the distance between windows; add window=SECONDS")
    if config.window is not None:
        from vsn_train.data.times import check_windows

        check_windows(config.window, config.window if config.stride is None else config.stride)
    if config.live:
        if config.stride is not None:
            raise InputError(f"stride={config.stride}: live=true scores every frame that it takes; leave stride out")
        if isinstance(config.video, list):
            raise InputError(f"live=true takes one video, not {len(config.video)}")
        if config.data.modality == "flow":
            raise InputError("live=true, but this network was trained on optical flow; leave live out")


# Far above what anybody trains with, and low enough for a slip, or a foreign file, not to take all memory or time.
MOST_FRAMES = 1024  # of a clip
MOST_PIXELS = 4096  # of a side
MOST_CLIPS = 1000  # of a video
MOST_CLIP_PIXELS = 2**29  # of a clip: 64 frames of 2896 x 2896


def _check_common(data: Data, runtime: Runtime, num_frames: int) -> None:
    _choice("data.decoder", data.decoder, ("auto", "decord", "pyav", "torchcodec"))
    _choice("data.modality", data.modality, ("rgb", "flow"))
    _choice("data.sampling", data.sampling, ("uniform", "dense"))
    _choice("data.balance", data.balance, ("none", "classes"))
    _choice("runtime.device", runtime.device, ("auto", "cpu", "cuda"))
    _choice("runtime.precision", runtime.precision, ("auto", "fp32", "bf16", "fp16"))
    _within("runtime.devices", runtime.devices, 1, 1024)
    _within("runtime.views_per_batch", runtime.views_per_batch, 1, 100_000)
    _within("runtime.threads", runtime.threads, 0, 4096)
    _within("data.workers", data.workers, 0, 1024)
    _within("data.batch_size", data.batch_size, 1, 100_000)
    _within("data.short_side", data.short_side, 1, MOST_PIXELS)
    _within("data.crop_size", data.crop_size, 1, MOST_PIXELS)
    _within("backbone.num_frames", num_frames, 1, MOST_FRAMES)
    if num_frames * data.crop_size**2 > MOST_CLIP_PIXELS:
        raise InputError(
            f"backbone.num_frames={num_frames} with data.crop_size={data.crop_size}: expected at most "
            f"{MOST_CLIP_PIXELS} pixels in a clip; lower one of them"
        )
    _between("data.max_bad_share", data.max_bad_share, 0, 1, "at most 1")
    _not_negative("data.timeout", data.timeout)


def _check_backbone(backbone: Backbone) -> None:
    if isinstance(backbone, OwnOperator):
        _check_function("backbone.operator", backbone.operator)
        if taken := set(backbone.options) & set(OwnOperator.__dataclass_fields__):
            raise InputError(f"backbone.options.{min(taken)}: a key of backbone itself; give the option another name")
    else:
        _choice("backbone.operator", backbone.operator, tuple(BACKBONES))
    _between("backbone.dropout", backbone.dropout, 0, 1, "below 1")


def _check_function(key: str, path: str) -> None:
    if "." not in path:
        raise InputError(f"{key}={path}: expected module.function, such as my_file.my_function")


def _check_dataset(dataset: Dataset) -> None:
    _check_path("dataset.root", dataset.root)
    if isinstance(dataset, OwnDataset):
        _check_function("dataset.loader", dataset.loader)
    if isinstance(dataset, Motion):
        check_seed("dataset.seed", dataset.seed)
        _choice("dataset.variant", dataset.variant, ("direction", "appearance", "order"))
        _within("dataset.train_videos", dataset.train_videos, 1, 10_000_000)
        _within("dataset.val_videos", dataset.val_videos, 1, 10_000_000)
        _within("dataset.size", dataset.size, 1, MOST_PIXELS)
        _within("dataset.num_frames", dataset.num_frames, 1, 100_000)
    if isinstance(dataset, Official):
        _choice("dataset.class_order", dataset.class_order, ("official", "sorted"))
    if isinstance(dataset, OfficialSplits):
        _choice("dataset.split", dataset.split, (1, 2, 3))
    if isinstance(dataset, Custom):
        _choice("dataset.flips", dataset.flips, ("auto", "allowed", "forbidden"))
        _choice("dataset.labels", dataset.labels, ("auto", "names", "indices"))
        _between("dataset.val_share", dataset.val_share, 0, 1, "below 1")
        check_seed("dataset.seed", dataset.seed)
    if isinstance(dataset, Official | Custom):
        _between("dataset.max_missing_share", dataset.max_missing_share, 0, 1, "at most 1")


def _check_protocol(name: str, protocol: Protocol, data: Data) -> None:
    _within(f"{name}.clips", protocol.clips, 1, MOST_CLIPS)
    _choice(f"{name}.placement", protocol.placement, ("uniform", "dense"))
    _choice(f"{name}.crops", protocol.crops, (1, 3, 5, 10))
    _choice(f"{name}.average", protocol.average, ("logits", "probabilities"))
    # The sizes of views follow those of the data where nothing else is said; then those are the keys to type.
    sizes = {key: (getattr(protocol, key), getattr(data, key)) for key in ("short_side", "crop_size")}
    keys = {key: f"{'data' if own == its else name}.{key}" for key, (own, its) in sizes.items()}
    for key, (own, _) in sizes.items():
        _within(keys[key], own, 1, MOST_PIXELS)
    if protocol.short_side < protocol.crop_size:
        raise InputError(
            f"{keys['crop_size']}={protocol.crop_size} is larger than {keys['short_side']}={protocol.short_side}: the "
            "crop would not fit into the resized frame; lower the one or raise the other"
        )


def _choice(key: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise InputError(f"{key}={value}: expected one of {', '.join(map(str, choices))}")


def _within(key: str, value: int, least: int, most: int) -> None:
    if value < least:
        raise InputError(f"{key}={value}: expected {'zero or more' if least == 0 else f'a number above {least - 1}'}")
    if value > most:
        raise InputError(f"{key}={value}: expected at most {most}")


def _positive(key: str, value: float) -> None:
    if not value > 0:
        raise InputError(f"{key}={value}: expected a number above 0")


def _not_negative(key: str, value: float) -> None:
    if value < 0:
        raise InputError(f"{key}={value}: expected zero or more")


def _between(key: str, value: float, low: float, high: float, words: str) -> None:
    if not (low <= value < high or (words.startswith("at most") and value == high)):
        raise InputError(f"{key}={value}: expected a number of at least {low} and {words}")

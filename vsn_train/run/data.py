"""The videos of a split, as the config describes them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vsn_train import config as schema
from vsn_train.atomic import write_atomic
from vsn_train.data.augment import Augmentation
from vsn_train.data.datasets.custom import load_custom
from vsn_train.data.datasets.hmdb51 import load_hmdb51
from vsn_train.data.datasets.jester import load_jester
from vsn_train.data.datasets.kinetics400 import load_kinetics400
from vsn_train.data.datasets.listing import class_name_of
from vsn_train.data.datasets.motion import load_motion
from vsn_train.data.datasets.something_v1 import load_something_v1
from vsn_train.data.datasets.something_v2 import load_something_v2
from vsn_train.data.datasets.ucf101 import load_ucf101
from vsn_train.data.direction import likely_pairs, names_with_direction, undecided
from vsn_train.data.frame_counts import count_frames
from vsn_train.data.loader import TrainingClips
from vsn_train.data.manifest import Manifest, sort_classes
from vsn_train.data.overlap import shared_videos
from vsn_train.data.protocol import Protocol
from vsn_train.data.transforms import CROP_SCALES
from vsn_train.engine.distributed import Process
from vsn_train.errors import InputError
from vsn_train.import_function import import_function
from vsn_train.typed_paths import paste, quoted


def load_manifest(
    dataset: schema.Dataset,
    split: str,
    process: Process,
    data: schema.Data | None = None,
    known_classes: Sequence[str] = (),
) -> Manifest:
    """Read a split and, if dataset.count_frames is set, count its frames; rank 0 counts for all processes.

    data: its modality and workers are used for counting; None: do not count. known_classes: see `load_custom`.
    """
    manifest = read_manifest(dataset, split, process, known_classes)
    if data is None or isinstance(dataset, schema.Motion) or not getattr(dataset, "count_frames", False):
        return manifest
    counted: Manifest | None = None
    unreadable: list[str] = []
    if process.is_main:
        counted, unreadable = count_frames(manifest, data.modality, max(data.workers, 1))
    for cause in unreadable[:3]:
        print(f"cannot read {cause}", file=sys.stderr)
    if len(unreadable) > 3:
        print(f"and {len(unreadable) - 3} more {split} videos cannot be read", file=sys.stderr)
    counts = process.all_gather(None if counted is None else counted.num_frames)[0]
    return replace(manifest, num_frames=counts)


def read_manifest(dataset: schema.Dataset, split: str, process: Process, known_classes: Sequence[str] = ()) -> Manifest:
    root = Path(dataset.root).expanduser()
    if isinstance(dataset, schema.Motion):
        return load_motion(
            root, split, dataset.variant, dataset.seed, dataset.train_videos, dataset.val_videos, dataset.size,
            dataset.num_frames, progress=process.is_main,
        )  # fmt: skip
    if isinstance(dataset, schema.Custom):
        lists = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
        classes = root / dataset.classes if dataset.classes else None
        return load_custom(
            root, split, lists, classes, dataset.flip_pairs, dataset.max_missing_share, dataset.labels,
            dataset.flips, val_share=dataset.val_share, seed=dataset.seed, known_classes=known_classes,
        )  # fmt: skip
    if isinstance(dataset, schema.OwnDataset):
        load_own = import_function(dataset.loader, "dataset.loader")
        manifest = load_own(root, split, **dataset.options)
        if not isinstance(manifest, Manifest):
            raise InputError(
                f"dataset.loader={dataset.loader} returned a {type(manifest).__name__}, expected a Manifest: end it "
                "with return make_manifest(…)"
            )
        return manifest
    assert isinstance(dataset, schema.Official)
    annotations = Path(dataset.annotations).expanduser() if dataset.annotations else None
    share = dataset.max_missing_share
    if isinstance(dataset, schema.OfficialSplits):
        load_split = {"ucf101": load_ucf101, "hmdb51": load_hmdb51}[dataset.name]
        manifest = load_split(root, split, dataset.split, annotations, share)
    else:
        load = {
            "something_v1": load_something_v1,
            "something_v2": load_something_v2,
            "jester": load_jester,
            "kinetics400": load_kinetics400,
        }[dataset.name]
        manifest = load(root, split, annotations, share)
    return sort_classes(manifest) if dataset.class_order == "sorted" else manifest


def check_overlap(train: Manifest, val: Manifest, dataset: schema.Dataset, refuse: bool = True) -> str:
    """The line for the log where the two splits share videos; empty where they do not.

    The lists of published data sets are their authors' and are taken as they are; of those that a loader of one's own
    reads, copies under other names are only reported. Raises InputError for shared videos, unless dataset.allow_overlap
    says that they may be, or refuse is False.
    """
    if not isinstance(dataset, schema.Custom | schema.OwnDataset) or not (shared := shared_videos(train, val)):
        return ""
    copies = sum(each.copy for each in shared)
    kind = "as copies" if copies == len(shared) else f"{copies} of them as copies" if copies else ""
    first = shared[0]
    text = (
        f"{len(shared)} of {len(val)} validation videos are also training videos{f' ({kind})' if kind else ''}, first "
        f"{first.second}"
    )
    text += f", which is {first.first}" if first.first != first.second else ""
    told = dataset.allow_overlap or not refuse or (isinstance(dataset, schema.OwnDataset) and copies == len(shared))
    if told:
        return f"{text}: the validation accuracy overestimates the accuracy on new videos"
    drawn = isinstance(dataset, schema.Custom) and dataset.val_share
    remedy = "remove the copies, which vsn-tools scan names" if drawn else "take them out of one of the two splits"
    raise InputError(
        f"{text}: accuracies would say nothing about new videos; {remedy}, or accept it: dataset.allow_overlap=true"
    )


def note_missing(manifest: Manifest, folder: Path) -> str:
    """Write missing_<split>.txt with the listed videos that do not exist; returns the line for the log, or ""."""
    path = folder / f"missing_{manifest.split}.txt"
    if not manifest.missing:
        path.unlink(missing_ok=True)  # of an evaluation when videos were still missing
        return ""
    write_atomic(path, "".join(f"{each}\n" for each in manifest.missing))
    listed = len(manifest) + len(manifest.missing)
    return (
        f"{len(manifest.missing)} of {listed} {manifest.split} videos are not under {manifest.root} and are left out; "
        f"{path} lists them"
    )


def note_empty_classes(manifest: Manifest) -> str:
    """The line for the log that names the classes without a video; empty if there are none."""
    names = manifest.classes_without_videos()
    if not names:
        return ""
    kind = {"train": "training", "val": "validation"}.get(manifest.split, manifest.split)
    return f"{len(names)} of {len(manifest.class_names)} classes have no {kind} video: {_some(names, 20)}"


def check_classes(manifest: Manifest, trained: list[str], path: str) -> None:
    """Raise InputError if the class order differs from the training's; accuracy would be at chance level."""
    found = list(manifest.class_names)
    if list(map(class_name_of, found)) == list(map(class_name_of, trained)):
        return
    where = next(
        (i for i, (a, b) in enumerate(zip(found, trained, strict=False)) if a != b), min(len(found), len(trained))
    )
    if sorted(found) == sorted(trained):
        remedy = "the same names in another order: set dataset.class_order to that of the training, official or sorted"
    else:
        remedy = "evaluate on the data set of the training"
    raise InputError(
        f"{manifest.name} has {len(found)} classes and {path} was trained on {len(trained)}; they differ first at "
        f"index {where}; {remedy}"
    )


def describe_flips(manifest: Manifest, wanted: bool) -> str:
    """The line for the log: whether training clips are flipped, and why. wanted: augment.flip."""
    names = manifest.class_names
    open_names = undecided(names, manifest.flip_pairs)
    if not wanted:
        return "horizontal flips: off (augment.flip=false)"
    if not manifest.flips_allowed:
        if not open_names:
            return "horizontal flips: off, because the data set forbids them"
        pairs = [pair for pair in likely_pairs(names) if set(pair) & set(open_names)]
        text = "horizontal flips: off, because classes have a direction and no flip pairs are known: "
        text += _some(open_names)
        if manifest.name == "custom":
            known = [(names[left], names[right]) for left, right in manifest.flip_pairs]
            listed = ",".join(f"[{','.join(map(quoted, pair))}]" for pair in [*known, *pairs])
            named = paste(dataset__flip_pairs=f"[{listed}]") if pairs else "dataset.flip_pairs"
            text += f"; set {named} to exchange their labels, or dataset.flips=allowed if a flip changes no class"
        return text
    if open_names:
        return f"horizontal flips: on, because the data set allows them despite {_some(open_names)}"
    if manifest.flip_pairs:
        pairs = [(names[left], names[right]) for left, right in manifest.flip_pairs]
        return f"horizontal flips: on, exchanging labels: {_some([f'{a} <-> {b}' for a, b in pairs])}"
    return "horizontal flips: on, because no class is named after a direction"


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def check_flips(protocol: Protocol, flips_allowed: bool, name: str, class_names: Sequence[str] = ()) -> None:
    """Raise InputError for flipped crops if a flip may change the class and no flip pairs are known."""
    if protocol.crops == 10 and not flips_allowed:
        sides = _some(names_with_direction(class_names))
        raise InputError(
            f"protocol.crops=10 flips every crop, but {name} has classes with a direction"
            f"{f' ({sides})' if sides else ''} and no flip pairs are known; use protocol.crops=5, or a protocol "
            "without flips"
        )


def training_clips(config: schema.Train, manifest: Manifest) -> TrainingClips:
    return TrainingClips(
        manifest,
        config.backbone.num_frames,
        config.data.sampling,
        augmentation_of(config, manifest),
        config.data.decoder,
        config.seed,
        config.data.modality,
    )


def augmentation_of(config: schema.Train, manifest: Manifest) -> Augmentation:
    options = {key: value for key, value in asdict(config.augment).items() if key not in ("mixup", "cutmix")}
    options["scales"] = config.augment.scales or CROP_SCALES[config.data.modality]
    options["flip"] = config.augment.flip and manifest.flips_allowed
    return Augmentation(crop_size=config.data.crop_size, short_side=config.data.short_side, **options)

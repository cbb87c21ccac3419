"""Turns a config into objects with plain arguments. No file below this one sees a config."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vsn_train import __version__
from vsn_train import config as schema
from vsn_train.analysis.report import write_report
from vsn_train.analysis.results import save_results
from vsn_train.analysis.scores import Scores, softmax
from vsn_train.analysis.strip import draw_prediction, jpeg_frames
from vsn_train.data.augment import Augmentation
from vsn_train.data.datasets.custom import load_custom
from vsn_train.data.datasets.hmdb51 import load_hmdb51
from vsn_train.data.datasets.jester import load_jester
from vsn_train.data.datasets.kinetics400 import load_kinetics400
from vsn_train.data.datasets.motion import load_motion
from vsn_train.data.datasets.something_v1 import load_something_v1
from vsn_train.data.datasets.something_v2 import load_something_v2
from vsn_train.data.datasets.ucf101 import load_ucf101
from vsn_train.data.frame_counts import count_frames
from vsn_train.data.inputs import GivenVideos, find_videos
from vsn_train.data.loader import BadVideo, EpochBatches, TestVideos, TrainingClips, test_loader, training_loader
from vsn_train.data.manifest import Manifest, mirrored_labels, sort_classes
from vsn_train.data.protocol import Protocol
from vsn_train.data.transforms import CROP_SCALES
from vsn_train.data.video import VideoError
from vsn_train.engine.checkpoint import file_hash, load_checkpoint, save_checkpoint
from vsn_train.engine.distributed import Process, join_processes
from vsn_train.engine.evaluate import Found, mean_of_views, score_videos, video_groups
from vsn_train.engine.log import RunLog
from vsn_train.engine.optim import build_optimizer, build_schedule
from vsn_train.engine.parts import ScoreParts
from vsn_train.engine.train import Position, autocast_for
from vsn_train.engine.train import train as run_training
from vsn_train.errors import InputError
from vsn_train.models import Recognizer, create_model
from vsn_train.models.weights import load_weights

# A resumed run may differ in these and still be the same run.
FREE_ON_RESUME = ("name", "resume", "runtime", "data.workers", "data.decoder", "schedule.epochs")


def train(config: schema.Train, stored: dict[str, Any], run_folder: Path) -> None:
    """vsn-train in this process, one of those that the launcher started.

    stored: the config as plain types with its interpolations, what a checkpoint keeps. Nothing is written into the
    run folder before data, network and checkpoint have been found to fit.
    """
    with join_processes(config.runtime.device, config.runtime.threads) as process:
        manifest = load_manifest(config.dataset, "train", process, config.data)
        val_manifest = load_manifest(config.dataset, "val", process, config.data)
        torch.manual_seed(config.seed)
        model = build_model(config.backbone, len(manifest.class_names), config.data.modality).to(process.device)
        weights = start_weights(model, config, manifest.class_names)
        use_channels_last(model, config.runtime, process)
        options = config.optimizer
        optimizer = build_optimizer(model, options.lr, options.momentum, options.weight_decay, options.head_lr_factor)
        batches = EpochBatches(len(manifest), config.data.batch_size, process.rank, process.world_size, config.seed)
        position = Position()
        last = run_folder / "checkpoints" / "last.pt"
        if config.resume:
            resume(last, stored, model, optimizer, position)
        elif last.exists():
            raise InputError(
                f"{run_folder} already holds a run; go on with it (resume=true) or choose another hydra.run.dir"
            )

        schedule = build_schedule(
            optimizer,
            len(batches),
            config.schedule.epochs,
            config.schedule.warmup_epochs,
            config.schedule.milestones if isinstance(config.schedule, schema.Step) else [],
            config.schedule.factor if isinstance(config.schedule, schema.Step) else 1.0,
            position.step,
        )

        log = RunLog(run_folder if process.is_main else None, position.step)
        if process.is_main:
            write_config(run_folder, stored)
        log.line(
            f"{config.name}: {len(manifest)} training and {len(val_manifest)} validation videos of "
            f"{len(manifest.class_names)} classes, {process.world_size} process(es) on {process.device.type}, "
            f"run folder {run_folder}"
        )
        for each in (manifest, val_manifest):
            if process.is_main and (line := note_missing(each, run_folder)):
                log.line(line)
        if config.augment.flip and not manifest.flips_allowed:
            log.line("training without mirrors: they would change classes into ones that are not known (flip pairs)")
        log.line(f"weights: {weights}" if not position.step else f"resumed after epoch {position.epoch} from {last}")
        autocast = autocast_for(config.runtime.precision, process.device)
        loader = training_loader(
            TrainingClips(
                manifest,
                config.backbone.num_frames,
                config.data.sampling,
                augmentation_of(config, manifest),
                config.data.decoder,
                config.seed,
                config.data.modality,
            ),
            batches,
            config.data.workers,
            pin_memory=process.device.type == "cuda",
        )
        validate = Evaluation(model, val_manifest, config.validation, config, process, autocast)

        def end_of_epoch(position: Position) -> None:
            process.share_buffers(model)
            name = config.validation.name(config.data.short_side, config.data.crop_size)
            scores = validate("validate", {"protocol": {"name": name, **asdict(config.validation)}})
            top1, top5 = scores.top1(), scores.top5()
            log.line(f"epoch {position.epoch}/{config.schedule.epochs}  val {describe(scores, name)}")
            log.metrics(
                "val", position.epoch, position.step, loss=scores.loss(), top1=top1, top5=top5, n=len(scores),
                protocol=name, manifest=val_manifest.content_hash(), checkpoint=f"epoch {position.epoch}",
            )  # fmt: skip
            is_best = top1 > position.best_top1
            position.best_top1 = max(top1, position.best_top1)
            if process.is_main:
                content = {
                    "version": __version__,
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    **asdict(position),
                    "config": stored,
                    "class_names": list(manifest.class_names),
                    "flip_pairs": [list(pair) for pair in manifest.flip_pairs],
                    "flips_allowed": manifest.flips_allowed,
                }
                if is_best:
                    save_checkpoint(last.with_name("best.pt"), content)
                save_checkpoint(last, content)

        network: nn.Module = torch.compile(model) if config.runtime.compile else model  # type: ignore[assignment]
        if process.world_size > 1:
            network = DistributedDataParallel(network)
        run_training(
            network,
            loader,
            batches,
            optimizer,
            schedule,
            position,
            end_of_epoch,
            process,
            log,
            epochs=config.schedule.epochs,
            clip_norm=options.clip_norm,
            autocast=autocast,
            seed=config.seed,
            log_every=config.runtime.log_every,
            max_bad_share=config.data.max_bad_share,
            mixup=config.augment.mixup,
            cutmix=config.augment.cutmix,
        )
        log.line(f"done: best val top1 {position.best_top1:.2f}; vsn-eval checkpoint={last.with_name('best.pt')}")
        log.close()


def evaluate(config: schema.Eval, run_folder: Path) -> None:
    """vsn-eval in this process: writes eval/<protocol>/{metrics.json,scores.npz,report.html} into the run folder."""
    checkpoint = load_checkpoint(Path(config.checkpoint))
    with join_processes(config.runtime.device, config.runtime.threads) as process:
        manifest = load_manifest(config.dataset, config.split, process, config.data)
        check_classes(manifest, checkpoint["class_names"], config.checkpoint)
        model = model_of(checkpoint, config.backbone, config.data.modality, config.checkpoint).to(process.device)
        use_channels_last(model, config.runtime, process)
        trained = OmegaConf.create(checkpoint["config"]).data  # a size changed on the command line shows in the name
        name = config.protocol.name(trained.short_side, trained.crop_size)
        facts = {
            "dataset": manifest.name,
            "split": manifest.split,
            "official_split": getattr(config.dataset, "split", None),  # of UCF101 and HMDB51
            "missing": len(manifest.missing),
            "protocol": {"name": name, **asdict(config.protocol)},
            "num_frames": config.backbone.num_frames,
            "epoch": checkpoint["epoch"],
            "manifest": manifest.content_hash(),
            "checkpoint": file_hash(Path(config.checkpoint)),
            "computed": {
                "device": process.device.type,
                "precision": config.runtime.precision,
                "views_per_batch": config.runtime.views_per_batch,
            },
            "versions": versions(),
        }
        folder = run_folder / "eval" / (name if config.split == "val" else f"{name}_{config.split}")
        parts = ScoreParts(folder / "parts", facts)
        if process.is_main and not config.resume:
            parts.remove()
        done: Found = dict(parts.read()) if process.is_main else {}
        finished = process.gather(list(done))[0]  # also: nobody writes a part before the old ones are gone
        autocast = autocast_for(config.runtime.precision, process.device)
        evaluation = Evaluation(
            model, manifest, config.protocol, config, process, autocast,
            keep_views=views_are_kept(config, len(manifest), len(manifest.class_names)), done=finished,
        )  # fmt: skip
        scores = evaluation("evaluate", facts, parts, done)
        if process.is_main:
            save_results(folder, scores, {"epoch": checkpoint["epoch"], "step": checkpoint["step"]})
            parts.remove()
            if config.report:
                details: dict[str, Any] = {"config": OmegaConf.to_yaml(OmegaConf.structured(config))}
                details["environment"] = environment()
                write_report(folder / "report.html", scores, frames_of(manifest, config.data), details)
            print(f"checkpoint {config.checkpoint}: epoch {checkpoint['epoch']}, {facts['checkpoint']}")
            print(f"manifest {facts['manifest']}")
            if line := note_missing(manifest, folder):
                print(line)
            written = sorted(path.name for path in folder.iterdir())
            print(f"run folder {run_folder}: {folder.relative_to(run_folder)}/ {', '.join(written)}")


def predict(config: schema.Predict, run_folder: Path) -> None:
    """vsn-predict: prints the best classes of each video; writes prediction.json and a picture of each.

    Raises VideoError for a single video that cannot be read; of several, InputError after the others are done.
    """
    checkpoint = load_checkpoint(Path(config.checkpoint))
    protocol, names = config.protocol, checkpoint["class_names"]
    check_mirrors(protocol, checkpoint.get("flips_allowed", True), "the checkpoint's data set")
    paths = find_videos(config.video)
    with join_processes(config.runtime.device, config.runtime.threads) as process:
        model = model_of(checkpoint, config.backbone, config.data.modality, config.checkpoint).to(process.device)
        use_channels_last(model, config.runtime, process)
        videos = GivenVideos(
            paths, model.num_frames, protocol.clips, protocol.placement, protocol.short_side, config.data.decoder,
            config.data.modality, config.start, config.end,
        )  # fmt: skip
        workers = config.data.workers if len(paths) > 1 else 0
        trained = OmegaConf.create(checkpoint["config"]).data
        protocol_name = protocol.name(trained.short_side, trained.crop_size)
        predictions: list[dict[str, Any]] = []
        for path, (video,) in zip(paths, test_loader(videos, [[i] for i in range(len(paths))], workers), strict=True):
            found = score_videos(
                model, [[video]], 1, process, lambda results: None, protocol=protocol,
                mirrored_labels=mirrored_labels(len(names), checkpoint["flip_pairs"]),
                views_per_batch=config.runtime.views_per_batch, keep_views=False,
                on_bad_video="error" if len(paths) == 1 else "wrong",
                autocast=autocast_for(config.runtime.precision, process.device), title="",
            )[video.index]  # fmt: skip
            if isinstance(video, BadVideo) or isinstance(found, BadVideo):
                predictions.append({"video": str(path), "error": video.cause})
                continue
            shares = found[0] if protocol.average == "probabilities" else softmax(found[0])
            best = [(names[index], int(index), float(shares[index])) for index in np.argsort(-shares, kind="stable")]
            run_folder.mkdir(parents=True, exist_ok=True)
            picture = run_folder / (f"{len(predictions):04d}_{path.stem}.png" if len(paths) > 1 else "prediction.png")
            draw_prediction(picture, path, video, best[:5], protocol_name)
            print_bars(str(path) if len(paths) > 1 else "", best[: config.top_k])
            classes = [{"name": name, "index": index, "probability": share} for name, index, share in best]
            clips = video.numbers[video.clips].tolist()
            predictions.append(
                {"video": str(path), "frames": clips, "picture": picture.name, "classes": classes[: config.top_k]}
            )
    facts = {"checkpoint": config.checkpoint, "protocol": protocol_name, "start": config.start, "end": config.end}
    path = run_folder / "prediction.json"
    run_folder.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(facts | {"predictions": predictions}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(f"written: {path} and {len(predictions)} picture{'s' if len(predictions) > 1 else ''}")
    if bad := [each for each in predictions if "error" in each]:
        raise InputError(
            f"{len(bad)} of {len(paths)} videos could not be read, first {bad[0]['video']}: {bad[0]['error']}; the "
            f"others are in {path}"
        )


def print_bars(title: str, best: list[tuple[str, int, float]]) -> None:
    """title: a line above, where there is one. best: (name, index, share) of the classes to show."""
    if title:
        print(title)
    width = max(len(name) for name, _, _ in best)
    for name, _, share in best:
        print(f"{name:<{width}}  {100 * share:5.1f} %  {'█' * round(40 * share)}")


def load_manifest(dataset: schema.Dataset, split: str, process: Process, data: schema.Data | None = None) -> Manifest:
    """data: for counting frames, where dataset.count_frames asks for it; None leaves that out."""
    manifest = read_manifest(dataset, split, process)
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
    counts = process.gather(None if counted is None else counted.num_frames)[0]
    return replace(manifest, num_frames=counts)


def read_manifest(dataset: schema.Dataset, split: str, process: Process) -> Manifest:
    root = Path(dataset.root).expanduser()
    if isinstance(dataset, schema.Motion):
        return load_motion(
            root, split, dataset.variant, dataset.seed, dataset.train_videos, dataset.val_videos, dataset.size,
            dataset.num_frames, progress=process.is_main,
        )  # fmt: skip
    if isinstance(dataset, schema.Custom):
        lists = {"train": dataset.train, "val": dataset.val, "test": dataset.test}
        classes = root / dataset.classes if dataset.classes else None
        return load_custom(root, split, lists, classes, dataset.flip_pairs, dataset.max_missing_share)
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


def note_missing(manifest: Manifest, folder: Path) -> str:
    """Write missing_<split>.txt, the listed videos that are not there; the line for the log, empty if all are."""
    path = folder / f"missing_{manifest.split}.txt"
    if not manifest.missing:
        path.unlink(missing_ok=True)  # of an evaluation before the folder was completed
        return ""
    path.write_text("".join(f"{each}\n" for each in manifest.missing), encoding="utf-8")
    listed = len(manifest) + len(manifest.missing)
    return (
        f"{len(manifest.missing)} of {listed} {manifest.split} videos are not under {manifest.root} and are left out; "
        f"{path} names them"
    )


def augmentation_of(config: schema.Train, manifest: Manifest) -> Augmentation:
    options = {key: value for key, value in asdict(config.augment).items() if key not in ("mixup", "cutmix")}
    options["scales"] = config.augment.scales or CROP_SCALES[config.data.modality]
    options["flip"] = config.augment.flip and manifest.flips_allowed
    return Augmentation(crop_size=config.data.crop_size, short_side=config.data.short_side, **options)


def build_model(backbone: schema.Backbone, num_classes: int, modality: str) -> Recognizer:
    return create_model(num_classes=num_classes, modality=modality, **asdict(backbone))


def start_weights(model: Recognizer, config: schema.Train, class_names: Sequence[str]) -> str:
    """Load config.weights where it is set. Returns what became of its tensors, for the log."""
    if not config.weights:
        return "none: random start"
    order = config.weights_class_order
    if order is not None and order != "sorted":
        if not Path(order).is_file():
            raise InputError(f"weights_class_order={order}: no such file; expected sorted, or one class name a line")
        names = [line.strip() for line in Path(order).read_text(encoding="utf-8").splitlines() if line.strip()]
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


def model_of(checkpoint: dict[str, Any], backbone: schema.Backbone, modality: str, path: str) -> Recognizer:
    """The checkpoint's network. Raises InputError where the command line asks for another one."""
    trained = checkpoint["config"]["data"].get("modality", "rgb")
    if modality != trained:
        raise InputError(
            f"data.modality={modality}, but {path} was trained on {trained}; leave data.modality out, or take a "
            f"checkpoint that was trained on {modality}"
        )
    for key, asked in asdict(backbone).items():
        trained = checkpoint["config"]["backbone"][key]
        if asked != trained:
            raise InputError(
                f"backbone.{key}={asked}, but {path} was trained with {trained}; leave backbone.{key} out, or train "
                "with the other value"
            )
    model = build_model(backbone, len(checkpoint["class_names"]), modality)
    model.load_state_dict(checkpoint["model"])
    return model


def use_channels_last(model: nn.Module, runtime: schema.Runtime, process: Process) -> None:
    wanted = runtime.channels_last
    if wanted or (wanted is None and process.device.type == "cuda"):
        model.to(memory_format=torch.channels_last)


class Evaluation:
    """One split under one protocol, as often as asked: worker processes stay between validations.

    done: videos whose scores are known already, from an evaluation that was interrupted.
    """

    def __init__(
        self,
        model: nn.Module,
        manifest: Manifest,
        protocol: Protocol,
        config: schema.Train | schema.Eval,
        process: Process,
        autocast: torch.autocast,
        keep_views: bool = False,
        done: Collection[int] = (),
    ) -> None:
        check_mirrors(protocol, manifest.flips_allowed, manifest.name)
        self.model, self.manifest, self.process, self.keep_views = model, manifest, process, keep_views
        self.options: dict[str, Any] = {
            "protocol": protocol,
            "mirrored_labels": manifest.mirrored_labels(),
            "views_per_batch": config.runtime.views_per_batch,
            "keep_views": keep_views,
            "on_bad_video": config.on_bad_video,
            "autocast": autocast,
        }
        groups = video_groups(len(manifest), protocol.views, config.runtime.views_per_batch, process, set(done))
        videos = TestVideos(
            manifest, config.backbone.num_frames, protocol.clips, protocol.placement, protocol.short_side,
            config.data.decoder, config.data.modality,
        )  # fmt: skip
        self.loader, self.total = test_loader(videos, groups, config.data.workers), len(groups)

    def __call__(
        self, title: str, facts: dict[str, Any], parts: ScoreParts | None = None, done: Found | None = None
    ) -> Scores:
        """Every video's scores, over all processes. done: what `done` above stands for, on the main process."""
        store = parts.add if parts else lambda results: None
        mine = score_videos(self.model, self.loader, self.total, self.process, store, title=title, **self.options)
        if parts:
            parts.flush()
        found = dict(done or {})
        for results in self.process.gather(mine):
            found |= results
        return scores_of(self.manifest, found, self.keep_views, facts)


def scores_of(manifest: Manifest, found: Found, keep_views: bool, facts: dict[str, Any]) -> Scores:
    """Each video once, in the order of the manifest. An unreadable one has NaN for scores and is named in the facts."""
    bad = [video for _, video in sorted(found.items()) if isinstance(video, BadVideo)]
    rows = [video for video in found.values() if not isinstance(video, BadVideo)]
    if not rows:
        raise VideoError(bad[0].path, f"{bad[0].cause}; nor can any other of the {len(manifest)} videos be read")
    nothing = np.full_like(rows[0], np.nan)
    videos = range(len(manifest))
    views = np.stack([nothing if isinstance(video := found[i], BadVideo) else video for i in videos])
    return Scores(
        np.array([manifest.sample_id(index) for index in videos]),
        manifest.labels,
        mean_of_views(views),
        np.array(manifest.class_names),
        facts | {"bad_videos": [{"id": manifest.sample_id(each.index), "cause": each.cause} for each in bad]},
        views if keep_views else None,
    )


def frames_of(manifest: Manifest, data: schema.Data) -> Callable[[int], list[bytes]]:
    """Index of a video -> some of its frames as JPEG files, for the report."""
    return lambda index: jpeg_frames(manifest.path(index), 6, 96, data.decoder, data.modality)


def views_are_kept(config: schema.Eval, videos: int, classes: int) -> bool:
    megabytes = videos * config.protocol.views * classes * 4 / 2**20
    wanted = config.keep_views == "always" or (config.keep_views == "auto" and megabytes <= 512)
    return wanted and config.protocol.views > 1


def check_mirrors(protocol: Protocol, flips_allowed: bool, name: str) -> None:
    """Refuse mirrored crops where a mirror image may be of another class that nobody named."""
    if protocol.crops == 10 and not flips_allowed:
        raise InputError(
            f"protocol.crops=10 mirrors every crop, but {name} has classes that differ in direction and their pairs "
            "are not known; use protocol.crops=5, or a protocol without mirrors"
        )


def describe(scores: Scores, protocol: str) -> str:
    return f"top1 {scores.top1():.2f}  top5 {scores.top5():.2f}  (n={len(scores)}, {protocol})"


def check_classes(manifest: Manifest, trained: list[str], path: str) -> None:
    """Scores of another class order look like chance; refuse instead."""
    found = list(manifest.class_names)
    if found == trained:
        return
    where = next(
        (i for i, (a, b) in enumerate(zip(found, trained, strict=False)) if a != b), min(len(found), len(trained))
    )
    if sorted(found) == sorted(trained):
        remedy = "the same names in another order: set dataset.class_order to that of the training, official or sorted"
    else:
        remedy = "evaluate on the data set that it was trained on"
    raise InputError(
        f"{manifest.name} has {len(found)} classes and {path} was trained on {len(trained)}; they differ first at "
        f"index {where}; {remedy}"
    )


def resume(
    path: Path, stored: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer, position: Position
) -> None:
    """Put everything back to where the run stood. Raises InputError when the config is another run's."""
    checkpoint = load_checkpoint(path)
    before, now = flatten(checkpoint["config"]), flatten(stored)
    changed = [
        f"{key} (was {before.get(key)}, is {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE_ON_RESUME)
    ]
    if changed:
        raise InputError(
            f"resume=true, but the config differs from that of {path}: {', '.join(changed)}; set it back, or start a "
            "new run without resume=true"
        )
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    position.epoch, position.step = checkpoint["epoch"], checkpoint["step"]
    position.best_top1 = checkpoint["best_top1"]


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def versions() -> dict[str, str]:
    """Of what decides numbers: this program, torch, torchvision and the decoders."""
    found = {"vsn-train": __version__, "python": platform.python_version()}
    for package in ("torch", "torchvision", "decord", "av", "torchcodec", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # decord has no wheel for some platforms
    return found


def write_config(run_folder: Path, stored: dict[str, Any]) -> None:
    """config.yaml and environment.json: what was asked for and where it ran."""
    OmegaConf.save(OmegaConf.create(stored), run_folder / "config.yaml")
    (run_folder / "environment.json").write_text(json.dumps(environment(), indent=2) + "\n")


def environment() -> dict[str, Any]:
    return {
        "command": sys.argv,
        "versions": versions(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }

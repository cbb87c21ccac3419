"""Turns a config into objects with plain arguments. No file below this one sees a config."""

from __future__ import annotations

import copy
import importlib.metadata
import json
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

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
from vsn_train.data.loader import Batch, EpochBatches, TestVideos, TrainingClips, test_loader, training_loader
from vsn_train.data.manifest import Manifest, mirrored_labels, sort_classes
from vsn_train.data.protocol import Protocol
from vsn_train.data.transforms import CROP_SCALES, normalize
from vsn_train.data.video import VideoError
from vsn_train.data.workers import BadVideo, Loader
from vsn_train.engine.check import describe_batch, loader_rate, model_rate, save_contact_sheet, what_limits
from vsn_train.engine.checkpoint import Checkpoints, Position, file_hash, load_checkpoint, newest_checkpoint
from vsn_train.engine.distributed import Process, join_processes, launch_id, launched_before
from vsn_train.engine.evaluate import Found, mean_of_views, score_videos, video_groups
from vsn_train.engine.interrupts import Interrupts
from vsn_train.engine.log import QUARANTINE, RunLog
from vsn_train.engine.optim import Schedule, build_adamw, build_average, build_sgd, lr_factor, scaled_lr
from vsn_train.engine.parts import ScoreParts
from vsn_train.engine.pictures import confusion_picture
from vsn_train.engine.speed import (
    allow_tf32,
    autocast_for,
    fastest_choices,
    peak_memory,
    recompute_blocks,
    resolve_precision,
    scaler_for,
)
from vsn_train.engine.train import train as run_training
from vsn_train.errors import InputError
from vsn_train.import_function import import_function
from vsn_train.models import Recognizer, create_model
from vsn_train.models.layouts import mixing_of
from vsn_train.models.weights import load_weights

# A resumed run may differ in these and still be the same run.
FREE_ON_RESUME = (
    "name", "resume", "check", "runtime.", "checkpoints.", "data.workers", "data.decoder", "data.timeout",
    "data.max_bad_share", "schedule.epochs", "schedule.patience",
)  # fmt: skip
# Of these, the ones that change how sums are rounded.
ROUNDING = ("device", "precision", "channels_last", "compile", "tf32", "fused_optimizer", "sync_bn", "threads")


def train(config: schema.Train, stored: dict[str, Any], run_folder: Path) -> None:
    """vsn-train in this process, one of those that the launcher started.

    stored: the config as plain types with its interpolations, what a checkpoint keeps. Nothing is written into the
    run folder before data, network and checkpoint have been found to fit.
    """
    options, runtime = config.optimizer, config.runtime
    with join_processes(runtime.device, runtime.threads) as process:
        manifest = load_manifest(config.dataset, "train", process, config.data)
        val_manifest = load_manifest(config.dataset, "val", process, config.data)
        torch.manual_seed(config.seed)
        model = build_model(config.backbone, len(manifest.class_names), config.data.modality).to(process.device)
        weights = start_weights(model, config, manifest.class_names)
        batches = EpochBatches(
            len(manifest), config.data.batch_size, process.rank, process.world_size, config.seed, options.accumulate
        )
        if config.check:
            check_training(config, manifest, val_manifest, model, batches, process, run_folder)
            return
        folder = run_folder / "checkpoints"
        found, notes = process.main_does(
            lambda: find_checkpoint(config.resume or launched_before(run_folder), folder, stored, batches.step_videos)
        )
        choices, reasons = choose_speed(config, model, process, found["choices"] if found else None)
        runtime = replace(runtime, **choices)
        model = prepare_model(model, runtime, process)
        lr = scaled_lr(options.lr, batches.step_videos, options.reference_batch)
        optimizer = build_optimizer(options, model, lr, runtime, process)
        schedule = Schedule(optimizer, schedule_factor(config.schedule, len(batches)))
        scaler = scaler_for(runtime.precision, process.device)
        average = build_average(model, options.ema) if options.ema else None
        position = Position()
        if found:
            restore(found, model, optimizer, scaler, average, position)
            notes += not_bit_identical(found, stored["runtime"] | choices, batches, process)
        schedule.step(position.epoch * len(batches) + batches.steps_in(position.videos))

        log = RunLog(
            run_folder if process.is_main else None,
            position.step,
            found["metrics_bytes"] if found else 0,
            run_folder / f"log_rank{process.rank}.txt" if runtime.rank_logs else None,
        )
        clips = training_clips(config, manifest)
        loader = training_loader(clips, batches, config.data.workers, config.data.timeout)
        loader.quarantine |= process.main_does(lambda: read_quarantine(run_folder, clips))
        log.quarantined |= loader.quarantine.keys()
        autocast = autocast_for(runtime.precision, process.device)
        evaluation = Evaluation(
            average.module if average else model, val_manifest, config.validation, config, process, autocast
        )

        def content() -> dict[str, Any]:
            return {
                "version": __version__,
                "model": model.state_dict(),
                "average": average.module.state_dict() if average else None,
                "optimizer": optimizer.state_dict(),
                "scaler": scaler.state_dict(),
                "processes": process.world_size,
                "step_videos": batches.step_videos,
                "choices": choices,
                "metrics_bytes": log.flush(),
                "config": stored,
                "class_names": list(manifest.class_names),
                "flip_pairs": [list(pair) for pair in manifest.flip_pairs],
                "flips_allowed": manifest.flips_allowed,
                "mixing": mixing_of(model),
            }

        interrupts, saving = Interrupts(), config.checkpoints
        checkpoints = Checkpoints(
            folder, content, process.is_main, saving.every_steps, saving.every_minutes, saving.keep_best,
            saving.milestones,
        )  # fmt: skip

        def validate(position: Position) -> float:
            process.share_buffers(evaluation.model)
            name = config.validation.name(config.data.short_side, config.data.crop_size)
            with interrupts.raised_at_once():  # only where nothing has been logged yet: the validation is done again
                scores = evaluation("validate", {"protocol": {"name": name, **asdict(config.validation)}})
            epoch = position.epoch + 1
            top1, top5 = scores.top1(), scores.top5()
            log.line(f"epoch {epoch}/{config.schedule.epochs}  val {describe(scores, name)}")
            log.metrics(
                "val", epoch, position.step, loss=scores.loss(), top1=top1, top5=top5, n=len(scores),
                protocol=name, manifest=val_manifest.content_hash(), checkpoint=f"epoch {epoch}",
            )  # fmt: skip
            log.picture("confusion", position.step, confusion_picture(scores.confusion()))
            return top1

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
        log.line(f"weights: {weights}" if not found else f"resumed {describe_position(position, len(batches))}")
        for line in (*notes, *reasons, describe_step(config, batches, lr, process)):
            log.line(line)
        network: nn.Module = torch.compile(model) if runtime.compile else model  # type: ignore[assignment]
        if process.world_size > 1:
            # Of 1x1 kernels, whose strides can be written in two ways.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            network = DistributedDataParallel(
                network, gradient_as_bucket_view=runtime.gradient_as_bucket_view, static_graph=runtime.static_graph
            )
        started = time.monotonic()
        with interrupts.caught(), closing(loader), closing(evaluation.loader):
            if not position.step:
                log.settings(flatten(stored))
            if not found:
                # At once: a full disk or a folder that cannot be written to is better found now than after an epoch.
                checkpoints.save(position)
            run_training(
                network,
                loader,
                batches,
                optimizer,
                schedule,
                scaler,
                average,
                position,
                validate,
                checkpoints,
                interrupts,
                process,
                log,
                epochs=config.schedule.epochs,
                clip_norm=options.clip_norm,
                autocast=autocast,
                seed=config.seed,
                log_every=runtime.log_every,
                max_bad_share=config.data.max_bad_share,
                label_smoothing=options.label_smoothing,
                mixup=config.augment.mixup,
                cutmix=config.augment.cutmix,
                patience=config.schedule.patience,
                prefetch=runtime.prefetch,
            )
            checkpoints.wait()
        for line in final_summary(config, position, loader, log, folder, time.monotonic() - started):
            log.line(line)
        log.close()


def evaluate(config: schema.Eval, run_folder: Path) -> None:
    """vsn-eval in this process: writes eval/<protocol>/{metrics.json,scores.npz,report.html} into the run folder."""
    checkpoint = load_checkpoint(Path(config.checkpoint))
    with join_processes(config.runtime.device, config.runtime.threads) as process:
        manifest = load_manifest(config.dataset, config.split, process, config.data)
        check_classes(manifest, checkpoint["class_names"], config.checkpoint)
        model = model_of(checkpoint, config.backbone, config.data.modality, config.checkpoint).to(process.device)
        use_channels_last(model, config.runtime, process, inference=True)
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
        use_channels_last(model, config.runtime, process, inference=True)
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
                causes = [each.cause for each in (video, found) if isinstance(each, BadVideo)]
                predictions.append({"video": str(path), "error": causes[0]})
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
    if isinstance(dataset, schema.OwnDataset):
        load_own = import_function(dataset.loader, "dataset.loader")
        manifest = load_own(root, split, **dataset.options)
        if not isinstance(manifest, Manifest):
            raise InputError(
                f"dataset.loader={dataset.loader} gave a {type(manifest).__name__}, expected a Manifest: end it with "
                "return make_manifest(…)"
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
    arguments = asdict(backbone)
    if isinstance(backbone, schema.OwnOperator):
        arguments |= arguments.pop("options")
        arguments["operator"] = import_function(backbone.operator, "backbone.operator")
    return create_model(num_classes=num_classes, modality=modality, **arguments)


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
    model.load_state_dict(checkpoint["average"] or checkpoint["model"])
    return model


def use_channels_last(model: nn.Module, runtime: schema.Runtime, process: Process, inference: bool = False) -> None:
    """inference: a CPU, too, then takes it where the user leaves it open; docs/evaluation.md has the times."""
    wanted = runtime.channels_last
    if wanted or (wanted is None and (inference or process.device.type == "cuda")):
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
        self.loader = test_loader(videos, groups, config.data.workers, config.data.timeout)
        self.total = len(groups)

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


def check_training(
    config: schema.Train,
    manifest: Manifest,
    val_manifest: Manifest,
    model: Recognizer,
    batches: EpochBatches,
    process: Process,
    run_folder: Path,
) -> None:
    """check=true: two batches of training and validation, what limits the speed, and a picture of the clips."""
    autocast, names = autocast_for(config.runtime.precision, process.device), manifest.class_names
    model = prepare_model(model, config.runtime, process).train()
    loader = training_loader(training_clips(config, manifest), batches, config.data.workers, config.data.timeout)
    evaluation = Evaluation(model, val_manifest, config.validation, config, process, autocast)
    with closing(loader), closing(evaluation.loader):
        first = list(islice(loader, 2))
        lines = [line for number, batch in enumerate(first) for line in describe_batch(f"train {number}", batch, names)]
        for number, group in enumerate(islice(evaluation.loader, 2)):
            for video in group:
                what = (
                    video.cause if isinstance(video, BadVideo) else f"frames {tuple(video.frames.shape)} (U, C, H, W)"
                )
                views = config.validation.clips * config.validation.crops
                lines.append(f"val {number}: {val_manifest.sample_id(video.index)}: {what}, {views} view(s)")
        loading = loader_rate(loader, min(len(batches) * config.optimizer.accumulate, 4 + 4 * config.data.workers))
    batch = max(first, key=lambda each: each.size)
    clip, label = normalize(batch.video.to(process.device)), batch.label.to(process.device)

    def step() -> float:
        model.zero_grad()
        with autocast:
            logits = model(clip)
        loss = torch.nn.functional.cross_entropy(logits.float(), label)
        loss.backward()
        return float(loss.detach())  # waits for the device

    training = model_rate(step, len(label))
    lines.append(f"model: loss of the first step {step():.3f} (chance {np.log(len(names)):.3f})")
    lines.append(f"memory: at most {peak_memory(process.device):.2f} GiB so far")
    lines.append(what_limits(loading, training, config.data.workers))
    if not process.is_main:
        return
    sheet = run_folder / "check.png"
    save_contact_sheet(sheet, batch.video, [names[index] for index in batch.label.tolist()])
    print("\n".join([*lines, f"what the network sees: {sheet}"]))


def find_checkpoint(
    resume: bool, folder: Path, stored: dict[str, Any], step_videos: int
) -> tuple[dict[str, Any] | None, list[str]]:
    """What to go on from, if anything, and lines for the log.

    Raises InputError when a run is there and resume=true is not, or the config is another run's.
    """
    if not resume:
        if (folder / "last.pt").exists():
            raise InputError(
                f"{folder.parent} already holds a run; go on with it (resume=true) or choose another hydra.run.dir"
            )
        return None, []
    path, checkpoint, passed_over = newest_checkpoint(folder)
    before, now = flatten(checkpoint["config"]), flatten(stored)
    changed = [
        f"{key} (was {before.get(key)}, is {now.get(key)})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(FREE_ON_RESUME)
    ]
    # How a step's videos are divided may change with the number of processes, as long as they are the same videos.
    divided = all(line.startswith(("data.batch_size ", "optimizer.accumulate ")) for line in changed)
    if changed and not (divided and checkpoint["step_videos"] == step_videos):
        raise InputError(
            f"resume=true, but the config differs from that of {path}: {', '.join(changed)}; set it back, or start a "
            "new run without resume=true"
        )
    return checkpoint, [*(f"passed over: {text}" for text in passed_over), f"going on from {path}"]


def restore(
    checkpoint: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: AveragedModel | None,
    position: Position,
) -> None:
    """Put everything back to where the run stood."""
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    if scaler.is_enabled() and checkpoint["scaler"]:
        scaler.load_state_dict(checkpoint["scaler"])
    if average is not None and checkpoint["average"]:
        average.module.load_state_dict(checkpoint["average"])
        average.n_averaged.fill_(checkpoint["step"])
    for key in asdict(position):
        setattr(position, key, checkpoint[key])


def not_bit_identical(
    checkpoint: dict[str, Any], now: dict[str, Any], batches: EpochBatches, process: Process
) -> list[str]:
    """For the log: what keeps a resumed run from giving the very bits of one that was never stopped."""
    before = checkpoint["config"]["runtime"] | checkpoint["choices"]
    changed = [f"runtime.{key} {now[key]} (was {before.get(key)})" for key in ROUNDING if before.get(key) != now[key]]
    if process.world_size != checkpoint["processes"]:
        changed.insert(0, f"{process.world_size} process(es) (was {checkpoint['processes']})")
    lines = []
    if changed:
        lines.append(
            f"now {', '.join(changed)}: the videos come in the same order, but sums are rounded in another one, and "
            "dropout differs between processes, so that the weights will not be bit-identical to those of a run that "
            "was never stopped"
        )
    if batches.step_videos != checkpoint["step_videos"]:
        lines.append(
            f"now {batches.step_videos} videos a step (was {checkpoint['step_videos']}): another training from here on"
        )
    return lines


def describe_position(position: Position, steps: int) -> str:
    text = f"after epoch {position.epoch} (step {position.step})"
    return text + (f", {position.videos} videos into the next one" if position.videos else "")


def describe_step(config: schema.Train, batches: EpochBatches, lr: float, process: Process) -> str:
    """For the log: effective batch and learning rate."""
    options = config.optimizer
    text = (
        f"a step: {config.data.batch_size} videos x {process.world_size} process(es) x {options.accumulate} = "
        f"{batches.step_videos} videos, {len(batches)} steps an epoch; learning rate {lr:.6g}"
    )
    if options.reference_batch:
        return (
            f"{text} = {options.lr:g} x {batches.step_videos} / {options.reference_batch} (optimizer.reference_batch)"
        )
    return f"{text}, not scaled with the batch (optimizer.reference_batch=0)"


def final_summary(
    config: schema.Train, position: Position, loader: Loader[Batch], log: RunLog, folder: Path, seconds: float
) -> list[str]:
    """What the terminal shows at the end."""
    top1, epoch = position.best[0]
    protocol = config.validation.name(config.data.short_side, config.data.crop_size)
    lines = [f"done: {position.epoch} epochs, {position.step} steps; this launch took {seconds / 60:.1f} min"]
    if position.epoch < config.schedule.epochs:
        lines.append(
            f"ended early: no better validation for {position.epochs_without_better} epochs "
            f"(schedule.patience={config.schedule.patience})"
        )
    lines.append(
        f"best val top1 {top1:.2f} after epoch {epoch} ({protocol}"
        f"{', averaged weights' if config.optimizer.ema else ''})"
    )
    if loader.quarantine:
        lines.append(f"{len(loader.quarantine)} clips took their worker along: {folder.parent / QUARANTINE}")
    return [*lines, f"evaluate: vsn-eval checkpoint={folder / 'best.pt'}"]


def read_quarantine(run_folder: Path, clips: TrainingClips) -> dict[int, BadVideo]:
    """index -> what stands for it, from the run's quarantine.txt: one sample id a line, a tab, the cause.

    Raises InputError for an id that the training split does not have.
    """
    listing = run_folder / QUARANTINE
    if not listing.exists():
        return {}
    index_of = {clips.manifest.sample_id(index): index for index in range(len(clips.manifest))}
    found = {}
    for line in listing.read_text(encoding="utf-8").splitlines():
        name, _, cause = line.partition("\t")
        if name not in index_of:
            raise InputError(f"{listing}: {name!r} is no video of the training split; remove the line")
        index = index_of[name]
        path = str(clips.manifest.path(index))
        found[index] = BadVideo(index, path, cause or "listed in the quarantine", lost=True)
    return found


def schedule_factor(schedule: schema.Schedule, steps_per_epoch: int) -> Callable[[float], float]:
    """optimizer steps done -> what the learning rate is multiplied by."""
    milestones: list[float] = []
    if isinstance(schedule, schema.Multistep):
        milestones = list(schedule.milestones)
    elif isinstance(schedule, schema.Step):
        every = schedule.every
        shares = (max(1, round(share * schedule.epochs)) for share in schedule.milestones)
        milestones = [float(epoch) for epoch in (range(every, schedule.epochs, every) if every else shares)]
    return partial(
        lr_factor,
        steps_per_epoch=steps_per_epoch,
        epochs=schedule.epochs,
        warmup_epochs=schedule.warmup_epochs,
        milestones=None if schedule.shape == "cosine" else milestones,
        factor=schedule.factor if isinstance(schedule, schema.Step | schema.Multistep) else 1.0,
        per=schedule.per,
    )


def build_optimizer(
    options: schema.Optimizer, model: Recognizer, lr: float, runtime: schema.Runtime, process: Process
) -> torch.optim.Optimizer:
    fused = runtime.fused_optimizer
    fused = process.device.type == "cuda" if fused is None else fused
    if isinstance(options, schema.AdamW):
        betas = (options.betas[0], options.betas[1])
        return build_adamw(
            model, lr, betas, options.eps, options.weight_decay, options.head_lr_factor, fused,
            options.flow_stem_lr_factor,
        )  # fmt: skip
    assert isinstance(options, schema.Sgd)
    return build_sgd(
        model, lr, options.momentum, options.weight_decay, options.head_lr_factor, options.nesterov, fused,
        options.flow_stem_lr_factor,
    )  # fmt: skip


def choose_speed(
    config: schema.Train, model: Recognizer, process: Process, before: dict[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """Precision and memory format where the config leaves them open, and the reasons for the log.

    before: what the first launch of a resumed run chose, which stays.
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
        return kept, [f"{kept['precision']} with {memory} memory, as the run was begun"]
    if not runtime.measure or (runtime.precision != "auto" and runtime.channels_last is not None):
        reasons = []
        if runtime.precision == "auto":
            can = "multiplies" if rule["precision"] == "bf16" else "does not multiply"
            reasons.append(f"precision {rule['precision']}: this {device.type} device {can} in bf16")
        return rule, reasons
    copied = copy.deepcopy(model).train()
    videos = config.data.batch_size if device.type == "cuda" else min(2, config.data.batch_size)
    channels, side = next(model.backbone.parameters()).shape[1], config.data.crop_size
    size = (videos, config.backbone.num_frames, channels, side, side)
    clip, label = torch.rand(size, device=device), torch.zeros(videos, dtype=torch.int64, device=device)

    def step(precision: str, channels_last: bool) -> None:
        copied.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
        with autocast_for(precision, device):
            logits = copied(clip)
        torch.nn.functional.cross_entropy(logits.float(), label).backward()

    precisions = ["fp32", "bf16"] if runtime.precision == "auto" else [runtime.precision]
    formats = [False, True] if runtime.channels_last is None else [runtime.channels_last]
    precision, channels_last, reasons = process.main_does(lambda: fastest_choices(step, precisions, formats, device))
    return {"precision": precision, "channels_last": channels_last}, reasons


def prepare_model(model: Recognizer, runtime: schema.Runtime, process: Process) -> Recognizer:
    """Apply the switches that concern the network's modules. Raises InputError for what the device lacks."""
    allow_tf32(runtime.tf32)
    if runtime.sync_bn:
        if process.device.type != "cuda":
            raise InputError("runtime.sync_bn=true needs CUDA; leave it out, or freeze batch norms: backbone.frozen_bn")
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if runtime.recompute:
        recompute_blocks(model.backbone)
    use_channels_last(model, runtime, process)
    return model


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
        "launch": launch_id(),
        "versions": versions(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }

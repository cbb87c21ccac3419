"""Turns a config into objects with plain arguments. No file below this one sees a config."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
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
from vsn_train.analysis.scores import Scores
from vsn_train.data.augment import Augmentation
from vsn_train.data.datasets.motion import load_motion
from vsn_train.data.datasets.ucf101 import load_ucf101
from vsn_train.data.loader import EpochBatches, TestVideos, TrainingClips, read_test_video, test_loader, training_loader
from vsn_train.data.manifest import Manifest, mirrored_labels
from vsn_train.engine.checkpoint import file_hash, load_checkpoint, save_checkpoint
from vsn_train.engine.distributed import Process, join_processes
from vsn_train.engine.evaluate import score_videos, video_groups
from vsn_train.engine.log import RunLog
from vsn_train.engine.optim import build_optimizer, build_schedule
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
        manifest = load_manifest(config.dataset, "train", process)
        val_manifest = load_manifest(config.dataset, "val", process)
        torch.manual_seed(config.seed)
        model = build_model(config.backbone, len(manifest.class_names)).to(process.device)
        weights = (
            load_weights(model, config.weights, class_names=manifest.class_names)
            if config.weights
            else "none: random start"
        )
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
        log.line(f"weights: {weights}" if not position.step else f"resumed after epoch {position.epoch} from {last}")
        autocast = autocast_for(config.runtime.precision, process.device)
        loader = training_loader(
            TrainingClips(
                manifest,
                config.backbone.num_frames,
                config.data.sampling,
                augmentation_of(config.augment, config.data),
                config.data.decoder,
                config.seed,
            ),
            batches,
            config.data.workers,
            pin_memory=process.device.type == "cuda",
        )
        validate = Evaluation(model, val_manifest, config.validation, config, process, autocast)

        def end_of_epoch(position: Position) -> None:
            process.share_buffers(model)
            scores = validate("validate")
            name = protocol_name(config.validation, config.data)
            top1, top5 = scores.top1(), scores.top5()
            log.line(f"epoch {position.epoch}/{config.schedule.epochs}  val {describe(scores, name)}")
            log.metrics(
                "val", position.epoch, position.step, loss=cross_entropy(scores), top1=top1, top5=top5, n=len(scores),
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
    """vsn-eval in this process: writes eval/<protocol>/{metrics.json,scores.npz} into the run folder."""
    checkpoint = load_checkpoint(Path(config.checkpoint))
    with join_processes(config.runtime.device, config.runtime.threads) as process:
        manifest = load_manifest(config.dataset, "val", process)
        check_classes(manifest, checkpoint["class_names"], config.checkpoint)
        model = model_of(checkpoint, config.backbone, config.checkpoint).to(process.device)
        use_channels_last(model, config.runtime, process)
        autocast = autocast_for(config.runtime.precision, process.device)
        scores = Evaluation(model, manifest, config.protocol, config, process, autocast)("evaluate")
        if not process.is_main:
            return
        name = protocol_name(config.protocol, config.data)
        hashes = {"manifest": manifest.content_hash(), "checkpoint": file_hash(Path(config.checkpoint))}
        facts = {
            "dataset": manifest.name,
            "split": manifest.split,
            "protocol": {"name": name, **asdict(config.protocol)},
            "num_frames": config.backbone.num_frames,
            "epoch": checkpoint["epoch"],
            **hashes,
            "versions": versions(),
        }
        folder = run_folder / "eval" / name
        folder.mkdir(parents=True, exist_ok=True)
        replace(scores, facts=facts).save(folder / "scores.npz")
        metrics = {"split": "test", "epoch": checkpoint["epoch"], "step": checkpoint["step"]}
        metrics |= {"loss": cross_entropy(scores), "top1": scores.top1(), "top5": scores.top5(), "n": len(scores)}
        (folder / "metrics.json").write_text(json.dumps(metrics | facts, indent=2) + "\n")
        rows = [
            ("data set", "split", "protocol", "top-1 %", "top-5 %", "videos"),
            (manifest.name, manifest.split, name, f"{scores.top1():.2f}", f"{scores.top5():.2f}", str(len(scores))),
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        print(f"checkpoint {config.checkpoint}: epoch {checkpoint['epoch']}, {hashes['checkpoint']}")
        print(f"manifest {hashes['manifest']}")
        print(f"run folder {run_folder}: eval/{name}/metrics.json, scores.npz")


def predict(config: schema.Predict, run_folder: Path) -> None:
    """vsn-predict: prints the best classes of one video and writes prediction.json."""
    checkpoint = load_checkpoint(Path(config.checkpoint))
    protocol, names = config.protocol, checkpoint["class_names"]
    with join_processes(config.runtime.device, config.runtime.threads) as process:
        model = model_of(checkpoint, config.backbone, config.checkpoint).to(process.device)
        use_channels_last(model, config.runtime, process)
        video = read_test_video(
            Path(config.video), model.num_frames, protocol.clips, protocol.placement, protocol.short_side,
            config.data.decoder,
        )  # fmt: skip
        mirrored = mirrored_labels(len(names), checkpoint["flip_pairs"])
        scores = score_videos(
            model, [[video]], 1, process, mirrored_labels=mirrored, title="predict",
            autocast=autocast_for(config.runtime.precision, process.device), **view_options(protocol, config.runtime),
        )[0]  # fmt: skip
    probabilities = scores if protocol.average == "probabilities" else softmax(scores)
    best = np.argsort(-probabilities, kind="stable")[: config.top_k]
    width = max(len(names[index]) for index in best)
    for index in best:
        share = float(probabilities[index])
        print(f"{names[index]:<{width}}  {100 * share:5.1f} %  {'█' * round(40 * share)}")
    run_folder.mkdir(parents=True, exist_ok=True)
    prediction = {
        "video": config.video,
        "checkpoint": config.checkpoint,
        "protocol": protocol_name(protocol, config.data),
        "classes": [{"name": names[index], "index": int(index), "probability": float(probabilities[index])}
                    for index in best],
    }  # fmt: skip
    path = run_folder / "prediction.json"
    path.write_text(json.dumps(prediction, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {path}")


def load_manifest(dataset: schema.Dataset, split: str, process: Process) -> Manifest:
    root = Path(dataset.root).expanduser()
    if isinstance(dataset, schema.Motion):
        return load_motion(
            root, split, dataset.variant, dataset.seed, dataset.train_videos, dataset.val_videos, dataset.size,
            dataset.num_frames, progress=process.is_main,
        )  # fmt: skip
    assert isinstance(dataset, schema.Ucf101)
    annotations = Path(dataset.annotations).expanduser() if dataset.annotations else None
    return load_ucf101(root, split, dataset.split, annotations)


def augmentation_of(augment: schema.Augment, data: schema.Data) -> Augmentation:
    per_clip = {key: value for key, value in asdict(augment).items() if key not in ("mixup", "cutmix")}
    return Augmentation(crop_size=data.crop_size, short_side=data.short_side, **per_clip)


def build_model(backbone: schema.Backbone, num_classes: int) -> Recognizer:
    return create_model(num_classes=num_classes, **asdict(backbone))


def model_of(checkpoint: dict[str, Any], backbone: schema.Backbone, path: str) -> Recognizer:
    """The checkpoint's network. Raises InputError where the command line asks for another one."""
    for key, asked in asdict(backbone).items():
        trained = checkpoint["config"]["backbone"][key]
        if asked != trained:
            raise InputError(
                f"backbone.{key}={asked}, but {path} was trained with {trained}; leave backbone.{key} out, or train "
                "with the other value"
            )
    model = build_model(backbone, len(checkpoint["class_names"]))
    model.load_state_dict(checkpoint["model"])
    return model


def use_channels_last(model: nn.Module, runtime: schema.Runtime, process: Process) -> None:
    wanted = runtime.channels_last
    if wanted or (wanted is None and process.device.type == "cuda"):
        model.to(memory_format=torch.channels_last)


class Evaluation:
    """One split under one protocol, as often as asked: worker processes stay between validations."""

    def __init__(
        self,
        model: nn.Module,
        manifest: Manifest,
        protocol: schema.Protocol,
        config: schema.Train | schema.Eval,
        process: Process,
        autocast: torch.autocast,
    ) -> None:
        self.model, self.manifest, self.process, self.autocast = model, manifest, process, autocast
        self.options = view_options(protocol, config.runtime)
        groups = video_groups(len(manifest), protocol.clips * protocol.crops, config.runtime.views_per_batch, process)
        videos = TestVideos(
            manifest, config.backbone.num_frames, protocol.clips, protocol.placement, protocol.short_side,
            config.data.decoder,
        )  # fmt: skip
        self.loader, self.total = test_loader(videos, groups, config.data.workers), len(groups)

    def __call__(self, title: str) -> Scores:
        mirrored = self.manifest.mirrored_labels()
        scores = score_videos(
            self.model, self.loader, self.total, self.process, autocast=self.autocast, mirrored_labels=mirrored,
            title=title, **self.options,
        )  # fmt: skip
        videos = range(len(self.manifest))
        return Scores(
            np.array([self.manifest.sample_id(index) for index in videos]),
            self.manifest.labels,
            np.stack([scores[index] for index in videos]),
            np.array(self.manifest.class_names),
            {},
        )


def view_options(protocol: schema.Protocol, runtime: schema.Runtime) -> dict[str, Any]:
    return {
        "crops": protocol.crops,
        "crop_size": protocol.crop_size,
        "average": protocol.average,
        "views_per_batch": runtime.views_per_batch,
    }


def protocol_name(protocol: schema.Protocol, data: schema.Data) -> str:
    """center_1clip, tencrop_10clip, …; whatever departs from these is added, so that a number says what it is."""
    name = f"{ {1: 'center', 10: 'tencrop'}[protocol.crops] }_{protocol.clips}clip"
    usual = "uniform" if protocol.clips <= 2 else "dense"
    parts = [protocol.placement] if protocol.placement != usual else []
    parts += [f"crop{protocol.crop_size}"] if protocol.crop_size != data.crop_size else []
    parts += [f"short{protocol.short_side}"] if protocol.short_side != data.short_side else []
    parts += ["probabilities"] if protocol.average != "logits" else []
    return "_".join([name, *parts])


def describe(scores: Scores, protocol: str) -> str:
    return f"top1 {scores.top1():.2f}  top5 {scores.top5():.2f}  (n={len(scores)}, {protocol})"


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def cross_entropy(scores: Scores) -> float:
    """Mean over videos, of the averaged logits."""
    probabilities = softmax(scores.scores)[np.arange(len(scores)), scores.labels]
    return float(-np.log(np.maximum(probabilities, 1e-300)).mean())


def check_classes(manifest: Manifest, trained: list[str], path: str) -> None:
    """Scores of another class order look like chance; refuse instead."""
    found = list(manifest.class_names)
    if found == trained:
        return
    where = next(
        (i for i, (a, b) in enumerate(zip(found, trained, strict=False)) if a != b), min(len(found), len(trained))
    )
    raise InputError(
        f"{manifest.name} has {len(found)} classes and {path} was trained on {len(trained)}; they differ first at "
        f"index {where}; evaluate on the data set that it was trained on"
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
    for package in ("torch", "torchvision", "decord", "av", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue  # decord has no wheel for some platforms
    return found


def write_config(run_folder: Path, stored: dict[str, Any]) -> None:
    """config.yaml and environment.json: what was asked for and where it ran."""
    OmegaConf.save(OmegaConf.create(stored), run_folder / "config.yaml")
    environment = {
        "command": sys.argv,
        "versions": versions(),
        "platform": platform.platform(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }
    (run_folder / "environment.json").write_text(json.dumps(environment, indent=2) + "\n")

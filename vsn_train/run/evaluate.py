"""vsn-eval, and the validation of vsn-train: evaluate every video of a split once."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from vsn_train import config as schema
from vsn_train.analysis.features import Features
from vsn_train.analysis.report import write_report
from vsn_train.analysis.results import save_results
from vsn_train.analysis.scores import Scores
from vsn_train.analysis.strip import jpeg_frames
from vsn_train.atomic import atomic_folder
from vsn_train.data.loader import EvalVideos, eval_loader
from vsn_train.data.manifest import Manifest
from vsn_train.data.protocol import Protocol
from vsn_train.data.video import VideoError
from vsn_train.data.workers import BadVideo
from vsn_train.engine.checkpoint import OpenedCheckpoint
from vsn_train.engine.distributed import Process, join_processes
from vsn_train.engine.evaluate import Found, Scoring, mean_of_views, score_videos, video_groups
from vsn_train.engine.parts import ScoreParts
from vsn_train.engine.precision import autocast_for
from vsn_train.folder_lock import folder_lock, refuse_links
from vsn_train.run.data import check_classes, check_flips, note_missing
from vsn_train.run.network import load_trained
from vsn_train.run.own_split import tested_manifest
from vsn_train.run.record import computed, environment, versions


def evaluate(config: schema.Eval, opened: OpenedCheckpoint, run_folder: Path) -> None:
    """Run vsn-eval in this process: evaluate and write eval/<checkpoint>/<protocol>/ into the run folder."""
    with join_processes(config.runtime.device, config.runtime.threads) as process, ExitStack() as held:
        if len(set(process.all_gather(opened.hash))) > 1:  # it was replaced while the processes started
            opened = process.on_rank_zero(lambda: opened)
        checkpoint = opened.checkpoint
        manifest = tested_manifest(config, opened, process)
        check_classes(manifest, checkpoint.class_names, config.checkpoint)
        model = load_trained(config, opened, process).model
        trained = checkpoint.config["data"]  # a size changed on the command line shows in the name
        name = config.protocol.name(trained["short_side"], trained["crop_size"])
        facts = {
            "dataset": manifest.name,
            "split": manifest.split,
            "official_split": getattr(config.dataset, "split", None),  # of UCF101 and HMDB51
            "missing": len(manifest.missing),
            "protocol": {"name": name, **asdict(config.protocol)},
            "num_frames": config.backbone.num_frames,
            "epoch": checkpoint.epoch,
            "manifest": manifest.content_hash(),
            "checkpoint": opened.hash,
            "computed": computed(config.runtime.precision, model, process)
            | {"views_per_batch": config.runtime.views_per_batch},
            "versions": versions(),
        }
        stem = opened.path.stem
        folder = run_folder / "eval" / stem / (name if config.split == "val" else f"{name}_{config.split}")
        process.on_rank_zero(lambda: hold(held, folder, run_folder))
        features = model.head.in_features if config.features else 0
        columns = len(manifest.class_names) + features
        keep_views = views_are_kept(config, len(manifest), columns)
        shape = (config.protocol.views if keep_views else 1, columns)
        # None without features, as in parts of older versions.
        described = facts | {"keep_views": keep_views, "features": config.features or None}
        parts = ScoreParts(folder / "parts", described, len(manifest), shape)
        if process.is_main and not schema.resume_choice(config.resume):
            parts.remove()
        done: Found = dict(parts.read()) if process.is_main else {}
        finished = process.all_gather(list(done))[0]  # and a barrier: old parts are removed first
        autocast = autocast_for(config.runtime.precision, process.device)
        evaluation = Evaluation(
            model, manifest, config.protocol, config, process, autocast,
            keep_views=keep_views, done=finished, features=features,
        )  # fmt: skip
        scores = evaluation("evaluate", facts, parts, done)
        if process.is_main:
            replaced = differing_facts(folder, facts)
            lines = [f"checkpoint {opened.path}: epoch {checkpoint.epoch}, {opened.hash}"]
            lines += [f"manifest {facts['manifest']}", *manifest.notes]
            # Replaced as a whole, so that files of two evaluations do not mix.
            with atomic_folder(folder) as written:
                position, machine = {"epoch": checkpoint.epoch, "step": checkpoint.step}, environment()
                save_results(written, scores, position, machine)
                if evaluation.features is not None:
                    evaluation.features.save(written / "features.npz")
                if config.report:
                    details: dict[str, Any] = {"config": OmegaConf.to_yaml(OmegaConf.structured(config))}
                    details["environment"] = machine
                    write_report(written / "report.html", scores, frames_of(manifest, config.data), details)
            if line := note_missing(manifest, folder):
                lines.append(line)
            print("\n".join(lines))
            if replaced:
                print(f"replaced the results of an earlier evaluation ({', '.join(replaced)} differed)")
            names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
            print(f"run folder {run_folder}: {folder.relative_to(run_folder)}/ {', '.join(names)}")


def hold(held: ExitStack, folder: Path, run_folder: Path) -> None:
    """Lock the folder of this evaluation. Raises InputError if another one is writing there, and if the run folder has
    links that lead out of it."""
    # Next to it: the folder itself is replaced as a whole.
    place = folder.parent / f".{folder.name}"
    parts = [folder.parent.parent, folder.parent, folder, folder / "parts", place]
    refuse_links(run_folder, *(str(each.relative_to(run_folder)) for each in parts))
    for each in (folder.parent.parent, folder.parent, folder, place):  # the last is removed first
        held.callback(remove_if_empty, each)
    held.enter_context(folder_lock(place, "wait for that evaluation, or choose another hydra.run.dir"))


def remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def differing_facts(folder: Path, facts: dict[str, Any]) -> list[str]:
    """The keys of the inputs that differ from those of the evaluation in the folder."""
    try:
        before = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return []
    if not isinstance(before, dict):
        return []
    return [key for key in ("checkpoint", "manifest", "protocol", "computed") if before.get(key) != facts[key]]


class Evaluation:
    """Evaluates one split under one protocol, repeatedly: loader workers persist between validations.

    done: videos that an interrupted evaluation has already scored. features: dimension D of the classifier's input, to
    keep the features of the last call in `self.features`; 0: keep none.
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
        features: int = 0,
    ) -> None:
        check_flips(protocol, manifest.flips_allowed, manifest.name, manifest.class_names)
        self.model, self.manifest, self.process = model, manifest, process
        self.network: nn.Module = LogitsAndFeatures(model) if features else model
        self.features: Features | None = None
        labels = manifest.flipped_labels()
        self.scoring = Scoring(
            protocol,
            # A flip exchanges classes, and leaves features where they are.
            np.concatenate([labels, len(labels) + np.arange(features)]),
            config.runtime.views_per_batch,
            autocast,
            keep_views,
            config.on_bad_video,
            features,
        )
        groups = video_groups(len(manifest), protocol.views, config.runtime.views_per_batch, process, set(done))
        videos = EvalVideos(manifest, config.backbone.num_frames, protocol, config.data.decoder, config.data.modality)
        self.loader = eval_loader(videos, groups, config.data.workers, config.data.timeout)
        self.total = len(groups)

    def __call__(
        self, title: str, facts: dict[str, Any], parts: ScoreParts | None = None, done: Found | None = None
    ) -> Scores:
        """The scores of every video, gathered from all processes. done: on rank 0, the results of the videos in the
        constructor's `done`."""
        store = parts.add if parts else lambda results: None
        mine = score_videos(self.network, self.loader, self.total, self.process, store, self.scoring, title)
        if parts:
            parts.flush()
        found = dict(done or {})
        for results in self.process.all_gather(mine):
            found |= results
        scores, features = scores_of(self.manifest, found, self.scoring.keep_views, facts, self.scoring.features)
        self.features = (
            Features(scores.ids, scores.labels, features, scores.class_names, scores.facts) if features.size else None
        )
        return scores


class LogitsAndFeatures(nn.Module):
    """Wraps a recognizer to return logits and features: (B, T, C, H, W) -> (B, K + D)."""

    def __init__(self, recognizer: Any) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, video: Tensor) -> Tensor:
        return self.recognizer.logits_and_features(video)


def scores_of(
    manifest: Manifest, found: Found, keep_views: bool, facts: dict[str, Any], features: int
) -> tuple[Scores, np.ndarray]:
    """Scores of each video in the order of the manifest, and the features, float32 (N, D).

    An unreadable video has NaN in both and is named in the facts. Raises VideoError if no video could be read.
    """
    bad = [video for _, video in sorted(found.items()) if isinstance(video, BadVideo)]
    rows = [video for video in found.values() if not isinstance(video, BadVideo)]
    if not rows:
        raise VideoError(bad[0].path, f"{bad[0].cause}; none of the {len(manifest)} videos can be read")
    nothing = np.full_like(rows[0], np.nan)
    videos = range(len(manifest))
    views = np.stack([nothing if isinstance(video := found[i], BadVideo) else video for i in videos])
    classes = views.shape[-1] - features
    means = mean_of_views(views)
    scores = Scores(
        np.array([manifest.sample_id(index) for index in videos]),
        manifest.labels,
        means[:, :classes],
        np.array(manifest.class_names),
        facts | {"bad_videos": [{"id": manifest.sample_id(each.index), "cause": each.cause} for each in bad]},
        views[..., :classes] if keep_views else None,
    )
    return scores, means[:, classes:]


def frames_of(manifest: Manifest, data: schema.Data) -> Callable[[int], list[bytes]]:
    """A function for the report: index of a video -> some of its frames as JPEG files."""
    return lambda index: jpeg_frames(manifest.path(index), 6, 96, data.decoder, data.modality)


def views_are_kept(config: schema.Eval, videos: int, columns: int) -> bool:
    """Whether to keep the scores of each view; "auto": if they take at most 512 MiB. columns: classes and features."""
    megabytes = videos * config.protocol.views * columns * 4 / 2**20
    wanted = config.keep_views == "always" or (config.keep_views == "auto" and megabytes <= 512)
    return wanted and config.protocol.views > 1


def describe(scores: Scores, protocol: str) -> str:
    accuracies = f"top1 {scores.top1():.2f}  top5 {scores.top5():.2f}  mean class {scores.mean_class():.2f}"
    return f"{accuracies}  (n={len(scores)}, {protocol})"

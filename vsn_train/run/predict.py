"""vsn-predict. Clips are classified here, long videos in timeline.py, live video in live.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from vsn_train import config as schema
from vsn_train.analysis.strip import draw_prediction
from vsn_train.atomic import NAME_BYTES, json_text, write_atomic
from vsn_train.data.inputs import GivenVideos, find_videos
from vsn_train.data.loader import eval_loader
from vsn_train.data.workers import BadVideo
from vsn_train.engine.checkpoint import OpenedCheckpoint
from vsn_train.engine.distributed import join_processes
from vsn_train.errors import InputError, StoppedError, VideoError
from vsn_train.folder_lock import folder_lock
from vsn_train.run.data import check_flips
from vsn_train.run.live import predict_live
from vsn_train.run.network import load_trained
from vsn_train.run.record import computed
from vsn_train.run.timeline import predict_timeline, stride_of
from vsn_train.trained import TrainedModel, flips_allowed


def predict(config: schema.Predict, opened: OpenedCheckpoint, run_folder: Path) -> None:
    """Print the best classes of each video; write prediction.json and a figure of each.

    Raises VideoError for a single video that cannot be read; if there are several videos, InputError after the others
    are done. Raises StoppedError for live video that failed after its first frame.
    """
    checkpoint = opened.checkpoint
    check_flips(config.protocol, flips_allowed(checkpoint), "the checkpoint's data set", checkpoint.class_names)
    paths = [] if config.live else find_videos(config.video)
    sizes = checkpoint.config["data"]
    protocol = config.protocol.name(sizes["short_side"], sizes["crop_size"])
    with join_processes(config.runtime.device, config.runtime.threads) as process, ExitStack() as held:

        @cache
        def begin() -> None:
            """Called before the first file is written. A prediction that fails earlier leaves the folder unchanged."""
            hold(held, run_folder)
            remove_earlier(run_folder)

        trained = load_trained(config, opened, process)
        used = computed(config.runtime.precision, trained.model, process)
        if config.live:
            predictions = [predict_live(trained, config, run_folder, begin)]
        elif config.window is not None:
            predictions = predict_timelines(trained, config, paths, run_folder, protocol, begin)
        else:
            predictions = predict_clips(trained, config, paths, run_folder, protocol, begin)
        facts = {"checkpoint": config.checkpoint, "protocol": protocol, "start": config.start, "end": config.end}
        facts |= {"window": config.window, "stride": stride_of(config), "live": config.live, "computed": used}
        path = run_folder / "prediction.json"
        begin()
        write_atomic(path, json_text(facts | {"predictions": predictions}))
    figures = sum("picture" in each for each in predictions)
    print(f"written: {path}" + (f" and {figures} figure{'s' if figures > 1 else ''}" if figures else ""))
    bad = [each for each in predictions if "error" in each]
    if bad and config.live:
        raise StoppedError(f"{config.video}: {bad[0]['error']}; the results before that are in {run_folder}")
    if bad:
        raise InputError(
            f"{len(bad)} of {len(paths)} videos could not be read, first {bad[0]['video']}: {bad[0]['error']}; the "
            f"others are in {path}"
        )


def hold(held: ExitStack, run_folder: Path) -> None:
    """Lock the folder. Raises InputError if another vsn-predict is writing to it."""
    held.enter_context(folder_lock(run_folder, "wait for it, or choose another hydra.run.dir"))


def remove_earlier(run_folder: Path) -> None:
    """Remove an earlier prediction with its figures and tables, so that old and new files do not mix."""
    path = run_folder / "prediction.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        files = [str(each[key]) for each in found["predictions"] for key in ("picture", "timeline") if each.get(key)]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        files = []
    with suppress(OSError):
        path.unlink()
    for name in files:
        if name == os.path.basename(name) and name.endswith((".png", ".csv")):  # the file's content is not trusted
            with suppress(OSError):
                (run_folder / name).unlink()


def predict_clips(
    trained: TrainedModel,
    config: schema.Predict,
    paths: list[Path],
    run_folder: Path,
    protocol: str,
    begin: Callable[[], None],
) -> list[dict[str, Any]]:
    """Classify each video as a whole; returns their entries of prediction.json. protocol: its name. begin: called
    before files are written."""
    names = trained.class_names
    videos = GivenVideos(
        paths, trained.num_frames, config.protocol, config.data.decoder, config.data.modality, config.start, config.end
    )  # fmt: skip
    workers = config.data.workers if len(paths) > 1 else 0
    predictions: list[dict[str, Any]] = []
    for path, (video,) in zip(
        paths, eval_loader(videos, [[i] for i in range(len(paths))], workers, config.data.timeout), strict=True
    ):
        found = trained.score_videos([video], on_bad_video="error" if len(paths) == 1 else "wrong")[video.index]
        if isinstance(video, BadVideo) or isinstance(found, BadVideo):
            causes = [each.cause for each in (video, found) if isinstance(each, BadVideo)]
            predictions.append({"video": str(path), "error": causes[0]})
            continue
        shares = trained.probabilities(found[0])
        best = [(names[index], int(index), float(shares[index])) for index in np.argsort(-shares, kind="stable")]
        begin()
        stem = file_stem(len(predictions), path) if len(paths) > 1 else "prediction"
        figure = run_folder / f"{stem}.png"
        draw_prediction(figure, path, video, best[:5], protocol)
        print_bars(str(path) if len(paths) > 1 else "", best[: config.top_k])
        classes = [{"name": name, "index": index, "probability": share} for name, index, share in best]
        clips = video.numbers[video.clips].tolist()
        predictions.append(
            {"video": str(path), "frames": clips, "picture": figure.name, "classes": classes[: config.top_k]}
        )
    return predictions


def predict_timelines(
    trained: TrainedModel,
    config: schema.Predict,
    paths: list[Path],
    run_folder: Path,
    protocol: str,
    begin: Callable[[], None],
) -> list[dict[str, Any]]:
    """Score windows of long videos; returns their entries of prediction.json. protocol: its name. begin: called before
    files are written."""
    predictions: list[dict[str, Any]] = []
    for path in paths:
        stem = file_stem(len(predictions), path) if len(paths) > 1 else "timeline"
        try:
            predictions.append(predict_timeline(trained, config, path, run_folder, stem, protocol, begin))
        except VideoError as error:
            if len(paths) == 1:
                raise
            predictions.append({"video": str(path), "error": error.cause})
    return predictions


def file_stem(number: int, video: Path) -> str:
    """The stem of the names of a video's result files; shortened if the file system would refuse the name."""
    stem = os.fsencode(video.stem)[:NAME_BYTES].decode("utf-8", "ignore")
    return f"{number:04d}_{stem}"


def print_bars(title: str, best: list[tuple[str, int, float]]) -> None:
    """Print the probabilities as bars. title: a line above; empty: none. best: (name, index, share) per class."""
    if title:
        print(title)
    rows = [(name, f"{100 * share:.1f} %", "█" * round(40 * share)) for name, _, share in best]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right", "left")))

"""vsn-predict."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from vsn_train import config as schema
from vsn_train.analysis.scores import softmax
from vsn_train.analysis.strip import draw_prediction
from vsn_train.atomic import NAME_BYTES, write_atomic
from vsn_train.data.inputs import GivenVideos, find_videos
from vsn_train.data.loader import eval_loader
from vsn_train.data.manifest import flipped_labels
from vsn_train.data.workers import BadVideo
from vsn_train.engine.checkpoint import OpenedCheckpoint
from vsn_train.engine.distributed import join_processes
from vsn_train.engine.evaluate import score_videos
from vsn_train.engine.precision import autocast_for
from vsn_train.errors import InputError
from vsn_train.folder_lock import folder_lock
from vsn_train.run.data import check_flips
from vsn_train.run.network import model_of, use_channels_last
from vsn_train.run.record import computed
from vsn_train.trained import flips_allowed


def predict(config: schema.Predict, opened: OpenedCheckpoint, run_folder: Path) -> None:
    """vsn-predict: prints the best classes of each video; writes prediction.json and a figure of each.

    Raises VideoError for a single video that cannot be read; of several, InputError after the others are done.
    """
    checkpoint = opened.checkpoint
    protocol, names = config.protocol, checkpoint.class_names
    check_flips(protocol, flips_allowed(checkpoint), "the checkpoint's data set", names)
    paths = find_videos(config.video)
    with join_processes(config.runtime.device, config.runtime.threads) as process, ExitStack() as held:
        model = model_of(checkpoint, config.backbone, config.data.modality, config.checkpoint).to(process.device)
        use_channels_last(model, config.runtime, process, inference=True)
        used = computed(config.runtime.precision, model, process)
        videos = GivenVideos(
            paths, model.num_frames, protocol, config.data.decoder, config.data.modality, config.start, config.end
        )  # fmt: skip
        workers = config.data.workers if len(paths) > 1 else 0
        trained = checkpoint.config["data"]
        protocol_name = protocol.name(trained["short_side"], trained["crop_size"])
        predictions: list[dict[str, Any]] = []
        loader = eval_loader(videos, [[i] for i in range(len(paths))], workers, config.data.timeout)
        for path, (video,) in zip(paths, loader, strict=True):
            found = score_videos(
                model, [[video]], 1, process, lambda results: None, protocol=protocol,
                flipped_labels=flipped_labels(len(names), checkpoint.flip_pairs),
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
            if not any("picture" in each for each in predictions):  # the first one
                hold(held, run_folder)
                remove_earlier(run_folder)
            figure = run_folder / (picture_name(len(predictions), path) if len(paths) > 1 else "prediction.png")
            draw_prediction(figure, path, video, best[:5], protocol_name)
            print_bars(str(path) if len(paths) > 1 else "", best[: config.top_k])
            classes = [{"name": name, "index": index, "probability": share} for name, index, share in best]
            clips = video.numbers[video.clips].tolist()
            predictions.append(
                {"video": str(path), "frames": clips, "picture": figure.name, "classes": classes[: config.top_k]}
            )
        if not any("picture" in each for each in predictions):
            hold(held, run_folder)
            remove_earlier(run_folder)
        facts = {"checkpoint": config.checkpoint, "protocol": protocol_name, "start": config.start, "end": config.end}
        facts |= {"computed": used}
        path = run_folder / "prediction.json"
        write_atomic(path, as_json(facts | {"predictions": predictions}))
    print(f"written: {path} and {len(predictions)} figure{'s' if len(predictions) > 1 else ''}")
    if bad := [each for each in predictions if "error" in each]:
        raise InputError(
            f"{len(bad)} of {len(paths)} videos could not be read, first {bad[0]['video']}: {bad[0]['error']}; the "
            f"others are in {path}"
        )


def hold(held: ExitStack, run_folder: Path) -> None:
    """Keep other predictions out of the folder. Raises InputError where one is being written there."""
    held.enter_context(folder_lock(run_folder, "wait for it, or choose another hydra.run.dir"))


def remove_earlier(run_folder: Path) -> None:
    """An earlier prediction in the folder goes with its pictures: nothing old stays beside something new."""
    path = run_folder / "prediction.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pictures = [str(each["picture"]) for each in found["predictions"] if "picture" in each]
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        pictures = []
    with suppress(OSError):
        path.unlink()
    for name in pictures:
        if name == os.path.basename(name) and name.endswith(".png"):  # what the file says may be anything
            with suppress(OSError):
                (run_folder / name).unlink()


def picture_name(number: int, video: Path) -> str:
    """Of a video's picture; shortened where the video's own name is as long as a name may be."""
    stem = os.fsencode(video.stem)[:NAME_BYTES].decode("utf-8", "ignore")
    return f"{number:04d}_{stem}.png"


def as_json(content: dict[str, Any]) -> str:
    """Readable where it can be; the bytes of names that are not UTF-8 as JSON's escapes, which Python reads back."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(content, indent=2)
    return text + "\n"


def print_bars(title: str, best: list[tuple[str, int, float]]) -> None:
    """title: a line above, where there is one. best: (name, index, share) of the classes to show."""
    if title:
        print(title)
    rows = [(name, f"{100 * share:.1f} %", "█" * round(40 * share)) for name, _, share in best]
    print(tabulate(rows, tablefmt="plain", disable_numparse=True, colalign=("left", "right", "left")))

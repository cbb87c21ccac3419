"""The report's sections on videos: real training, every protocol. Writes clips, copies and runs to a given folder."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from scripts.gpu.networks import Builders, Sizes
from scripts.gpu.plan import Action, CutOff, Rows, Section, bounded
from vsn_train.bench.evaluation import EvalWorkload, score_decoding_once
from vsn_train.bench.network import make_model
from vsn_train.data.inputs import find_videos
from vsn_train.data.isolated import usable_cores
from vsn_train.data.prepare import space_of
from vsn_train.data.protocol import Protocol
from vsn_train.data.video import open_video
from vsn_train.data.workers import AHEAD
from vsn_train.engine.distributed import Process
from vsn_train.engine.precision import allow_tf32, autocast_for
from vsn_train.errors import InputError, VideoError
from vsn_train.run.train import train
from vsn_train.tools import prepare as prepare_tool
from vsn_train.tools.bench import protocol_names, protocol_of
from vsn_train.tools.compose import train_config

MOST_VIDEOS = 64  # different files; longer lists repeat them under other names
VIEWS = 1200  # most views of one pass of a protocol
VIDEOS = 192  # most videos of one pass
# The protocols of published numbers first.
PROTOCOLS = ("center_1clip", "center_2clip", "tencrop_10clip", "fullres_3crop_2clip", "threecrop_10clip")


@dataclass(frozen=True)
class Clips:
    """Folders with the same videos under the same names (originals and fast-seek copies), and facts about them."""

    originals: Path
    copies: Path
    facts: dict[str, str]

    def files(self, kind: str) -> list[Path]:
        return sorted(path for path in self.folder(kind).iterdir() if path.suffix != ".json")

    def folder(self, kind: str) -> Path:
        return self.copies if kind == "copies" else self.originals


# ---- Clips -----------------------------------------------------------------------------------------------------------


def gather_clips(given: Path | None, folder: Path, small: bool) -> Clips:
    """Link the videos of a folder, or generate some, below `folder`, and make their fast-seek copies with `vsn-tools
    prepare`. Raises InputError if there is no readable video."""
    originals, copies = folder / "originals", folder / "copies"
    originals.mkdir(parents=True)
    if given is None:
        width, height, frames, count = (96, 72, 16, 2) if small else (340, 256, 300, 16)
        with ThreadPoolExecutor(usable_cores()) as pool:  # the encoder releases the GIL
            names = [originals / f"{number:03}.mp4" for number in range(count)]
            list(pool.map(partial(make_video, width=width, height=height, num_frames=frames), names, range(count)))
        origin = f"generated: {count} moving patterns of {width} x {height}, {frames} frames, H.264"
    else:
        found = [path.resolve() for path in find_videos([str(given)]) if path.is_file() and is_readable(path)]
        if not found:
            raise InputError(f"--clips {given}: found no readable video; expected a folder with some")
        picked = np.linspace(0, len(found) - 1, min(MOST_VIDEOS, len(found))).round().astype(int)
        for number, index in enumerate(picked):
            (originals / f"{number:03}{found[index].suffix}").symlink_to(found[index])
        origin = f"{len(picked)} of the {len(found)} readable videos of --clips"
    parser = argparse.ArgumentParser()
    prepare_tool.add_arguments(parser)
    began = time.monotonic()
    prepare_tool.run(parser.parse_args([str(originals), str(copies)]))
    seconds = time.monotonic() - began
    for path in list(originals.iterdir()):  # keep the same videos in both folders
        if not (copies / path.name).is_file():
            path.unlink()
    (copies / "failed.txt").unlink(missing_ok=True)
    kept = [path.name for path in originals.iterdir()]
    if not kept:
        raise InputError(f"{originals}: no fast-seek copy could be made of any video; see the messages above")
    before, after = (sum(space_of(top / name) for name in kept) for top in (originals, copies))
    return Clips(
        originals,
        copies,
        {"clips": origin, "copies": f"{len(kept)} made in {seconds:.1f} s, {after / before:.2f} times the space"},
    )


def is_readable(path: Path) -> bool:
    try:
        with open_video(path) as video:
            return video.num_frames > 1 and bool(video.read([0, video.num_frames - 1]).numel())
    except (VideoError, InputError):
        return False


def make_video(path: Path, seed: int, width: int, height: int, num_frames: int) -> None:
    """Write H.264 video at 30 frames per second: a window that moves over a smooth pattern, without noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: 2 * height, : 2 * width] / height
    pattern = np.stack(
        [sum(np.sin(wave[0] * x + wave[1] * y + wave[2]) for wave in rng.uniform(-30, 30, (4, 3))) for _ in range(3)], 2
    )
    image = (127.5 + 30 * pattern).clip(0, 255).astype(np.uint8)
    turns = rng.uniform(1, 4, 2)  # of the window
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "23"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(num_frames):
            phase = 2 * np.pi * turns * number / num_frames
            top, left = (
                round(float(v)) for v in (0.5 + 0.5 * np.sin(phase)) * (height, width) * np.array([0.99, 0.99])
            )
            frame = np.ascontiguousarray(image[top : top + height, left : left + width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))


def write_list(files: Sequence[Path], folder: Path, videos: int, val_videos: int) -> None:
    """Write a custom data set with two classes, as links under different names to the same files."""
    for split, count in (("train", videos), ("val", val_videos)):
        (folder / split).mkdir(parents=True)
        lines = ["path,label"]
        for number in range(count):
            source = files[number % len(files)]
            name = f"{split}/{number:05}{source.suffix}"
            (folder / name).symlink_to(source.resolve())
            lines.append(f"{name},{number % 2}")
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n")


# ---- Training with the real loader -----------------------------------------------------------------------------------


def loader(section: Section, sizes: Sizes, clips: Clips, folder: Path) -> None:
    """The loop of vsn-train on fast-seek copies, on the originals, and on copies without runtime.prefetch."""
    workers = 1 if sizes.small else max(1, usable_cores() - 2)
    # The last number: share of the remaining time. The originals load slowest.
    kinds = [("copies", True, 0.35), ("originals", True, 0.65), ("copies", False, 1.0)]
    if section.device != "cuda":
        kinds.pop()  # prefetch has no effect on a CPU
    for number, (kind, prefetch, share) in enumerate(kinds):
        left = section.clock.left
        if number and left < (2 if sizes.small else 8):
            section.notes.append(f"not measured, time was up: {kind}, prefetch {prefetch}")
            continue
        run = folder / f"loader_{number}"
        batch = sizes.work.batch
        skipped = AHEAD * workers + 2  # steps that the workers prefetched while the first step selected its kernels
        steps = skipped + (6 if sizes.small else 40)
        write_list(clips.files(kind), run / "videos", steps * batch, 2)
        row = {
            "section": section.name, "mode": "loader", "videos": kind, "prefetch": prefetch, "model": "tsm",
            "work": asdict(sizes.work), "workers": workers, "skipped_steps": skipped,
        }  # fmt: skip
        try:
            with bounded(left * share), kept_settings():
                train(train_config(training_values(sizes, run / "videos", workers, prefetch)), run / "run")
        except CutOff:
            section.notes.append(f"{kind}, prefetch {prefetch}: cut off")
        finally:
            metrics = run / "run" / "metrics.jsonl"
            lines = metrics.read_text().splitlines() if metrics.exists() else []
            values = [json.loads(line) for line in lines if line.endswith("}")]
            found = steady_state([each for each in values if each["split"] == "train"], skipped, batch)
            if found:
                section.rows.append(row | found)
            else:
                section.notes.append(f"{kind}, prefetch {prefetch}: too few steps for a figure")


def training_values(sizes: Sizes, videos: Path, workers: int, prefetch: bool) -> list[str]:
    work = sizes.work
    return [
        # Accuracy does not matter: both splits have the same few clips.
        "dataset=custom", f"dataset.root={videos}", "dataset.allow_overlap=true", "backbone=tsm",
        f"backbone.arch={work.arch}", f"backbone.num_frames={work.num_frames}", f"data.batch_size={work.batch}",
        f"data.crop_size={work.size}",
        f"data.short_side={work.size * 8 // 7}", f"data.workers={workers}", "schedule.epochs=1",
        f"runtime.device={work.device}", f"runtime.threads={torch.get_num_threads()}",
        f"runtime.precision={sizes.base.precision}", "runtime.channels_last=true",
        "runtime.log_every=1", f"runtime.prefetch={str(prefetch).lower()}", "optimizer.lr=0.001",
    ]  # fmt: skip


def steady_state(values: Rows, skipped: int, batch: int) -> dict[str, Any] | None:
    """Clips/s and the share of time spent waiting in the steps after the first `skipped` ones; None if they are fewer
    than three. values: of metrics.jsonl, one per step; their figures are averages since the epoch's start."""
    if len(values) < skipped + 3:
        return None
    first, last = values[skipped - 1], values[-1]
    seconds = [each["step"] * batch / each["clips_per_s"] for each in (first, last)]
    waited = [each["data_wait"] * spent for each, spent in zip((first, last), seconds, strict=True)]
    steps, took = last["step"] - first["step"], seconds[1] - seconds[0]
    return {
        "steps": steps,
        "clips_per_s": steps * batch / took,
        "data_wait": (waited[1] - waited[0]) / took,
        "clips_per_s_from_start": last["clips_per_s"],
        "data_wait_from_start": last["data_wait"],
    }


@contextmanager
def kept_settings() -> Iterator[None]:
    """Restore the settings that a training changes in its process."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        allow_tf32(False)


# ---- Protocols -------------------------------------------------------------------------------------------------------


def protocols(section: Section, sizes: Sizes, clips: Clips) -> None:
    """Videos/s of every protocol with vsn-eval's loop, from copies and from the originals, and peak GPU memory without
    the network."""
    work, device = sizes.work, torch.device(section.device)
    small = sizes.small
    workers = 1 if small else max(1, usable_cores() - 2)
    model = make_model("tsm", work).eval().to(memory_format=torch.channels_last)
    names = [*PROTOCOLS, *(name for name in protocol_names() if name not in PROTOCOLS)]
    for kind in ("copies", "originals"):
        builders: Builders = {}
        files = clips.files(kind)
        for name in names:
            protocol = protocol_of(name, work.size * 8 // 7, work.size)
            count = 1 if small else max(4, min(VIDEOS, VIEWS // protocol.views))
            paths = [files[number % len(files)] for number in range(count)]
            row = {"mode": "protocol", "protocol": name, "views": protocol.views, "videos": count, "kind": kind,
                   "model": "tsm", "work": asdict(work), "workers": workers}  # fmt: skip
            builders[f"{name}, {kind}"] = row, partial(evaluation, model, paths, protocol, sizes, workers)
        most, on_gpu = 1 if small else 3, device.type == "cuda"
        until = time.monotonic() + 0.6 * section.clock.left if kind == "copies" else None
        section.time(builders, most, memory=on_gpu, deadline=until, stateless=True)
        if small:
            break


def evaluation(model: torch.nn.Module, paths: Sequence[Path], protocol: Protocol, sizes: Sizes, workers: int) -> Action:
    device = torch.device(sizes.work.device)
    workload = EvalWorkload(
        model, paths, sizes.work.num_frames, protocol, Process(0, 1, device),
        autocast_for(sizes.base.precision, device), workers=workers, classes=sizes.work.num_classes,
    )  # fmt: skip
    return partial(score_decoding_once, workload)

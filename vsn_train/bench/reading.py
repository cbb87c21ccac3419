"""Measure the speed of reading videos: ours on the original files, ours on fast-seek copies, and the usual pipeline.

Everything runs on one core, in interleaved rounds, over the same videos with the same random draws. A stage lasts from
the end of the previous one to its own end. The work that ours leaves to a GPU (cropping the test views, conversion to
float) is timed separately, on the CPU; the usual pipeline does it in its workers.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vsn_train.analysis.tables import markdown_table
from vsn_train.bench import reference_reading
from vsn_train.bench.timing import ratio
from vsn_train.data.augment import Augmentation, augment
from vsn_train.data.loader import EpochBatches, TrainingClips, training_loader
from vsn_train.data.manifest import Manifest, make_manifest
from vsn_train.data.prepare import CRF, SHORT_SIDE, find_sources, prepare, space_of, target_of
from vsn_train.data.sampling import sample_indices
from vsn_train.data.transforms import crop_views, normalize, resize_short_side
from vsn_train.data.video import open_video
from vsn_train.engine.interleave import interleave
from vsn_train.errors import InputError

STAGES = ("open", "decode", "crop and resize", "to float", "hand-over")
LINUX = hasattr(os, "memfd_create")
REFERENCE = "baseline"  # name of the pipeline of reference_reading in tables and JSON
PIPELINES = (REFERENCE, "ours", "ours, copies")


@dataclass(frozen=True)
class Reading:
    """The frames to read of each video. mode: "train", or a protocol's name. T: frames per clip. Sizes in pixels."""

    mode: str
    T: int = 8
    sampling: str = "uniform"  # or placement
    clips: int = 1
    crops: int = 1
    short_side: int = 256
    crop_size: int = 224


@dataclass(frozen=True)
class Videos:
    """A group of videos that are reported together. copies: their fast-seek copies in the same order, or empty."""

    name: str
    files: list[str]
    copies: list[str]
    growth: float | None  # bytes of the copies / bytes of the files
    copying_seconds: float = 0.0  # time of one core for making the copies


class StageTimer:
    """Seconds spent in each stage."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def __call__(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage] += now - self._last
        self._last = now


# ---- One video -------------------------------------------------------------------------------------------------------


def training_clip(
    path: str, reading: Reading, generator: np.random.Generator, end_stage: Callable[[str], None]
) -> Tensor:
    """Read a training clip as `TrainingClips`, stage by stage: uint8 (T, 3, size, size)."""
    with open_video(path) as video:
        end_stage("open")
        clip = video.read(sample_indices(video.num_frames, reading.T, 1, reading.sampling, generator)[0])
    end_stage("decode")
    clip, _ = augment(clip, Augmentation(crop_size=reading.crop_size), generator)
    end_stage("crop and resize")
    return clip


def eval_frames(path: str, reading: Reading, end_stage: Callable[[str], None]) -> tuple[Tensor, np.ndarray]:
    """Read frames as `read_eval_video`, stage by stage: uint8 (U, 3, H, W) and positions (clips, T)."""
    with open_video(path) as video:
        end_stage("open")
        wanted = sample_indices(video.num_frames, reading.T, reading.clips, reading.sampling)
        unique, positions = np.unique(wanted, return_inverse=True)
        frames = video.read(unique)
    end_stage("decode")
    frames = resize_short_side(frames, reading.short_side)
    end_stage("crop and resize")
    return frames, positions.reshape(wanted.shape)


def views_on_device(frames: Tensor, clips: np.ndarray, reading: Reading) -> None:
    """Crop and normalize every view, as the evaluation does on its device."""
    for clip in clips:
        for view, _ in crop_views(frames[torch.as_tensor(clip)], reading.crops, reading.crop_size):
            normalize(view)


def hand_over(batch: Tensor) -> None:
    """Copy the batch into new shared memory, as a worker does to return it."""
    dense = batch.permute(sorted(range(batch.ndim), key=batch.stride, reverse=True))
    data = dense.contiguous().numpy().reshape(-1).view(np.uint8).data
    with open(os.memfd_create("hand-over"), "wb", buffering=0) if LINUX else tempfile.TemporaryFile() as file:
        while data:
            data = data[file.write(data) :]


# ---- Comparison ------------------------------------------------------------------------------------------------------


def read_all(pipeline: str, videos: Videos, reading: Reading, seed: int, timer: StageTimer) -> None:
    """Read every video of a group once. For training they form one batch; for a test each is returned separately."""
    timer.start()
    batch = []
    for index, path in enumerate(videos.copies if pipeline == "ours, copies" else videos.files):
        generator = np.random.default_rng((seed, index))
        if reading.mode == "train" and pipeline == REFERENCE:
            batch.append(
                reference_reading.training_clip(path, reading.T, reading.sampling, reading.crop_size, generator, timer)
            )
        elif reading.mode == "train":
            batch.append(training_clip(path, reading, generator, timer))
        elif pipeline == REFERENCE:
            views = reference_reading.eval_views(
                path, reading.T, reading.clips, reading.sampling, reading.crops, reading.short_side, reading.crop_size,
                timer,
            )  # fmt: skip
            hand_over(views)
            timer("hand-over")
        else:
            hand_over(eval_frames(path, reading, timer)[0])
            timer("hand-over")
    if batch:
        if pipeline != REFERENCE:  # uint8, channels-last in memory
            batch = [clip.permute(0, 2, 3, 1) for clip in batch]
        hand_over(torch.stack(batch))
        timer("hand-over")


@dataclass(frozen=True)
class ReadTimes:
    """times: (rounds,) seconds of each pipeline for all videos. stages: seconds of each stage over all rounds."""

    videos: Videos
    reading: Reading
    times: dict[str, np.ndarray]
    stages: dict[str, dict[str, float]]
    device_seconds: float  # of ours, for one pass, on one CPU core


def compare_reading(videos: Videos, reading: Reading, rounds: int) -> ReadTimes:
    """Time all pipelines in interleaved rounds, on one core."""
    pipelines = [name for name in PIPELINES if name != "ours, copies" or videos.copies]
    timers = {name: StageTimer() for name in pipelines}
    passes = dict.fromkeys(pipelines, 0)

    def action(name: str) -> Callable[[], None]:
        def run() -> None:
            read_all(name, videos, reading, passes[name], timers[name])
            passes[name] += 1

        return run

    with one_core():
        times = interleave({name: action(name) for name in pipelines}, rounds)
        device_seconds = time_on_device(videos, reading)
    return ReadTimes(
        videos, reading, times, {name: dict(timer.seconds) for name, timer in timers.items()}, device_seconds
    )


def time_on_device(videos: Videos, reading: Reading) -> float:
    """Seconds of one pass of the work that our pipeline leaves to the device."""
    seconds = 0.0
    for path in videos.copies or videos.files:
        if reading.mode == "train":
            frames = training_clip(path, reading, np.random.default_rng(0), lambda stage: None)
            before = time.perf_counter()
            normalize(frames)
        else:
            frames, clips = eval_frames(path, reading, lambda stage: None)
            before = time.perf_counter()
            views_on_device(frames, clips, reading)
        seconds += time.perf_counter() - before
    return seconds


@contextmanager
def one_core() -> Iterator[None]:
    """Keep this process and its threads on one core, if the system supports it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        if cores:
            os.sched_setaffinity(0, {max(cores)})
        yield
    finally:
        if cores:
            os.sched_setaffinity(0, cores)
        torch.set_num_threads(threads)


def together(results: Sequence[ReadTimes]) -> ReadTimes:
    """The groups merged into one, in which every video counts once."""
    names = [name for name in PIPELINES if all(name in result.times for result in results)]
    files = [path for result in results for path in result.videos.files]
    videos = Videos("all", files, [path for result in results for path in result.videos.copies], None)
    return ReadTimes(
        videos,
        results[0].reading,
        {name: np.sum([result.times[name] for result in results], axis=0) for name in names},
        {name: {s: sum(r.stages[name][s] for r in results) for s in STAGES} for name in names},
        sum(result.device_seconds for result in results),
    )


def reading_table(results: Sequence[ReadTimes]) -> str:
    """Markdown: clips or videos per second and core, time per stage, and speed relative to the baseline."""
    unit = "clips/s" if results[0].reading.mode == "train" else "videos/s"
    header = ["videos", "pipeline", unit, *(f"{stage} %" for stage in STAGES), "ms", "device ms", "times the baseline"]
    rows = []
    for result in results:
        for name, times in result.times.items():
            count, spent = len(result.videos.files), sum(result.stages[name].values())
            speedup = ratio(result.times[REFERENCE], times)
            rows.append(
                [
                    result.videos.name,
                    name,
                    f"{count / float(np.median(times)):.1f}",
                    *(f"{100 * result.stages[name][stage] / spent:.0f}" for stage in STAGES),
                    f"{1000 * float(np.median(times)) / count:.1f}",
                    "" if name == REFERENCE else f"{1000 * result.device_seconds / count:.1f}",
                    "" if name == REFERENCE else f"{speedup.median:.2f} ({speedup.low:.2f}-{speedup.high:.2f})",
                ]
            )
    return markdown_table(header, rows)


def as_data(result: ReadTimes) -> list[dict[str, Any]]:
    """For JSON."""
    return [
        {
            "videos": result.videos.name,
            "files": len(result.videos.files),
            "mode": result.reading.mode,
            "pipeline": name,
            "seconds": times.tolist(),
            "stages": result.stages[name],
            "device_seconds": result.device_seconds,
            "growth": result.videos.growth,
            "copying_seconds": result.videos.copying_seconds,
        }
        for name, times in result.times.items()
    ]


# ---- All cores, and memory -------------------------------------------------------------------------------------------


class ReferenceClips(Dataset[Tensor]):
    """The reference pipeline as a data set for torch's DataLoader. keys: (epoch, index)."""

    def __init__(self, files: Sequence[str], reading: Reading) -> None:
        self.files = files
        self.reading = reading

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, key: Any) -> Tensor:
        torch.set_num_threads(1)
        generator, reading = np.random.default_rng(key), self.reading
        path = self.files[key[1] % len(self.files)]
        return reference_reading.training_clip(
            path, reading.T, reading.sampling, reading.crop_size, generator, lambda stage: None
        )


def clips_per_second(
    groups: Sequence[Videos], reading: Reading, workers: int, clips: int, batch_size: int = 8
) -> dict[str, float]:
    """Training clips per second of all workers together, through the loaders, after one epoch to start them."""
    speeds = {}
    for name in PIPELINES:
        files = [path for group in groups for path in (group.copies if name == "ours, copies" else group.files)]
        if not files:
            continue
        files = files * -(-clips // len(files))
        batches = EpochBatches(len(files), batch_size, 0, 1, seed=0)
        loader: Any
        if name == REFERENCE:
            loader = DataLoader(
                ReferenceClips(files, reading), batch_sampler=batches, num_workers=workers, persistent_workers=True,
                multiprocessing_context="fork",
            )  # fmt: skip
        else:
            loader = training_loader(training_clips(files, reading), batches, workers)
        for batches.epoch in (0, 1):
            before = time.perf_counter()
            for _ in loader:
                pass
            speeds[name] = len(files) / (time.perf_counter() - before)
    return speeds


def training_clips(files: Sequence[str], reading: Reading) -> TrainingClips:
    how = Augmentation(crop_size=reading.crop_size)
    return TrainingClips(manifest_of(files), reading.T, reading.sampling, how, "auto", seed=0)


def manifest_of(files: Sequence[str]) -> Manifest:
    """A manifest with one class, in which a file may occur several times."""
    ids = [f"{number}" for number in range(len(files))]
    return make_manifest("benchmark", "train", Path("/"), list(files), [0] * len(files), ["clip"], ids=ids)


def worker_memory(files: Sequence[str], reading: Reading, clips: int) -> dict[int, float]:
    """Number of clips read by one worker process -> its resident memory in MB, at 1/100, 1/10, … of `clips`."""
    if not Path("/proc/self/statm").exists():
        raise InputError("--memory: this system does not report the memory of a process; it needs Linux's /proc")
    marks = sorted({max(1, round(clips * share)) for share in (0.01, 0.1, 0.25, 0.5, 0.75, 1)})
    ours, theirs = multiprocessing.get_context("fork").Pipe(duplex=False)

    def work() -> None:
        torch.set_num_threads(1)
        samples = training_clips(files, reading)
        for number in range(clips):
            batch = [samples[number // len(files), number % len(files)]]
            if number + 1 in marks:
                pages = int(Path("/proc/self/statm").read_text().split()[1])
                theirs.send((number + 1, pages * os.sysconf("SC_PAGE_SIZE") / 1e6))
            del batch

    process = multiprocessing.get_context("fork").Process(target=work, daemon=True)
    process.start()
    theirs.close()
    found: dict[int, float] = {}
    try:
        while len(found) < len(marks):
            number, megabytes = ours.recv()
            found[number] = megabytes
    except EOFError:
        raise InputError("the worker whose memory was measured has died; `vsn-tools check` finds why") from None
    finally:
        process.kill()
        process.join()
    return found


# ---- Videos ----------------------------------------------------------------------------------------------------------


def gather_videos(path: Path, limit: int, copies: Path | None) -> Videos:
    """A file, or up to `limit` evenly spaced videos of a folder, with their fast-seek copies, made below `copies`."""
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_dir():
        names = [name for name in find_sources(path)[0] if (path / name).is_file()]
        if not names:
            raise InputError(f"{path}: expected videos in it, found none")
        picked = np.linspace(0, len(names) - 1, min(limit, len(names))).round().astype(int)
        sources = [path / names[index] for index in picked]
    else:
        sources = [path]
    files = [str(source.resolve()) for source in sources]
    if copies is None:
        return Videos(path.name, files, [], None)
    made = []
    before = time.perf_counter()
    with one_core():
        for number, source in enumerate(sources):
            target = target_of(source, copies / path.name / str(number) / source.name)
            prepare(source, target, SHORT_SIDE, CRF, "rgb")
            made.append(target)
    seconds = time.perf_counter() - before
    growth = sum(map(space_of, made)) / sum(map(space_of, sources))
    return Videos(path.name, files, [str(target) for target in made], growth, seconds)


def growth_table(groups: Sequence[Videos]) -> str:
    rows = [
        [group.name, str(len(group.files)), f"{sum(space_of(Path(f)) for f in group.files) / 1e6:.2f}",
         f"{group.growth:.2f}", f"{len(group.files) / group.copying_seconds:.2f}"]
        for group in groups if group.growth is not None
    ]  # fmt: skip
    return markdown_table(["videos", "files", "MB", "copies take, times", "made a second, one core"], rows)


def total_table(speeds: Mapping[str, float], workers: int) -> str:
    rows = [[name, f"{speed:.1f}", f"{speed / speeds[REFERENCE]:.2f}"] for name, speed in speeds.items()]
    return markdown_table(["pipeline", f"clips/s, {workers} workers", "times the baseline"], rows)


def memory_table(memory: Mapping[str, Mapping[int, float]]) -> str:
    marks = list(next(iter(memory.values())))
    rows = [[name, *(f"{found[mark]:.0f}" for mark in marks)] for name, found in memory.items()]
    return markdown_table(["MB after clips", *(f"{mark:,}" for mark in marks)], rows)

"""What the fuzzer damages: a small data set, and what the commands themselves make of it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torchvision.io import encode_jpeg

from scripts.fuzzing.doors import Door, run_door

CLASSES = ("jump", "run")
VIDEOS = 6  # of both splits together; clip 4 and 5 are for validation
CLIP = ["data.workers=0", "runtime.threads=1", "runtime.device=cpu"]
SMALL = [
    "backbone=tsm", "backbone.arch=mobilenet_v2", "backbone.num_frames=2", "data.short_side=34", "data.crop_size=32",
    "data.batch_size=4", "schedule.epochs=1", "protocol=center_1clip", *CLIP,
]  # fmt: skip


@dataclass(frozen=True)
class Material:
    """All of it whole. folder: the data set `data`, the run folder `run`, and the files below.

    content: what the run's last checkpoint holds. scores, manifest, copy: whole files of their kind.
    """

    folder: Path
    content: dict[str, Any]
    scores: bytes
    manifest: bytes
    copy: bytes


def make_material(folder: Path) -> Material:
    """Raises RuntimeError where a command fails on what is whole."""
    data = folder / "data"
    for each in ("work", "home", "tmp", "target"):
        (folder / each).mkdir(parents=True)
    write_data(data)
    run = folder / "run"
    for door in (
        Door("vsn-train", ("dataset=custom", f"dataset.root={data}", f"hydra.run.dir={run}", *SMALL)),
        Door("vsn-eval", (f"checkpoint={run}", "keep_views=always", *CLIP)),
        Door("vsn-tools", ("prepare", str(data / "clips"), str(folder / "copies"), "--workers", "1")),
    ):
        ran = run_door(door, folder, 120)
        if ran.code:
            raise RuntimeError(f"{door} ended with {ran.code}:\n{ran.out}\n{ran.err}")
    return Material(
        folder,
        torch.load(run / "checkpoints" / "last.pt", weights_only=True),
        next(run.glob("eval/*/*/scores.npz")).read_bytes(),
        (run / "manifests" / "train.npz").read_bytes(),
        (folder / "copies" / "0.mp4").read_bytes(),
    )


def write_data(data: Path) -> None:
    """Videos, folders of frames and lists of dataset=custom."""
    (data / "clips").mkdir(parents=True)
    for number in range(VIDEOS):
        write_video(data / "clips" / f"{number}.mp4", number)
    write_frames(data / "frames", 6)
    for split, numbers in (("train", range(4)), ("val", range(4, VIDEOS))):
        lines = [f"clips/{number}.mp4,{CLASSES[number % 2]}\n" for number in numbers]
        (data / f"{split}.csv").write_text("".join(["path,label\n", *lines]))


def write_video(path: Path, seed: int, frames: int = 9) -> None:
    images = np.random.default_rng(seed).integers(0, 255, (frames, 3, 4, 3), np.uint8).repeat(12, 1).repeat(12, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = images.shape[2], images.shape[1], "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode())


def write_frames(folder: Path, frames: int) -> None:
    folder.mkdir()
    for number in range(1, frames + 1):
        image = torch.full((3, 36, 48), 40 * number % 255, dtype=torch.uint8)
        (folder / f"{number:05d}.jpg").write_bytes(encode_jpeg(image).numpy().tobytes())
    (folder / "times.txt").write_text("".join(f"{number / 10}\n" for number in range(frames)))


def facts_of(material: Material) -> dict[str, Any]:
    """What the parts of an evaluation of the whole checkpoint on the whole data set say of themselves."""
    folder = next((material.folder / "run").glob("eval/*/*"))
    with np.load(folder / "scores.npz", allow_pickle=False) as file:
        facts: dict[str, Any] = json.loads(str(file["facts"]))
    del facts["bad_videos"]
    return facts


def copy_run(material: Material, run: Path) -> None:
    left_out = shutil.ignore_patterns("eval", "tensorboard")
    shutil.copytree(material.folder / "run", run, ignore=left_out, dirs_exist_ok=True)

"""Measure time and memory of vsn-predict window=… on a long video, compared with decoding alone.

    python scripts/long_video.py                          an hour of 320 x 240, MobileNetV2
    python scripts/long_video.py --minutes 10 --arch resnet50

The video is one minute, encoded once and repeated. The network has random weights, on which time and memory do not
depend. Each measurement is a separate process with one thread. Reports wall-clock time, CPU time and peak memory by the
kernel. Linux only.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from vsn_train import config as schema
from vsn_train.analysis.tables import markdown_table
from vsn_train.bench.timing import hardware
from vsn_train.engine.checkpoint import save_checkpoint
from vsn_train.engine.state import Checkpoint
from vsn_train.models import create_model
from vsn_train.models.backbone import ARCHS

WIDTH, HEIGHT, FPS = 320, 240, 25
DECODE = "import sys, av\nfor _ in av.open(sys.argv[1]).decode(video=0): pass"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="length of the video; default 60")
    parser.add_argument("--arch", choices=ARCHS, default="mobilenet_v2", help="default mobilenet_v2")
    parser.add_argument("--num-frames", type=int, default=8, help="frames per window; default 8")
    parser.add_argument("--size", type=int, default=224, help="crop in pixels; the short side is 8/7 of it")
    parser.add_argument("--window", type=float, default=2.0, help="seconds")
    parser.add_argument("--stride", type=float, default=1.0, help="seconds")
    arguments = parser.parse_args()
    facts = hardware() | {"network": f"tsm, {arguments.arch}, {arguments.num_frames} x {arguments.size} squared, fp32"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = write_long_video(folder / "long.mp4", 60 * arguments.minutes)
        save_network(folder / "network.pt", arguments.arch, arguments.num_frames, arguments.size)
        predict = [
            sys.executable, "-c", "from vsn_train.cli import predict; predict()", f"checkpoint={folder}/network.pt",
            f"video={folder}/long.mp4", f"window={arguments.window}", f"stride={arguments.stride}",
            f"hydra.run.dir={folder}/out",
        ]  # fmt: skip
        rows = [
            ["decoding alone", *measured([sys.executable, "-c", DECODE, f"{folder}/long.mp4"])],
            [f"window={arguments.window:g} stride={arguments.stride:g}", *measured(predict)],
        ]
        windows = len((folder / "out" / "timeline.csv").read_text().splitlines()) - 1
    for key, value in (facts | {"video": f"{seconds:.0f} s of {WIDTH} x {HEIGHT}", "windows": str(windows)}).items():
        print(f"- {key}: {value}")
    print("\n" + markdown_table(["", "seconds", "CPU seconds", "peak MB"], rows))


def write_long_video(path: Path, seconds: float) -> float:
    """Write a video of moving noise: at most one minute is encoded, and its packets are repeated. Returns its length in
    seconds."""
    minute, total = max(1, round(min(seconds, 60) * FPS)), max(1, round(seconds * FPS))
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT + 64, WIDTH + 64), dtype=np.uint8)
    part = path.with_name(f"part_{path.name}")
    with av.open(str(part), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23", "bf": "0"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.thread_count = FPS, 1
        for number in range(minute):
            y, x = number % 64, 2 * number % 64
            luma = noise[y : y + HEIGHT, x : x + WIDTH] // 4 + np.arange(WIDTH, dtype=np.uint16).astype(np.uint8) // 2
            image = np.concatenate([luma, np.full((HEIGHT // 2, WIDTH), 128, np.uint8)])
            frame = av.VideoFrame.from_ndarray(image, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with av.open(str(part)) as source, av.open(str(path), "w") as target:
        packets = [packet for packet in source.demux(video=0) if packet.size]
        stream = target.add_stream_from_template(source.streams.video[0])
        for number in range(total):
            original = packets[number % minute]
            packet = av.Packet(bytes(original))
            packet.stream, packet.time_base = stream, Fraction(1, FPS)
            packet.pts = packet.dts = number
            packet.duration, packet.is_keyframe = 1, original.is_keyframe
            target.mux(packet)
    part.unlink()
    return total / FPS


def save_network(path: Path, arch: str, num_frames: int, size: int) -> None:
    torch.manual_seed(0)
    model = create_model("tsm", arch, num_frames, 400)
    config = {
        "backbone": asdict(schema.Tsm("tsm", arch, num_frames)),
        "dataset": asdict(schema.Motion("motion", "data", "direction", 12, 12, 64, 24)),
        "protocol": asdict(schema.Protocol(1, "uniform", 1, size * 8 // 7, size)),
        "data": asdict(schema.Data(short_side=size * 8 // 7, crop_size=size)),
        "runtime": asdict(schema.Runtime(threads=1, precision="fp32")),
    }
    save_checkpoint(
        path,
        Checkpoint(
            model=model.state_dict(), average=None, optimizer={}, scaler={}, config=config,
            class_names=list(map(str, range(400))), flip_pairs=[], epoch=0, step=0,
        ),
    )  # fmt: skip


def measured(command: Sequence[str]) -> list[str]:
    """Wall-clock seconds, CPU seconds and peak MB of a command. Exits if the command fails."""
    began = time.perf_counter()
    process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    if code := os.waitstatus_to_exitcode(status):
        sys.exit(f"{' '.join(command)}: exit code {code}")
    return [f"{seconds:.0f}", f"{used.ru_utime + used.ru_stime:.0f}", f"{used.ru_maxrss * 1024 / 1e6:.0f}"]


if __name__ == "__main__":
    main()

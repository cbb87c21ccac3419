"""Long videos whose classes are colours, and a network that knows them without any training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from tests.runs import checkpoint_with
from vsn_train import config as schema
from vsn_train.data.transforms import normalize
from vsn_train.engine.checkpoint import save_checkpoint
from vsn_train.models import create_model
from vsn_train.models.layouts import mixing_of

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 30), "blue": (30, 30, 200)}  # RGB
SIZE = 32  # pixels that the network sees
BACKBONES = {"tsn": schema.Backbone, "tsm": schema.Tsm, "tsm_online": schema.TsmOnline}


def write_colours(
    path: Path, parts: Sequence[tuple[str, int]], fps: int = 12, width: int = 64, height: int = 48, **muxer: str
) -> Path:
    """parts: (colour, frames), one after the other. A small grey square moves, so that no two frames are alike."""
    with av.open(str(path), "w", container_options=muxer) as container:
        stream = container.add_stream("libx264", rate=fps, options={"preset": "ultrafast", "crf": "15"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = 12
        stream.codec_context.thread_count = 1
        colours = [colour for colour, count in parts for _ in range(count)]
        for number, colour in enumerate(colours):
            image = np.full((height, width, 3), COLOURS[colour], np.uint8)
            image[2:6, number % (width - 4) : number % (width - 4) + 4] = 128
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def save_colour_network(path: Path, operator: str = "tsm", num_frames: int = 4, arch: str = "resnet18") -> Path:
    """A checkpoint with random weights whose classifier was solved for clips of one colour each."""
    torch.manual_seed(0)
    model = create_model(operator, arch, num_frames, len(COLOURS)).eval()
    clips = torch.tensor(list(COLOURS.values()), dtype=torch.uint8)[:, None, :, None, None]
    with torch.no_grad():
        features = model.features(normalize(clips.expand(-1, num_frames, -1, SIZE, SIZE)))
        middle = features.mean(dim=0)
        weight = 8 * torch.linalg.pinv(features - middle) @ (torch.eye(len(COLOURS)) - 1 / len(COLOURS))
        model.head.weight.copy_(weight.T)
        model.head.bias.copy_(-weight.T @ middle)
    config = {
        "backbone": asdict(BACKBONES[operator](operator=operator, arch=arch, num_frames=num_frames)),
        "dataset": asdict(schema.Motion("motion", "data", "direction", 24, 12, 64, 24)),
        "protocol": asdict(schema.Protocol(1, "uniform", 1, SIZE + 4, SIZE)),
        "data": asdict(schema.Data(short_side=SIZE + 4, crop_size=SIZE, workers=0)),
        "runtime": asdict(schema.Runtime(threads=1, precision="fp32")),
    }
    checkpoint = checkpoint_with(
        model=model.state_dict(), config=config, class_names=list(COLOURS), mixing=mixing_of(model)
    )
    save_checkpoint(path, checkpoint)
    return path

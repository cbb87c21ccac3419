"""Memory: what is read of large videos, and what is refused because a small file would unfold to gigabytes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torchvision.io import encode_png

from scripts.fuzzing.cases import png
from tests.media import write_counting_folder, write_counting_video
from vsn_train.data import loader
from vsn_train.data.frames import MAX_PIXELS, FrameFolder
from vsn_train.data.loader import check_shape, read_eval_video
from vsn_train.data.protocol import Protocol
from vsn_train.data.video import VideoError, open_video

DENSE = Protocol(10, "dense", 10, 40, 32)  # 100 views


def test_a_hundred_views_hold_few_large_frames_at_a_time(tmp_path, monkeypatch):
    """Each is brought down before the next few are decoded, and the views are the same as if all were held."""
    path = write_counting_video(tmp_path / "long.mp4", 300, width=128, height=96, gop=12)
    whole = read_eval_video(path, 8, DENSE, "auto")
    asked = []
    with open_video(path) as video:
        kind = type(video)
    read = kind.read
    monkeypatch.setattr(kind, "read", lambda self, frames: (asked.append(len(frames)), read(self, frames))[1])
    monkeypatch.setattr(loader, "READ_BYTES", 10 * 128 * 96 * 3)
    pieces = read_eval_video(path, 8, DENSE, "auto")
    assert len(whole.numbers) > 60
    assert max(asked) <= 10
    assert sum(asked) == len(whole.numbers)
    assert torch.equal(pieces.frames, whole.frames)
    assert np.array_equal(pieces.clips, whole.clips)


@pytest.mark.parametrize("size", [(20_000, 20_000), (9000, 8000)])
def test_a_giant_picture_is_refused_before_it_is_decoded(tmp_path, size):
    folder = write_counting_folder(tmp_path / "v", 3, "{:05d}.png")
    path = folder / "00002.png"
    path.write_bytes(png(*size, 8))
    assert path.stat().st_size < 2e6
    with (
        FrameFolder(str(folder)) as video,
        pytest.raises(VideoError, match=f"is {size[0]}x{size[1]}; the limit is {MAX_PIXELS} pixels"),
    ):
        video.read([1])


@pytest.mark.parametrize("size", [(1, 4000), (9000, 2)])
def test_frames_so_oblong_that_resizing_makes_giants_of_them(tmp_path, size):
    folder = tmp_path / "v"
    folder.mkdir()
    for number in (1, 2):
        image = torch.zeros((3, size[1], size[0]), dtype=torch.uint8)
        (folder / f"{number:05d}.png").write_bytes(encode_png(image).numpy().tobytes())
    with FrameFolder(str(folder)) as video:
        assert (video.width, video.height) == size
        check_shape(video, 64 if size == (9000, 2) else 16)
        with pytest.raises(
            VideoError, match=re.escape(f"its frames are {size[0]}x{size[1]}: with a short side of 256")
        ):
            check_shape(video, 256)
    with pytest.raises(VideoError, match="its frames are"):
        read_eval_video(folder, 2, Protocol(1, "uniform", 1, 256, 224), "auto")

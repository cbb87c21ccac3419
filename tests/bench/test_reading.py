"""The benchmark times what the loader does, not something like it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.media import read_counter, write_counting_video
from tests.runs import TOOLS
from vsn_train.bench import reading as module
from vsn_train.bench import reference_reading
from vsn_train.bench.reading import Reading, StageTimer, gather_videos, worker_memory
from vsn_train.data.loader import read_eval_video
from vsn_train.data.protocol import Protocol
from vsn_train.data.sampling import sample_indices
from vsn_train.data.transforms import crop_views, normalize
from vsn_train.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    for index in range(3):
        write_counting_video(folder / f"{index}.mp4", 20 + index)
    return folder


def test_stages_add_up_to_what_the_loader_gives(folder):
    path, timer = str(folder / "1.mp4"), StageTimer()
    timer.start()
    reading = Reading("train", T=4, crop_size=48)
    clip = module.training_clip(path, reading, np.random.default_rng((0, 2, 0)), timer)
    assert torch.equal(clip, module.training_clips([path], reading)[2, 0][0])
    assert all(timer.seconds[stage] > 0 for stage in ("open", "decode", "crop and resize"))
    test = Reading("two", T=4, clips=2, short_side=40, crop_size=32)
    frames, clips = module.eval_frames(path, test, timer)
    expected = read_eval_video(Path(path), 4, Protocol(2, "uniform", 1, 40, 40), "auto")
    assert torch.equal(frames, expected.frames)
    assert np.array_equal(clips, expected.clips)


def test_the_reference_reads_the_same_frames_at_the_same_place(folder):
    pytest.importorskip("decord")
    path = str(folder / "2.mp4")
    clip = reference_reading.training_clip(path, 4, "uniform", 48, np.random.default_rng(5), lambda stage: None)
    ours = module.training_clip(path, Reading("train", 4, crop_size=48), np.random.default_rng(5), StageTimer())
    assert clip.dtype == torch.float32
    assert clip.shape == ours.shape == (4, 3, 48, 48)
    assert (clip - normalize(ours)).abs().mean() < 0.05  # two ways to resize
    views = reference_reading.eval_views(path, 4, 2, "uniform", 10, 48, 48, lambda stage: None)
    assert views.shape == (20, 4, 3, 48, 48)
    video = read_eval_video(Path(path), 4, Protocol(2, "uniform", 1, 48, 48), "auto")
    wanted = sample_indices(22, 4, 2)
    assert [read_counter(frame) for frame in video.frames[video.clips[1]]] == wanted[1].tolist()
    view = crop_views(video.frames[torch.as_tensor(video.clips[1])], 10, 48)[7][0]
    torch.testing.assert_close(views[17], normalize(view))


def test_memory_of_a_worker_is_read_at_the_marks(folder):
    found = worker_memory([str(folder / "0.mp4")], Reading("train", 2, crop_size=32), 40)
    assert list(found) == [1, 4, 10, 20, 30, 40]
    assert all(megabytes > 20 for megabytes in found.values())
    with pytest.raises(InputError, match="found no videos and no folders of images"):
        gather_videos(Path(__file__).parent, 5, None)


def test_the_script_writes_tables_and_figures(folder, tmp_path):
    pytest.importorskip("decord")
    done = subprocess.run(
        [*TOOLS, "bench", "loader", str(folder), "--mode", "train", "center_1clip", "--rounds", "2",
         "--num-frames", "2", "--workers", "0", "--output", str(tmp_path / "loader")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "loader.md").read_text()
    assert "## train, one core" in text
    assert "copies take, times" in text
    results = json.loads((tmp_path / "loader.json").read_text())["results"]
    assert [(row["mode"], row["pipeline"]) for row in results] == [
        (mode, name) for mode in ("train", "center_1clip") for name in ("baseline", "ours", "ours, copies")
    ]
    assert all(len(row["seconds"]) == 2 for row in results)

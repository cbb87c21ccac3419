"""`vsn-tools bench eval`: the reference that reads every view anew finds the scores of the evaluation loop."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from tests.conftest import CLIPS
from tests.media import write_counting_folder, write_counting_video, write_packed_video
from tests.runs import TOOLS
from vsn_train.bench.evaluation import EvalWorkload, list_videos, score_decoding_once, score_view_by_view
from vsn_train.data.protocol import Protocol
from vsn_train.engine.distributed import Process
from vsn_train.models import create_model

REAL = ["ucf101/eye_makeup_test.avi", "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """A file that decord reads exactly, and one with packed B-frames, for which it gives other frames."""
    if CLIPS.is_dir():
        return [CLIPS / name for name in REAL]
    folder = tmp_path_factory.mktemp("videos")
    return [
        write_counting_video(folder / "plain.mp4", 90, width=96, height=64),
        write_packed_video(folder / "packed.avi", 48, width=96, height=64),
    ]


def both_ways(paths, protocol, modality="rgb"):
    torch.manual_seed(0)
    model = create_model("tsm", "resnet18", 2, 7, modality=modality)
    torch.nn.init.normal_(model.head.weight, std=0.05)
    alone = Process(0, 1, torch.device("cpu"))
    options = (paths, 2, protocol, alone, torch.autocast("cpu", enabled=False), 8, 0, 7, modality)
    once = score_decoding_once(EvalWorkload(copy.deepcopy(model).to(memory_format=torch.channels_last), *options))
    work = EvalWorkload(model, *options)
    listed = list_videos(work)
    return once, score_view_by_view(work, listed), listed


def test_views_read_one_by_one_give_the_same_scores(videos):
    once, by_view, listed = both_ways(videos, Protocol(2, "dense", 10, 36, 32))
    assert [video.decord for video in listed] == [find_spec("decord") is not None, False]
    assert once.shape == by_view.shape == (2, 20, 7)
    np.testing.assert_allclose(by_view, once, atol=1e-5)
    assert np.abs(once[0, 0] - once[0, 5:]).max(axis=1).min() > 1e-3  # another window or flip would show


def test_flipped_flow_points_the_other_way_in_both(tmp_path):
    folder = write_counting_folder(tmp_path / "flow", 12, "flow_x_{:05d}.jpg")
    write_counting_folder(folder, 12, "flow_y_{:05d}.jpg", offset=100)
    once, by_view, _ = both_ways([folder], Protocol(1, "uniform", 10, 36, 32), "flow")
    np.testing.assert_allclose(by_view, once, atol=1e-5)
    assert np.abs(once[0, :5] - once[0, 5:]).max(axis=1).min() > 1e-3


def test_the_script_writes_speed_memory_and_the_difference_of_the_scores(videos, tmp_path):
    done = subprocess.run(
        [*TOOLS, "bench", "eval", *map(str, videos), "--protocols", "center_2clip", "fullres_3crop_2clip",
         "--num-frames", "2", "--size", "35", "--workers", "0", "--rounds", "2", "--threads", "1",
         "--output", str(tmp_path / "eval")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "eval.md").read_text()
    assert "| by view, videos/s | once, videos/s |" in re.sub(" +", " ", text)
    results = json.loads((tmp_path / "eval.json").read_text())["results"]
    assert [(row["protocol"], row["views"]) for row in results] == [("center_2clip", 2), ("fullres_3crop_2clip", 6)]
    for row in results:
        assert row["largest_difference"] < 1e-5
        assert {way: len(seconds) for way, seconds in row["seconds"].items()} == {"once": 2, "by view": 2}

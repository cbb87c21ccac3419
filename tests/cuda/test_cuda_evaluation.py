"""vsn-eval on the device: the same bytes from one and from two processes that share it, and what the CPU gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.cuda.command import run
from tests.cuda.device import DEVICE, ON_GPU, record
from vsn_train import load_model
from vsn_train.analysis.scores import Scores
from vsn_train.data.datasets.motion import load_motion

# One process for all: they share a training.
pytestmark = pytest.mark.xdist_group("evaluation")

VIDEOS = ("dataset.train_videos=96", "dataset.val_videos=60") if ON_GPU else (
    "dataset.train_videos=24", "dataset.val_videos=24",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a short training of TSM on `motion`."""
    folder = tmp_path_factory.mktemp("trained")
    run(
        "vsn-train", f"dataset.root={folder / 'videos'}", *VIDEOS, "schedule.epochs=1", "data.workers=2",
        f"runtime.device={DEVICE.type}", f"hydra.run.dir={folder / 'run'}", folder=folder,
    )  # fmt: skip
    return folder / "run"


def evaluate(trained: Path, *words: str) -> Path:
    """The folder of results of a test with two crops of two clips: more views than one batch takes."""
    run(
        "vsn-eval", f"checkpoint={trained / 'checkpoints' / 'last.pt'}", "protocol=fullres_3crop_2clip",
        "runtime.views_per_batch=16", "data.workers=1", "runtime.threads=2", "report=false", *words,
        folder=trained.parent, VSN_TRAIN_SHARE_GPU="1",
    )  # fmt: skip
    (scores,) = (trained / "eval" / "last").glob("*/scores.npz")
    return scores.parent


@pytest.mark.parametrize("precision", ["fp32", "bf16"] if ON_GPU else ["fp32"])
def test_two_processes_on_one_device_write_the_bytes_of_one(trained, precision):
    words = (f"runtime.device={DEVICE.type}", f"runtime.precision={precision}")
    scores, metrics = [], []
    for processes in (1, 2):
        folder = evaluate(trained, *words, f"runtime.devices={processes}")
        scores.append((folder / "scores.npz").read_bytes())
        metrics.append(json.loads((folder / "metrics.json").read_text()))
        assert metrics[-1].pop("environment")["processes"] == processes
    assert scores[0] == scores[1]
    assert metrics[0] == metrics[1]


def test_the_device_gives_the_scores_of_the_cpu(trained):
    scores = {}
    for device in (DEVICE.type, "cpu"):
        folder = evaluate(trained, f"runtime.device={device}", "runtime.precision=fp32", "runtime.tf32=false")
        scores[device] = Scores.load(folder / "scores.npz").scores
    difference = float(np.abs(scores[DEVICE.type] - scores["cpu"]).max() / np.abs(scores["cpu"]).max())
    record("scores", against="cpu", precision="fp32", difference=difference)
    assert difference < 1e-4


def test_load_model_gives_the_scores_of_vsn_eval(trained):
    words = [f"checkpoint={trained / 'checkpoints' / 'last.pt'}", f"runtime.device={DEVICE.type}", "report=false"]
    run("vsn-eval", *words, f"hydra.run.dir={trained.parent / 'tested'}", folder=trained.parent)
    (path,) = (trained.parent / "tested").rglob("scores.npz")
    expected = Scores.load(path)
    model = load_model(str(trained / "checkpoints" / "last.pt"), device=DEVICE.type)
    assert {each.device.type for each in model.model.parameters()} == {DEVICE.type}
    assert list(model.class_names) == expected.class_names.tolist()
    sizes = {key.removeprefix("dataset."): int(value) for key, value in (each.split("=") for each in VIDEOS)}
    manifest = load_motion(trained.parent / "videos", "val", **sizes)
    assert manifest.sample_id(0) == expected.ids[0]
    found = torch.as_tensor(model.scores(manifest.path(0))).cpu().numpy()
    # Both choose the precision by themselves, bf16 on a GPU; vsn-eval takes other videos in the same batch.
    difference = float(np.abs(found - expected.scores[0]).max() / np.abs(expected.scores[0]).max())
    record("load_model", against="vsn-eval", difference=difference)
    assert difference < (4 * torch.finfo(torch.bfloat16).eps if ON_GPU else 1e-5)

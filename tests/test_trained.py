"""load_model: the scores of vsn-eval, frames instead of files, features, live video, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.warm import Command
from vsn_train import load_model
from vsn_train.analysis.scores import Scores, softmax
from vsn_train.data.video import open_video
from vsn_train.errors import InputError
from vsn_train.trained import Preprocessing, trained_model

SMALL = ["dataset.train_videos=24", "dataset.val_videos=12", "schedule.epochs=1", "data.workers=0", "optimizer.lr=0.02"]


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """One epoch of tsm_online with averaged weights, evaluated with two clips a video."""
    folder = tmp_path_factory.mktemp("trained")
    values = [*SMALL, "backbone=tsm_online", "optimizer.ema=0.5", f"dataset.root={folder / 'data'}"]
    run = folder / "run"
    for name, words in (
        ("vsn-train", [*values, f"hydra.run.dir={run}"]),
        (
            "vsn-eval",
            [
                f"checkpoint={run}/checkpoints/last.pt",
                "protocol=center_2clip",
                "report=false",
                "runtime.views_per_batch=2",
            ],
        ),  # one video at a time, as load_model
    ):
        command = Command(name, words, folder)
        assert command.wait(timeout=200) == 0, command.output()
    return run


@pytest.fixture(scope="module")
def evaluated(trained_run):
    return Scores.load(next(trained_run.glob("eval/last/center_2clip/scores.npz")))


@pytest.fixture(scope="module")
def two_clips(trained_run):
    trained = load_model(trained_run / "checkpoints" / "last.pt", device="cpu")
    return load_model(trained_run, device="cpu", protocol=replace(trained.protocol, clips=2))


def videos(trained_run):
    return sorted(trained_run.parent.glob("data/**/*.mp4"))


def test_what_it_says_of_itself(two_clips, evaluated):
    assert two_clips.class_names == list(evaluated.class_names)
    assert two_clips.num_frames == 8
    assert two_clips.modality == "rgb"
    assert two_clips.preprocessing == Preprocessing(
        36, 32, 8, "uniform", "RGB", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    )
    assert not two_clips.model.training


def test_scores_are_those_of_vsn_eval_to_the_last_bit(two_clips, evaluated, trained_run):
    paths = {path.relative_to(path.parents[2]).as_posix(): path for path in videos(trained_run)}
    for name, row in zip(evaluated.ids, evaluated.scores, strict=True):
        assert np.array_equal(two_clips.scores(paths[str(name)]), row), name


def test_scoring_takes_the_faster_memory_format_unless_the_config_says_otherwise(two_clips):
    opened = two_clips.checkpoint
    for asked, expected in ((None, True), (True, True), (False, False)):
        config = {"data": {}, "runtime": {"channels_last": asked}}
        model = trained_model(opened, torch.device("cpu"), config).model
        weight = model.backbone.layer1[0].conv2.weight
        assert weight.is_contiguous(memory_format=torch.channels_last) == expected


def test_frames_give_the_scores_of_their_file(two_clips, trained_run):
    path = videos(trained_run)[0]
    with open_video(path) as video:
        frames = video.read(range(video.num_frames)).permute(0, 2, 3, 1)
    expected = two_clips.scores(path)
    assert np.array_equal(two_clips.scores(frames), expected)
    assert np.array_equal(two_clips.scores(frames.numpy()), expected)
    assert np.array_equal(two_clips.scores(str(path)), expected)
    names, shares = zip(*two_clips.top(path, k=3), strict=True)
    order = np.argsort(-expected)[:3]
    assert list(names) == [two_clips.class_names[index] for index in order]
    assert shares == pytest.approx(softmax(expected)[order].tolist())


def test_features_are_what_the_classifier_sees(two_clips, trained_run):
    path = videos(trained_run)[1]
    features = two_clips.features(path)
    assert (features.shape, features.dtype) == ((512,), np.float32)
    with torch.no_grad():
        logits = two_clips.model.head(torch.from_numpy(features))
    np.testing.assert_allclose(logits.numpy(), two_clips.scores(path), rtol=1e-4, atol=1e-5)


def test_a_stream_gives_the_clip_and_no_frame_depends_on_later_ones(trained_run):
    trained = load_model(trained_run, device="cpu")
    frames = torch.randint(256, (12, 48, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    stream, other = trained.stream(), trained.stream()
    mine = [stream.push(frame) for frame in frames]
    np.testing.assert_allclose(mine[7], trained.scores(frames[:8]), rtol=1e-5, atol=1e-5)
    assert mine[7].shape == (len(trained.class_names),)
    changed = torch.cat([frames[:5], 255 - frames[5:]])
    theirs = [other.push(frame) for frame in changed]  # two streams of one network do not disturb each other
    assert all(np.array_equal(*pair) for pair in zip(mine[:5], theirs[:5], strict=True))
    assert not any(np.array_equal(*pair) for pair in zip(mine[5:], theirs[5:], strict=True))
    # Later on it is the mean over the last eight frames, each with what came before it.
    again = trained.stream()
    assert [np.array_equal(again.push(frame), before) for frame, before in zip(frames, mine, strict=True)] == [
        True
    ] * 12


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        (torch.zeros(3, 32, 32, dtype=torch.uint8), r"uint8 \(3, 32, 32\)"),
        (torch.zeros(8, 3, 32, 32, dtype=torch.uint8), r"uint8 \(8, 3, 32, 32\)"),
        (torch.zeros(8, 32, 32, 3), r"float32 \(8, 32, 32, 3\)"),
        (torch.zeros(0, 32, 32, 3, dtype=torch.uint8), r"uint8 \(0, 32, 32, 3\)"),
    ],
)
def test_frames_of_another_kind_are_named(two_clips, frames, found):
    with pytest.raises(InputError, match=rf"frames are {found}; expected uint8 \(N, H, W, 3\), RGB"):
        two_clips.scores(frames)


def test_what_it_refuses(two_clips, trained_run, tmp_path):
    with pytest.raises(InputError, match="device=gpu: expected auto, cpu or cuda"):
        load_model(trained_run, device="gpu")
    with pytest.raises(InputError, match="no such file"):
        load_model(tmp_path / "missing.pt")
    with pytest.raises(InputError, match="a folder without checkpoints"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    ("group", "changes", "message"),
    [
        ("protocol", {"clips": "many"}, r"config\.protocol\.clips is 'many', expected a whole number"),
        ("backbone", {"num_frames": None}, r"config\.backbone\.num_frames is null, expected a whole number"),
        ("backbone", {"later": 1}, r"config\.backbone\.later is a key that this version .* does not know"),
        ("runtime", {"precision": 16}, r"config\.runtime\.precision is 16, expected text"),
    ],
)
def test_a_foreign_checkpoint_gets_a_message_that_names_the_key(trained_run, tmp_path, group, changes, message):
    content = torch.load(trained_run / "checkpoints" / "last.pt", weights_only=True)
    content["config"][group] |= changes
    torch.save(content, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match=rf"foreign\.pt: .*{message}"):
        load_model(tmp_path / "foreign.pt")


def test_a_network_that_looks_ahead_takes_no_live_video(trained_run, tmp_path):
    content = torch.load(trained_run / "checkpoints" / "last.pt", weights_only=True)
    content["config"]["backbone"] |= {"operator": "tsm", "placement": "residual"}
    content["mixing"] = None  # files of older versions have none: what the network does is read off its modules
    torch.save(content, tmp_path / "tsm.pt")
    with pytest.raises(InputError, match=r"uses later frames.*backbone=tsm_online"):
        load_model(tmp_path / "tsm.pt", device="cpu").stream()


def test_the_package_itself_imports_no_torch():
    code = "import sys, vsn_train; assert 'torch' not in sys.modules; print(vsn_train.__version__)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "0.1.0\n"

"""The installed commands, end to end, on real video where it is at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import CLIPS, SMALL, run_command
from tests.media import write_counting_video
from vsn_train.analysis.scores import Scores


def metrics_of(folder: Path, split: str) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["split"] == split]


def test_training_writes_one_run_folder(ucf101_run):
    names = {path.name for path in ucf101_run.iterdir()}
    assert names >= {"config.yaml", "log.txt", "metrics.jsonl", "environment.json", "tensorboard", "checkpoints"}
    assert {path.name for path in (ucf101_run / "checkpoints").iterdir()} == {"last.pt", "best.pt"}
    assert any((ucf101_run / "tensorboard").iterdir())
    train, val = metrics_of(ucf101_run, "train"), metrics_of(ucf101_run, "val")
    assert [line["epoch"] for line in val] == [1, 2]
    assert [line["step"] for line in train] == [1, 2, 3, 4]  # six videos, batches of four: two steps an epoch
    assert all(0 <= line["top1"] <= 100 and line["loss"] > 0 for line in train + val)
    assert all(line["n"] == 3 and line["protocol"] == "center_1clip_dense" for line in val)
    config = yaml.safe_load((ucf101_run / "config.yaml").read_text())
    assert config["backbone"]["num_frames"] == 4
    assert config["protocol"]["clips"] == 10
    assert "data wait" in (ucf101_run / "log.txt").read_text()


def test_evaluation_takes_the_protocol_of_the_data_set_from_the_checkpoint(ucf101_run):
    result = run_command("vsn-eval", f"checkpoint={ucf101_run}/checkpoints/last.pt")
    assert result.code == 0, result.err
    folder = ucf101_run / "eval" / "last" / "tencrop_10clip"
    metrics = json.loads((folder / "metrics.json").read_text())
    scores = Scores.load(folder / "scores.npz")
    assert metrics["top1"] == scores.top1()
    assert metrics["n"] == len(scores) == 3
    assert scores.class_names.tolist() == ["SoccerJuggling", "ApplyEyeMakeup", "HandstandPushups"]
    assert scores.ids[0] == "SoccerJuggling/v_SoccerJuggling_g01_c01.avi"
    assert metrics["protocol"]["name"] == scores.facts["protocol"]["name"] == "tencrop_10clip"
    assert len(metrics["manifest"]) == len(metrics["checkpoint"]) == 16
    row = result.out.splitlines()[1].split()
    assert row[:6] == ["ucf101", "val", "tencrop_10clip", f"{metrics['top1']:.2f}", f"{metrics['top5']:.2f}", "3"]


def test_evaluation_after_training_gives_the_last_validation_again_in_any_number_of_processes(ucf101_run, tmp_path):
    shutil.copytree(ucf101_run / "checkpoints", tmp_path / "checkpoints")
    last = metrics_of(ucf101_run, "val")[-1]

    def evaluated(devices, *values):
        run = tmp_path / f"{devices}{len(values)}"
        result = run_command(
            "vsn-eval",
            f"checkpoint={tmp_path}/checkpoints/last.pt",
            "protocol=center_1clip",
            "protocol.placement=dense",
            f"runtime.devices={devices}",
            f"hydra.run.dir={run}",
            *values,
        )
        assert result.code == 0, result.err
        folder = run / "eval" / "last" / "center_1clip_dense"
        return json.loads((folder / "metrics.json").read_text()), (folder / "scores.npz").read_bytes()

    same = ("top1", "top5", "n", "manifest")
    metrics, scores = evaluated(1)
    assert {key: metrics[key] for key in same} == {key: last[key] for key in same}
    assert metrics["loss"] == pytest.approx(last["loss"], rel=1e-6)  # other kernels round otherwise, on some processors
    assert evaluated(2)[1] == scores

    # In the memory format of the training, to the last bit.
    metrics, _ = evaluated(2, "runtime.channels_last=false")
    assert {key: metrics[key] for key in (*same, "loss")} == {key: last[key] for key in (*same, "loss")}


def test_prediction_prints_bars_and_writes_json(ucf101_run, tmp_path):
    video = CLIPS / "ssv2" / "166766.webm"
    if not video.exists():
        video = tmp_path / "made.webm"
        write_counting_video(video, 30, codec="libvpx-vp9", width=64, height=48)
    result = run_command(
        "vsn-predict",
        f"checkpoint={ucf101_run}/checkpoints/best.pt",
        f"video={video}",
        f"hydra.run.dir={tmp_path}/out",
    )
    assert result.code == 0, result.err
    facts = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert facts["protocol"] == "tencrop_10clip"
    (prediction,) = facts["predictions"]
    assert {each["name"] for each in prediction["classes"]} == {"SoccerJuggling", "ApplyEyeMakeup", "HandstandPushups"}
    assert sum(each["probability"] for each in prediction["classes"]) == pytest.approx(1)
    best = prediction["classes"][0]
    assert result.out.splitlines()[0].startswith(best["name"])
    assert f"{100 * best['probability']:.1f} %" in result.out
    assert "█" in result.out


def small_training(ucf101: Path, folder: Path, *more: str):
    return run_command(
        "vsn-train", "dataset=ucf101", f"dataset.root={ucf101}", f"hydra.run.dir={folder}", *SMALL, *more
    )


def test_two_processes_train_one_run(ucf101, tmp_path):
    result = small_training(ucf101, tmp_path / "run", "schedule.epochs=1", "runtime.devices=2", "data.batch_size=2")
    assert result.code == 0, result.err
    assert "on cpu, processes: 2" in (tmp_path / "run" / "log.txt").read_text()
    train = metrics_of(tmp_path / "run", "train")
    assert [line["step"] for line in train] == [1, 2]  # six videos, 2 x 2 a step; the last step is short
    assert len(metrics_of(tmp_path / "run", "val")) == 1


def test_undecodable_training_videos_are_named_counted_and_limited(ucf101, tmp_path):
    root = tmp_path / "UCF-101"
    shutil.copytree(ucf101.parent, tmp_path, dirs_exist_ok=True)
    bad = root / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g02_c01.avi"
    bad.write_bytes(b"no video")
    tolerated = small_training(root, tmp_path / "run", "schedule.epochs=1", "data.max_bad_share=0.5")
    assert tolerated.code == 0, tolerated.err
    assert f"skipped unreadable video {bad}" in (tmp_path / "run" / "log.txt").read_text()
    assert "1 unreadable" in (tmp_path / "run" / "log.txt").read_text()
    refused = small_training(root, tmp_path / "run2", "schedule.epochs=1")
    assert refused.code == 2
    assert "1 of 6 training videos could not be read, more than data.max_bad_share=0.01" in refused.err
    assert str(bad) in refused.err


def test_unreadable_video_in_evaluation_is_an_error_that_names_it(ucf101, ucf101_run, tmp_path):
    shutil.copytree(ucf101.parent, tmp_path, dirs_exist_ok=True)
    bad = tmp_path / "UCF-101" / "ApplyEyeMakeup" / "v_ApplyEyeMakeup_g01_c01.avi"
    bad.write_bytes(b"no video")
    for devices in (1, 2):
        result = run_command(
            "vsn-eval",
            f"checkpoint={ucf101_run}/checkpoints/last.pt",
            "protocol=center_1clip",
            f"dataset.root={tmp_path}/UCF-101",
            f"hydra.run.dir={tmp_path}/out",
            f"runtime.devices={devices}",
        )
        assert result.code == 2, result.err
        assert f"cannot read {bad}" in result.err
        assert "Traceback" not in result.err
        assert not (tmp_path / "out").exists()


def test_embedded_data_set_is_made_trained_and_evaluated(tmp_path):
    result = run_command(
        "vsn-train",
        f"dataset.root={tmp_path}/cache",
        "dataset.train_videos=24",
        "dataset.val_videos=12",
        "schedule.epochs=1",
        f"hydra.run.dir={tmp_path}/run",
        *SMALL,
    )
    assert result.code == 0, result.err
    result = run_command("vsn-eval", f"checkpoint={tmp_path}/run/checkpoints/best.pt")
    assert result.code == 0, result.err
    scores = Scores.load(tmp_path / "run" / "eval" / "best" / "center_1clip" / "scores.npz")
    assert np.bincount(scores.labels).tolist() == [1] * 12

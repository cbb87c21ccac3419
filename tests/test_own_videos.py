"""Videos of one's own through the installed commands: what a wrong guess about them would do silently."""

from __future__ import annotations

import json
import os
import shutil
import signal

import av
import numpy as np
import pytest
import torch

from tests.conftest import SMALL, run_command
from tests.media import write_counting_video
from tests.runs import finish, log_of, start, wait_for_step


def folders(root, classes, splits=("train", "val"), videos=2):
    """<root>/<split>/<class>/<n>.mp4, each with pictures of its own."""
    number = 0
    for split in splits:
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for video in range(videos):
                number += 1
                write_counting_video(root / split / name / f"{video}.mp4", 8 + number, gop=4)
    return root


def train(root, run, *values, epochs=1, **environment):
    given = [f"dataset.root={root}", f"schedule.epochs={epochs}", f"hydra.run.dir={run}", *values]
    return run_command("vsn-train", "dataset=custom", "experiment=custom", *SMALL, *given, **environment)


def test_flips_of_classes_with_a_direction(tmp_path):
    root, run = folders(tmp_path / "data", ("swipe_left", "SwipeRight", "swipe_right")), tmp_path / "run"
    refused = train(root, tmp_path / "ten", "protocol=tencrop_10clip")
    assert refused.code == 2
    assert (
        "protocol.crops=10 flips every crop, but custom has classes with a direction (SwipeRight, swipe_left, "
    ) in refused.err
    assert not (tmp_path / "ten").exists()
    assert train(root, run).code == 0
    assert (
        "horizontal flips: off, because classes have a direction and no flip pairs are known: SwipeRight, swipe_left, "
        "swipe_right; set 'dataset.flip_pairs=[["
    ) in log_of(run)
    for choice, line in {
        "dataset.flips=allowed": "on, because the data set allows them despite SwipeRight, swipe_left, swipe_right",
        "augment.flip=false": "off (augment.flip=false)",
    }.items():
        checked = train(root, tmp_path / "check", "check=true", choice)
        assert f"horizontal flips: {line}\n" in checked.out, checked.err


def test_resume_after_the_data_changed(tmp_path):
    root, run = folders(tmp_path / "data", ("dance", "jump"), videos=3), tmp_path / "run"
    assert train(root, run, "resume=auto").code == 0  # there is nothing yet: it starts
    before = (run / "checkpoints" / "last.pt").read_bytes()

    (root / "train" / "jump").rename(root / "train" / "leap")
    (root / "val" / "jump").rename(root / "val" / "leap")
    renamed = train(root, run, "resume=true", "resume_other_videos=true", epochs=2)
    assert renamed.code == 2
    assert (
        f"cannot resume from {run}/checkpoints/last.pt: its classes are not those of {root}: 2 then, 2 now, 1 gone "
        "(first 'jump'), 1 new (first 'leap'); they differ first at index 1; restore the classes"
    ) in renamed.err
    (root / "train" / "leap").rename(root / "train" / "jump")
    (root / "val" / "leap").rename(root / "val" / "jump")

    write_counting_video(root / "train" / "jump" / "new.mp4", 30)
    (root / "train" / "dance" / "0.mp4").unlink()
    (root / "val" / "dance" / "1.mp4").unlink()
    changed = train(root, run, "resume=auto", epochs=2)
    assert changed.code == 2
    assert (
        "the videos have changed: 1 of 6 training videos gone, first train/dance/0.mp4, 1 training videos new, "
        "first train/jump/new.mp4, 1 of 6 validation videos gone, first val/dance/1.mp4; restore them, or resume with "
        "the current videos: resume_other_videos=true\n"
    ) in changed.err
    assert (run / "checkpoints" / "last.pt").read_bytes() == before

    accepted = train(root, run, "resume=true", "resume_other_videos=true", epochs=2)
    assert accepted.code == 0, accepted.err
    assert "now 1 training videos new, first train/jump/new.mp4: results will differ from an uninterr" in log_of(run)
    assert train(root, run, "resume=auto", epochs=3).code == 0  # they are the run's own now
    assert "resumed after epoch 2" in log_of(run)

    (run / "manifests" / "train.npz").unlink()  # as in a run of an older version
    (root / "train" / "jump" / "new.mp4").unlink()
    older = train(root, run, "resume=true", epochs=4)
    assert "the videos have changed: the training videos or their labels differ; restore them" in older.err


def test_the_same_videos_in_both_splits(tmp_path):
    root, run = folders(tmp_path / "data", ("dance", "jump")), tmp_path / "run"
    shutil.copy(root / "train" / "dance" / "1.mp4", root / "val" / "jump" / "another name.mp4")
    (root / "val" / "dance" / "link.mp4").symlink_to(root / "train" / "dance" / "0.mp4")
    refused = train(root, run)
    assert refused.code == 2
    assert (
        "2 of 6 validation videos are also training videos (1 of them as copies), first val/dance/link.mp4, which is "
        "train/dance/0.mp4: accuracies would say nothing about new videos; take them out of one of the two splits, or "
        "accept it: dataset.allow_overlap=true\n"
    ) in refused.err
    assert not run.exists()
    same = train(root, run, "dataset.val=train", "check=true")
    assert "4 of 4 validation videos are also training videos, first train/dance/0.mp4: accuracies" in same.err
    assert train(root, run, "dataset.allow_overlap=true").code == 0
    assert "first val/dance/link.mp4, which is train/dance/0.mp4: the validation accuracy overestimates" in log_of(run)


def test_folders_of_classes_without_a_split(tmp_path):
    root, run = folders(tmp_path / "data", ("dance", "jump"), splits=(".",), videos=5), tmp_path / "run"
    drawn = train(root, run, "dataset.val_share=0.4", "seed=3")
    assert drawn.code == 0, drawn.err
    assert "6 training and 4 validation videos of 2 classes" in log_of(run)
    lists = {split: (run / f"{split}.csv").read_text() for split in ("train", "val")}
    assert lists["val"].startswith("path,class\n")
    assert sorted(path.name for path in root.iterdir()) == ["dance", "jump"]  # nothing is written there
    checked = train(root, tmp_path / "other", "dataset.val_share=0.4", "seed=3", "check=true")
    assert checked.code == 0, checked.err

    # Videos that came later change neither a resumed run nor its evaluation.
    write_counting_video(root / "dance" / "00.mp4", 40)
    resumed = train(root, run, "dataset.val_share=0.4", "seed=3", "resume=true", epochs=2)
    assert resumed.code == 0, resumed.err
    assert "1 videos are in neither train.csv nor val.csv of the run, first dance/00.mp4, and are left out" in log_of(
        run
    )
    assert {split: (run / f"{split}.csv").read_text() for split in lists} == lists
    evaluated = run_command("vsn-eval", f"checkpoint={run}")
    assert evaluated.code == 0, evaluated.err
    metrics = json.loads((run / "eval" / "best" / "center_1clip" / "metrics.json").read_text())
    val = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines() if '"val"' in line]
    assert (metrics["n"], metrics["manifest"]) == (4, val[-1]["manifest"])
    assert {"top1", "mean_class", "loss"} <= val[-1].keys()
    assert f"mean class {val[-1]['mean_class']:.2f}" in log_of(run)

    # Without its lists a split can be drawn again from the same videos alone.
    stray = tmp_path / "stray.pt"
    shutil.copy(run / "checkpoints" / "best.pt", stray)
    refused = run_command("vsn-eval", f"checkpoint={stray}", f"hydra.run.dir={tmp_path}/stray")
    assert refused.code == 2
    assert "the current videos give another split, which may contain training videos" in refused.err
    (root / "dance" / "00.mp4").unlink()
    again = run_command("vsn-eval", f"checkpoint={stray}", f"hydra.run.dir={tmp_path}/stray")
    assert again.code == 0, again.err
    assert metrics["manifest"] in again.out
    # Other videos, of the checkpoint's classes, need no training list.
    other = folders(tmp_path / "other_data", ("jump",), splits=("test",), videos=3)
    tested = run_command("vsn-eval", f"checkpoint={run}", f"dataset.root={other}", "split=test")
    assert tested.code == 0, tested.err
    assert json.loads((run / "eval" / "best" / "center_1clip_test" / "metrics.json").read_text())["n"] == 3


def test_what_a_drawn_split_refuses(tmp_path):
    root = folders(tmp_path / "data", ("dance", "jump"), splits=(".",), videos=2)
    for values, message in {
        (
            "dataset.val_share=0.9",
        ): "dataset.val_share=0.9 leaves 2 of 2 classes without a training video, first 'dance'",
        ("dataset.val_share=1",): "dataset.val_share=1.0: expected a number of at least 0 and below 1",
        ("dataset.val_share=0.4", "dataset.val=x"): "the validation videos are either drawn or listed; leave one",
        (): "or draw a split from all videos: dataset.val_share=0.2",
        (
            "dataset.val_share=0.5",
            "optimizer.class_weights=none.csv",
        ): "none.csv: no such file; expected balanced, or a",
        ("checkpoints.best_by=f1",): "checkpoints.best_by=f1: expected one of top1, mean_class, loss",
        ("data.balance=videos",): "data.balance=videos: expected one of none, classes",
    }.items():
        refused = train(root, tmp_path / "run", *values)
        assert (refused.code, message in refused.err) == (2, True), refused.err
        assert not (tmp_path / "run").exists()
    beside = train(root, root, "dataset.val_share=0.5")
    assert beside.code == 2
    assert "the folder of the videos; choose another one" in beside.err
    assert sorted(path.name for path in root.iterdir()) == ["dance", "jump"]


def coloured_video(path, seed, share):
    """16 frames of noise in which red, or blue, is a little stronger."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25, options={"qscale": "2"})
        stream.width = stream.height = 40
        for _ in range(8):
            image = generator.integers(40, 200, (40, 40, 3))
            image[..., 0] += int(50 * share)
            image[..., 2] += int(50 * (1 - share))
            for packet in stream.encode(av.VideoFrame.from_ndarray(image.astype(np.uint8), "rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.mark.slow
def test_a_rare_class_is_learnt_with_balance(tmp_path):
    """100 : 5 training videos, 20 : 20 validation videos; three seeds each."""
    counts = {"train": {"often": 100, "rarely": 5}, "val": {"often": 20, "rarely": 20}}
    seed = 0
    for split, classes in counts.items():
        for name, count in classes.items():
            for number in range(count):
                seed += 1
                coloured_video(
                    tmp_path / "data" / split / name / f"{number}.avi", seed, 0.75 if name == "often" else 0.25
                )
    found = {"none": [], "classes": []}
    for balance, values in found.items():
        for seed in range(3):
            run = tmp_path / f"{balance}{seed}"
            trained = train(
                tmp_path / "data", run, f"data.balance={balance}", f"seed={seed}", "checkpoints.best_by=mean_class",
                "augment=none", "backbone=tsn", epochs=2,
            )  # fmt: skip
            assert trained.code == 0, trained.err
            lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
            values.append([line["mean_class"] for line in lines if line["split"] == "val"][-1])
    assert all(np.array(found["classes"]) > np.array(found["none"])), found
    assert min(found["classes"]) >= 70, found


@pytest.mark.slow
def test_balance_and_weights_through_the_command(tmp_path):
    root, run = folders(tmp_path / "data", ("dance",), videos=6), tmp_path / "run"
    folders(root, ("jump",), videos=1)
    write_counting_video(root / "train" / "jump" / "0.mp4", 31)
    write_counting_video(root / "val" / "jump" / "0.mp4", 33)
    balance = ("data.balance=classes", "optimizer.class_weights=balanced", "checkpoints.best_by=loss")
    straight = train(root, run, *balance, epochs=4)
    assert straight.code == 0, straight.err
    assert "1 to 6 training videos per class; data.balance=classes, optimizer.class_weights=balanced" in log_of(run)
    assert "best val loss " in log_of(run)
    # Stopped in the middle of an epoch and resumed: the same weights.
    stopped = tmp_path / "stopped"
    values = ["dataset=custom", "experiment=custom", *SMALL, f"dataset.root={root}", "schedule.epochs=4", *balance]
    process = start(values, stopped)
    wait_for_step(process, stopped, 3)
    os.kill(process.pid, signal.SIGTERM)
    code, text = finish(process)
    assert code == 75, text
    changed = train(root, stopped, *balance[:2], "resume=true", epochs=4)
    assert changed.code == 2
    assert "checkpoints.best_by (was loss, is top1)" in changed.err
    code, text = finish(start([*values, "resume=true"], stopped))
    assert code == 0, text
    first, second = (torch.load(each / "checkpoints" / "last.pt", weights_only=True) for each in (run, stopped))
    assert all(torch.equal(value, second["model"][name]) for name, value in first["model"].items())
    assert first["best"] == second["best"]


def test_the_record_says_what_was_computed(tmp_path):
    root, run = folders(tmp_path / "data", ("dance", "jump")), tmp_path / "run"
    trained = train(root, run, "runtime.precision=auto", "runtime.threads=0", OMP_NUM_THREADS="3")
    assert trained.code == 0, trained.err
    record = json.loads((run / "environment.json").read_text())
    assert record["computed"]["precision"] in ("fp32", "bf16")
    assert record["computed"]["memory_format"] == "contiguous"
    assert (record["threads"], record["processes"]) == (3, 1)
    assert {"torch", "numpy", "scipy", "av"} <= record["versions"].keys()
    evaluated = run_command("vsn-eval", f"checkpoint={run}", "runtime.threads=0", OMP_NUM_THREADS="2")
    assert evaluated.code == 0, evaluated.err
    metrics = json.loads((run / "eval" / "best" / "center_1clip" / "metrics.json").read_text())
    assert metrics["computed"]["precision"] == record["computed"]["precision"]
    assert metrics["computed"]["memory_format"] == "channels_last"
    assert metrics["environment"]["threads"] == 2

"""Videos of one's own through the installed commands: what a wrong guess about them would do silently."""

from __future__ import annotations

import json
import shutil

from tests.conftest import SMALL, run_command
from tests.media import write_counting_video
from tests.runs import log_of


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
        "protocol.crops=10 flips every crop, but custom has classes that differ in direction (SwipeRight, swipe_left, "
    )
    assert not (tmp_path / "ten").exists()
    assert train(root, run).code == 0
    assert (
        "horizontal flips: off, because classes have a direction and no flip pairs are known: SwipeRight, swipe_left, "
        "swipe_right; 'dataset.flip_pairs=[["
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
        "(first 'jump'), 1 new (first 'leap'); they differ first at index 1; name the classes as before"
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
    assert "the videos have changed: the training videos or their labels are others; restore them" in older.err


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

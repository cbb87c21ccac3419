"""Videos of one's own through the installed commands: what a wrong guess about them would do silently."""

from __future__ import annotations

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


def train(root, run, *values):
    given = [f"dataset.root={root}", "schedule.epochs=1", f"hydra.run.dir={run}", *values]
    return run_command("vsn-train", "dataset=custom", "experiment=custom", *SMALL, *given)


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
        "horizontal flips: off, as classes have a direction and their pairs are not known: SwipeRight, swipe_left, "
        "swipe_right; 'dataset.flip_pairs=[["
    ) in log_of(run)
    for choice, line in {
        "dataset.flips=allowed": "on, as the data set allows them in spite of SwipeRight, swipe_left, swipe_right",
        "augment.flip=false": "off (augment.flip=false)",
    }.items():
        checked = train(root, tmp_path / "check", "check=true", choice)
        assert f"horizontal flips: {line}\n" in checked.out, checked.err

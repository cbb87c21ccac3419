"""The quickstart's recipe to the end, with TSM, STH and no operator: minutes of training each."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tests.conftest import run_command
from vsn_train import load_model
from vsn_train.analysis.timeline import leading_segments


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "lowest", "highest"),
    [
        (["backbone=tsm"], 95, 100),
        (["backbone=tsm_online"], 90, 100),
        (["backbone=tsn"], 0, 60),
        (["backbone=sth"], 95, 100),
        (["backbone=sth", "backbone.integration=sum"], 95, 100),
    ],
    ids=["tsm", "tsm_online", "tsn", "sth", "sth_sum"],
)
def test_tsm_and_sth_tell_the_directions_of_time_apart_and_tsn_cannot(values, lowest, highest, tmp_path: Path):
    result = run_command("vsn-train", *values, f"hydra.run.dir={tmp_path}/run", timeout=1200)
    assert result.code == 0, result.err
    result = run_command("vsn-eval", f"checkpoint={tmp_path}/run/checkpoints/last.pt")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "run" / "eval" / "last" / "center_1clip" / "metrics.json").read_text())
    assert metrics["n"] == 360
    assert lowest <= metrics["top1"] <= highest
    if values in (["backbone=tsm"], ["backbone=tsm_online"]):
        check_windows_over_joined_clips(tmp_path / "run", tmp_path / "joined.mp4")


def check_windows_over_joined_clips(run: Path, joined: Path):
    """A clip of two seconds of each class, one after the other. Every change of class is found within one stride."""
    trained = load_model(run, device="cpu")
    root = Path(trained.checkpoint.checkpoint.config["dataset"]["root"])
    order = np.random.default_rng(0).permutation(trained.class_names).tolist()
    clips = [sorted(root.glob(f"motion-*-960+360/val/{name}/*.mp4"))[0] for name in order]
    with av.open(str(joined), "w") as container:
        stream = container.add_stream("libx264", rate=12, options={"preset": "ultrafast", "crf": "12"})
        stream.width = stream.height = 64
        for number, frame in enumerate(frame for clip in clips for frame in av.open(str(clip)).decode(video=0)):
            frame.pts, frame.time_base = number, Fraction(1, 12)
            frame.pict_type = 0  # the encoder chooses
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    found = list(trained.windows(joined, window=2.0, stride=1.0))
    shares = np.stack([trained.probabilities(scores) for _, _, scores in found])
    inside = [trained.class_names[best] for best in shares[::2].argmax(axis=1)]  # windows that are one clip each
    assert sum(name == expected for name, expected in zip(inside, order, strict=True)) >= 11
    segments = leading_segments(np.array([each[:2] for each in found]), shares, 0.0, 24.0)
    changes = np.array([each.start for each in segments[1:]])
    for change in range(2, 24, 2):
        assert np.abs(changes - change).min() <= 1.0

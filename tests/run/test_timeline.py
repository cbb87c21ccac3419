"""vsn-predict window=…: when which class leads in a long video."""

from __future__ import annotations

import csv
import json
import sys

import numpy as np
import pytest
import torch

from tests.colours import COLOURS, save_colour_network, write_colours
from tests.conftest import run_command
from vsn_train import cli, load_model
from vsn_train.analysis.timeline import Segment, leading_segments, segment_table
from vsn_train.analysis.timeline_figure import MOST_CLASSES, classes_drawn, draw_timeline
from vsn_train.data.video import open_video
from vsn_train.errors import InputError

PARTS = [("red", 50), ("green", 40), ("blue", 70), ("red", 33)]  # frames at 12 a second
CHANGES = np.cumsum([count for _, count in PARTS])[:-1] / 12


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return save_colour_network(tmp_path_factory.mktemp("network") / "best.pt")


@pytest.fixture(scope="module")
def trained(network):
    return load_model(network, device="cpu")


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    return write_colours(tmp_path_factory.mktemp("long") / "long $x^2$.mp4", PARTS)


def predict(monkeypatch, *words):
    """vsn-predict in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["vsn-predict", *map(str, words)])
    try:
        cli.predict()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def test_a_window_as_long_as_the_video_gives_its_scores(trained, long_video, tmp_path):
    clip = write_colours(tmp_path / "clip.mkv", [("green", 24)])  # whose times are whole milliseconds
    for path, seconds in ((long_video, 193 / 12), (clip, 2.0)):
        ((start, end, scores),) = trained.windows(path, window=seconds, stride=seconds)
        assert (start, end) == (0, seconds)
        assert scores.dtype == np.float32
        assert np.array_equal(scores, trained.scores(path))
    with open_video(clip) as video:
        frames = video.read(range(24)).permute(0, 2, 3, 1)
    ((*_, scores),) = trained.windows(frames.numpy(), window=2.0, stride=1.0, fps=12)
    assert np.array_equal(scores, trained.scores(clip))


def test_windows_of_frames_are_those_of_their_file(trained, long_video):
    with open_video(long_video) as video:
        frames = video.read(range(video.num_frames)).permute(0, 2, 3, 1)
    found = list(trained.windows(frames, 2.0, 0.5, fps=12))
    expected = list(trained.windows(str(long_video), 2.0, 0.5))
    assert [each[:2] for each in found] == [each[:2] for each in expected]
    assert np.array_equal(np.stack([each[2] for each in found]), np.stack([each[2] for each in expected]))
    # A window's scores are those of its frames alone, but for the rounding of another batch.
    start, end, scores = expected[7]
    part = frames[round(12 * start) : round(12 * end)]
    np.testing.assert_allclose(scores, trained.scores(part), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [0.25, 1.0])
def test_the_boundaries_are_found_within_one_stride(trained, long_video, stride):
    found = list(trained.windows(long_video, 1.0, stride))
    bounds = np.array([each[:2] for each in found])
    shares = np.stack([trained.probabilities(each[2]) for each in found])
    segments = leading_segments(bounds, shares, 0.0, 193 / 12)
    assert [trained.class_names[each.index] for each in segments] == [colour for colour, _ in PARTS]
    assert [segments[0].start, segments[-1].end] == [0.0, 193 / 12]
    for segment, before, change in zip(segments[1:], segments, CHANGES, strict=False):
        assert segment.start == before.end == pytest.approx(change, abs=stride)


def test_what_windows_refuse(trained, long_video, tmp_path):
    with pytest.raises(InputError, match="window=0: expected seconds above 0"):
        trained.windows(long_video, window=0)
    with pytest.raises(InputError, match="window=17 is longer than the video"):
        next(trained.windows(long_video, window=17))
    frames = torch.zeros(24, 48, 64, 3, dtype=torch.uint8)
    with pytest.raises(InputError, match="fps=None: an array of frames has no frame rate; give fps="):
        trained.windows(frames)
    with pytest.raises(InputError, match="fps=nan"):
        trained.windows(frames, fps=float("nan"))
    with pytest.raises(InputError, match="window=3 is longer than the video"):
        trained.windows(frames, window=3, fps=12)
    with pytest.raises(InputError, match="no such file"):
        next(trained.windows(tmp_path / "none.mp4"))


def test_the_installed_command(network, long_video, tmp_path):
    result = run_command(
        "vsn-predict", f"checkpoint={network}", f"video={long_video}", "window=1", "stride=0.5",
        f"hydra.run.dir={tmp_path}/out",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "16.08 s, 32 windows of 1 s, one every 0.5 s" in result.out
    segments = [line.split()[:3] for line in result.out.splitlines() if line.rstrip().endswith("%")]
    assert [name for *_, name in segments] == [colour for colour, _ in PARTS]
    facts = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert (facts["window"], facts["stride"]) == (1, 0.5)
    (found,) = facts["predictions"]
    assert [each["name"] for each in found["segments"]] == [colour for colour, _ in PARTS]
    assert found["windows"] == 32
    assert {each["name"] for each in found["classes"]} == set(COLOURS)
    with (tmp_path / "out" / "timeline.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["start", "end", "class", "probability", "red", "green", "blue"]
    assert (rows[1]["start"], rows[1]["end"], rows[1]["class"]) == ("0.500", "1.500", "red")
    assert [float(rows[-1][key]) for key in ("start", "end")] == pytest.approx([193 / 12 - 1, 193 / 12], abs=1e-3)
    for row in rows:
        assert sum(float(row[name]) for name in COLOURS) == pytest.approx(1, abs=1e-5)
        assert row["probability"] == row[row["class"]] == max(row[name] for name in COLOURS)
    assert (tmp_path / "out" / "timeline.png").read_bytes().startswith(b"\x89PNG")


def test_several_videos_a_part_and_what_cannot_be_read(network, tmp_path, monkeypatch, capsys):
    write_colours(tmp_path / "a.mp4", [("green", 30), ("red", 30)])
    write_colours(tmp_path / "b.mp4", [("blue", 12)])
    out = tmp_path / "out"
    common = [f"checkpoint={network}", f"hydra.run.dir={out}", "window=1.5"]
    assert predict(monkeypatch, *common, f"video={tmp_path}/*.mp4") == 2
    said = capsys.readouterr()
    assert "1 of 2 videos could not be read" in said.err
    assert "window=1.5 is longer than the video" in said.err
    first, second = json.loads((out / "prediction.json").read_text())["predictions"]
    assert (first["timeline"], first["picture"]) == ("0000_a.csv", "0000_a.png")
    assert "window=1.5 is longer than the video" in second["error"]
    assert (out / "0000_a.csv").read_text().splitlines()[1].startswith("0.000,1.500,green")
    assert predict(monkeypatch, *common, f"video={tmp_path}/a.mp4", "start=2.5", "end=4.5") == 0
    assert "2.00 s, 2 windows of 1.5 s, one every 0.75 s" in capsys.readouterr().out
    assert [line[:15] for line in (out / "timeline.csv").read_text().splitlines()[1:]] == [
        "2.500,4.000,red", "3.000,4.500,red",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["window=0"], "window=0.0: expected seconds above 0"),
        (["window=nan"], "window=nan: expected a finite number"),
        (["window=-2"], "window=-2.0: expected seconds above 0"),
        (["window=1", "stride=2"], "stride=2.0 is longer than window=1.0"),
        (["stride=1"], "stride=1.0: is the distance between windows; add window=SECONDS"),
        (["window=60"], "window=60 is longer than the video, or the part of it, of 16.08 s; lower it"),
        (["window=1", "stride=0.001"], "stride=0.001 is shorter than one frame"),
        (["window=abc"], "window=abc: expected a number"),
    ],
)
def test_one_message_for_values_that_make_no_windows(
    network, long_video, tmp_path, monkeypatch, capsys, values, message
):
    given = [f"checkpoint={network}", f"video={long_video}", f"hydra.run.dir={tmp_path}/out", *values]
    assert predict(monkeypatch, *given) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_segments_of_one_window_and_of_ties():
    one = leading_segments(np.array([[0.0, 2.0]]), np.array([[0.2, 0.8]]), 0.0, 2.0)
    assert one == [Segment(0.0, 2.0, 1, 0.8)]
    shares = np.array([[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])
    two = leading_segments(np.array([[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]]), shares, 0.0, 4.5)
    assert two == [Segment(0.0, 2.5, 0, 0.5), Segment(2.5, 4.5, 1, 0.9)]
    many = [Segment(i, i + 1, i % 2, 0.5) for i in range(50)]
    assert segment_table(many, ["a", "b"]).endswith("\nand 10 more segments")


def test_a_picture_of_many_classes(tmp_path):
    """Those that lead longest, in the order in which they come; names are drawn as they are."""
    names = [f"$class_{{{number}$" for number in range(30)]
    segments = [Segment(2.0 * i, 2.0 * i + 2, i, 0.5) for i in range(30)]
    segments[5] = Segment(10, 11.9, 5, 0.5)
    assert classes_drawn(segments) == [*range(5), *range(6, MOST_CLASSES + 1)]
    shares = np.random.default_rng(0).dirichlet(np.ones(30), 30)
    bounds = np.stack([np.arange(30) * 2.0, np.arange(30) * 2.0 + 2], axis=1)
    frames = [(3.0 * i, torch.full((3, 36, 48), 30 * i, dtype=torch.uint8)) for i in range(8)]
    draw_timeline(tmp_path / "a.png", bounds, shares, segments, names, frames, "a $title$ with \udcff")
    assert (tmp_path / "a.png").stat().st_size > 10_000

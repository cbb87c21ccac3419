"""Seconds of frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.media import write_counting_folder, write_counting_video
from vsn_train.data.loader import read_eval_video
from vsn_train.data.protocol import Protocol
from vsn_train.data.times import even_times, frames_between, rate_of, read_times, rising_times, write_times
from vsn_train.data.video import open_video
from vsn_train.errors import VideoError


def test_stamps_that_do_not_rise_are_no_times() -> None:
    assert rising_times([900, 3900, 6900], 1 / 30000) == pytest.approx([0, 0.1, 0.2])
    for stamps in ([], [0, None, 2], [0, 1, 1], [0, 2, 1], [2**33 - 1, 0]):
        assert rising_times(stamps, 1.0) is None


@pytest.mark.parametrize(
    ("stated", "stamps", "expected"),
    [
        (29.97, [round(1000 * i / 29.97) for i in range(90)], 29.97),
        (28.05, [*range(0, 1980, 33), 2180], 28.05),  # one frame that stands for long
        (1000.0, [40 * i for i in range(100)], 25.0),
        (0.0, [40 * i for i in range(100)], 25.0),
        (30.0, [], 30.0),
        (30.0, [7], 30.0),
        (30.0, [None, 1, 2, None], 30.0),
        (30.0, [5, 5, 5, 5, 5], 30.0),
    ],
)
def test_the_rate_is_the_files_unless_its_stamps_contradict(
    stated: float, stamps: list[int | None], expected: float
) -> None:
    assert rate_of(stated, stamps, 0.001) == pytest.approx(expected)


def test_a_part_of_a_video_is_found_by_its_times() -> None:
    even = even_times(60, 30.0)
    assert frames_between("a", even, 30.0, 0.5, 1.5) == (15, 45)
    assert frames_between("a", even, 30.0, 0.1, None) == (3, 60)
    uneven = np.array([0.0, 0.1, 1.0, 1.1, 5.0])
    assert frames_between("a", uneven, 30.0, 0.5, 5.0) == (2, 4)
    with pytest.raises(VideoError, match=r"5\.03 s long"):
        frames_between("a", uneven, 30.0, 6.0, None)
    with pytest.raises(VideoError, match="frame rate is unknown"):
        frames_between("a", None, 0.0, 1.0, None)


def test_start_and_end_of_a_video_with_a_variable_rate(tmp_path: Path) -> None:
    times = [i if i < 20 else 60 + i for i in range(40)]  # stands still for two seconds
    path = write_counting_video(tmp_path / "a.mp4", 40, times=times)
    protocol = Protocol(1, "uniform", 1, 48, 48)
    video = read_eval_video(path, 4, protocol, "auto", start=2.7, end=3.0)
    assert video.times is not None
    assert video.numbers.min() >= 20
    assert video.times.min() >= 2.7
    assert video.times.max() < 3.0


def test_a_folder_may_say_when_its_pictures_are_shown(tmp_path: Path) -> None:
    folder = write_counting_folder(tmp_path / "a", 3)
    with open_video(folder) as pictures:
        assert pictures.times is None
    write_times(folder, np.array([0.0, 0.5, 0.75]))
    with open_video(folder) as pictures:
        assert pictures.times == pytest.approx([0, 0.5, 0.75])
    for text in ("0\n1\n", "0\n1\n1\n", "0\n1\nlater\n"):
        (folder / "times.txt").write_text(text)
        with pytest.raises(VideoError, match=r"times\.txt does not hold 3"):
            read_times(folder, 3)

"""Windows over long videos: where they lie, what they show, and that each frame is decoded once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from tests.media import write_counting_folder, write_counting_video
from vsn_train.data.loader import read_eval_video
from vsn_train.data.protocol import Protocol
from vsn_train.data.times import check_windows, windows_between
from vsn_train.data.transforms import take_clip
from vsn_train.data.video import Video
from vsn_train.data.windows import open_windows, windows_of_frames
from vsn_train.errors import InputError, VideoError

CENTRE = Protocol(1, "uniform", 1, 24, 24)


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (6, 2, 2, [0, 2, 4]),
        (6, 2, 1, [0, 1, 2, 3, 4]),
        (6.5, 2, 1, [0, 1, 2, 3, 4, 4.5]),  # the last one ends with the video
        (2, 2, 1, [0]),
        (2.02, 2, 1, [0]),  # less than half a frame is left over
        (1.98, 2, 1, [0]),  # or is missing
        (2.1, 2, 1, [0, 0.1]),
        (3, 0.7, 0.5, [0, 0.5, 1, 1.5, 2, 2.3]),
    ],
)
def test_where_windows_lie(length, window, stride, starts):
    bounds = windows_between(10, 10 + length, window, stride, frame=0.05)
    np.testing.assert_allclose(bounds[:, 0] - 10, starts, atol=1e-9)
    np.testing.assert_allclose(bounds[:, 1] - bounds[:, 0], window)


@pytest.mark.parametrize(
    ("window", "stride", "message"),
    [
        (0, 1, "window=0: expected seconds above 0"),
        (-1, 1, "window=-1: expected seconds above 0"),
        (float("nan"), 1, "window=nan: expected seconds above 0"),
        (float("inf"), 1, "window=inf: expected seconds above 0"),
        (2, 0, "stride=0: expected seconds above 0"),
        (2, float("nan"), "stride=nan: expected seconds above 0"),
        (2, 2.5, "stride=2.5 is longer than window=2: the time between windows would be left out"),
    ],
)
def test_values_that_make_no_windows(window, stride, message):
    with pytest.raises(InputError) as refused:
        check_windows(window, stride)
    assert str(refused.value) == message


def test_windows_that_do_not_fit_the_video(tmp_path):
    path = write_counting_video(tmp_path / "a.mp4", 30)
    for window, stride, message in (
        (1.5, 1, r"window=1.5 is longer than the video, or the part of it, of 1.00 s; lower it"),
        (0.5, 0.001, r"stride=0.001 is shorter than one frame \(0.0333 s\); raise it"),
    ):
        with pytest.raises(VideoError, match=message), open_windows(path, 4, CENTRE, window, stride):
            pass
    folder = write_counting_folder(tmp_path / "frames", 30)
    with (
        pytest.raises(VideoError, match="frame rate is unknown"),
        open_windows(folder, 4, CENTRE, 1, 1),
    ):
        pass


def same_as_the_part(path, windows, protocol, num_frames=4, modality="rgb"):
    """Each window shows what a test of this part of the video alone shows. Returns their number."""
    count = 0
    for window in windows:
        part = read_eval_video(path, num_frames, protocol, "auto", modality, start=window.start, end=window.end)
        for clip, expected in zip(window.video.clips, part.clips, strict=True):
            assert torch.equal(take_clip(window.video.frames, clip), take_clip(part.frames, expected))
        np.testing.assert_array_equal(window.video.numbers, part.numbers)
        np.testing.assert_allclose(window.video.times, part.times)
        count += 1
    return count


@pytest.mark.parametrize(
    "protocol", [CENTRE, Protocol(2, "uniform", 3, 24, 24), Protocol(3, "dense", 1, 20, 20)], ids=["1", "2x3", "dense"]
)
@pytest.mark.parametrize("suffix", ["mp4", "ts", "mkv"])
def test_a_window_shows_what_its_part_of_the_video_shows(tmp_path, protocol, suffix):
    path = write_counting_video(tmp_path / f"a.{suffix}", 100, b_frames=2)
    with open_windows(path, 4, protocol, 1.3, 0.4) as windows:
        assert len(windows) == same_as_the_part(path, windows, protocol) == 7


@pytest.mark.parametrize("seed", range(4))
def test_frames_that_lie_unevenly_in_time(tmp_path, seed):
    """Some windows have many frames and some only the one that is shown all the while."""
    steps = np.random.default_rng(seed).choice([1, 1, 1, 2, 30], 60)
    times = np.cumsum([0, *steps])
    path = write_counting_video(tmp_path / "a.mkv", len(times), times=times.tolist())
    with open_windows(path, 4, CENTRE, 0.5, 0.5) as windows:
        for window in windows:
            inside = np.flatnonzero((windows.times >= window.start - 1e-6) & (windows.times < window.end - 1e-6))
            shown = inside if len(inside) else [np.flatnonzero(windows.times < window.start)[-1]]
            assert set(window.video.numbers) <= set(shown)
            assert window.video.numbers[0] < shown[0] + max(len(shown) / 4, 1)


def test_a_part_of_a_video_and_flow(tmp_path):
    path = write_counting_video(tmp_path / "a.mp4", 90)
    with open_windows(path, 4, CENTRE, 0.5, 0.25, start=1.0, end=2.4) as windows:
        assert (windows.start, windows.end) == (1.0, 2.4)
        assert windows.bounds[[0, -1]].tolist() == [[1.0, 1.5], [pytest.approx(1.9), pytest.approx(2.4)]]
        assert same_as_the_part(path, windows, CENTRE) == len(windows)
    folder = tmp_path / "flow"
    for axis in "xy":
        write_counting_folder(folder, 40, f"flow_{axis}_{{:05d}}.jpg")
    (folder / "times.txt").write_text("".join(f"{frame / 10}\n" for frame in range(40)))
    with open_windows(folder, 4, CENTRE, 2, 1, modality="flow") as windows:
        assert windows.clips[0].shape == (1, 4, 5)
        assert same_as_the_part(folder, windows, CENTRE, modality="flow") == 3


@pytest.mark.parametrize("b_frames", [0, 2])
def test_every_frame_is_decoded_once(tmp_path, monkeypatch, b_frames):
    path = write_counting_video(tmp_path / "a.mp4", 120, b_frames=b_frames)
    decoded: Counter[int] = Counter()
    converted = []
    decode, image = Video._decode, Video._image

    def counted(video, packets):
        for picture in decode(video, packets):
            decoded[picture.pts] += 1
            yield picture

    with open_windows(path, 16, CENTRE, 1.0, 0.25) as windows:  # 30 frames a window, every second one of them wanted
        monkeypatch.setattr(Video, "_decode", counted)
        monkeypatch.setattr(Video, "_image", lambda *given: converted.append(1) or image(*given))
        wanted = set(np.concatenate([window.video.numbers for window in windows]).tolist())
    assert max(decoded.values()) == 1
    assert len(converted) == len(wanted)
    assert 80 < len(wanted) <= 120


def test_no_more_frames_are_held_than_windows_need():
    """Of a window's frames those alone that lie in the next one too."""
    frames = torch.zeros(1000, 3, 24, 24, dtype=torch.uint8)
    windows = windows_of_frames(frames, 10, 8, CENTRE, 4.0, 2.0)
    steps = iter(windows)
    held = [len(steps.gi_frame.f_locals["kept"]) for _ in steps]
    assert (len(held), max(held)) == (49, 8)

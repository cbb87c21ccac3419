"""Folders of images, RGB and optical flow, through `open_video`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.io import ImageReadMode, decode_image, encode_jpeg, encode_png

from tests.conftest import CLIPS
from tests.media import counting_image, read_counter, write_counting_folder, write_counting_video
from vsn_train.data.frames import FrameFolder
from vsn_train.data.video import VideoError, open_video

IMGS = CLIPS / "frames" / "imgs"


@pytest.mark.parametrize("known", [None, 12], ids=["listed", "known"])
@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("{:05d}.jpg", 1),  # Something-Something V1, Jester
        ("{:06d}.jpg", 1),  # Something-Something V2, TSM
        ("img_{:05d}.jpg", 1),  # UCF101, HMDB51, Kinetics, TSM
        ("image_{:05d}.jpg", 1),
        ("frame_{:05d}.jpg", 1),
        ("frame_{:06d}.jpg", 0),
        ("frame{:06d}.jpg", 1),
        ("{}.jpg", 1),  # 1 … 12: natural order, not that of the letters
        ("{:02d}.jpeg", 0),
        ("image-{:04d}.png", 95),
        ("v_A%02d_g01_{:04d}.JPG", 1),
    ],
)
def test_every_way_of_naming(name: str, first: int, known: int | None, tmp_path: Path) -> None:
    folder = write_counting_folder(tmp_path / "video", 12, name, first)
    (folder / "notes.txt").write_text("no image")
    with open_video(folder, num_frames=known) as video:
        assert isinstance(video, FrameFolder)
        assert (video.num_frames, video.height, video.width, video.fps) == (12, 48, 64, 0.0)
        for frames in ([0], [11, 3, 3, 0], np.array([5, 9]), torch.tensor([10])):
            images = video.read(frames)
            assert images.shape == (len(frames), 3, 48, 64)
            assert images.dtype == torch.uint8
            assert [read_counter(image) for image in images] == [int(frame) for frame in frames]
        assert video.read([]).shape == (0, 3, 48, 64)
        with pytest.raises(IndexError, match="12 frames"):
            video.read([12])
    with pytest.raises(ValueError, match="closed"):
        video.read([0])


def test_a_known_length_saves_the_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_counting_folder(tmp_path / "video", 6, "img_{:05d}.jpg")
    monkeypatch.setattr(os, "listdir", lambda path: pytest.fail("listed it"))
    with open_video(folder, num_frames=6) as video:
        assert read_counter(video.read([5])[0]) == 5


@pytest.mark.parametrize("wrong", [5, 7, 100])
def test_a_wrong_length_is_not_believed(wrong: int, tmp_path: Path) -> None:
    folder = write_counting_folder(tmp_path / "video", 6)
    with open_video(folder, num_frames=wrong) as video:
        assert video.num_frames == 6


def test_only_the_wanted_images_are_opened(tmp_path: Path) -> None:
    folder = write_counting_folder(tmp_path / "video", 6)
    (folder / "00004.jpg").write_bytes(b"no image")
    with open_video(folder) as video:
        assert [read_counter(image) for image in video.read([2, 4])] == [2, 4]
        with pytest.raises(VideoError, match=r"00004\.jpg cannot be decoded"):
            video.read([3])


@pytest.mark.skipif(not IMGS.is_dir(), reason="needs the clips beside the repository")
def test_real_folder_of_images_and_flow() -> None:
    with open_video(IMGS) as rgb, open_video(IMGS, modality="flow") as flow:
        assert (rgb.num_frames, rgb.height, rgb.width) == (10, 240, 320)
        assert flow.num_frames == 5
        images, pairs = rgb.read([9, 0]), flow.read([4, 0])
    assert pairs.shape == (2, 2, 240, 320)
    for row, number in enumerate((10, 1)):
        expected = decode_image(str(IMGS / f"img_{number:05d}.jpg"), ImageReadMode.RGB)
        assert torch.equal(images[row], expected)
    for row, number in enumerate((5, 1)):
        for channel, axis in enumerate("xy"):
            expected = decode_image(str(IMGS / f"{axis}_{number:05d}.jpg"), ImageReadMode.GRAY)
            assert torch.equal(pairs[row, channel], expected[0])


@pytest.mark.parametrize("name", ["{:05d}.jpg", "{:05d}.png"])
def test_without_torchvisions_decoder(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision has announced that it goes; Pillow gives the same pixels."""
    folder = IMGS if IMGS.is_dir() and "jpg" in name else write_counting_folder(tmp_path, 10, name)
    with open_video(folder) as video:
        expected = video.read(range(10))
        monkeypatch.setitem(sys.modules, "torchvision.io", None)
        assert torch.equal(video.read(range(10)), expected)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.jpg").write_bytes(b"just a text")
    with open_video(tmp_path / "broken") as video, pytest.raises(VideoError, match=r"1\.jpg cannot be decoded"):
        video.read([0])


@pytest.mark.parametrize("known", [None, 7], ids=["listed", "known"])
@pytest.mark.parametrize("name", ["flow_{axis}_{:05d}.jpg", "{axis}_{:05d}.jpg", "100218-{axis}_{:05d}.jpg"])
def test_flow(name: str, known: int | None, tmp_path: Path) -> None:
    write_counting_folder(tmp_path, 7, name.replace("{axis}", "x"))
    write_counting_folder(tmp_path, 7, name.replace("{axis}", "y"), offset=100)
    write_counting_folder(tmp_path, 8, "img_{:05d}.jpg")  # RGB beside it, as denseflow writes it
    with open_video(tmp_path, modality="flow", num_frames=known) as video:
        assert video.num_frames == 7
        images = video.read([6, 2])
        assert images.shape == (2, 2, 48, 64)
        assert [[read_counter(channel[None]) for channel in image] for image in images] == [[6, 106], [2, 102]]
    with open_video(tmp_path) as rgb:
        assert rgb.num_frames == 8


def image(height: int = 48, width: int = 64) -> torch.Tensor:
    return torch.from_numpy(counting_image(1, width, height)[:height]).expand(3, -1, -1).contiguous()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"no numbered images.*it is empty"),
        (["notes.txt", "video.mp4"], r"no numbered images.*but 2 other files"),
        (["00001.jpg", "00002.jpg", "00004.jpg", "00005.jpg"], r"00003\.jpg is missing; .* 00001\.jpg to 00005\.jpg"),
        (
            ["img_00001.jpg", "frame_00001.jpg"],
            r"images with 2 prefixes in this folder \(frame_00001.jpg, img_00001.jpg\)",
        ),
        (["1.jpg", "00001.jpg"], r"two images have the same number"),
        (["00001.jpg", "00002.png"], r"00002\.jpg is missing"),
        (["flow_x_00001.jpg", "flow_y_00001.jpg"], r"only optical flow .*data\.modality=flow"),
    ],
)
def test_what_is_not_the_frames_of_one_video(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(VideoError, match=message) as caught:
        open_video(tmp_path)
    assert str(caught.value).startswith(f"cannot read {tmp_path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["00001.jpg"], r"expected one kind of pairs .*found none; `vsn-tools flow` makes them"),
        (["flow_x_00001.jpg"], r"flow_x_ images without flow_y_ ones"),
        (["x_00001.jpg", "y_00001.jpg", "flow_x_00001.jpg", "flow_y_00001.jpg"], r"found pairs of 2 kinds"),
        (["x_00001.jpg", "y_00001.jpg", "x_00002.jpg"], r"only one of x_00002\.jpg and y_00002\.jpg exists"),
    ],
)
def test_what_is_not_the_flow_of_one_video(names: list[str], message: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(VideoError, match=message):
        open_video(tmp_path, modality="flow")


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    folder = write_counting_folder(tmp_path / "video", 4)
    whole = (folder / "00002.jpg").read_bytes()
    for content, message in {
        b"": r"00002\.jpg is empty",
        whole[: len(whole) // 2]: r"00002\.jpg cannot be decoded",
        b"just a text\n" * 100: r"00002\.jpg cannot be decoded",
        encode_jpeg(image(32, 32)).numpy().tobytes(): r"00002\.jpg is 32x32, others are 64x48",
        encode_png(torch.zeros(3, 48, 64, dtype=torch.uint8)).numpy().tobytes(): None,  # the name does not matter
    }.items():
        (folder / "00002.jpg").write_bytes(content)
        with open_video(folder) as video:
            if message is None:
                assert video.read([1]).sum() == 0
                continue
            with pytest.raises(VideoError, match=message) as caught:
                video.read([0, 1])
            assert "\n" not in str(caught.value)
    with open_video(folder) as video:
        (folder / "00003.jpg").unlink()
        with pytest.raises(VideoError, match=r"00003\.jpg is missing"):
            video.read([2])


def test_a_folder_that_may_not_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(VideoError, match="Permission denied"):
        open_video(tmp_path)


def test_flow_of_a_file_is_refused(tmp_path: Path) -> None:
    write_counting_video(tmp_path / "clip.mp4", 3)
    with pytest.raises(VideoError, match=r"folder of images; make it with `vsn-tools flow`"):
        open_video(tmp_path / "clip.mp4", modality="flow")
    with pytest.raises(VideoError, match="no such file or folder"):
        open_video(tmp_path / "missing", modality="flow")

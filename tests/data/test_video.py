"""Exact frames, for every container and codec, through `open_video`."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.structures import decode_plainly
from tests.media import add_counting_stream, encode_counting, read_counter, write_counting_video, write_packed_video
from vsn_train.data import video as video_module
from vsn_train.data.video import VideoError, open_video
from vsn_train.errors import InputError

os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder greets on stderr

CLIPS = Path(__file__).resolve().parents[3] / "shared" / "data" / "clips"
HAS_DECORD = importlib.util.find_spec("decord") is not None


def loads_torchcodec() -> bool:
    """Whether it is installed and finds FFmpeg's libraries."""
    try:
        import torchcodec.decoders
    except (ImportError, OSError, RuntimeError):
        return False
    return torchcodec is not None


HAS_TORCHCODEC = loads_torchcodec()
DECODERS = [
    "auto",
    "pyav",
    pytest.param("decord", marks=pytest.mark.skipif(not HAS_DECORD, reason="no decord")),
    pytest.param("torchcodec", marks=pytest.mark.skipif(not HAS_TORCHCODEC, reason="no torchcodec, or no FFmpeg")),
]
# Real clips that another reader than ours cannot give exactly.
REFUSED = {
    "decord": ("odd/corrupted.mp4", "odd/av1_video.mkv"),
    "torchcodec": (
        "odd/corrupted.mp4",
        "hmdb51/wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi",
        "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
        "hmdb51/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",
        "ucf101/eye_makeup_test.avi",
        "ntu/drinking_S001C001P001R001A001_rgb.avi",
    ),
}


def access_patterns(num_frames: int) -> dict[str, list[int]]:
    """Ways to ask for frames, by name."""
    draw = random.Random(num_frames)
    return {
        "sequential": list(range(num_frames if num_frames <= 60 else 40)),
        "sparse": [int((i + 0.5) * num_frames / 8) for i in range(8)],
        "reversed": list(range(num_frames))[:: -max(1, num_frames // 10)],
        "repeated": [num_frames - 1, 0, num_frames - 1, num_frames // 2, num_frames // 2],
        "random": [draw.randrange(num_frames) for _ in range(6)],
        "random pair": [draw.randrange(num_frames) for _ in range(2)],
        "last": [num_frames - 1],
    }


# ---- Real clips ------------------------------------------------------------------------------------------------------


def clip_names() -> list[str]:
    return list(json.loads((CLIPS / "facts.json").read_text())) if CLIPS.is_dir() else []


def clip_signature(name: str) -> np.ndarray | None:
    """(num_frames, 16) mean grey levels on a 4 x 4 grid, made with ffmpeg; None for a clip that has no frame."""
    path = CLIPS / "signatures" / (name.replace("/", "__") + ".csv")
    if not path.exists():
        return None
    with path.open() as file:
        return np.array([[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]])


def signature(images: torch.Tensor) -> np.ndarray:
    total = images.permute(0, 2, 3, 1).numpy().sum(-1, dtype=np.uint16)
    rows, columns = (np.linspace(0, size, 5).astype(int) for size in total.shape[1:])
    cells = [
        total[:, rows[r] : rows[r + 1], columns[c] : columns[c + 1]].mean((1, 2), dtype=np.float64) / 3
        for r in range(4)
        for c in range(4)
    ]
    return np.stack(cells, 1)


def tolerance(name: str) -> np.ndarray | float:
    """Grey levels that a cell may be off: 0.05 is the rounding of the signatures."""
    if name == "odd/corrupted.mp4":
        # From the damage at frame 28 on, the decoder makes up pixels, other ones with other numbers of threads.
        return np.where(np.arange(49) < 28, 0.06, 3.0)[:, None]
    return 0.8 if name == "other/h264_10bits.mp4" else 0.06


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the clips beside the repository")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", clip_names())
def test_clip_gives_the_frames_of_a_sequential_decode(name: str, decoder: str) -> None:
    expected = clip_signature(name)
    if expected is None or name in REFUSED.get(decoder, ()):
        with pytest.raises(VideoError, match=Path(name).name) as caught:
            open_video(CLIPS / name, decoder)
        assert expected is None or "decoder=auto or pyav" in caught.value.cause
        return
    allowed = np.broadcast_to(tolerance(name), expected.shape)
    facts = json.loads((CLIPS / "facts.json").read_text())[name]
    with open_video(CLIPS / name, decoder) as video:
        assert video.num_frames == len(expected)
        size = (facts["height"], facts["width"])
        assert (video.height, video.width) == (size[::-1] if abs(facts["rotation"]) == 90 else size)
        if "VFR" not in str(facts) and name != "odd/corrupted.mp4":
            rate = [float(part) for part in facts["avg_frame_rate"].split("/")]
            assert video.fps == pytest.approx(rate[0] / rate[1], rel=1e-3)
        patterns = access_patterns(video.num_frames)
        if decoder == "auto":  # the same reader as "pyav"
            patterns = {"repeated": patterns["repeated"]}
        elif decoder in REFUSED:
            patterns = {"sequential": patterns["sequential"][:12], "random": patterns["random"]}
        elif video.height * video.width > 800 * 1000:  # large images: a few patterns are slow enough
            patterns = {"sequential": patterns["sequential"][::4], "random": patterns["random"]}
        for pattern, frames in patterns.items():
            images = video.read(frames)
            assert images.shape == (len(frames), 3, video.height, video.width)
            assert images.dtype == torch.uint8
            error = np.abs(signature(images) - expected[frames])
            assert (error <= allowed[frames]).all(), f"{pattern}: off by {error.max():.2f}"


@pytest.mark.skipif(not (CLIPS.is_dir() and HAS_DECORD), reason="needs the clips beside the repository, and decord")
@pytest.mark.parametrize(
    ("name", "grey_levels"),
    [
        ("kinetics400/R6llTwEh07w.mp4", 0),
        ("ucf101/eye_makeup_test.avi", 0),
        ("ssv2/166766.webm", 0),
        ("other/bt709_full_range.mp4", 0),
        ("odd/video_90.mov", 0),
        ("other/h264_10bits.mp4", 2),
    ],
)
def test_decoders_agree_on_colours(name: str, grey_levels: float) -> None:
    with open_video(CLIPS / name, "pyav") as first, open_video(CLIPS / name, "decord") as second:
        difference = (first.read([0, 2]).float() - second.read([0, 2]).float()).abs().mean()
    assert difference <= grey_levels


# ---- Videos made here ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """One synthetic video. counted: `open_video` has to decode it to know it. refused: by these readers."""

    name: str
    codec: str = "libx264"
    num_frames: int = 50
    counted: bool = False
    refused: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)


ALTREF = {"auto-alt-ref": "1", "lag-in-frames": "16", "deadline": "good", "cpu-used": "5"}
VARIABLE = [3 * i + i // 5 + 20 * (i > 20) for i in range(50)]
MADE = [
    Made("h264.mp4"),
    Made("h264_b.mp4", options={"b_frames": 3}),
    Made("h264_pyramid.mkv", options={"b_frames": 4, "x264-params": "b-pyramid=normal:ref=4"}),
    Made("h264_open_gop.mp4", refused=("torchcodec",), options={"b_frames": 3, "x264-params": "open-gop=1:keyint=12"}),
    Made("h264_open_gop.mkv", refused=("torchcodec",), options={"b_frames": 3, "x264-params": "open-gop=1:keyint=12"}),
    Made("h264_refresh.mp4", refused=("torchcodec",), options={"x264-params": "intra-refresh=1:keyint=12"}),
    Made("h264_slices.mp4", options={"b_frames": 2, "height": 96, "x264-params": "slices=4"}),
    Made("h264_variable.mp4", options={"b_frames": 2, "times": VARIABLE}),
    Made("h264_10bit.mp4", options={"b_frames": 2, "pix_fmt": "yuv420p10le"}),
    Made(
        "h264_interlaced.mp4",
        counted=True,
        refused=("torchcodec",),
        options={"b_frames": 2, "height": 96, "x264-params": "tff=1"},
    ),
    Made("h264_b.avi", counted=True, refused=("torchcodec",), options={"b_frames": 2}),
    Made("h264_b.ts", counted=True, refused=("decord", "torchcodec"), options={"b_frames": 2}),
    Made("h264_turned.mp4", refused=("decord",), options={"rotation": 90}),
    Made("h264_1.mp4", num_frames=1),
    Made("h264_2.mp4", num_frames=2),
    Made("h264_3.mp4", num_frames=3),
    Made("hevc_open_gop.mp4", "libx265", options={"x265-params": "keyint=12:min-keyint=12:bframes=3:open-gop=1"}),
    Made("hevc.mkv", "libx265", options={"x265-params": "keyint=12:min-keyint=12:bframes=3:open-gop=0"}),
    Made("hevc_layers.mp4", "libx265", options={"x265-params": "keyint=24:bframes=4:b-pyramid=1:temporal-layers=1"}),
    Made("mpeg4.avi", "mpeg4", options={"width": 160, "height": 120}),
    Made("mpeg4_b.avi", "mpeg4", refused=("torchcodec",), options={"width": 160, "height": 120, "b_frames": 2}),
    Made("mpeg4_b.mp4", "mpeg4", options={"width": 160, "height": 120, "b_frames": 2}),
    Made("mpeg4_2.avi", "mpeg4", 2, refused=("torchcodec",), options={"b_frames": 2}),
    Made("vp8.webm", "libvpx", options=ALTREF),
    Made("vp9.webm", "libvpx-vp9", options=ALTREF),
    Made("av1.mp4", "libsvtav1", refused=("decord",), options={"width": 160, "height": 120}),
    Made("mjpeg.avi", "mjpeg", counted=True, refused=("torchcodec",), options={"pix_fmt": "yuvj420p"}),
]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("made", MADE, ids=lambda made: made.name)
def test_every_container_and_codec(made: Made, decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if made.codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {made.codec}")
    if "rotation" in made.options and not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write a display matrix")
    path = write_counting_video(tmp_path / made.name, made.num_frames, codec=made.codec, **made.options)
    if decoder in made.refused:
        with pytest.raises(VideoError, match="decoder=auto or pyav"), open_video(path, decoder) as video:
            video.read([0])
        return
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        decoded = [frame.to_ndarray(format="rgb24", interpolation="POINT") for frame in container.decode(video=0)]
    turns = made.options.get("rotation", 0) // 90
    reference = torch.from_numpy(np.rot90(np.stack(decoded), turns, axes=(1, 2)).copy()).permute(0, 3, 1, 2)
    counter = [read_counter(np.rot90(image, -turns, axes=(1, 2))) for image in reference]
    assert counter == list(range(made.num_frames)), "the test video itself is not right"

    if not made.counted and made.num_frames > 2:
        # Known from its packets alone. Without this, a reader that always decodes everything would pass.
        monkeypatch.setattr(video_module.Video, "_count_frames", lambda self: pytest.fail("decoded it to count"))
    with open_video(path, decoder) as video:
        assert video.num_frames == made.num_frames
        assert (video.height, video.width) == reference.shape[2:]
        for frames in access_patterns(made.num_frames).values():
            images = video.read(frames)
            if decoder in REFUSED and "10bit" in made.name:
                assert [read_counter(image) for image in images] == frames
            elif decoder in REFUSED:
                assert (images.int() - reference[frames].int()).abs().max() <= 1
            else:
                assert torch.equal(images, reference[frames])


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("num_frames", [2, 31, 50])
def test_packed_b_frames(num_frames: int, decoder: str, tmp_path: Path) -> None:
    path = write_packed_video(tmp_path / "packed.avi", num_frames, width=160, height=120)
    try:
        with open_video(path, decoder) as video:
            assert video.num_frames == num_frames
            for frames in access_patterns(num_frames).values():
                assert [read_counter(image) for image in video.read(frames)] == frames
    except VideoError as error:
        assert decoder == "torchcodec", error  # noqa: PT017


@pytest.mark.skipif(not HAS_DECORD, reason="no decord")
def test_packed_b_frames_are_what_others_get_wrong(tmp_path: Path) -> None:
    """If this fails, the video made here is not what it is meant to be."""
    import decord

    path = write_packed_video(tmp_path / "packed.avi", 50, width=160, height=120)
    images = decord.VideoReader(str(path), num_threads=1).get_batch([3, 9, 15, 21]).asnumpy()
    assert [read_counter(image.transpose(2, 0, 1)) for image in images] != [3, 9, 15, 21]


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    num_frames=st.integers(1, 40),
    keyint=st.integers(1, 15),
    b_frames=st.integers(0, 4),
    pyramid=st.sampled_from(["none", "strict", "normal"]),
    references=st.integers(1, 4),
    open_gop=st.booleans(),
    suffix=st.sampled_from(["mp4", "mkv"]),
    gaps=st.none() | st.lists(st.integers(1, 5), min_size=40, max_size=40),
    data=st.data(),
)
def test_any_structure_of_groups_of_pictures(
    tmp_path_factory: pytest.TempPathFactory, num_frames: int, keyint: int, b_frames: int, pyramid: str,
    references: int, open_gop: bool, suffix: str, gaps: list[int] | None, data: st.DataObject,
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("gop") / f"made.{suffix}"
    params = f"keyint={keyint}:min-keyint=1:b-pyramid={pyramid}:ref={references}:open-gop={int(open_gop)}"
    times = None if gaps is None else np.cumsum(gaps)[:num_frames].tolist()
    write_counting_video(path, num_frames, gop=keyint, b_frames=b_frames, times=times, **{"x264-params": params})
    frames = data.draw(st.lists(st.integers(0, num_frames - 1), min_size=1, max_size=12))
    with open_video(path) as video:
        assert video.num_frames == num_frames
        assert [read_counter(image) for image in video.read(frames)] == frames


def test_the_larger_of_two_streams_is_read(tmp_path: Path) -> None:
    path = tmp_path / "two.mp4"
    with av.open(str(path), "w") as container:
        small = add_counting_stream(container, width=32, height=24)
        large = add_counting_stream(container, width=64, height=48)
        encode_counting(small, 9)
        encode_counting(large, 20)
    with open_video(path) as video:
        assert (video.num_frames, video.height, video.width) == (20, 48, 64)
        assert [read_counter(image) for image in video.read([19, 3])] == [19, 3]


def test_pictures_before_the_first_key_picture_do_not_count(tmp_path: Path) -> None:
    """A clip cut out of an open GOP without re-encoding: what cannot be decoded is no frame."""
    key_pictures = []

    def from_second_key_picture(packet: av.Packet) -> bool:
        if packet.is_keyframe:
            key_pictures.append(packet.pts)
        return len(key_pictures) > 1

    path = tmp_path / "cut.mkv"
    write_counting_video(path, 50, keep=from_second_key_picture, b_frames=3, **{"x264-params": "open-gop=1:keyint=12"})
    with av.open(str(path)) as container:
        container.streams.video[0].codec_context.thread_count = 1
        expected = [read_counter(f.to_ndarray(format="rgb24").transpose(2, 0, 1)) for f in container.decode(video=0)]
    with open_video(path) as video:
        assert video.num_frames == len(expected) < 50
        frames = list(range(len(expected)))[::-1]
        assert [read_counter(image) for image in video.read(frames)] == expected[::-1]


# ---- Indices and life time -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_counting_video(tmp_path_factory.mktemp("video") / "small.mp4", 30, b_frames=2)


@pytest.mark.parametrize("decoder", DECODERS)
def test_indices(small_video: Path, decoder: str) -> None:
    with open_video(str(small_video), decoder) as video:
        for frames in ([7, 3, 7], np.array([7, 3, 7]), np.array([7, 3, 7], np.uint8), torch.tensor([7, 3, 7])):
            assert [read_counter(image) for image in video.read(frames)] == [7, 3, 7]
        assert video.read([]).shape == (0, 3, 48, 64)
        assert video.fps == 30
        for outside in (30, -1):
            with pytest.raises(IndexError, match=r"small\.mp4.*30 frames"):
                video.read([0, outside])
        with pytest.raises(TypeError, match="integers"):
            video.read([0.5])
    with pytest.raises(ValueError, match="closed"):
        video.read([0])


def test_no_file_stays_open(small_video: Path, tmp_path: Path) -> None:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("needs /proc")
    (tmp_path / "bad.mp4").write_bytes(small_video.read_bytes()[:300])
    before = len(list(descriptors.iterdir()))
    for _ in range(5):
        with open_video(small_video) as video:
            video.read([3])
        with pytest.raises(VideoError):
            open_video(tmp_path / "bad.mp4")
    assert len(list(descriptors.iterdir())) <= before


def test_odd_file_names(small_video: Path, tmp_path: Path) -> None:
    for name in ("a:b.mp4", "100%d.mp4", "größe und 空.mp4"):
        path = tmp_path / name
        path.write_bytes(small_video.read_bytes())
        with open_video(path) as video:
            assert video.num_frames == 30


# ---- Wrong input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("decoder", DECODERS)
def test_what_is_no_video_is_named(tmp_path: Path, decoder: str, small_video: Path) -> None:
    data = small_video.read_bytes()
    files = {
        "empty.mp4": b"",
        "garbage.mp4": random.Random(0).randbytes(5000),
        "text.mp4": b"just a text\n" * 100,
        "notes.txt": b"just a text\n" * 100,
        "header_only.mp4": data[:40],
        "no_index.mp4": data[: len(data) * 2 // 3],  # this file's index is at its end
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
    (tmp_path / "folder").mkdir()
    for name in [*files, "sound.wav", "folder", "missing.mp4"]:
        with pytest.raises(VideoError) as caught:
            open_video(tmp_path / name, decoder)
        assert str(caught.value) == f"cannot read {tmp_path / name}: {caught.value.cause}"
        assert caught.value.cause
        assert "\n" not in str(caught.value)


def test_unknown_decoder() -> None:
    with pytest.raises(InputError, match="auto, decord, pyav, torchcodec"):
        open_video("video.mp4", "opencv")


def test_without_decord(small_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with open_video(small_video) as video:
        assert read_counter(video.read([4])[0]) == 4
    with pytest.raises(InputError, match=r"decord is not installed.*auto or pyav"):
        open_video(small_video, "decord")


def test_without_torchcodec(small_video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("torchcodec")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(InputError, match=r"not installed: pip install 'vsn-train\[torchcodec\]'"):
        open_video(small_video, "torchcodec")


def test_torchcodec_that_finds_no_ffmpeg(small_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torchcodec").mkdir()
    (tmp_path / "torchcodec" / "__init__.py").write_text("raise RuntimeError('Could not load libtorchcodec')")
    for module in [name for name in sys.modules if name.startswith("torchcodec")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r"cannot load FFmpeg's shared libraries: install FFmpeg"):
        open_video(small_video, "torchcodec")


def test_importing_loads_no_decoder() -> None:
    code = "import sys, vsn_train.data.video; sys.exit(bool({'av', 'decord', 'torchcodec'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_error_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(VideoError("a/b.mp4", "the file is empty")))
    assert isinstance(error, VideoError)
    assert isinstance(error, InputError)
    assert (error.path, error.cause) == ("a/b.mp4", "the file is empty")
    assert str(error) == "cannot read a/b.mp4: the file is empty"


# ---- Damage ----------------------------------------------------------------------------------------------------------


def test_truncated_file_has_the_frames_that_decode(tmp_path: Path) -> None:
    path = write_counting_video(tmp_path / "whole.mkv", 60, b_frames=2, width=160, height=120)
    data = path.read_bytes()
    (tmp_path / "half.mkv").write_bytes(data[: len(data) // 2])
    with open_video(tmp_path / "half.mkv") as video:
        assert 10 < video.num_frames < 50
        frames = [0, 5, video.num_frames - 4]
        assert [read_counter(image) for image in video.read(frames)] == frames


def test_damage_found_while_reading_is_an_error(tmp_path: Path) -> None:
    """Packets whose lengths are right and whose pictures are rubbish: an error or a full count, never another frame."""
    path = write_counting_video(tmp_path / "whole.mp4", 60, width=160, height=120)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    position, size = places[30]
    data[position + 5 : position + size] = bytes([0x9A]) + bytes(255 for _ in range(size - 6))
    path.write_bytes(data)
    expected = [read_counter(image.transpose(2, 0, 1)) for image in decode_plainly(path)]
    with open_video(path) as video:
        assert read_counter(video.read([10])[0]) == 10
        try:
            numbers = [read_counter(image) for image in video.read([28, 40, 50])]
        except VideoError as error:
            assert "frame" in error.cause  # noqa: PT017
        else:
            assert numbers == [expected[frame] for frame in (28, 40, 50)]


@pytest.mark.parametrize("order", [[50, 3, 41], [3, 41, 50]])
def test_what_was_read_before_does_not_matter(tmp_path: Path, order: list[int]) -> None:
    """A damaged key picture: frames behind it are the plain decode's or an error, however the object was used."""
    path = write_counting_video(tmp_path / "whole.mp4", 60, width=160, height=120)
    with av.open(str(path)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    data = bytearray(path.read_bytes())
    position, size = places[36]
    for place in range(position + size // 2, position + size, 7):
        data[place] ^= 0x55
    path.write_bytes(data)
    expected = decode_plainly(path)
    with open_video(path) as video:
        assert video.num_frames == len(expected) == 60
        for frame in order:
            assert np.array_equal(video.read([frame])[0].permute(1, 2, 0).numpy(), expected[frame])


# ---- Times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_times_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    times = [i + 3 * (i // 7) for i in range(20)]
    codec = "mpeg4" if name == "a.avi" else "libx264"
    path = write_counting_video(tmp_path / name, 20, codec, times=None if name == "a.avi" else times, b_frames=2)
    with open_video(path) as video:
        expected = np.arange(20) if name == "a.avi" else times
        assert video.times == pytest.approx(np.array(expected) / 30, abs=2e-3)  # Matroska counts milliseconds


def test_a_browsers_recording_has_its_own_length(tmp_path: Path) -> None:
    """MediaRecorder: VP8 in Matroska with irregular times and no rate, of which FFmpeg makes 1000 frames a second."""
    path = tmp_path / "recorded.webm"
    draw = random.Random(1)
    with av.open(str(path), "w") as container:
        stream = add_counting_stream(container, codec="libvpx", fps=1000)
        encode_counting(stream, 100, times=[40 * i + draw.randint(0, 9) for i in range(100)])
    with open_video(path) as video:
        assert video.fps == pytest.approx(25, abs=0.2)
        assert video.times is not None
        assert video.times[-1] == pytest.approx(3.96, abs=0.02)


# ---- Only the file that is named, and only what fits into memory -----------------------------------------------------

PLAYLISTS = {
    "list.mp4": "ffconcat version 1.0\nfile real.ts\n",
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXT-X-VERSION:3\n#EXTINF:9,\nreal.ts\n#EXT-X-ENDLIST\n",
    "list.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="9">'
    "<BaseURL>real.ts</BaseURL><SegmentBase/></Representation></AdaptationSet></Period></MPD>",
    "list.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_a_playlist_plays_no_other_file(tmp_path: Path, name: str) -> None:
    write_counting_video(tmp_path / "real.ts", 20)
    for path in (tmp_path / name, tmp_path / "named.mp4"):
        path.write_text(PLAYLISTS[name])
        with pytest.raises(VideoError, match=path.name):
            open_video(path)


def test_the_formats_are_ffmpegs() -> None:
    assert set(video_module.FORMATS.split(",")) <= {name for each in av.formats_available for name in each.split(",")}


def test_frames_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "wide").mkdir()
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(60_001))  # the first row of 1.2 GB
    chunks = [(b"IHDR", header), (b"IDAT", pixels), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (tmp_path / "wide" / "00001.png").write_bytes(png)
    with pytest.raises(VideoError, match="20000x20000"), open_video(tmp_path / "wide") as video:
        video.read([0])


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """A file whose pictures are padded to 60 MB: opening it and reading two frames takes a tenth of that."""
    code = """
import resource, sys
from vsn_train.data.video import open_video
with open_video(sys.argv[1]) as video:
    video.read([1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_video(sys.argv[2]) as video:
    assert video.num_frames == 60
    video.read([1, 50])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    small = write_counting_video(tmp_path / "small.mp4", 60)
    large = tmp_path / "large.mp4"
    with av.open(str(small)) as source, av.open(str(large), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                filler = b"\x0c" + b"\xff" * 1_000_000  # a NAL unit that decoders pass over
                padded = av.Packet(bytes(packet) + len(filler).to_bytes(4, "big") + filler)
                padded.stream, padded.time_base = stream, packet.time_base
                padded.pts, padded.dts, padded.is_keyframe = packet.pts, packet.dts, packet.is_keyframe
                target.mux(padded)
    assert large.stat().st_size > 60e6
    done = subprocess.run(
        [sys.executable, "-c", code, str(small), str(large)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 25_000  # KiB


@pytest.mark.parametrize("matrix", [(-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)])
def test_a_mirrored_display_matrix(matrix, tmp_path):
    """decord would give the pixels of another class: a left turn for a right one."""
    path = write_counting_video(tmp_path / "plain.mp4", 4)
    with open_video(path) as video:
        plain = video.read([0, 3])
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # of version 0: a b u c d v x y w, 16.16
    for number, value in zip((0, 1, 3, 4), matrix, strict=True):
        content[place + 4 * number : place + 4 * number + 4] = (value << 16).to_bytes(4, "big", signed=True)
    mirrored = tmp_path / "mirrored.mp4"
    mirrored.write_bytes(content)
    expected = plain.transpose(2, 3) if not matrix[0] else plain.flip(3 if matrix[0] < 0 else 2)
    with open_video(mirrored) as video:
        assert torch.equal(video.read([0, 3]), expected)
    for decoder in ("decord", "torchcodec"):
        with pytest.raises(VideoError, match=rf"mirrors it, which decoder={decoder} does not support: use"):
            open_video(mirrored, decoder)

"""Videos of random structure give what a plain decode gives: every frame alone, random clips, the number of frames."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import CLIPS
from tests.data.structures import CODECS, NotWritable, damage, decode_plainly, join, write_structure, wrong_reads
from tests.media import write_counting_video, write_packed_video
from vsn_train.data.video import Video, VideoError, open_video

os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder greets on stderr

CHUNK = 20  # videos a test


def compare(seeds: range, folder: Path, damaged: bool = False, codec: str | None = None) -> int:
    """Frames compared. Fails with the seed and the structure of every video that is read wrongly."""
    compared, wrong = 0, []
    for seed in seeds:
        try:
            path, description = write_structure(seed, folder, codec)
        except NotWritable:
            continue
        draw = random.Random(seed)
        if damaged:
            path.write_bytes(damage(draw, path.read_bytes()))
        found, frames = wrong_reads(path, draw, damaged=damaged)
        compared += frames
        if found:
            wrong.append(f"{description}: {found[:3]}")
        path.unlink()
    assert not wrong, "\n".join(wrong)
    return compared


@pytest.mark.parametrize("first", range(0, 100, CHUNK))
def test_random_structures(first: int, tmp_path: Path) -> None:
    assert compare(range(first, first + CHUNK), tmp_path) > 200


@pytest.mark.parametrize("first", range(0, 60, CHUNK))
def test_damaged_structures(first: int, tmp_path: Path) -> None:
    assert compare(range(first, first + CHUNK), tmp_path, damaged=True) > 100


# Seeds that larger random checks found to be read wrongly, and what it was.
FOUND = [
    (500_039, "av1", False),  # a lost packet: the decoder refuses pictures behind it
    (2_000_116, None, True),  # MPEG-4: data left over in a picture, of which a decoder that starts there says nothing
    (2_002_078, None, True),  # HEVC: a parameter set that leaves the decoder less room than the order of pictures needs
]


@pytest.mark.parametrize(("seed", "codec", "damaged"), FOUND)
def test_structures_that_were_read_wrongly(seed: int, codec: str | None, damaged: bool, tmp_path: Path) -> None:
    compare(range(seed, seed + 1), tmp_path, damaged, codec)


def test_random_structures_of_av1(tmp_path: Path) -> None:
    assert compare(range(CHUNK), tmp_path, codec="av1") > 200


REAL = [
    "ucf101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi",
    "ucf101/eye_makeup_test.avi",
    "hmdb51/wave/RATRACE_wave_f_nm_np1_fr_goo_37.avi",
    "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
    "hmdb51/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",
]


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the clips beside the repository")
@pytest.mark.parametrize("suffix", ["avi", "mp4"])
@pytest.mark.parametrize(("first", "second"), [(0, 1), (1, 0), (2, 3), (3, 2), (4, 1), (0, 4)])
def test_real_clips_joined(first: int, second: int, suffix: str, tmp_path: Path) -> None:
    path = join([CLIPS / REAL[first], CLIPS / REAL[second]], tmp_path / f"joined.{suffix}")
    expected = decode_plainly(path)
    draw = random.Random(first)
    with open_video(path) as video:
        assert video.num_frames == len(expected)
        for _ in range(3):
            wanted = [draw.randrange(video.num_frames) for _ in range(4)]
            try:
                images = video.read(wanted).permute(0, 2, 3, 1).numpy()
            except VideoError as error:
                assert " frame 0 is " in error.cause  # noqa: PT017 - of another size
            else:
                assert all(np.array_equal(image, expected[i]) for i, image in zip(wanted, images, strict=True))


@pytest.mark.parametrize(("name", "codec"), [("a.avi", "packed"), ("a.webm", "vp8")])
def test_long_videos_are_not_decoded_from_their_start(name: str, codec: str, tmp_path: Path) -> None:
    """Beyond 600 pictures: decoding up to the wanted frame would prove its number in a damaged file, but take long."""
    if codec == "packed":
        path = write_packed_video(tmp_path / name, 640, gop=12, width=160, height=120)
    else:
        path = write_counting_video(tmp_path / name, 640, "libvpx", gop=12)
    expected = decode_plainly(path)
    with open_video(path) as video:
        assert video.num_frames == len(expected)
        assert isinstance(video, Video)
        assert video._table.frame_map is not None
        assert len(video._table.frame_map.starts) > 20
        for frame in range(0, len(expected), 40):
            assert np.array_equal(video.read([frame])[0].permute(1, 2, 0).numpy(), expected[frame])


@pytest.mark.slow
@pytest.mark.parametrize("codec", sorted({*CODECS, "av1"}))
def test_many_random_structures(codec: str, tmp_path: Path) -> None:
    seeds = range(10_000, 10_000 + (60 if codec == "av1" else 200))
    assert compare(seeds, tmp_path, codec=codec) > 10 * len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("codec", sorted(set(CODECS)))
def test_many_damaged_structures(codec: str, tmp_path: Path) -> None:
    compare(range(20_000, 20_150), tmp_path, damaged=True, codec=codec)


@pytest.mark.slow
@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the clips beside the repository")
@pytest.mark.parametrize("name", [*REAL, "other/gulpio_test.webm", "other/h265_video.mp4", "odd/av1_video.mkv"])
def test_damaged_real_clips(name: str, tmp_path: Path) -> None:
    wrong = []
    for seed in range(2):
        draw = random.Random(30_000 + seed)
        path = tmp_path / f"{seed}{Path(name).suffix}"
        path.write_bytes(damage(draw, (CLIPS / name).read_bytes()))
        found, _ = wrong_reads(path, draw, fresh=0, damaged=True)
        wrong += [f"{seed}: {each}" for each in found]
    assert not wrong, "\n".join(wrong)

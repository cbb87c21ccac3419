"""Fast-seek copies: what they hold, that they are checked, and that the readers take them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.conftest import CLIPS, SMALL, run_command
from tests.media import read_counter, write_counting_folder, write_counting_video
from tests.runs import TOOLS
from vsn_train.atomic import DAY
from vsn_train.data.fastseek import MARK, FastSeekCopy
from vsn_train.data.prepare import copy_size, find_sources, prepare, psnr, take_shard
from vsn_train.data.video import Video, open_video
from vsn_train.errors import InputError, VideoError


def run_script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*TOOLS, "prepare", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def counters(video, frames) -> list[int]:
    return [read_counter(image) for image in video.read(frames)]


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("b.mp4", "libx264", {"b_frames": 3}),
        ("x.avi", "mpeg4", {"b_frames": 2}),
        ("v.webm", "libvpx-vp9", {}),
        ("turned.mp4", "libx264", {"rotation": 90}),
        ("irregular.mp4", "libx264", {"times": [i + 3 * (i // 10) for i in range(40)]}),
        ("deep.mp4", "libx264", {"pix_fmt": "yuv420p10le"}),
        ("chroma.mp4", "libx264", {"pix_fmt": "yuv444p", "width": 66, "height": 50}),
    ],
)
def test_frame_i_of_the_copy_is_frame_i(tmp_path, name, codec, options):
    options = {"width": 64, "height": 48} | options
    source = write_counting_video(tmp_path / name, 40, codec, **options)
    made = prepare(source, tmp_path / "copies" / name, 256, 18, "rgb")
    assert made.num_frames == 40
    assert made.psnr > 30
    order = [39, 0, 7, 7, 5, 3, 1, 20, *range(40)]
    with open_video(source) as video, open_video(tmp_path / "copies" / name) as copy:
        assert isinstance(copy, FastSeekCopy)
        assert copy.num_frames == video.num_frames == 40
        assert (copy.height, copy.width) == copy_size(video.height, video.width, 256)
        if not options.get("rotation"):  # which turns the counter's blocks too
            assert counters(copy, order) == order
        assert psnr(copy.read([33])[0].numpy()[:, :48, :48], video.read([33])[0].numpy()[:, :48, :48]) > 20
        assert np.array_equal(copy.times, video.times)
    with av.open(str(tmp_path / "copies" / name)) as container:  # other programs play it at the same times
        shown = [float(frame.pts * frame.time_base) for frame in container.decode(video=0)]
        with open_video(source) as video:
            assert shown == pytest.approx(video.times, abs=1e-4)
    assert sorted(path.name for path in (tmp_path / "copies").iterdir()) == [name]


def test_by_index_or_from_the_start_the_same_pixels(tmp_path):
    prepare(write_counting_video(tmp_path / "a.mp4", 30), tmp_path / "copy.mp4", 256, 18, "rgb")
    with av.open(str(tmp_path / "copy.mp4")) as container:
        whole = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with open_video(tmp_path / "copy.mp4") as copy, open_video(tmp_path / "copy.mp4", "decord") as other:
        assert isinstance(copy, FastSeekCopy)
        assert isinstance(other, Video)
        assert np.array_equal(copy.read(range(30)).permute(0, 2, 3, 1).numpy(), whole)
        assert torch.equal(other.read([29, 4]), copy.read([29, 4]))


@pytest.mark.parametrize(
    ("size", "expected"), [((256, 340), (256, 340)), ((1080, 1920), (256, 456)), ((1920, 1080), (456, 256)),
                           ((240, 427), (240, 428)), ((30, 40), (30, 40))],
)  # fmt: skip
def test_the_short_side_becomes_256_and_never_grows(size, expected):
    assert copy_size(*size, 256) == expected


def test_space_seldom_more_than_four_times_and_pixels_close(tmp_path):
    if not CLIPS.is_dir():
        pytest.skip("needs the real clips")
    for name in ("kinetics400/SOX5yA1l24A.mp4", "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi"):
        made = prepare(CLIPS / name, tmp_path / name, 256, 18, "rgb")
        assert made.bytes < 4 * made.source_bytes
        with open_video(CLIPS / name) as video, open_video(tmp_path / name) as copy:
            frames = [0, video.num_frames // 2, video.num_frames - 1]
            assert psnr(copy.read(frames).numpy(), video.read(frames).numpy()) > 33


def test_a_copy_that_another_program_rewrote_is_read_like_any_other_file(tmp_path):
    prepare(write_counting_video(tmp_path / "a.mp4", 20), tmp_path / "copy.mp4", 256, 18, "rgb")
    with av.open(str(tmp_path / "copy.mp4")) as source, av.open(str(tmp_path / "b.mp4"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in list(source.demux(video=0))[5:]:
            if packet.size:
                packet.stream = stream
                container.mux(packet)
    with open_video(tmp_path / "b.mp4") as video:
        assert isinstance(video, Video)
        assert counters(video, [13, 2]) == [18, 7]


def test_a_copy_from_before_there_were_times(tmp_path):
    prepare(write_counting_video(tmp_path / "a.mp4", 20), tmp_path / "copy.mp4", 256, 18, "rgb")
    data = (tmp_path / "copy.mp4").read_bytes()
    length = int(data[-len(MARK) - 8 : -len(MARK)])
    head, _, rest = data[-len(MARK) - 8 - length : -len(MARK) - 8].partition(b"\n")
    values = json.loads(head)
    del values["times"], values["crc32"]
    body = json.dumps(values).encode() + b"\n" + rest[: 20 * 16]
    (tmp_path / "copy.mp4").write_bytes(data[: -len(MARK) - 8 - length] + body + b"%08d" % len(body) + MARK)
    with open_video(tmp_path / "copy.mp4") as copy:
        assert isinstance(copy, FastSeekCopy)
        assert counters(copy, [13, 2]) == [13, 2]
        assert copy.times == pytest.approx(np.arange(20) / 30)


def test_a_damaged_copy_says_so(tmp_path):
    prepare(write_counting_video(tmp_path / "a.mp4", 30), tmp_path / "copy.mp4", 256, 18, "rgb")
    whole = (tmp_path / "copy.mp4").read_bytes()
    (tmp_path / "short.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(VideoError, match=r"cannot read .*short.mp4: "):
        open_video(tmp_path / "short.mp4")
    with open_video(tmp_path / "copy.mp4") as copy:
        with pytest.raises(IndexError, match="it has 30 frames"):
            copy.read([30])
        assert copy.read([]).shape == (0, 3, 48, 64)
        position, size = copy._places[7]
    (tmp_path / "holed.mp4").write_bytes(whole[: position + 4] + bytes(size - 4) + whole[position + size :])
    with open_video(tmp_path / "holed.mp4") as copy:
        with pytest.raises(VideoError, match=r"holed.mp4: .*prepare it again"):
            copy.read([6, 7, 8])
        assert counters(copy, [6, 8]) == [6, 8]


@pytest.mark.parametrize("pattern", ["{:05d}.jpg", "img_{:05d}.png"])
def test_images_are_taken_over_byte_for_byte(tmp_path, pattern):
    folder = write_counting_folder(tmp_path / "78687", 12, pattern)
    made = prepare(folder, tmp_path / "copies" / "78687.mp4", 256, 18, "rgb")
    assert (made.num_frames, made.psnr) == (12, None)
    with open_video(folder) as images, open_video(tmp_path / "copies" / "78687.mp4") as copy:
        assert isinstance(copy, FastSeekCopy)
        order = [11, 3, 3, 0]
        assert torch.equal(copy.read(order), images.read(order))
        assert counters(copy, order) == order
        assert [copy.packets(i)[0] for i in range(12)] == [
            (folder / pattern.format(i + 1)).read_bytes() for i in range(12)
        ]


def test_flow_is_packed_in_pairs(tmp_path):
    if not CLIPS.is_dir():
        pytest.skip("needs the real flow images")
    folder = CLIPS / "frames" / "imgs"
    prepare(folder, tmp_path / "flow.mp4", 256, 18, "flow")
    with open_video(folder, modality="flow") as images, open_video(tmp_path / "flow.mp4", modality="flow") as copy:
        assert torch.equal(copy.read([4, 0, 2]), images.read([4, 0, 2]))
        assert copy.num_frames == 5
    with pytest.raises(VideoError, match=r"holds flow frames: set data\.modality=flow"):
        open_video(tmp_path / "flow.mp4")


def test_shards_share_the_work():
    names = [str(number) for number in range(11)]
    parts = [take_shard(names, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(sum(parts, []), key=int) == names  # noqa: RUF017
    for wrong in ("0/3", "4/3", "1", "a/b", "1/0", "/"):
        with pytest.raises(InputError, match="expected i/n with i from 1 to n"):
            take_shard(names, wrong)


def test_the_script_goes_on_and_lists_what_it_cannot_read(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "a class").mkdir(parents=True)
    for index in range(3):
        write_counting_video(source / "a class" / f"{index}.mp4", 12 + index)
    write_counting_folder(source / "frames" / "17", 5, "{:05d}.jpg")
    (source / "a class" / "broken.avi").write_bytes(b"RIFF nothing")
    (source / "list.txt").write_text("a class/0.mp4\n")
    assert find_sources(source)[0] == [
        *(f"a class/{n}" for n in ("0.mp4", "1.mp4", "2.mp4", "broken.avi")),
        "frames/17",
    ]

    first = run_script(source, target, "--shard", "1/2", "--workers", "2")
    assert first.returncode == 0, first.stderr
    assert "3 copies made, 0 already there, 0 failed" in first.stdout  # 0.mp4, 2.mp4, frames/17
    left = target / "a class" / ".1.mp4.host-1-00000000.part"
    left.write_bytes(b"of a run that was killed, on another machine, two days ago")
    os.utime(left, (time.time() - 2 * DAY,) * 2)
    times = {path: path.stat().st_mtime_ns for path in target.rglob("*.mp4")}
    second = run_script(source, target, "--workers", "1")
    assert second.returncode == 1, second.stderr
    assert "left out: 1 that are no videos ('list.txt')" in second.stdout
    assert "1 copies made, 3 already there, 1 failed" in second.stdout
    assert "times the source\n" in second.stdout
    assert (target / "failed.txt").read_text().startswith("a class/broken.avi\t")
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    found = sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())
    expected = ["a class/0.mp4", "a class/1.mp4", "a class/2.mp4", "failed.txt", "frames/17.mp4", "prepare.json"]
    assert found == expected
    with open_video(target / "a class" / "2.mp4") as copy:
        assert counters(copy, [13, 1]) == [13, 1]

    other = run_script(source, target, "--crf", "30")
    assert (other.returncode, other.stderr.count("\n")) == (2, 1)
    assert "the files there were made with {'short_side': 256, 'crf': 20" in other.stderr
    for arguments, message in [
        ((source, source / "in"), "must not contain each other"),
        ((tmp_path / "none", target), "no such folder"),
        ((source, tmp_path / "t", "--short-side", "255"), "expected an even number"),
        ((target, tmp_path / "t", "--list", source / "list.txt", "--shard", "3/2"), "expected i/n"),
    ]:
        wrong = run_script(*arguments)
        assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1), wrong.stderr
        assert message in wrong.stderr
    assert not (tmp_path / "t").exists()


def test_copies_of_a_data_set_train_with_another_root_alone(ucf101, tmp_path):
    copies = tmp_path / "UCF-101"
    done = run_script(ucf101, copies, "--workers", "2")
    assert done.returncode == 0, done.stderr
    shutil.copytree(ucf101.parent / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    folder = tmp_path / "run"
    result = run_command(
        "vsn-train", "dataset=ucf101", f"dataset.root={copies}", "augment=mix", "augment.rand_augment=2",
        "schedule.epochs=1", f"hydra.run.dir={folder}", *SMALL,
    )  # fmt: skip
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert "skipped unreadable" not in (folder / "log.txt").read_text()

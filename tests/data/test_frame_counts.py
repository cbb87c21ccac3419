import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.media import write_counting_folder, write_counting_video
from vsn_train.data import frame_counts
from vsn_train.data.frame_counts import count_frames
from vsn_train.data.manifest import make_manifest


@pytest.fixture
def manifest(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    write_counting_video(root / "1.mp4", 9)
    write_counting_folder(root / "2", 7)
    (root / "3.mp4").write_bytes(b"no video")
    write_counting_folder(root / "4", 3)
    return make_manifest("made", "train", root, ["1.mp4", "2", "3.mp4", "4"], [0, 0, 0, 0], ["a"])


@pytest.mark.parametrize("workers", [1, 2])
def test_counts_and_reasons(manifest, workers):
    counted, reasons = count_frames(manifest, workers=workers, progress=False)
    assert counted.num_frames.tolist() == [9, 7, -1, 3]
    assert counted.num_frames.dtype == np.int32
    assert len(reasons) == 1
    assert reasons[0].startswith(f"{manifest.path(2)}: ")
    assert counted.content_hash() == manifest.content_hash()


def test_counted_once_and_unreadable_ones_again(manifest, monkeypatch):
    count_frames(manifest, progress=False)
    asked = []
    count_all = frame_counts._count_all

    def watched(manifest, indices, *rest):
        asked.extend(indices)
        return count_all(manifest, indices, *rest)

    monkeypatch.setattr(frame_counts, "_count_all", watched)
    write_counting_video(manifest.path(2), 5)
    counted, reasons = count_frames(manifest, progress=False)
    assert (asked, reasons) == ([2], [])
    assert counted.num_frames.tolist() == [9, 7, 5, 3]
    count_frames(manifest, progress=False)
    assert asked == [2]
    assert [path.suffix for path in (manifest.root / ".vsn-train").iterdir()] == [".npz"]


def test_what_a_killed_scan_counted_is_kept(manifest):
    folder, key = frame_counts._cache(manifest, "rgb")
    records = np.array([[0, 90], [1, 70]], np.int32).tobytes()
    (folder / f"frames-{key}.host-1.part").write_bytes(records + b"\x03\x00")  # cut in the middle of a record
    counted, _ = count_frames(manifest, progress=False)
    assert counted.num_frames.tolist() == [90, 70, -1, 3]


def test_read_only_root_counts_into_the_home_folder(manifest, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (manifest.root / ".vsn-train").write_text("a file where the folder would be")
    counted, _ = count_frames(manifest, progress=False)
    assert counted.num_frames.tolist() == [9, 7, -1, 3]
    assert len(list((tmp_path / "home" / ".cache" / "vsn-train" / "frames").iterdir())) == 1


SCAN = """
import sys
from pathlib import Path
from vsn_train.data.frame_counts import count_frames
from vsn_train.data.manifest import make_manifest
names = [str(number) for number in range(3000)]
count_frames(make_manifest("made", "train", Path(sys.argv[1]), names, [0] * 3000, ["a"]), workers=1, progress=False)
"""


def test_killed_in_the_middle(tmp_path):
    root = tmp_path / "videos"
    root.mkdir()
    one = write_counting_folder(tmp_path / "one", 2)
    for number in range(3000):
        os.symlink(one, root / str(number))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", SCAN, str(root)], env=environment, start_new_session=True)
    deadline = time.monotonic() + 60
    while not [part for part in root.glob(".vsn-train/*.part") if part.stat().st_size]:
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    (part,) = root.glob(".vsn-train/*.part")
    kept = part.stat().st_size // 8
    assert 0 < kept < 3000
    manifest = make_manifest("made", "train", root, [str(number) for number in range(3000)], [0] * 3000, ["a"])
    for link in sorted(root.glob("[0-9]*"), key=lambda path: int(path.name))[:1]:
        link.unlink()  # counted before the kill: not looked at again
    counted, reasons = count_frames(manifest, progress=False)
    assert reasons == []
    assert set(counted.num_frames.tolist()) == {2}

"""vsn-tools check and scripts/compare_readers.py."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import CLIPS, Result
from tests.media import write_counting_folder, write_counting_video
from vsn_train.data import check, video
from vsn_train.data.isolated import Failure, work_isolated
from vsn_train.data.manifest import make_manifest
from vsn_train.tools.main import main

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command in this process, which saves the seconds that a new one takes to import torch."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["vsn-tools", "check", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(int(str(ended.value.code)), *capsys.readouterr())

    return run


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    root = tmp_path / "videos"
    (root / "a b").mkdir(parents=True)
    write_counting_video(root / "a b" / "good.mp4", 30, b_frames=2)
    write_counting_folder(root / "images", 5)
    gap = write_counting_folder(root / "gap", 5)
    (gap / "00003.jpg").unlink()
    whole = write_counting_video(root / "no_index.mp4", 30).read_bytes()
    (root / "no_index.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    (root / "empty.webm").write_bytes(b"")
    (root / "notes.txt").write_text("no video")
    return root


def test_a_folder(videos: Path, tmp_path: Path, run_here: Callable[..., Result]) -> None:
    result = run_here(videos, "--report", tmp_path / "check.csv", "--workers", 2)
    assert result.code == 1
    assert result.out == (
        "5 files: 3 unreadable; 0 headers with a wrong number of frames\nleft out: 1 that are no videos ('notes.txt')\n"
    )
    with (tmp_path / "check.csv").open() as file:
        rows = {row["path"]: row for row in csv.DictReader(file)}
    assert {name: row["problem"] for name, row in rows.items()} == {
        "a b/good.mp4": "",
        "empty.webm": "unreadable",
        "gap": "unreadable",
        "no_index.mp4": "unreadable",
        "images": "",
    }
    good = rows["a b/good.mp4"]
    assert (good["frames"], good["header"], good["width"], good["height"], good["fps"]) == (
        "30",
        "30",
        "64",
        "48",
        "30.0",
    )
    assert (good["compared"], good["readers"]) == ("8", "auto: 0 differ")
    assert "00003.jpg is missing" in rows["gap"]["cause"]
    assert f"unreadable: {videos / 'empty.webm'}: the file is empty\n" in result.err


def test_listed_numbers_of_frames(videos: Path, tmp_path: Path, run_here: Callable[..., Result]) -> None:
    names = ["a b/good.mp4", "images"]
    make_manifest("made", "val", videos, names, [0, 0], ["x"], num_frames=[30, 6]).save(tmp_path / "m.npz")
    listing = tmp_path / "list.csv"
    listing.write_text("path,label,num_frames\na b/good.mp4,x,30\nimages,x,6\n")
    for source in ([tmp_path / "m.npz"], [listing, "--root", videos]):
        result = run_here(*source, "--report", tmp_path / "check.json")
        assert result.code == 1
        assert "2 files: 1 wrongly counted" in result.out
        row = json.loads((tmp_path / "check.json").read_text())[1]
        assert (row["path"], row["frames"], row["listed"]) == ("images", 5, 6)
        assert row["cause"] == "5 frames decode, 6 are listed"
    listing.write_text("images,x,5\n")
    assert run_here(listing, "--root", videos).code == 0


def test_a_size_that_changes_in_the_middle_is_found(tmp_path: Path, run_here: Callable[..., Result]) -> None:
    parts = [(20, 64, 48), (2, 96, 64), (20, 64, 48)]
    data = b""
    for number, (frames, width, height) in enumerate(parts):
        part = write_counting_video(tmp_path / f"{number}.part.ts", frames, width=width, height=height)
        data += part.read_bytes()
        part.unlink()
    (tmp_path / "joined.ts").write_bytes(data)
    result = run_here(tmp_path)
    assert result.code == 1
    assert "frame 20 is 96x64, frame 0 is 64x48" in result.err


def test_what_a_training_refuses_of_a_list_is_wrong(
    videos: Path, tmp_path: Path, run_here: Callable[..., Result]
) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("\ufeffVideo\tClass\na b/good.mp4\tx\nimages\tx\nnone.mp4\tx\nimages\tx\n")
    result = run_here(listing, "--root", videos, "--report", tmp_path / "check.json")
    assert result.code == 1
    assert result.out.startswith("4 files: 1 missing, 1 repeated; 0 headers")
    assert f"missing: none.mp4: not under {videos} ({listing} line 4)\n" in result.err
    assert f"repeated: images: {listing} lines 3 and 5\n" in result.err
    listing.write_text("a b/good 30 0\nimages 5 1\n")  # as TSM writes it, and under another suffix
    assert run_here(listing, "--root", videos).code == 0


def test_a_file_that_hangs_and_one_that_kills_its_process(
    videos: Path, tmp_path: Path, run_here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoder_from_hell(path: str | Path, *arguments: object, **options: object) -> object:
        if Path(path).name == "no_index.mp4":
            time.sleep(600)
        if Path(path).name == "empty.webm":
            os.kill(os.getpid(), signal.SIGKILL)
        return video.open_video(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(check, "open_video", decoder_from_hell)
    started = time.monotonic()
    result = run_here(videos, "--report", tmp_path / "check.json", "--timeout", 3, "--workers", 2)
    assert time.monotonic() - started < 60
    assert result.code == 1
    rows = {row["path"]: row for row in json.loads((tmp_path / "check.json").read_text())}
    assert (rows["no_index.mp4"]["problem"], rows["no_index.mp4"]["cause"]) == ("hanging", "took longer than 3 s")
    assert rows["empty.webm"]["problem"] == "crashing"
    assert "SIGKILL" in rows["empty.webm"]["cause"]
    assert rows["a b/good.mp4"]["problem"] == ""
    assert "1 crashing, 1 hanging, 1 unreadable" in result.out


def test_a_worker_killed_from_outside_costs_its_file() -> None:
    def work(item: int) -> int:
        if item == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    found = dict(work_isolated(work, range(4), 2, 60))
    assert {item: result for item, result in found.items() if item != 1} == {0: 0, 2: 2, 3: 3}
    assert isinstance(found[1], Failure)
    assert found[1].kind == "crashing"
    assert "SIGKILL" in found[1].cause


def test_a_reader_that_gives_other_frames_is_found(
    tmp_path: Path, run_here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_counting_video(tmp_path / "clip.mp4", 30)
    right = video.Video._images
    monkeypatch.setattr(
        video.Video, "_images", lambda self, wanted: ((i, x) for i, (_, x) in _late(right, self, wanted))
    )
    result = run_here(tmp_path)
    assert result.code == 1
    assert "readers differ" in result.err
    assert "auto: 7 of 8 frames" in result.err


def _late(right, self, wanted):  # type: ignore[no-untyped-def]
    """Every image is that of the frame before."""
    return zip(wanted, right(self, sorted({max(0, i - 1) for i in wanted} | {0, 1})), strict=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder, manifest or list"),
        (["."], "found no videos and no folders of images"),
        ([".", "--report", "x.txt"], "expected a name that ends with .csv or .json"),
        ([".", "--timeout", "0"], "--timeout 0.0: expected a number above 0"),
        (["list.csv"], "list.csv line 2: num_frames 'many'; expected a whole number"),
        (["empty.csv"], "empty.csv: the list is empty"),
    ],
)
def test_wrong_input(
    arguments: list[str], message: str, tmp_path: Path, run_here: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.csv").write_text("a.mp4,x,3\nb.mp4,x,many\n")
    (tmp_path / "empty.csv").write_text("\n")
    result = run_here(*arguments)
    assert result.code == 2
    assert message in result.err
    assert result.err.count("\n") == 1


@pytest.mark.skipif(not CLIPS.is_dir(), reason="needs the clips beside the repository")
def test_the_table_of_readers_shows_who_is_wrong(tmp_path: Path) -> None:
    pytest.importorskip("decord")
    clips = tmp_path / "clips" / "hmdb51"
    clips.mkdir(parents=True)
    name = "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi"
    (clips / "a.avi").write_bytes((CLIPS / name).read_bytes())
    (clips / "b.avi").write_bytes(b"no video")
    command = [sys.executable, str(SCRIPTS / "compare_readers.py"), str(tmp_path / "clips"), "--output", "table"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "table.json").read_text())["hmdb51/a.avi"]
    assert found["kind"] == "hmdb51: mpeg4 in avi"
    for reader in ("open_video auto", "open_video decord"):
        assert (found[reader]["wrong"], found[reader]["failed"]) == (0, 0)
        assert found[reader]["asked"] > 80
    assert found["plain decord"]["wrong"] > 5
    table = (tmp_path / "table.md").read_text()
    assert table == done.stdout.rstrip("\n") + "\n"
    assert "Not compared: hmdb51/b.avi: Invalid data" in table

"""vsn-tools flow, and what the installed commands make of its folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import SMALL, Result, run_command
from tests.media import write_counting_folder, write_counting_video
from tests.runs import TOOLS
from vsn_train.analysis.scores import Scores
from vsn_train.atomic import part_of
from vsn_train.data import optical_flow
from vsn_train.data.manifest import make_manifest
from vsn_train.data.optical_flow import extract_flow, flow_estimator, quantize
from vsn_train.data.prepare import shard_lock
from vsn_train.data.video import VideoError, open_video
from vsn_train.errors import InputError
from vsn_train.tools.main import main

cv2 = pytest.importorskip("cv2")
HAS_TVL1 = hasattr(cv2, "optflow")


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Runs the command in this process, which saves the seconds that a new one takes to import torch."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["vsn-tools", "flow", *map(str, arguments), "--workers", "2"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        return Result(int(str(ended.value.code)), *capsys.readouterr())

    return run


def test_displacements_become_grey_levels() -> None:
    flow = np.array([-100.0, -20, -10, 0, 10, 20, 100])
    assert quantize(flow, 20).tolist() == [0, 0, 64, 128, 191, 255, 255]  # 127.5 is rounded up
    assert quantize(np.zeros((2, 3, 2)), 20).shape == (2, 3, 2)


@pytest.mark.parametrize(
    "method", [pytest.param("tvl1", marks=pytest.mark.skipif(not HAS_TVL1, reason="needs contrib")), "dis"]
)
def test_a_moving_texture(method: str) -> None:
    noise = np.random.default_rng(0).random((96, 112)).astype(np.float32)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    first, second = (
        texture[8:72, 8:88].copy(),
        texture[7:71, 5:85].copy(),
    )  # the second shows it 3 further right, 1 further down
    flow = flow_estimator(method)(first, second)
    assert flow.shape == (64, 80, 2)
    assert np.median(flow[..., 0]) == pytest.approx(3, abs=0.3)
    assert np.median(flow[..., 1]) == pytest.approx(1, abs=0.3)


def test_a_folder_of_flow_is_complete_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_counting_video(tmp_path / "clip.mp4", 6, width=64, height=48)
    target = tmp_path / "flow" / "clip"
    assert extract_flow(video, target, "dis", 20, 32, 95) == 5
    with open_video(target, modality="flow") as flow:
        assert flow.num_frames == 5
        assert flow.read([0, 4]).shape == (2, 2, 32, 43)  # the short side brought down, the aspect kept
    shutil.rmtree(target)

    def fail(method: str) -> optical_flow.Estimator:
        found = iter([flow_estimator(method)] * 3)
        return lambda first, second: next(found)(first, second)

    monkeypatch.setattr(optical_flow, "flow_estimator", fail)
    with pytest.raises((RuntimeError, StopIteration)):
        extract_flow(video, target, "dis", 20, 32, 95)
    assert list(target.parent.iterdir()) == []


def test_two_at_the_same_video_leave_a_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    video = write_counting_video(tmp_path / "a.mp4", 5)
    whole = optical_flow.open_video
    begun: list[int] = []

    def again(path: Path) -> object:  # a second extraction comes in between, and is done first
        monkeypatch.setattr(optical_flow, "open_video", whole)
        begun.append(extract_flow(path, tmp_path / "flow", "dis", 20, 256, 95))
        return whole(path)

    monkeypatch.setattr(optical_flow, "open_video", again)
    assert extract_flow(video, tmp_path / "flow", "dis", 20, 256, 95) == 4
    assert begun == [4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "flow"]
    assert len(list((tmp_path / "flow").glob("flow_?_*.jpg"))) == 8


def test_a_second_command_on_the_same_part_is_told(tmp_path: Path, run_here: Callable[..., Result]) -> None:
    (tmp_path / "videos").mkdir()
    write_counting_video(tmp_path / "videos" / "a.mp4", 4)
    with shard_lock(tmp_path / "flow", "1/1"):
        held = run_here(tmp_path / "videos", tmp_path / "flow", "--method", "dis")
        other = run_here(tmp_path / "videos", tmp_path / "flow", "--method", "dis", "--shard", "2/2")
    assert held.code == 2
    assert "is in use by process" in held.err
    assert other.code == 0, other.err
    assert run_here(tmp_path / "videos", tmp_path / "flow", "--method", "dis").code == 0
    assert sorted(path.name for path in (tmp_path / "flow").iterdir()) == ["a", "flow.json"]


def test_a_manifest_does_not_lead_outside(tmp_path: Path, run_here: Callable[..., Result]) -> None:
    write_counting_video(tmp_path / "a.mp4", 4)
    (tmp_path / "videos").mkdir()
    for name in ("../a.mp4", str(tmp_path / "a.mp4")):
        make_manifest("mine", "train", tmp_path / "videos", [name], [0], ["x"]).save(tmp_path / "m.npz")
        refused = run_here(tmp_path / "m.npz", tmp_path / "flow", "--method", "dis")
        assert refused.code == 2
        assert "is not below its root" in refused.err
    assert not (tmp_path / "a").exists()


def test_one_frame_has_no_flow(tmp_path: Path) -> None:
    video = write_counting_video(tmp_path / "clip.mp4", 1)
    with pytest.raises(VideoError, match="it has one frame; optical flow needs two"):
        extract_flow(video, tmp_path / "flow", "dis", 20, 48, 95)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_without_opencv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(InputError, match=r"pip install 'vsn-train\[flow\]'"):
        flow_estimator("dis")


def test_the_script_goes_on_where_it_was_and_lists_what_failed(tmp_path: Path, run_here: Callable[..., Result]) -> None:
    source, target = tmp_path / "videos", tmp_path / "flow"
    (source / "a b").mkdir(parents=True)
    write_counting_video(source / "a b" / "one.mp4", 5)
    write_counting_folder(source / "two", 4)
    (source / "broken.avi").write_bytes(b"no video")
    dead = part_of(target / "a b" / "one").name.replace(f"-{os.getpid()}-", "-99999999-")
    (target / "a b" / dead).mkdir(parents=True)  # of a run that was killed
    first = run_here(source, target, "--method", "dis")
    assert first.code == 1, first.err
    assert "2 videos done with 7 flow fields, 0 already there, 1 failed" in first.out
    assert (target / "failed.txt").read_text().startswith("broken.avi\t")
    images = sorted(path.name for path in (target / "a b" / "one").glob("*.jpg"))
    assert images == [f"flow_{axis}_{number:05d}.jpg" for axis in "xy" for number in range(1, 5)]
    assert [path.name for path in (target / "a b").iterdir()] == ["one"]
    with open_video(target / "a b" / "one", modality="flow") as flow:
        assert flow.times == pytest.approx(np.arange(4) / 30, abs=1e-6)

    write_counting_video(source / "broken.avi", 3, codec="mpeg4")
    times = {path: path.stat().st_mtime_ns for path in (target / "two").iterdir()}
    second = run_here(source, target, "--method", "dis")
    assert second.code == 0, second.err
    assert "1 videos done with 2 flow fields, 2 already there, 0 failed" in second.out
    assert times == {path: path.stat().st_mtime_ns for path in (target / "two").iterdir()}
    assert not (target / "failed.txt").exists()

    for arguments, message in [
        ((source, target, "--method", "dis", "--bound", "15"), "flow.json: the files there were made with"),
        ((source, source / "flow"), "must not contain each other"),
        ((tmp_path / "nowhere", target), "no such folder or manifest"),
        ((source, target, "--shard", "3/2"), "--shard 3/2"),
    ]:
        refused = run_here(*arguments)
        assert refused.code == 2
        assert message in refused.err
        assert refused.err.count("\n") == 1

    manifest = make_manifest("made", "train", source, ["two", "a b/one.mp4"], [0, 0], ["x"])
    manifest.save(tmp_path / "list.npz")
    listed = run_here(tmp_path / "list.npz", tmp_path / "other", "--method", "dis", "--shard", "2/2")
    assert listed.code == 0, listed.err
    assert [path.name for path in (tmp_path / "other").iterdir() if path.is_dir()] == ["a b"]


def test_training_evaluation_and_prediction_on_flow(ucf101: Path, tmp_path: Path) -> None:
    flow, run = tmp_path / "flow", tmp_path / "run"
    command = [*TOOLS, "flow", str(ucf101), str(flow), "--method", "dis", "--short-side", "40"]
    made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert made.returncode == 0, made.stderr
    shutil.copytree(ucf101.parent / "ucfTrainTestlist", tmp_path / "ucfTrainTestlist")
    common = ["data.modality=flow", f"dataset.root={flow}"]
    result = run_command(
        "vsn-train", "dataset=ucf101", *common, "schedule.epochs=1", f"hydra.run.dir={run}", *SMALL, "data.workers=0"
    )
    assert result.code == 0, result.err
    result = run_command("vsn-eval", f"checkpoint={run}/checkpoints/last.pt", "protocol.clips=2")
    assert result.code == 0, result.err
    (folder,) = (run / "eval" / "last").iterdir()
    scores = Scores.load(folder / "scores.npz")
    # The ids of the official list: the scores of an RGB network on the videos can be fused with these.
    assert scores.ids.tolist()[0] == "SoccerJuggling/v_SoccerJuggling_g01_c01.avi"
    assert len(scores) == 3
    video = flow / "SoccerJuggling" / "v_SoccerJuggling_g01_c01"
    result = run_command(
        "vsn-predict", f"checkpoint={run}/checkpoints/last.pt", f"video={video}", f"hydra.run.dir={tmp_path}/out"
    )
    assert result.code == 0, result.err
    assert len(json.loads((tmp_path / "out" / "prediction.json").read_text())["predictions"][0]["classes"]) == 3
    result = run_command("vsn-eval", f"checkpoint={run}/checkpoints/last.pt", "data.modality=rgb")
    assert result.code == 2
    assert "was trained on flow" in result.err

"""What several test files share: the installed commands, and a UCF101 of a few clips."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import warm
from tests.media import write_counting_video

CLIPS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clips"

# Small and fast, but every part of the real thing.
SMALL = [
    "backbone.arch=resnet18",
    "backbone.num_frames=4",
    "data.short_side=40",
    "data.crop_size=32",
    "data.workers=1",
    "data.batch_size=4",
    "runtime.threads=1",
    "runtime.log_every=1",
]


@dataclass
class Result:
    code: int
    out: str
    err: str


def run_command(
    name: str, *arguments: str, cwd: Path | None = None, timeout: float = 300, **environment: str
) -> Result:
    """Run an installed command the way a user does, from another folder than the source tree's."""
    cwd = cwd or Path(os.environ.get("TMPDIR", "/tmp"))
    environment = {"PYTHONWARNINGS": "default"} | environment
    if "PYTHONPATH" not in environment:  # which has to be there when Python starts
        started = warm.Command(name, list(arguments), cwd, **environment)
        return Result(started.wait(timeout), started.out(), started.err())
    command = shutil.which(name, path=str(Path(sys.executable).parent))
    assert command, f"{name} is not installed beside {sys.executable}"
    done = subprocess.run(
        [command, *arguments], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=timeout,
        check=False,
    )  # fmt: skip
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def ucf101(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes in UCF101's layout and list format; real clips where they are at hand, else made here."""
    top = tmp_path_factory.mktemp("ucf101")
    root, lists = top / "UCF-101", top / "ucfTrainTestlist"
    lists.mkdir()
    sources = {
        "SoccerJuggling": [
            "ucf101/SoccerJuggling/v_SoccerJuggling_g23_c01.avi",
            "activitynet/walking_dog_v_ZNVhz7ctTq0.mp4",
        ],
        "ApplyEyeMakeup": ["ucf101/eye_makeup_test.avi", "kinetics400/arm_wrestling_demo.mp4"],
        "HandstandPushups": [
            "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
            "hmdb51/cartwheel/Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi",
        ],
    }
    train, test = [], []
    for number, (name, clips) in enumerate(sources.items(), 1):
        (root / name).mkdir(parents=True)
        for group, clip in enumerate(clips, 1):
            video = f"{name}/v_{name.replace('HandstandP', 'HandStandP')}_g{group:02d}_c01.avi"
            if CLIPS.is_dir():
                shutil.copy(CLIPS / clip, root / video)
            else:
                write_counting_video(root / video, 20 + 10 * number, codec="mpeg4", width=64, height=48)
            train.append(f"{video} {number}")
            if group == 1:
                test.append(video)
    classes = [f"{number} {name}" for number, name in enumerate(sources, 1)]
    for path, lines in {"classInd": classes, "trainlist01": train, "testlist01": test}.items():
        (lists / f"{path}.txt").write_bytes("".join(f"{line}\r\n" for line in lines).encode())
    return root


@pytest.fixture(scope="session")
def ucf101_run(ucf101: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of two epochs of TSM on it."""
    folder = tmp_path_factory.mktemp("runs") / "ucf101"
    result = run_command(
        "vsn-train",
        "dataset=ucf101",
        "backbone=tsm",
        f"dataset.root={ucf101}",
        "schedule.epochs=2",
        f"hydra.run.dir={folder}",
        *SMALL,
    )
    assert result.code == 0, result.err
    return folder

"""scripts/long_video.py: what it measures is a video as long as asked for, and both processes are told."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory is Linux's figure")
def test_long_video_is_measured(tmp_path):
    done = subprocess.run(
        [sys.executable, "scripts/long_video.py", "--minutes", "1.1", "--arch", "resnet18", "--size", "32",
         "--num-frames", "2", "--stride", "2"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}, capture_output=True, text=True,
        timeout=1200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "- video: 66 s of 320 x 240" in done.stdout
    assert "- windows: 33" in done.stdout
    cells = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    rows = {row[1]: [float(cell) for cell in row[2:5]] for row in cells[2:]}
    assert list(rows) == ["decoding alone", "window=2 stride=2"]
    assert all(0 < memory < 1500 for *_, memory in rows.values())
    assert not list(tmp_path.iterdir())

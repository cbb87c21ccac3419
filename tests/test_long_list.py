"""scripts/long_list.py: every stage of a list is measured, and its memory grows with the list alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the memory is Linux's figure")
def test_a_long_list_is_measured(tmp_path):
    done = subprocess.run(
        [sys.executable, "scripts/long_list.py", "--videos", "4000", "--classes", "50"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "- list: 4000 videos of 50 classes; the manifest is 0 MB" in done.stdout
    cells = [[cell.strip() for cell in line.split("|")] for line in done.stdout.splitlines() if line.startswith("|")]
    rows = {row[1]: [float(cell) for cell in row[2:5]] for row in cells[2:]}
    assert list(rows)[:2] == ["read the list", "make the manifest, from the list on"]
    assert len(rows) == 6
    assert all(0 <= memory < 20 for *_, memory in rows.values())  # of 4000 videos
    assert not list(tmp_path.iterdir())

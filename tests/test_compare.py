"""scripts/compare.py from the command line: runs once, goes on, refuses to mix recipes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.conftest import SMALL

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "compare.py"


def compare(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--runs", "runs", "--rounds", "1", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def test_compares_goes_on_and_keeps_to_one_recipe(tmp_path):
    recipe = [
        f"dataset.root={tmp_path}/data", "dataset.train_videos=12", "dataset.val_videos=6", "dataset.size=32",
        "dataset.num_frames=8", *(value for value in SMALL if "workers" not in value), "schedule.epochs=1",
    ]  # fmt: skip
    what = ["--datasets", "motion_order", "--operators", "tsn", "tsm:fold_div=8", "--seeds", "3", *recipe]
    done = compare(tmp_path, *what, "--parallel", "2")
    assert done.returncode == 0, done.stderr
    assert "2 of 2 runs to train" in done.stdout
    data = json.loads((tmp_path / "runs" / "compare.json").read_text())
    assert [(run["operator"], run["seed"], run["n"], run["epochs"]) for run in data["runs"]] == [
        ("tsn", 3, 6, 1), ("tsm", 3, 6, 1),
    ]  # fmt: skip
    for run in data["runs"]:
        metrics = (tmp_path / "runs" / "motion_order" / run["operator"] / "seed3" / "metrics.jsonl").read_text()
        last = json.loads(metrics.splitlines()[-1])
        assert (last["split"], last["top1"]) == ("val", run["top1"])
    assert all(cost["forward"] > cost["train"] > 0 for cost in data["costs"])
    assert (tmp_path / "runs" / "compare.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "runs" / "compare.md").read_text()
    assert "seeds: 3" in text
    assert "| the shift beats averaging" in text
    assert not list(tmp_path.glob("runs/*/*/*/checkpoints"))

    # Again: nothing is trained. Another recipe: refused before anything starts.
    again = compare(tmp_path, *what)
    assert again.returncode == 0, again.stderr
    assert "0 of 2 runs to train" in again.stdout
    refused = compare(tmp_path, *what, "optimizer.lr=0.5")
    assert refused.returncode == 2
    assert "optimizer.lr=0.5; give the same ones or choose another --runs" in refused.stderr


def test_what_vsn_train_refuses_ends_the_comparison(tmp_path):
    done = compare(tmp_path, "--datasets", "motion_order", "--operators", "tsn", "--parallel", "1", "optimizer.lrr=1")
    assert done.returncode == 2
    assert "unknown key 'optimizer.lrr'" in done.stderr
    assert "Traceback" not in done.stderr

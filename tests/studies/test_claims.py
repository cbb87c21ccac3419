"""scripts/studies/claims.py: trains with the installed command, goes on, refuses to mix recipes."""

from __future__ import annotations

import json
import re
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scripts.torture import descendants
from tests.conftest import SMALL

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "studies" / "claims.py"


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """The script in this process: importing torch again for every call would take longer than the rest."""
    main = runpy.run_path(str(SCRIPT))["main"]
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["claims.py", "--runs", "runs", "--rounds", "1", *arguments])
        try:
            main()
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    return call


@pytest.mark.slow
def test_compares_goes_on_and_keeps_to_one_recipe(compare, tmp_path, capsys):
    recipe = [
        f"dataset.root={tmp_path}/data", "dataset.train_videos=12", "dataset.val_videos=6", "dataset.size=32",
        "dataset.num_frames=8", *(value for value in SMALL if "workers" not in value),
        "backbone.arch=mobilenet_v2", "motion_order:schedule.epochs=1", "motion:schedule.epochs=3",
    ]  # fmt: skip
    what = ["--datasets", "motion_order:3", "--operators", "tsn", "tsm:fold_div=8", *recipe]
    assert compare(*what, "--minutes", "0") == 2
    assert "no run has finished; raise --minutes" in capsys.readouterr().err
    assert compare(*what, "--parallel", "2") == 0
    assert "2 of 2 runs to train" in capsys.readouterr().out
    data = json.loads((tmp_path / "runs" / "compare.json").read_text())["results"]
    assert [(run["operator"], run["seed"], run["n"], run["classes"], run["epochs"]) for run in data["runs"]] == [
        ("tsn", 3, 6, 6, 1), ("tsm", 3, 6, 6, 1),
    ]  # fmt: skip
    for run in data["runs"]:
        metrics = (tmp_path / "runs" / "motion_order" / run["operator"] / "seed3" / "metrics.jsonl").read_text()
        last = json.loads(metrics.splitlines()[-1])
        assert (last["split"], last["top1"], run["train_videos"]) == ("val", run["top1"], 12)
    assert [cost["macs"] for cost in data["costs"]][:1] * 2 == [cost["macs"] for cost in data["costs"]]
    assert all(cost["forward"] > cost["train"] > 0 for cost in data["costs"])
    assert (tmp_path / "runs" / "compare.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "runs" / "compare.md").read_text()
    assert "seeds: 3" in text
    assert "| the shift beats averaging" in text
    assert not list(tmp_path.glob("runs/*/*/*/checkpoints"))

    # Again: nothing is trained. Another recipe: refused before anything starts.
    assert compare(*what) == 0
    assert "0 of 2 runs to train" in capsys.readouterr().out
    assert compare(*what, "optimizer.lr=0.5") == 2
    assert re.search(r"but now .* optimizer\.lr=0\.5 .*; give the same values", capsys.readouterr().err)


@pytest.mark.slow
def test_asked_to_end_it_ends_its_trainings(tmp_path):
    values = [
        f"dataset.root={tmp_path}/data",
        "dataset.train_videos=12",
        "dataset.val_videos=12",
        "schedule.epochs=900",
    ]
    command = [sys.executable, str(SCRIPT), "--datasets", "motion", "--operators", "tsn", "--seeds", "0", *values]
    process = subprocess.Popen([*command, "--runs", str(tmp_path / "runs")], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/motion/tsn/seed0/checkpoints/last.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    family = descendants(process.pid)
    assert family
    process.terminate()
    assert process.wait(60) == 128 + signal.SIGTERM
    assert not [pid for pid in family if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--datasets", "motion:a"], "--datasets motion:a: expected a data set's name, or with its seeds, as in"),
        (["--operators", "i3d"], "operator 'i3d': expected one of tsn"),
        (["--epochs"], "unrecognized arguments: --epochs"),
        (["--operators", "tsn", "optimizer.lrr=1"], "unknown key 'optimizer.lrr'"),  # vsn-train says this
    ],
)
def test_wrong_input_ends_the_comparison(compare, tmp_path, capsys, arguments, message):
    assert compare("--parallel", "1", *arguments) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

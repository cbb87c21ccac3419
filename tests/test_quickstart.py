"""The numbers of the README: minutes of training each."""

import json
from pathlib import Path

import pytest

from tests.conftest import run_command


@pytest.mark.slow
@pytest.mark.parametrize(("operator", "lowest", "highest"), [("tsm", 95, 100), ("tsn", 0, 60)])
def test_tsm_tells_the_directions_of_time_apart_and_tsn_cannot(operator, lowest, highest, tmp_path: Path):
    result = run_command("vsn-train", f"backbone={operator}", f"hydra.run.dir={tmp_path}/run", timeout=1200)
    assert result.code == 0, result.err
    result = run_command("vsn-eval", f"checkpoint={tmp_path}/run/checkpoints/last.pt")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "run" / "eval" / "center_1clip" / "metrics.json").read_text())
    assert metrics["n"] == 360
    assert lowest <= metrics["top1"] <= highest

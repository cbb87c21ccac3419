"""The quickstart's recipe to the end, with TSM, STH and no operator: minutes of training each."""

import json
from pathlib import Path

import pytest

from tests.conftest import run_command


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "lowest", "highest"),
    [
        (["backbone=tsm"], 95, 100),
        (["backbone=tsn"], 0, 60),
        (["backbone=sth"], 95, 100),
        (["backbone=sth", "backbone.integration=sum"], 95, 100),
    ],
    ids=["tsm", "tsn", "sth", "sth_sum"],
)
def test_tsm_and_sth_tell_the_directions_of_time_apart_and_tsn_cannot(values, lowest, highest, tmp_path: Path):
    result = run_command("vsn-train", *values, f"hydra.run.dir={tmp_path}/run", timeout=1200)
    assert result.code == 0, result.err
    result = run_command("vsn-eval", f"checkpoint={tmp_path}/run/checkpoints/last.pt")
    assert result.code == 0, result.err
    metrics = json.loads((tmp_path / "run" / "eval" / "best" / "center_1clip" / "metrics.json").read_text())
    assert metrics["n"] == 360
    assert lowest <= metrics["top1"] <= highest

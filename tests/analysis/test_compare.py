"""The table of a sweep, from run folders that are written here."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from vsn_train.analysis.compare import compare_runs, save_sweep, sweep_text


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """Two operators, two seeds each; the last run has failed."""
    folders = []
    for number, (operator, seed) in enumerate([("tsn", 0), ("tsn", 1), ("tsm", 0), ("tsm", 1)]):
        folder = tmp_path / str(number)
        folder.mkdir()
        backbone = {"operator": operator} | ({"fold_div": 8} if operator == "tsm" else {})
        config = {"name": f"motion_{operator}", "seed": seed, "backbone": backbone, "optimizer": {"lr": 0.02}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        folders.append(folder)
        if number == 3:
            continue
        top1 = [[40.0, 42.0], [44.0, 41.0], [80.0, 100.0]][number]
        lines = [{"split": "val", "epoch": epoch, "top1": each} for epoch, each in enumerate(top1, 1)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (folder / "environment.json").write_text('{"parameters": 11180000}')
        first = "motion_tsn: 960 training and 360 validation videos of 12 classes"
        (folder / "log.txt").write_text(
            f"2026-11-28 10:00:00 {first}\n2026-11-28 10:02:30 stopped\n"  # the first launch: 150 s
            f"2026-11-28 12:00:00 {first}\n2026-11-28 12:01:00 done\n"  # 60 s more, hours later
        )
    return folders


def test_seeds_are_one_row_with_their_mean_and_deviation(runs):
    sweep = compare_runs(runs)
    assert sweep.keys == ["backbone.operator"]  # fold_div follows from it, the name is no setting
    header, tsn, tsm = sweep_text(sweep).splitlines()
    assert " ".join(header.split()) == "run operator done best top-1 % last top-1 % time params"
    assert " ".join(tsn.split()) == "0,1 tsn 2 of 2 43.00 ± 1.41 41.50 ± 0.71 0:03:30 11.2 M"
    assert " ".join(tsm.split()) == "2,3 tsm 1 of 2 100.00 100.00 0:03:30 11.2 M"


def test_it_fits_eighty_columns_however_many_settings_differ(runs):
    for number, folder in enumerate(runs):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["augment"] = {f"a_setting_with_a_long_name_{each}": f"{number >> each & 1} and words" for each in (0, 1)}
        config["dataset"] = {"flip_pairs": [["turning the left hand", "turning the right hand"]] * (number // 3)}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    text = sweep_text(compare_runs(runs))
    assert "\n3: " in text
    assert "a_setting_with_a_long_name_0=1 and words" in text
    assert max(map(len, text.splitlines())) <= 80


def test_it_is_saved_as_markdown_and_csv(runs, tmp_path):
    save_sweep(tmp_path, compare_runs(runs))
    lines = (tmp_path / "sweep.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[4].strip("|").split("|")][:3] == ["tsn", "2 of 2", "43.00 ± 1.41"]
    assert "- `backbone.operator=tsm`: `2`, `3`" in lines
    with open(tmp_path / "sweep.csv", newline="") as file:
        tsn, tsm = csv.DictReader(file)
    assert (tsn["backbone.operator"], tsn["runs"], tsn["best_top1_mean"]) == ("tsn", "2", "43.0")
    assert float(tsn["best_top1_deviation"]) == pytest.approx(2**0.5)
    assert (tsm["runs"], tsm["validated"], tsm["best_top1_deviation"], tsm["parameters"]) == ("2", "1", "", "11180000")
    assert tsn["seconds_mean"] == "210.0"

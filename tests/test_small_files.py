"""Small files of a run that were cut short or hold odd names: later commands pass them over and say so."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest

from vsn_train.analysis.compare import compare_runs, sweep_text
from vsn_train.atomic import atomic_folder
from vsn_train.data.manifest import make_manifest
from vsn_train.data.prepare import keep_settings
from vsn_train.engine.distributed import launched_before
from vsn_train.engine.log import RunLog
from vsn_train.errors import InputError
from vsn_train.run.resume import read_quarantine

NAMES = [
    "plain.mp4",
    "two\nlines.mp4",
    "a\u2028b.mp4",
    "tab\there.mp4",
    '"quoted".mp4',
    "跑步.mp4",
    "\x85.mp4",
    "a\rb.mp4",
]


def test_any_name_comes_back_from_the_quarantine(tmp_path):
    manifest = make_manifest("mine", "train", tmp_path, NAMES, [0] * len(NAMES), ["a"])
    log = RunLog(tmp_path)
    for index, name in enumerate(NAMES):
        log.quarantine(index, name, "its decoder\nended the process")
    log.close()
    found = read_quarantine(tmp_path, SimpleNamespace(manifest=manifest))
    assert sorted(found) == list(range(len(NAMES)))
    assert found[1].cause == "its decoder ended the process"
    (tmp_path / "quarantine.txt").write_text("a\u2028b.mp4\tas earlier versions wrote it\n", encoding="utf-8")
    assert list(read_quarantine(tmp_path, SimpleNamespace(manifest=manifest))) == [2]
    (tmp_path / "quarantine.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(InputError, match=r"quarantine\.txt: not a text file"):
        read_quarantine(tmp_path, SimpleNamespace(manifest=manifest))


@pytest.mark.parametrize("written", ["", "{", "[]", '{"launch": "other"}', '{"launch": "mine"}'])
def test_a_cut_environment_stops_no_later_start(tmp_path, monkeypatch, written):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    (tmp_path / "environment.json").write_text(written)
    assert launched_before(tmp_path) is (written == '{"launch": "mine"}')


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.yaml", "a: [1"), ("config.yaml", "text"), ("metrics.jsonl", '{"split": "val", "top1"'),
     ("metrics.jsonl", '{"split": "val"}\n'), ("metrics.jsonl", "\x00\x00"), ("metrics.jsonl", "3\n")],
)  # fmt: skip
def test_a_damaged_run_does_not_take_the_others_from_a_sweeps_table(tmp_path, name, content, capsys):
    line = json.dumps({"split": "val", "epoch": 1, "top1": 87.5, "note": "\u2028"}, ensure_ascii=False)
    for run in ("0", "1"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "config.yaml").write_text(f"seed: {run}\n")
        (tmp_path / run / "metrics.jsonl").write_text(line + "\n", encoding="utf-8")
    with open(tmp_path / "1" / name, "a") as file:
        file.write(content)
    table = sweep_text(compare_runs([tmp_path / "0", tmp_path / "1"]))
    assert "87.50" in table.splitlines()[1]
    assert f"1/{name}: damaged, ignored" in capsys.readouterr().err


def test_the_settings_of_a_preparation(tmp_path):
    keep_settings(tmp_path / "prepare.json", {"crf": 20})
    (tmp_path / "prepare.json").write_text("")
    with pytest.raises(InputError, match=r"prepare\.json: damaged .* remove the folder"):
        keep_settings(tmp_path / "prepare.json", {"crf": 20})


def test_folders_of_killed_processes_go(tmp_path):
    with atomic_folder(tmp_path / "results") as part:
        name = part.name
    dead = tmp_path / name.replace(f"-{os.getpid()}-", "-99999999-")
    (dead / "deep").mkdir(parents=True)
    with atomic_folder(tmp_path / "results") as part:
        (part / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["new"]

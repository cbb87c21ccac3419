"""Small files of a run that were cut short or hold odd names: later commands pass them over and say so."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.conftest import run_command
from vsn_train.analysis.compare import compare_runs, sweep_text
from vsn_train.analysis.features import Features
from vsn_train.analysis.model_card import evaluations_of
from vsn_train.array_files import write_arrays
from vsn_train.atomic import atomic_folder
from vsn_train.data.manifest import make_manifest
from vsn_train.data.prepare import keep_settings
from vsn_train.engine.checkpoint import check_sums
from vsn_train.engine.distributed import launched_before
from vsn_train.engine.log import RunLog
from vsn_train.errors import InputError
from vsn_train.run.evaluate import differing_facts
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


@pytest.mark.parametrize("written", ["", "{", "[]", "[" * 100_000, '{"launch": "other"}', '{"launch": "mine"}'])
def test_a_cut_environment_stops_no_later_start(tmp_path, monkeypatch, written):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.pt").touch()
    (tmp_path / "environment.json").write_text(written)
    assert launched_before(tmp_path) is (written == '{"launch": "mine"}')


@pytest.mark.parametrize(
    ("name", "content"),
    [("config.yaml", "a: [1"), ("config.yaml", "text"), ("metrics.jsonl", '{"split": "val", "top1"'),
     ("metrics.jsonl", '{"split": "val"}\n'), ("metrics.jsonl", "\x00\x00"), ("metrics.jsonl", "3\n"),
     ("metrics.jsonl", "[" * 100_000), ("config.yaml", "1: {2: 3}"), ("config.yaml", "[" * 20_000)],
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
    keep_settings(tmp_path / "prepare.json", {"crf": 20})
    assert [path.name for path in tmp_path.iterdir()] == ["prepare.json"]
    for text in ("", "[" * 100_000):
        (tmp_path / "prepare.json").write_text(text)
        with pytest.raises(InputError, match=r"prepare\.json: damaged .* remove the folder"):
            keep_settings(tmp_path / "prepare.json", {"crf": 20})


def test_two_preparations_with_other_settings_that_start_at_once(tmp_path, monkeypatch):
    """The other one writes its settings between our look at the folder and our writing."""
    path = tmp_path / "copies" / "prepare.json"
    whole = os.fsync

    def overtaken(descriptor):
        monkeypatch.setattr(os, "fsync", whole)
        keep_settings(path, {"crf": 30})
        whole(descriptor)

    monkeypatch.setattr(os, "fsync", overtaken)
    with pytest.raises(InputError, match=r"were made with {'crf': 30}, but the settings are now {'crf': 20}"):
        keep_settings(path, {"crf": 20})
    assert json.loads(path.read_text()) == {"crf": 30}
    assert [each.name for each in path.parent.iterdir()] == ["prepare.json"]


@pytest.mark.parametrize("text", ["", "[]", "3", "[" * 100_000, "\0", '{"checkpoint": "a", "manifest": "b"}'])
def test_results_that_are_replaced_may_be_damaged(tmp_path, text):
    facts = {"checkpoint": "a", "manifest": "b", "protocol": {}, "computed": {}}
    (tmp_path / "metrics.json").write_text(text)
    assert differing_facts(tmp_path, facts) == (["protocol", "computed"] if text.startswith("{") else [])
    assert evaluations_of(tmp_path.parent, "a") == []


def test_a_file_of_features_that_is_none(tmp_path):
    columns = {"ids": ["a"], "labels": [0], "features": [[0.5]], "class_names": ["x"]}
    arrays = {name: np.array(column) for name, column in columns.items()}
    write_arrays(tmp_path / "good.npz", arrays | {"facts": np.array("{}")})
    assert len(Features.load(tmp_path / "good.npz")) == 1
    for facts in ("", "[]", "[" * 100_000):
        write_arrays(tmp_path / "bad.npz", arrays | {"facts": np.array(facts)})
        with pytest.raises(InputError, match=r"bad\.npz: not a feature file, or damaged"):
            Features.load(tmp_path / "bad.npz")


def test_the_zip_of_a_checkpoint_is_damaged_in_a_name(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"a": torch.zeros(3)}, path)
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")  # of the directory at the end
    content[entry + 9] |= 8  # the name is UTF-8
    content[entry + 46] = 0xFF  # and is not
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"last\.pt: damaged \('utf-8' codec"):
        check_sums(path)


def test_folders_of_killed_processes_go(tmp_path):
    with atomic_folder(tmp_path / "results") as part:
        name = part.name
    dead = tmp_path / name.replace(f"-{os.getpid()}-", "-99999999-")
    (dead / "deep").mkdir(parents=True)
    with atomic_folder(tmp_path / "results") as part:
        (part / "new").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["results"]
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["new"]


def test_a_name_of_a_hundred_thousand_characters_does_not_fill_the_message(tmp_path):
    (tmp_path / "classes.txt").write_text("a\n" + "x" * 100_000 + "\n")
    (tmp_path / "train.csv").write_text("path,label\na.mp4,jump\n")
    (tmp_path / "val.csv").write_text("path,label\na.mp4,a\n")
    result = run_command(
        "vsn-tools", "scan", "dataset=custom", f"dataset.root={tmp_path}", "dataset.classes=classes.txt"
    )
    assert result.code == 2
    assert "label 'jump' is not one of the 2 classes" in result.err
    assert result.err.count("\n") == 1
    assert len(result.err) < 2100


def test_a_report_of_check_names_files_whose_names_are_not_utf8(tmp_path):
    name = b"caf\xe9.mp4"
    (tmp_path / "list.txt").write_bytes(name + b",0\n")
    for report in ("check.csv", "check.json"):
        result = run_command("vsn-tools", "check", "list.txt", "--root", ".", "--report", report, cwd=tmp_path)
        assert result.code == 1, result.err
    assert name in (tmp_path / "check.csv").read_bytes()
    (row,) = json.loads((tmp_path / "check.json").read_text())
    assert os.fsencode(row["path"]) == name

import json
from pathlib import Path

import numpy as np
import pytest

from vsn_train.data.datasets.jester import load_jester
from vsn_train.data.manifest import UNLABELLED, sort_classes
from vsn_train.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the official files are not at hand")
HEADS = {"train": ".head", "validation": ".head", "test": ".head", "labels": ""}
QUICK = {"train": "-quick-testing", "validation": "-quick-testing", "labels": ""}


def copy_lists(top: Path, names: dict[str, str]) -> Path:
    """The official files under their official names, and an empty folder for each listed video."""
    root = top / "20bn-jester-v1"
    for name, suffix in names.items():
        data = (SHARED / "annotations" / "jester" / f"jester-v1-{name}{suffix}.csv").read_bytes()
        (top / f"jester-v1-{name}.csv").write_bytes(data)
        for line in data.decode().split() if name != "labels" else ():
            if (video := line.partition(";")[0]).isdigit():
                (root / video).mkdir(parents=True, exist_ok=True)
    return root


def test_official_lists(tmp_path):
    root = copy_lists(tmp_path, HEADS)
    train, val, test = (load_jester(root, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (400, 200, 100)
    assert train.class_names == tuple((SHARED / "labels" / "jester.txt").read_text().splitlines())
    assert train.class_names[train.labels[0]] == "Drumming Fingers"
    written = [line.partition(";")[2] for line in (tmp_path / "jester-v1-train.csv").read_text().splitlines()]
    assert np.bincount(train.labels, minlength=27).tolist() == [written.count(name) for name in train.class_names]
    assert set(test.labels.tolist()) == {UNLABELLED}
    pairs = json.loads((SHARED / "labels" / "flip_pairs.json").read_text())["jester"]
    assert {frozenset(pair) for pair in train.flip_pairs} == {frozenset(pair["indices"]) for pair in pairs}
    assert sort_classes(train).flip_pairs == ((16, 17), (11, 12), (21, 22))


def test_cut_down_copies_with_cr_lf_and_without_a_last_line_end(tmp_path):
    root = copy_lists(tmp_path, QUICK)
    assert [len(load_jester(root, split)) for split in ("train", "val")] == [8, 4]


def test_list_of_another_data_set(tmp_path):
    root = copy_lists(tmp_path, HEADS)
    line = "34870;Holding something\n"
    (tmp_path / "jester-v1-train.csv").write_text(line)
    with pytest.raises(InputError, match=r"v1-train.csv line 1: class 'Holding something' is not one of the 27"):
        load_jester(root, "train")

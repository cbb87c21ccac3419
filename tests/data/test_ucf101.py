from pathlib import Path

import numpy as np
import pytest

from vsn_train.data.datasets.ucf101 import load_ucf101
from vsn_train.errors import InputError

OFFICIAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "annotations" / "ucf101" / "ucfTrainTestlist"


def make(tmp_path, train=("A/v_A_g01_c01.avi 1", "B/v_b_g02_c01.avi 2"), classes=("1 A", "2 B"), files=None):
    root, lists = tmp_path / "UCF-101", tmp_path / "ucfTrainTestlist"
    lists.mkdir(parents=True)
    root.mkdir()
    (lists / "classInd.txt").write_bytes("\r\n".join(classes).encode())
    (lists / "trainlist01.txt").write_bytes("\r\n".join(train).encode())
    for video in files if files is not None else [line.split(" ")[0] for line in train]:
        (root / video).parent.mkdir(exist_ok=True)
        (root / video).touch()
    return root


def test_order_labels_and_flip_pairs(tmp_path):
    root = make(tmp_path, train=["B/v_b_g02_c01.avi 1", "A/v_A_g01_c01.avi 2"], classes=["1 B", "2 A"])
    manifest = load_ucf101(root, "train")
    assert manifest.class_names == ("B", "A")
    assert [manifest.sample_id(index) for index in range(2)] == ["B/v_b_g02_c01.avi", "A/v_A_g01_c01.avi"]
    assert manifest.labels.tolist() == [0, 1]
    assert manifest.flipped_labels().tolist() == [0, 1]
    assert manifest.path(1) == root / "A" / "v_A_g01_c01.avi"
    moved = make(tmp_path / "elsewhere", train=["B/v_b_g02_c01.avi 1", "A/v_A_g01_c01.avi 2"], classes=["1 B", "2 A"])
    assert load_ucf101(moved, "train").content_hash() == manifest.content_hash()


@pytest.fixture(scope="module")
def all_videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("UCF-101")
    for listing in OFFICIAL.glob("t*list01.txt"):
        for line in listing.read_text().split():
            if "/" in line:
                (root / line).parent.mkdir(exist_ok=True)
                (root / line).touch()
    return root


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official lists are not at hand")
@pytest.mark.parametrize(
    ("split", "number", "videos"),
    [("train", 1, 9537), ("train", 2, 9586), ("train", 3, 9624), ("val", 1, 3783), ("val", 2, 3734), ("val", 3, 3696)],
)
def test_official_lists(all_videos, split, number, videos):
    manifest = load_ucf101(all_videos, split, number, OFFICIAL)
    assert len(manifest) == videos
    listing = OFFICIAL / f"{'train' if split == 'train' else 'test'}list{number:02d}.txt"
    written = [line.partition("/")[0] for line in listing.read_text().split() if "/" in line]
    assert np.bincount(manifest.labels).tolist() == [written.count(name) for name in manifest.class_names]
    assert len(manifest.class_names) == 101
    assert manifest.class_names[34:36] == ("Hammering", "HammerThrow")  # not the order of sorted folders
    assert np.unique(manifest.labels).tolist() == list(range(101))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": []}, r"trainlist01.txt: the list is empty"),
        ({"train": ["A/v_A_g01_c01.avi 3"]}, r"trainlist01.txt line 1: label 3, but A is 1 .* 2 classes \(1 to 2\)"),
        ({"train": ["A/v_A_g01_c01.avi 0"]}, r"line 1: label 0, but A is 1"),
        ({"train": ["A/a.avi 1", "C/c.avi 3"]}, r"line 2: class 'C' is not in classInd.txt"),
        ({"train": ["A/a.avi 1", "A/a.avi 1"]}, r"A/a.avi is listed more than once"),
        ({"classes": ["0 A", "1 B"]}, r"classInd.txt line 1: found '0 A', expected '1 <Class>'"),
        (
            {"files": ["A/v_A_g01_c01.avi"]},
            r"1 of 2 videos of trainlist01.txt are not under .*, first B/v_b_g02_c01.avi",
        ),
    ],
)
def test_wrong_lists(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_ucf101(make(tmp_path, **change), "train")


def test_missing_folders(tmp_path):
    with pytest.raises(
        InputError, match=r"dataset.root=.*: no such folder; expected the folder of UCF101's class folders"
    ):
        load_ucf101(tmp_path / "nowhere", "train")
    with pytest.raises(InputError, match="found no ucfTrainTestlist in or next to"):
        load_ucf101(tmp_path, "train")
    root = make(tmp_path)
    with pytest.raises(InputError, match=r"testlist01.txt: no such file; expected an official annotation file"):
        load_ucf101(root, "val")

"""Splits that are drawn: shares of every class, groups that stay together, and the same draw again."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest

from vsn_train.data.datasets.custom import load_custom
from vsn_train.data.datasets.listed_labels import NAMES
from vsn_train.data.datasets.listing import Listing, Row
from vsn_train.data.datasets.split import split_listing
from vsn_train.errors import InputError
from vsn_train.tools.main import main

NONE = {"train": None, "val": None, "test": None}


def listing(counts, name="{label}/{number:03d}.mp4"):
    rows = [
        Row(0, name.format(label=label, number=number), label)
        for label, count in counts.items()
        for number in range(count)
    ]
    return Listing(Path("data"), rows, NAMES)


def names(part):
    return [row.path for row in part.rows]


def test_every_class_gives_its_share():
    whole = listing({"walk": 100, "run": 10, "jump": 2, "rare": 1})
    train, val, notes = split_listing(whole, 0.2, 0)
    assert Counter(row.label for row in val.rows) == {"walk": 20, "run": 2, "jump": 1}
    assert sorted(names(train) + names(val)) == sorted(names(whole))
    assert notes == ["1 classes have one video, which stays in training: rare"]
    assert names(train) == [name for name in names(whole) if name in set(names(train))]  # the order is kept


def test_the_draw_depends_on_the_seed_and_the_names_alone():
    whole = listing({"walk": 30, "run": 20})
    first = names(split_listing(whole, 0.3, 5)[1])
    backwards = Listing(whole.place, whole.rows[::-1], NAMES)
    assert names(split_listing(backwards, 0.3, 5)[1]) == first[::-1]
    assert names(split_listing(whole, 0.3, 6)[1]) != first


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_groups_stay_together(share):
    # 12 persons do everything; three of the classes are rare.
    rows = [
        Row(0, f"{label}/person{person:02d}_{take}.avi", label)
        for label, takes in {"walk": 6, "run": 2, "jump": 1}.items()
        for person in range(12)
        for take in range(takes)
    ]
    train, val, notes = split_listing(Listing(Path("data"), rows, NAMES), share, 0, r"(person\d+)_")
    persons = [{row.path.split("/")[1][:8] for row in part.rows} for part in (train, val)]
    assert not persons[0] & persons[1]
    assert {row.label for row in train.rows} == {row.label for row in val.rows} == {"walk", "run", "jump"}
    assert abs(len(val.rows) / len(rows) - share) <= 0.06
    assert notes == []


def test_a_class_of_large_groups_is_validated_too():
    rows = [Row(0, f"walk/g{number % 2}_{number}.mp4", "walk") for number in range(20)]
    rows += [Row(0, f"run/g{number}_0.mp4", "run") for number in range(10, 20)]
    train, val, _ = split_listing(Listing(Path("data"), rows, NAMES), 0.1, 0, r"g\d+")
    assert {row.label for row in val.rows} == {row.label for row in train.rows} == {"walk", "run"}


@pytest.mark.parametrize(
    ("counts", "share", "group", "message"),
    [
        (
            {"walk": 9, "run": 3},
            0.9,
            None,
            "val_share=0.9 leaves 1 of 2 classes without a training video, first 'run' ",
        ),
        ({"walk": 1, "run": 1}, 0.2, None, "data: no video is left for validation: each class has only one video"),
        ({"walk": 9}, 0.2, "mp4", "data: no video is left for validation: each class has only one group"),
        ({"walk": 9}, 0.2, "person", "--group person: no path matches, first walk/000.mp4; correct the expression"),
        ({"walk": 9}, 0.2, "(", r"--group \(: not a regular expression"),
    ],
)
def test_what_cannot_be_split(counts, share, group, message):
    with pytest.raises(InputError, match=message):
        split_listing(listing(counts), share, 0, group)


def test_videos_outside_every_group_are_counted():
    rows = [Row(0, f"walk/{name}.mp4", "walk") for name in ("p1_a", "p1_b", "p2_a", "p2_b", "other", "more")]
    _, _, notes = split_listing(Listing(Path("data"), rows, NAMES), 0.3, 0, r"/p\d")
    assert notes == ["2 of 6 videos do not match --group: each is a group of its own"]


def make(root, counts):
    for row in listing(counts).rows:
        (root / row.path).parent.mkdir(parents=True, exist_ok=True)
        (root / row.path).touch()
    return root


def ids(manifest):
    return [manifest.sample_id(index) for index in range(len(manifest))]


def test_folders_of_classes_without_a_split(tmp_path):
    root = make(tmp_path / "data", {"walk": 10, "run": 5, "train": 5})  # a class may be called train
    (root / "notes.txt").touch()
    (root / ".vsn-train").mkdir()
    (root / "empty").mkdir()
    train, val = (load_custom(root, split, NONE, val_share=0.2) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("run", "train", "walk")
    assert (len(train), len(val)) == (16, 4)
    assert not set(ids(train)) & set(ids(val))
    assert train.notes == (f"{root}: left out: 1 folders without videos ('empty'); 1 that are no videos ('notes.txt')",)
    assert ids(load_custom(root, "val", NONE, val_share=0.2, seed=1)) != ids(val)
    with pytest.raises(
        InputError, match=r"found no train.csv, train.txt.*or draw a split from all videos: dataset.val_share=0.2"
    ):
        load_custom(make(tmp_path / "more", {"walk": 2}), "train", NONE)


def test_what_there_is_a_split_of_is_not_drawn_again(tmp_path):
    root = make(tmp_path, {"train/walk": 3, "val/walk": 2})
    with pytest.raises(InputError, match=r"draws a validation split, but there is one: .*/val; leave"):
        load_custom(root, "train", NONE, val_share=0.2)
    assert len(load_custom(root, "val", NONE | {"train": "train"}, val_share=0.4)) == 1
    (root / "train.csv").write_text("train/walk/000.mp4,walk\ntrain/walk/001.mp4,walk\n")
    assert len(load_custom(root, "train", NONE, val_share=0.5)) == 1
    (root / "val.csv").write_text("val/walk/000.mp4,walk\n")
    with pytest.raises(InputError, match=r"draws a validation split, but there is one: .*/val.csv; leave"):
        load_custom(root, "train", NONE, val_share=0.5)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("loose.mp4", r"loose.mp4: a video without a class; expected a folder for each class: move it into one"),
        ("walk2/00001.jpg", r"walk2: images directly in the folder of a class; expected videos, or folders of frames"),
    ],
)
def test_videos_in_the_wrong_place(path, message, tmp_path):
    root = make(tmp_path, {"walk": 3})
    (root / path).parent.mkdir(exist_ok=True)
    (root / path).touch()
    with pytest.raises(InputError, match=message):
        load_custom(root, "train", NONE, val_share=0.4)


def test_videos_in_folders_below_a_class_are_of_it(tmp_path):
    root = make(tmp_path, {"walk/monday": 3, "walk/tuesday": 2, "run": 2})
    (root / "walk" / "monday" / "cover1.jpg").touch()
    manifest = load_custom(root, "train", NONE, val_share=0.3)
    assert manifest.class_names == ("run", "walk")
    assert manifest.notes[0].endswith("left out: 1 pictures beside videos ('walk/monday/cover1.jpg')")


# ---- vsn-tools split -------------------------------------------------------------------------------------------------


@pytest.fixture
def run_here(monkeypatch, capsys):
    def run(*words):
        monkeypatch.setattr(sys, "argv", ["vsn-tools", "split", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, *capsys.readouterr()

    return run


def test_split_writes_two_lists_that_are_trained_on(tmp_path, run_here):
    root = make(tmp_path / "data", {"walk": 10, "run": 5, "once": 1})
    before = sorted(root.rglob("*"))
    code, out, err = run_here(root, "--val-share", 0.4, "--seed", 3)
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == [
        "10 training and 6 validation videos of 3 classes",
        "1 classes have one video, which stays in training: once",
    ]
    assert out.splitlines()[-1] == f"train: vsn-train dataset=custom dataset.root={root}"
    assert sorted(root.rglob("*")) == sorted([*before, root / "train.csv", root / "val.csv"])
    train, val = (load_custom(root, split, NONE) for split in ("train", "val"))
    assert ids(val) == ids(load_custom(other(root, tmp_path), "val", NONE, val_share=0.4, seed=3))
    assert (len(train), len(val), train.class_names) == (10, 6, ("once", "run", "walk"))
    code, _, err = run_here(root)
    assert code == 2
    assert err == (
        f"vsn-tools split: {root}/train.csv: already exists and is not overwritten; choose another folder with "
        "--output\n"
    )


def other(root, tmp_path):
    return make(tmp_path / "again", Counter(path.parent.name for path in root.rglob("*.mp4")))


def test_split_of_a_list(tmp_path, run_here):
    root = make(tmp_path / "my data", {"a": 6, "b": 6})
    (tmp_path / "all.txt").write_text(
        "".join(f"{name}/{i:03d}.mp4 {k}\n" for k, name in enumerate("ab") for i in range(6))
    )
    code, out, err = run_here(
        tmp_path / "all.txt", "--root", root, "--output", tmp_path / "new" / "lists", "--group", r"\d\d[01]"
    )
    assert (code, err) == (0, "")
    assert (tmp_path / "new" / "lists" / "val.csv").read_text().startswith("path,class_index\n")
    assert f"'dataset.root={root}' dataset.train={tmp_path}/new/lists/train.csv" in out
    val = load_custom(root, "val", {name: str(tmp_path / "new" / "lists" / f"{name}.csv") for name in NONE})
    assert val.class_names == ("0", "1")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "nowhere: no such folder or list"),
        ([".", "--val-share", "1"], "--val-share 1.0: expected a number above 0 and below 1"),
        ([".", "--val-share", "nan"], "--val-share nan: expected a number above 0 and below 1"),
        ([".", "--seed", "-1"], "--seed -1: expected a whole number from 0"),
        (["."], "found no videos; expected lines of path,label, or <class>/<video>"),
    ],
)
def test_wrong_input_writes_nothing(words, message, tmp_path, run_here, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_here(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())

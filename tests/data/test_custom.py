import shutil
from pathlib import Path

import pytest

from vsn_train.data.datasets.custom import load_custom
from vsn_train.data.manifest import UNLABELLED
from vsn_train.errors import InputError

LISTS = Path(__file__).resolve().parents[3] / "shared" / "data" / "annotations" / "list_formats"
NONE = {"train": None, "val": None, "test": None}


def make(top, text, files=("a/1.mp4", "b c/2.avi", "3/img_00001.jpg"), name="train.csv"):
    for path in files:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).touch()
    (top / name).write_text(text)
    return top


def labels_of(manifest):
    names = manifest.class_names
    return {manifest.sample_id(index): names[label] for index, label in enumerate(manifest.labels)}


NAMED = {"a/1.mp4": "walk", "b c/2.avi": "run", "3": "walk, slowly"}
NUMBERED = {"a/1.mp4": "1", "b c/2.avi": "0", "3": "2"}


@pytest.mark.parametrize(
    ("text", "expected", "counts"),
    [
        ('a/1.mp4,walk\nb c/2.avi,run\n3,"walk, slowly"\n', NAMED, None),
        ('path,label\na/1.mp4,walk\nb c/2.avi,run\n3,"walk, slowly"\n', NAMED, None),
        ('label,fps,path\nwalk,3,a/1.mp4\r\nrun,,b c/2.avi\r\n\r\n"walk, slowly",,3', NAMED, None),
        ('\ufeffpath,label,num_frames\na/1.mp4,walk,12\nb c/2.avi,run,\n3,"walk, slowly",7', NAMED, [12, -1, 7]),
        ("a/1.mp4,1,12\nb c/2.avi,0,13\n3,2,1\n", NUMBERED, [12, 13, 1]),
        ("a/1.mp4 1\nb c/2.avi 0\n3 2\n", NUMBERED, None),
        ("a/1.mp4 1\nb c/2.avi 0\n3 40 2\n", NUMBERED, [-1, -1, 40]),
    ],
)
def test_lists(tmp_path, text, expected, counts):
    manifest = load_custom(make(tmp_path, text), "train", NONE)
    assert labels_of(manifest) == expected
    assert manifest.class_names == tuple(sorted(set(expected.values())))
    assert (manifest.num_frames is None) if counts is None else manifest.num_frames.tolist() == counts
    assert manifest.path(2) == tmp_path / "3"


def test_folders_of_classes(tmp_path):
    for path in ("train/walk/1.mp4", "train/run/x/00001.jpg", "val/walk/2.webm", "train/run/.hidden"):
        make(tmp_path, "", [path], name="notes.md")
    train, val = (load_custom(tmp_path, split, NONE) for split in ("train", "val"))
    assert labels_of(train) == {"train/walk/1.mp4": "walk", "train/run/x": "run"}
    assert val.labels.tolist() == [1]
    make(tmp_path, "", ["val/swim/1.mp4"])
    (tmp_path / "train.csv").unlink()
    with pytest.raises(InputError, match=r"val/swim: label 'swim' is not one of the 2 classes \(run, walk\)"):
        load_custom(tmp_path, "val", NONE)
    (tmp_path / "train" / "run" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes.txt: neither a folder of frames nor a video \(3gp avi"):
        load_custom(tmp_path, "train", NONE)


def test_list_names_class_file_and_test_without_labels(tmp_path):
    make(tmp_path, "a/1.mp4,walk\n", name="mine.txt")
    (tmp_path / "classes.txt").write_text("walk\nrun\n")
    lists = NONE | {"train": "mine.txt", "test": "mine.txt"}
    assert load_custom(tmp_path, "train", lists, tmp_path / "classes.txt").class_names == ("walk", "run")
    (tmp_path / "test.csv").write_text("path,label\na/1.mp4,\n")
    assert load_custom(tmp_path, "test", NONE | {"train": "mine.txt"}).labels.tolist() == [UNLABELLED]


def test_flips(tmp_path):
    make(tmp_path, "a/1.mp4,turn left\nb c/2.avi,turn right\n3,Leftovers\n")
    assert not load_custom(tmp_path, "train", NONE).flips_allowed
    manifest = load_custom(tmp_path, "train", NONE, flip_pairs=[["turn left", "turn right"]])
    assert manifest.flips_allowed
    assert manifest.flipped_labels().tolist() == [0, 2, 1]
    with pytest.raises(InputError, match=r"dataset.flip_pairs: \['turn left', 'x'\]; expected two class names"):
        load_custom(tmp_path, "train", NONE, flip_pairs=[["turn left", "x"]])
    make(tmp_path, "a/1.mp4,Leftovers\n")
    assert load_custom(tmp_path, "train", NONE).flips_allowed


@pytest.mark.skipif(not LISTS.is_dir(), reason="the published lists are not at hand")
def test_lists_of_other_frameworks(tmp_path):
    make(tmp_path, "", ["imgs/img_00001.jpg", "test.mp4"])
    for name, paths in {"rawframe_test_list": "imgs", "video_test_list": "test.mp4"}.items():
        shutil.copy(LISTS / f"{name}.txt", tmp_path)
        with pytest.raises(InputError, match=rf"lines 1 and 2: {paths} is listed more than once"):
            load_custom(tmp_path, "train", NONE | {"train": f"{name}.txt"})
        (tmp_path / "once.txt").write_text((LISTS / f"{name}.txt").read_text().splitlines()[0])
        manifest = load_custom(tmp_path, "train", NONE | {"train": "once.txt"})
        assert manifest.sample_id(0) == paths
        assert manifest.class_names[manifest.labels[0]] == {"imgs": "127", "test.mp4": "0"}[paths]
        assert manifest.known_frames(0) == {"imgs": 5, "test.mp4": None}[paths]
    for name in ("rawframe_test_list_with_offset", "video_test_list_multi_label"):
        with pytest.raises(InputError, match=r"txt line 1: found .*several labels or with offsets are not read"):
            load_custom(tmp_path, "train", NONE | {"train": str(LISTS / f"{name}.txt")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na/1.mp4,walk,1,2\n", r"train.csv line 2: found 'a/1.mp4,walk,1,2', expected path,label"),
        ("path,label\n,walk\n", r"train.csv line 2: found ',walk', expected path,label"),
        ("path,label\na/1.mp4,walk\nb c/2.avi\n", r"train.csv line 3: no label; expected path,label"),
        ("path,label,num_frames\na/1.mp4,walk,many\n", r"train.csv line 2: num_frames 'many'; expected a whole number"),
        ("a/1.mp4,walk\na/1.mp4,walk\n", r"train.csv lines 1 and 2: a/1.mp4 is listed more than once"),
        ("a/1.mp4,walk\nnone.mp4,walk\n", r"1 of 2 videos of train.csv .*, first none.mp4;.*max_missing_share=0.5"),
        ("", r"train.csv: found no videos; expected path,label lines"),
    ],
)
def test_wrong_lists(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        load_custom(make(tmp_path, text), "train", NONE)


def test_label_outside_the_training_list(tmp_path):
    make(tmp_path, "a/1.mp4,0\nb c/2.avi,1\n")
    make(tmp_path, "3,2\n", name="val.csv")
    with pytest.raises(InputError, match=r"val.csv line 1: label '2' is not one of the 2 classes \(0, 1\)"):
        load_custom(tmp_path, "val", NONE)
    with pytest.raises(InputError, match=r"found no test.csv, test.txt, test in .*name it with dataset.test"):
        load_custom(tmp_path, "test", NONE)


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    make(tmp_path, "a/1.mp4,walk\n")

    def refuse(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.listdir", refuse)
    with pytest.raises(InputError, match=r"/a: cannot be listed \(Permission denied\); expected a folder of videos"):
        load_custom(tmp_path, "train", NONE)

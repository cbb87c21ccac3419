import shutil
from pathlib import Path

import pytest

from vsn_train.data.datasets.custom import load_custom
from vsn_train.data.manifest import UNLABELLED
from vsn_train.errors import InputError
from vsn_train.run.data import note_empty_classes

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


def test_videos_of_several_folders_keep_the_order_of_the_list(tmp_path):
    files = ["a/1.mp4", "b/2.avi", "a/3.mp4", "4.mp4", "b/1.mp4", "a/2.mp4"]
    make(tmp_path, "".join(f"{path},walk\n" for path in files), [*files[:2], "a/3.webm", *files[3:]])
    manifest = load_custom(tmp_path, "train", NONE)
    assert [manifest.sample_id(index) for index in range(6)] == files
    assert [str(manifest.path(index).relative_to(tmp_path)) for index in range(6)] == [
        *files[:2],
        "a/3.webm",
        *files[3:],
    ]
    (tmp_path / "a" / "3.webm").rename(tmp_path / "a" / "3.mp4")
    manifest = load_custom(tmp_path, "train", NONE)
    assert manifest.ids is manifest.paths  # kept once


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
    left_out = load_custom(tmp_path, "train", NONE)
    assert labels_of(left_out) == labels_of(train)
    assert left_out.notes == (
        f"{tmp_path}/train: left out: 1 hidden or of the system ('run/.hidden'); 1 that are no "
        "videos ('run/notes.txt')",
    )


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
    make(tmp_path, "a/1.mp4,turn left\nb c/2.avi,turn right\n3,swipe_left\n")  # one that is in no pair
    assert not load_custom(tmp_path, "train", NONE, flip_pairs=[["turn left", "turn right"]]).flips_allowed
    assert load_custom(tmp_path, "train", NONE, flips="allowed").flips_allowed
    make(tmp_path, "a/1.mp4,Leftovers\n")
    assert load_custom(tmp_path, "train", NONE).flips_allowed
    assert not load_custom(tmp_path, "train", NONE, flips="forbidden").flips_allowed


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
        with pytest.raises(InputError, match=r"txt line 1: found .*several labels or offsets are not supported"):
            load_custom(tmp_path, "train", NONE | {"train": str(LISTS / f"{name}.txt")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na/1.mp4,walk,1,2\n", r"train.csv line 2: found 'a/1.mp4,walk,1,2', expected path,label"),
        ("path,label\n,walk\n", r"train.csv line 2: found ',walk', expected path,label"),
        ("path,label\na/1.mp4,walk\nb c/2.avi\n", r"train.csv line 3: no label; expected path,label"),
        ("path,label,num_frames\na/1.mp4,walk,many\n", r"train.csv line 2: num_frames 'many'; expected a whole number"),
        (
            "a/1.mp4,walk\na/1.mp4,walk\n",
            r"train.csv lines 1 and 2: a/1.mp4 is listed more than once; .* data.balance=classes",
        ),
        ("a/1.mp4,walk\n" + 300 * "x" + "/" + 5000 * "y" + ".mp4,walk\n", r"1 of 2 videos .*, first x+; complete the"),
        ("a/1.mp4,walk\nnone.mp4,walk\n", r"1 of 2 videos of train.csv .*, first none.mp4;.*max_missing_share=0.5"),
        ("", r"train.csv: the list is empty; expected lines of path,label"),
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


def test_names_of_folders_are_names_also_where_they_are_numbers(tmp_path):
    for top, names in {"dates": ("20230101", "20230102"), "gaps": ("3", "7", "12"), "all": map(str, range(11))}.items():
        for name in names:
            make(tmp_path / top, "", [f"train/{name}/1.mp4", f"val/{name}/2.mp4"], name="notes.md")
    dates, gaps, whole = (load_custom(tmp_path / top, "train", NONE) for top in ("dates", "gaps", "all"))
    assert dates.class_names == ("20230101", "20230102")
    assert gaps.class_names == ("3", "7", "12")
    assert labels_of(load_custom(tmp_path / "gaps", "val", NONE))["val/12/2.mp4"] == "12"
    assert whole.class_names == tuple(map(str, range(11)))  # by size, as checkpoints of such folders have it
    make(tmp_path / "gaps", "", ["val/0/3.mp4"], name="notes.md")
    with pytest.raises(InputError, match=r"val/0: label '0' is not one of the 3 classes \(3, 7, 12\)"):
        load_custom(tmp_path / "gaps", "val", NONE)
    make(tmp_path / "gaps", "train/3/1.mp4 7\n", (), name="test.txt")  # folders name the classes, so the list does
    assert labels_of(load_custom(tmp_path / "gaps", "test", NONE)) == {"train/3/1.mp4": "7"}


@pytest.mark.parametrize(
    ("text", "option", "classes", "labels"),
    [
        ("path,class\na/1.mp4,7\nb c/2.avi,12\n", "auto", ("7", "12"), [0, 1]),
        ("path,label\na/1.mp4,2023\nb c/2.avi,2024\n", "names", ("2023", "2024"), [0, 1]),
        ("class_index,path\n2,a/1.mp4\n0,b c/2.avi\n", "auto", ("0", "1", "2"), [2, 0]),
        ("path,label\na/1.mp4,2.0\nb c/2.avi,2\n3,1\n", "auto", ("0", "1", "2"), [2, 2, 1]),
        ("path,label\na/1.mp4,²\nb c/2.avi,1\n", "auto", ("1", "²"), [1, 0]),
        ("a/1.mp4,0,250\nb c/2.avi,1,300\n", "auto", ("0", "1"), [0, 1]),
        ("path,num_frames,label\na/1.mp4,250,1\nb c/2.avi,300,2\n", "auto", ("0", "1", "2"), [1, 2]),
        ("a/1.mp4 1500\nb c/2.avi 3\n", "indices", tuple(map(str, range(1501))), [1500, 3]),
    ],
)
def test_what_a_number_in_a_list_is(tmp_path, text, option, classes, labels):
    manifest = load_custom(make(tmp_path, text), "train", NONE, labels=option)
    assert (manifest.class_names, manifest.labels.tolist()) == (classes, labels)


@pytest.mark.parametrize(
    ("text", "option", "message"),
    [
        ("a/1.mp4,250,1\nb c/2.avi,300,2\n", "auto", r"csv line 1: a/1.mp4,250,1 may be path,label,num_frames or "),
        ("a/1.mp4,250,0\nb c/2.avi,300,1\n", "auto", r"line 1: num_frames '0'; .* a first line such as path,nu"),
        ("a/1.mp4,1700000000\nb c/2.avi,3\n", "auto", r"1700000001 classes; expected at most 100000: .*labels=names"),
        ("a/1.mp4,1700000000\nb c/2.avi,3\n", "indices", r"label 1700000000, as an index from 0, would need"),
        ("a/1.mp4,2023\nb c/2.avi,2024\n", "auto", r"2 different numbers up to 2024 as labels; .*labels=names; "),
        ("path,label\na/1.mp4,walk\n", "indices", r"label 'walk'; expected an index, a whole number from 0"),
        ("path,label,class\na/1.mp4,1,walk\n", "auto", r"line 1: columns label and class both give the class"),
        ("path,label,num_frames\na/1.mp4,walk,1e11\n", "auto", r"line 2: num_frames '1e11'; expected a whole number"),
        (
            "a/1.mp4,walk,100000000000\n",
            "auto",
            r"line 1: num_frames 100000000000; expected the video's number of frames",
        ),
        ("a/1.mp4,walk,²\n", "auto", r"line 1: num_frames '²'; expected a whole number"),
    ],
)
def test_numbers_that_may_be_anything_are_refused(tmp_path, text, option, message):
    with pytest.raises(InputError, match=message):
        load_custom(make(tmp_path, text), "train", NONE, labels=option)


def test_numbers_beside_a_file_of_numbers_as_names(tmp_path):
    make(tmp_path, "a/1.mp4,1\nb c/2.avi,3\n")
    classes = tmp_path / "classes.txt"
    classes.write_text("1\n2\n3\n")
    with pytest.raises(InputError, match=r"label 1 may be an index from 0 or one of the names in dataset.classes; set"):
        load_custom(tmp_path, "train", NONE, classes)
    assert load_custom(tmp_path, "train", NONE, classes, labels="names").labels.tolist() == [0, 2]
    classes.write_text("one\ntwo\nthree\nfour\n")
    manifest = load_custom(tmp_path, "train", NONE, classes)
    assert manifest.labels.tolist() == [1, 3]
    assert note_empty_classes(manifest) == "2 of 4 classes have no training video: one, three"

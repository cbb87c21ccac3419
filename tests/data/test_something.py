import json
from pathlib import Path

import numpy as np
import pytest

from vsn_train.data.datasets.something_v1 import load_something_v1
from vsn_train.data.datasets.something_v2 import load_something_v2
from vsn_train.data.manifest import UNLABELLED, sort_classes
from vsn_train.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
official = pytest.mark.skipif(not SHARED.is_dir(), reason="the official files are not at hand")

V1_CLASSES = (
    "Holding something",
    "Pushing something from right to left",
    "Putting something, something and something on the table",
    "Pushing something from left to right",
)


def make_v1(
    top, train=("7;Holding something", "12;Pushing something from left to right"), classes=V1_CLASSES, end="\n"
):
    root = top / "20bn-something-something-v1"
    for video in (7, 12, 100218, 24413, 5):
        (root / str(video)).mkdir(parents=True, exist_ok=True)
    prefix = "something-something-v1"
    files = {"labels": classes, "train": train, "validation": ["5;" + V1_CLASSES[2]], "test": ["12", "7"]}
    for name, lines in files.items():
        (top / f"{prefix}-{name}.csv").write_bytes("".join(line + end for line in lines).encode())
    return root


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_v1_order_pairs_and_splits(tmp_path, end):
    root = make_v1(tmp_path, end=end)
    manifest = load_something_v1(root, "train")
    assert manifest.class_names == V1_CLASSES
    assert manifest.labels.tolist() == [0, 3]
    assert [manifest.path(index) for index in range(2)] == [root / "7", root / "12"]
    assert manifest.flip_pairs == ((3, 1),)
    assert manifest.flipped_labels().tolist() == [0, 3, 2, 1]
    val = load_something_v1(root, "val")
    assert val.labels.tolist() == [2]  # the name holds commas
    test = load_something_v1(root, "test")
    assert [test.sample_id(index) for index in range(2)] == ["12", "7"]
    assert test.labels.tolist() == [UNLABELLED] * 2
    assert not test.is_labelled
    assert load_something_v1(tmp_path, "train").root == root  # the folder that holds it will do


@official
def test_v1_official_lists(tmp_path):
    annotations = SHARED / "annotations" / "ssv1"
    make_v1(tmp_path, classes=(annotations / "something-something-v1-labels.csv").read_text().splitlines())
    text = (annotations / "something-something-v1-train.head.csv").read_text()
    (tmp_path / "something-something-v1-train.csv").write_text(text)
    manifest = load_something_v1(tmp_path, "train")
    assert len(manifest.class_names) == 174
    assert manifest.class_names[:2] == ("Holding something", "Turning something upside down")
    names = [manifest.class_names[label] for label in manifest.labels]
    assert names == ["Something falling like a feather or paper", "Unfolding something"]
    pairs = json.loads((SHARED / "labels" / "flip_pairs.json").read_text())
    assert {frozenset(pair) for pair in manifest.flip_pairs} == {frozenset(p["indices"]) for p in pairs["ssv1"]}

    ordered = sort_classes(manifest)
    assert ordered.class_names == tuple((SHARED / "labels" / "ssv2.txt").read_text().splitlines())
    assert {frozenset(pair) for pair in ordered.flip_pairs} == {frozenset(p["indices"]) for p in pairs["ssv2"]}
    assert [ordered.class_names[label] for label in ordered.labels] == names
    moved = [a != b for a, b in zip(manifest.class_names, ordered.class_names, strict=True)]
    assert sum(moved) == 173


def test_v1_class_without_the_other_of_its_pair_forbids_flips(tmp_path):
    manifest = load_something_v1(make_v1(tmp_path, train=["7;Holding something"], classes=V1_CLASSES[:3]), "train")
    assert manifest.flip_pairs == ()
    assert not manifest.flips_allowed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": ["7;Holding something", "12"]}, r"v1-train.csv line 2: found '12', expected '<id>;<class name>'"),
        ({"train": ["id;Holding something"]}, r"v1-train.csv line 1: found 'id;Holding"),
        ({"train": ['[{"id":"78687","label":"x"}]']}, r"v1-train.csv line 1: found '\[\{\"id"),
        (
            {"train": ["7;Holding something", "12;Drumming Fingers"]},
            r"v1-train.csv line 2: class 'Drumming Fingers' is not one of the 4 classes of .*-v1-labels.csv",
        ),
        ({"train": ["7;Holding something"] * 2}, r"v1-train.csv lines 1 and 2: 7 is listed more than once"),
        ({"train": []}, r"v1-train.csv: the list is empty"),
        ({"train": ["7;Holding something", "9;Holding something"]}, r"1 of 2 videos .*, first 9; .*_missing_share=0.5"),
        ({"classes": ["Holding something"] * 2}, r"v1-labels.csv line 2: class 'Holding something' is repeated"),
        ({"classes": []}, r"v1-labels.csv: the file is empty"),
        ({"train": [f"7;{'x' * 100_000}"]}, r"v1-train.csv line 1: class 'x{80}' is not one of the 4 classes"),
        ({"train": ["7;Holding\0"]}, r"v1-train.csv: not a text file \(it contains zero bytes\)"),
    ],
)
def test_v1_wrong_lists(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_something_v1(make_v1(tmp_path, **change), "train")


def test_v1_files_that_are_not_there_or_of_another_data_set(tmp_path):
    with pytest.raises(InputError, match=r"dataset.root=.*nowhere: no such folder; expected the folder of Something"):
        load_something_v1(tmp_path / "nowhere", "train")
    root = make_v1(tmp_path / "data")
    with pytest.raises(InputError, match=r"dataset.annotations=.*nowhere: no such folder"):
        load_something_v1(root, "train", tmp_path / "nowhere")
    other = tmp_path / "jester"
    other.mkdir()
    (other / "jester-v1-labels.csv").touch()
    with pytest.raises(
        InputError, match=r"found no something-something-v1-labels.csv in .*, only jester-v1-labels.csv"
    ):
        load_something_v1(root, "train", other)
    (root.parent / "something-something-v1-labels.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"labels.csv: not a UTF-8 text file"):
        load_something_v1(root, "train")


V2_CLASSES = ("Holding something next to something", "Pushing something from left to right", "Unfolding something")
V2_TRAIN = (
    {"id": "78687", "label": "x", "template": "Holding [something] next to [something]", "placeholders": ["a", "b"]},
    {"id": "42", "label": "y", "template": "Unfolding [some [thing]]".replace("some [thing]", "something")},
)


def make_v2(top, later_names=False, train=V2_TRAIN, suffix=".webm", answers=()):
    root = top / "20bn-something-something-v2"
    root.mkdir(parents=True)
    for video in ("78687", "42", "1420", "9"):
        (root / f"{video}{suffix}").touch()
    lists = top / "labels" if later_names else top
    lists.mkdir(exist_ok=True)
    prefix = "" if later_names else "something-something-v2-"
    files = {
        "labels": {name: str(label) for label, name in reversed(list(enumerate(V2_CLASSES)))},
        "validation": [{"id": "9", "template": "Pushing [something] from left to right"}],
        "test": [{"id": "1420"}],
    }
    for name, content in files.items():
        (lists / f"{prefix}{name}.json").write_text(json.dumps(content))
    text = train if isinstance(train, str) else "[\n" + ",\n".join(json.dumps(entry) for entry in train) + "]\n"
    (lists / f"{prefix}train.json").write_bytes(text.replace("\n", "\r\n").encode())
    if answers:
        (lists / f"{prefix}test-answers.csv").write_bytes("\r\n".join(answers).encode())
    return root


@pytest.mark.parametrize("later_names", [False, True])
def test_v2_both_namings(tmp_path, later_names):
    root = make_v2(tmp_path, later_names)
    manifest = load_something_v2(root, "train")
    assert manifest.class_names == V2_CLASSES
    assert manifest.labels.tolist() == [0, 2]
    assert manifest.path(0) == root / "78687.webm"
    assert manifest.sample_id(0) == "78687"
    assert load_something_v2(root, "val").labels.tolist() == [1]
    assert load_something_v2(tmp_path, "test").labels.tolist() == [UNLABELLED]


def test_v2_test_answers_label_the_test_split(tmp_path):
    root = make_v2(tmp_path, later_names=True, answers=["1420;Unfolding something", "77;Unfolding something"])
    assert load_something_v2(root, "test").labels.tolist() == [2]


def test_v2_other_media_have_the_same_ids_and_hash(tmp_path):
    webm = load_something_v2(make_v2(tmp_path / "a"), "train")
    for suffix in (".mp4", ""):
        other = load_something_v2(make_v2(tmp_path / f"b{suffix}", suffix=suffix), "train")
        assert other.path(0).name == f"78687{suffix}"
        assert other.content_hash() == webm.content_hash()
        assert np.array_equal(other.ids, webm.ids)


@official
def test_v2_official_files(tmp_path):
    annotations = SHARED / "annotations" / "ssv2"
    for name, videos in {"train": 4, "validation": 4, "test": 4}.items():
        text = (annotations / f"something-something-v2-{name}.sample.json").read_text()
        (tmp_path / f"something-something-v2-{name}.json").write_text(text)
        for entry in json.loads(text):
            (tmp_path / f"{entry['id']}.webm").touch()
        assert len(json.loads(text)) == videos
    text = (annotations / "something-something-v2-labels.json").read_text()
    (tmp_path / "something-something-v2-labels.json").write_text(text)
    train, val, test = (load_something_v2(tmp_path, split) for split in ("train", "val", "test"))
    assert train.class_names == tuple((SHARED / "labels" / "ssv2.txt").read_text().splitlines())
    assert sort_classes(train).class_names == train.class_names
    assert [val.class_names[label] for label in val.labels][-1] == "Something falling like a feather or paper"
    assert (len(train), len(val), len(test)) == (4, 4, 4)
    assert not test.is_labelled
    pairs = json.loads((SHARED / "labels" / "flip_pairs.json").read_text())["ssv2"]
    assert {frozenset(pair) for pair in train.flip_pairs} == {frozenset(pair["indices"]) for pair in pairs}


def test_v2_every_bracketed_phrase_is_unwrapped(tmp_path):
    # Id 41775 of the training list: the brackets wrap a whole clause.
    labels = {"Moving part of something": "0", "Trying to bend something unbendable so nothing happens": "1"}
    entries = [
        {"id": "42", "template": "Moving [part] of [something]"},
        {"id": "9", "template": "Trying to bend [something unbendable] so nothing happens"},
    ]
    root = make_v2(tmp_path, train=entries)
    (tmp_path / "something-something-v2-labels.json").write_text(json.dumps(labels))
    assert load_something_v2(root, "train").labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ([V2_TRAIN[0], {"id": "42"}], r"v2-train.json line 3: video 42 has no \"template\""),
        ([V2_TRAIN[0], {"id": "42", "template": "Dancing"}], r"line 3: class 'Dancing' is not one of the 3 classes of"),
        ([{"name": 1}], r"v2-train.json line 2: found \{\"name\": 1\}, expected"),
        ("[\n{\n]", r"v2-train.json line 3: not JSON"),
        ('{"a": 1}', r"v2-train.json line 1: found '\{\"a\": 1\}', expected a list of videos"),
        ("42;Unfolding something", r"v2-train.json line 1: not JSON"),
        ("[" * 100_000, r"v2-train.json: not read as JSON \(maximum recursion depth"),
        ('[{"id": ' + "4" * 5000 + "}]", r"v2-train.json: not read as JSON \(Exceeds the limit"),
        ('[{"id": "4\0"}]', r"v2-train.json: not a text file \(it contains zero bytes\)"),
    ],
)
def test_v2_wrong_files(tmp_path, train, message):
    with pytest.raises(InputError, match=message):
        load_something_v2(make_v2(tmp_path, train=train), "train")


def test_v2_labels_with_a_hole(tmp_path):
    root = make_v2(tmp_path)
    (tmp_path / "something-something-v2-labels.json").write_text('{"A": "0", "B": "2"}')
    with pytest.raises(InputError, match=r"v2-labels.json: no class has the index 1; expected 0 to 1"):
        load_something_v2(root, "train")

"""Lists of videos in every dialect, through the one reader of all commands."""

from __future__ import annotations

import codecs
import unicodedata

import pytest

from vsn_train.data.datasets.custom import load_custom
from vsn_train.data.datasets.listed_labels import INDICES, NAMES, OPEN
from vsn_train.data.datasets.listing import Row, read_listing, write_listing
from vsn_train.errors import InputError
from vsn_train.tools import check, prepare

FILES = ("a/1.mp4", "b c/2.avi", "clip 7/img_00001.jpg", "x.avi/00001.jpg", "a,b.mp4", "3/00001.jpg")
NONE = {"train": None, "val": None, "test": None}


@pytest.fixture
def root(tmp_path):
    for path in FILES:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    return tmp_path


def rows_of(root, text):
    listing = root / "list.txt"
    listing.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [(row.path, row.label, row.num_frames) for row in read_listing(listing, root).rows]


BOTH = [("a/1.mp4", "walk", -1), ("b c/2.avi", "run", -1)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a/1.mp4,walk\nb c/2.avi,run\n", BOTH),
        ("a/1.mp4\twalk\nb c/2.avi\trun\n", BOTH),
        ("a/1.mp4;walk\nb c/2.avi;run\n", BOTH),
        ("a/1.mp4 walk\nb c/2.avi run\n", BOTH),
        ("Video,CLASS\na/1.mp4,walk\nb c/2.avi,run\n", BOTH),
        ("Label;Path;fps\nwalk;a/1.mp4;3\nrun;b c/2.avi;\n", BOTH),
        ("VIDEO\tclass\na/1.mp4\twalk\r\nb c/2.avi\trun", BOTH),
        ("path label\na/1.mp4 walk\n'b c/2.avi' run\n".replace("'", '"'), BOTH),
        ("\ufeffpath,label\na/1.mp4,walk\nb c/2.avi,run\n", BOTH),
        (codecs.BOM_UTF16_LE + "path\tlabel\r\na/1.mp4\twalk\r\nb c/2.avi\trun\r\n".encode("utf-16-le"), BOTH),
        ("a/1.mp4,walk\rb c/2.avi,run\r", BOTH),
        ("a/1.mp4;walk, slowly\n", [("a/1.mp4", "walk, slowly", -1)]),
        ('path;class\na/1.mp4;"walk; slowly"\n', [("a/1.mp4", "walk; slowly", -1)]),
        ("a,b.mp4 3\n", [("a,b.mp4", "3", -1)]),
        # TSM's lists: what lies on disk says where a name with numbers ends.
        ("a/1.mp4 0\nb c/2.avi 1\n3 40 2\n", [("a/1.mp4", "0", -1), ("b c/2.avi", "1", -1), ("3", "2", 40)]),
        ("clip 7 120 3\n", [("clip 7", "3", 120)]),
        ("clip 7 3\n", [("clip 7", "3", -1)]),
        ("clip 7\na/1.mp4\n", [("clip 7", "", -1), ("a/1.mp4", "", -1)]),
        ("x.avi 120 3\n", [("x.avi", "3", 120)]),  # a folder of frames that is called like its video
        ("x.avi 5 3\n", [("x.avi", "3", 5)]),
        ("b c/2.avi 164 0\n", [("b c/2.avi", "0", 164)]),  # a file beside its number of frames
        ("elsewhere/v_Archery_g01_c02 120 3\n", [("elsewhere/v_Archery_g01_c02", "3", 120)]),
        ("elsewhere/my clip.mp4\n", [("elsewhere/my clip.mp4", "", -1)]),
    ],
)
def test_dialects(root, text, expected):
    assert rows_of(root, text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3 2 40 1\n", r"list.txt line 1: found '3 2 40 1'; lists with several labels or offsets are not supported"),
        ("a/1.mp4 0 3\n", r"line 1: found 'a/1.mp4 0 3'; lists with several labels"),
        ("elsewhere 2 40 1\n", r"line 1: found 'elsewhere 2 40 1'; lists with several labels"),
        ("name,label\nx,walk\n", r"line 1: 'name,label' has no column of paths; name it path, as in path,label"),
        ("path,video,label\na/1.mp4,x,walk\n", r"line 1: columns path and video both give the video; keep one"),
        ("path,label\n", r"list.txt: the list is empty; expected lines of path,label"),
        ("\n\n", r"list.txt: the list is empty; expected lines of path,label"),
        (b"\0\1\2", r"list.txt: not a text file \(it contains zero bytes\)"),
        ('a/1.mp4,"' + "x" * 200_000, r"list.txt line 1: field larger than field limit"),
        ("a/1.mp4,walk\n" + "x" * 200_000 + ",walk\n", r"line 2: field larger than field limit .*path,label$"),
        ('a/1.mp4,walk\na/1.mp4,"walk\nx.avi,run\n', r"line 2: unexpected end of data; .* is a quote not closed\?"),
        ('a/1.mp4,walk\n"a/1.mp4,walk\n' + "x.avi,run\n" * 20_000, r"line 2: field larger .* is a quote not closed"),
        ('a/1.mp4,walk\n"a/1.mp4,walk\nx.avi",run\n', r"line 2: found 'a/1.mp4,walk\\nx.avi' as one path over se"),
        ('"a/1.mp4,walk\n"x.avi,run\n', r"list.txt line 1: ',' expected after '\"'"),
        ("a/1.mp4,walk\nb\0.mp4,run\n".encode("utf-16"), r"list.txt: not a text file \(it contains zero bytes\)"),
        ("a/1.mp4,walk," + "9" * 100_000, r"line 1: num_frames '9{80}…'; expected a whole number"),
        ("x" * 300 + "/1.mp4 5 3\n" + "y" * 300 + "/1.mp4 50 3", r"line 1: found 'x{80}…'; lists with several labels"),
        ("a/1.mp4," * 10_000, r"line 1: found '.{80}…', expected path,label,num_frames$"),
    ],
)
def test_what_is_no_list(root, text, message):
    with pytest.raises(InputError, match=message):
        rows_of(root, text)


def test_what_is_written_is_read_again(tmp_path):
    names = [
        "a/1.mp4",
        "b,c.mp4",
        'say "hi".avi',
        "two\nlines.mp4",
        " blanks .mp4 ",
        "\udce9.mp4",
        "100",
        "x=1;2\t3.mp4",
    ]
    (tmp_path / "a").mkdir()
    for name in names:
        (tmp_path / name).touch()
    rows = [Row(0, name, f"class {place}, é", place or -1) for place, name in enumerate(names)]
    write_listing(tmp_path / "list.csv", rows, NAMES)
    found = read_listing(tmp_path / "list.csv", tmp_path)
    assert [(row.path, row.label, row.num_frames) for row in found.rows] == [
        (row.path, row.label, row.num_frames) for row in rows
    ]
    assert found.label_kind == NAMES
    write_listing(tmp_path / "list.csv", [Row(0, "a/1.mp4", "3")], INDICES)
    assert (tmp_path / "list.csv").read_text() == "path,class_index\na/1.mp4,3\n"
    assert read_listing(tmp_path / "list.csv", tmp_path).label_kind == INDICES


def test_two_spellings_of_an_accent_are_one_class_and_one_video(tmp_path):
    one, two = (unicodedata.normalize(form, "défilé") for form in ("NFC", "NFD"))
    assert one != two
    for path in (f"train/{one}/1.mp4", f"train/{two}/2.mp4", "train/run/3.mp4", f"val/{two}/4.mp4", "val/run/5.mp4"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    train, val = (load_custom(tmp_path, split, NONE) for split in ("train", "val"))
    assert train.class_names == val.class_names == (one, "run")
    assert train.labels.tolist() == [0, 0, 1] or sorted(train.labels.tolist()) == [0, 0, 1]
    assert all(train.path(index).is_file() for index in range(3))
    # A list in the one spelling finds the file in the other, which keeps its name.
    (tmp_path / "test.csv").write_text(f"path,class\nval/{one}/4.mp4,{two}\n")
    listed = load_custom(tmp_path, "test", NONE)
    assert listed.path(0) == tmp_path / "val" / two / "4.mp4"
    assert listed.path(0).is_file()
    assert listed.labels.tolist() == [0]
    pairs = load_custom(tmp_path, "train", NONE, flip_pairs=[[two, "run"]]).flip_pairs
    assert pairs == ((0, 1),)


def test_suffixes_in_class_folders_and_in_lists(tmp_path):
    for name in ("1.MTS", "2.gif", "3.M2TS", "4.mp4"):
        (tmp_path / "train" / "walk").mkdir(parents=True, exist_ok=True)
        (tmp_path / "train" / "walk" / name).touch()
    folders = load_custom(tmp_path, "train", NONE)
    (tmp_path / "train.csv").write_text("".join(f"train/walk/{name},walk\n" for name in ("1.MTS", "2.gif", "3.M2TS")))
    lists = load_custom(tmp_path, "train", NONE)
    assert [folders.sample_id(index) for index in range(3)] == [lists.sample_id(index) for index in range(3)]


@pytest.mark.parametrize(
    "text", ["a/1.mp4 0\nb c/2.avi 1\n", "\ufeffVideo;Class\na/1.mp4;x\nb c/2.avi;y\n", "a/1.mp4\tx\nb c/2.avi\ty\n"]
)
def test_every_command_reads_the_same_list(root, text):
    (root / "train.txt").write_text(text)
    expected = ["a/1.mp4", "b c/2.avi"]
    manifest = load_custom(root, "train", NONE)
    assert [manifest.sample_id(index) for index in range(len(manifest))] == expected
    assert list(check.files_of(root / "train.txt", None)[1]) == expected
    assert prepare.listed(root / "train.txt", root) == expected


def test_a_list_without_a_header_leaves_open_what_its_labels_are(root):
    (root / "list.txt").write_text("a/1.mp4,3\n")
    assert read_listing(root / "list.txt", root).label_kind == OPEN

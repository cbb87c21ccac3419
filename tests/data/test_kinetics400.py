import csv
from pathlib import Path

import numpy as np
import pytest

from vsn_train.data.datasets.kinetics400 import load_kinetics400
from vsn_train.data.manifest import UNLABELLED, sort_classes
from vsn_train.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
OFFICIAL = SHARED / "annotations" / "kinetics400"
official = pytest.mark.skipif(not SHARED.is_dir(), reason="the official files are not at hand")

HEADER = "label,youtube_id,time_start,time_end,split,is_cc"
ROWS = (
    "abseiling,0wR5jVB-WPk,417,427,val,0",
    '"using segway",R6llTwEh07w,0,10,val,0',
    '"massaging person\'s head",-huT_p-r_zA,1989,1999,val,0',
    '"skiing (not slalom or crosscountry)",_fkU12bB5Ds,3,13,val,0',
)
STEMS = (
    "0wR5jVB-WPk_000417_000427",
    "R6llTwEh07w_000000_000010",
    "-huT_p-r_zA_001989_001999",
    "_fkU12bB5Ds_000003_000013",
)


def make(top, files, rows=ROWS, header=HEADER, name="val.csv"):
    root = top / "k400"
    root.mkdir(parents=True)
    (top / name).write_bytes("".join(f"{line}\r\n" for line in (header, *rows)).encode())
    for path in files:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


FLAT = [f"{stem}.mp4" for stem in STEMS]
LAYOUTS = {
    "flat": FLAT,
    "CVDF": [f"val/{file}" for file in FLAT],
    "id alone": [f"val/{stem[:11]}.mp4" for stem in STEMS],
    "blanks": [
        f"val/{folder}/{file}"
        for folder, file in zip(
            ["abseiling", "using segway", "massaging person's head", "skiing (not slalom or crosscountry)"],
            FLAT, strict=True,
        )
    ],
    "mmaction2": [
        f"videos_val/{folder}/{file}"
        for folder, file in zip(
            ["abseiling", "using_segway", "massaging_person's_head", "skiing_(not_slalom_or_crosscountry)"],
            FLAT, strict=True,
        )
    ],
    "TSM": [
        f"{folder}/{file}"
        for folder, file in zip(
            ["abseiling", "using_segway", "massaging_persons_head", "skiing_not_slalom_or_crosscountry"],
            FLAT, strict=True,
        )
    ],
    "frames": [f"val/using segway/{stem}/img_00001.jpg" for stem in STEMS],
    "other containers": [f"val/{stem}{suffix}" for stem, suffix in zip(STEMS, (".mkv", ".webm", ".avi", ".MP4"),
                                                                       strict=True)],
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout(tmp_path, layout):
    root = make(tmp_path, LAYOUTS[layout])
    manifest = load_kinetics400(root, "val", max_missing_share=0)
    assert [manifest.sample_id(index) for index in range(4)] == list(STEMS)
    assert [manifest.class_names[label] for label in manifest.labels] == [
        "abseiling", "using segway", "massaging person's head", "skiing (not slalom or crosscountry)",
    ]  # fmt: skip
    wanted = [path if layout != "frames" else str(Path(path).parent) for path in LAYOUTS[layout]]
    assert [str(manifest.path(index).relative_to(root)) for index in range(4)] == wanted
    assert len(manifest.class_names) == 400


def test_class_folder_of_eleven_letters_is_not_taken_for_a_video(tmp_path):
    root = make(tmp_path, ["ice_skating/ice_skating.mp4"], rows=["ice skating,ice_skating,0,10,val,0"])
    manifest = load_kinetics400(root, "val")
    assert manifest.path(0) == root / "ice_skating" / "ice_skating.mp4"


def test_the_splits_own_folder_and_replacements_come_first(tmp_path):
    file = FLAT[1]
    root = make(tmp_path, [f"train/{file}", f"val/{file}"], rows=ROWS[1:2])
    assert load_kinetics400(root, "val").path(0) == root / "val" / file
    (root / "replacement" / "replacement_for_corrupted_k400").mkdir(parents=True)
    (root / "replacement" / "replacement_for_corrupted_k400" / file).touch()
    assert load_kinetics400(root, "val").path(0).parent.name == "replacement_for_corrupted_k400"


@pytest.mark.parametrize(
    "name", ["val.csv", "kinetics-400_val.csv", "kinetics_val.csv", "validate.csv", "k400_val.csv"]
)
def test_names_of_the_list(tmp_path, name):
    assert len(load_kinetics400(make(tmp_path, FLAT, name=name), "val")) == 4


def test_any_column_order_float_times_no_is_cc_no_label(tmp_path):
    rows = ["3.0,R6llTwEh07w,using segway,13.0"]
    root = make(tmp_path, ["R6llTwEh07w_000003_000013.mp4"], rows, "time_start,youtube_id,label,time_end")
    manifest = load_kinetics400(root, "val")
    assert manifest.class_names[manifest.labels[0]] == "using segway"
    (tmp_path / "test.csv").write_text("youtube_id,time_start,time_end,split\nR6llTwEh07w,3,13,test\n")
    assert load_kinetics400(root, "test").labels.tolist() == [UNLABELLED]


def test_missing_videos_are_left_out_and_named_up_to_a_share(tmp_path):
    root = make(tmp_path, FLAT[:3])
    manifest = load_kinetics400(root, "val", max_missing_share=0.25)
    assert (len(manifest), manifest.missing) == (3, (STEMS[3],))
    with pytest.raises(InputError, match=rf"1 of 4 videos of val.csv .* first {STEMS[3]}; .*_missing_share=0.25"):
        load_kinetics400(root, "val")
    empty = make(tmp_path / "empty", [])
    with pytest.raises(InputError, match=r"4 of 4 videos of val.csv are not under .*correct dataset.root$"):
        load_kinetics400(empty, "val", max_missing_share=1)


@official
def test_official_lists(tmp_path):
    with (OFFICIAL / "kinetics-400_val.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        (tmp_path / f"{row['youtube_id']}_{int(row['time_start']):06d}_{int(row['time_end']):06d}.mp4").touch()
    manifest = load_kinetics400(tmp_path, "val", OFFICIAL, max_missing_share=0)
    assert len(manifest) == 19906
    assert manifest.class_names == tuple((SHARED / "labels" / "kinetics400.txt").read_text().splitlines())
    assert sort_classes(manifest).class_names == manifest.class_names
    counts = np.bincount(manifest.labels, minlength=400)
    assert (counts.min(), counts.max()) == (46, 50)
    written = [row["label"] for row in rows]
    assert counts.tolist() == [written.count(name) for name in manifest.class_names]

    text = (OFFICIAL / "kinetics-400_test.head.csv").read_text()
    lists = tmp_path / "lists"
    lists.mkdir()
    (lists / "kinetics-400_test.csv").write_text(text)
    for line in text.splitlines()[1:]:
        video, start, end, _ = line.split(",")
        (tmp_path / f"{video}_{int(start):06d}_{int(end):06d}.mp4").touch()
    assert len(load_kinetics400(tmp_path, "test", lists, max_missing_share=0)) == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"header": "id,label"}, r"val.csv line 1: no column youtube_id and no column time_start .* in 'id,label'"),
        ({"rows": [ROWS[0], "using segway,R6llTwEh07w"]}, r"val.csv line 3: found 2 fields, expected 6 as in line 1"),
        ({"rows": [ROWS[0], "using segway,R6llTwEh07w,x,10,val,0"]}, r"line 3: times 'x' and '10'; expected seconds"),
        ({"rows": ["air guitar,R6llTwEh07w,0,10,val,0"]}, r"line 2: class 'air guitar' is not one of the 400"),
        ({"rows": ["using segway,R6llTwEh07w,0,10,train,0"]}, r"line 2: a video of split 'train', expected 'val'"),
        ({"rows": [ROWS[0], ROWS[0]]}, r"0wR5jVB-WPk_000417_000427 is listed more than once"),
        ({"rows": []}, r"val.csv: the list is empty"),
        (
            {"rows": [ROWS[0], f"{'x' * 200_000},R6llTwEh07w,0,10,val,0"]},
            r"line 3: field larger than field limit",
        ),
        (
            {"rows": ['"using segway,R6llTwEh07w,0,10,val,0', ROWS[0]]},
            r"line 2: unexpected end .* quote not closed\?",
        ),
        ({"rows": ["using\0segway,R6llTwEh07w,0,10,val,0"]}, r"val.csv: not a text file \(it contains zero bytes\)"),
        ({"rows": ["using segway,R6llTwEh07w,1e400,inf,val,0"]}, r"line 2: times '1e400' and 'inf'; expected seconds"),
    ],
)
def test_wrong_lists(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_kinetics400(make(tmp_path, FLAT, **change), "val")


def test_no_list_or_two(tmp_path):
    root = make(tmp_path, FLAT)
    with pytest.raises(InputError, match=r"found no train.csv or kinetics-400_train.csv in .*dataset.annotations"):
        load_kinetics400(root, "train")
    (tmp_path / "validate.csv").touch()
    with pytest.raises(InputError, match=r"has val.csv and validate.csv, each of which may list the val videos"):
        load_kinetics400(root, "val")

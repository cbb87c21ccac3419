"""A miniature of each data set in its official layout trains and is evaluated with the installed commands."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import CLIPS, SMALL, run_command
from tests.media import write_counting_folder, write_counting_video
from vsn_train import config as schema
from vsn_train.analysis.scores import Scores
from vsn_train.analysis.splits import mean_of_splits
from vsn_train.data.manifest import Manifest
from vsn_train.engine.distributed import Process
from vsn_train.errors import InputError
from vsn_train.run.data import check_classes, load_manifest
from vsn_train.tools.main import main


def write_lines(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\r\n" for line in lines).encode())


def copy_clip(clip: str, target: Path, **options: object) -> None:
    """A real clip where it is at hand, else a made one of the same kind."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if CLIPS.is_dir():
        shutil.copy(CLIPS / clip, target)
    else:
        write_counting_video(target, 30, **options)


def something_v1(top: Path) -> str:
    prefix = "something-something-v1"
    names = ["Tearing something", "Pushing something from left to right", "Pushing something from right to left"]
    write_lines(top / f"{prefix}-labels.csv", *names)
    write_lines(top / f"{prefix}-train.csv", *(f"{video};{names[video % 3]}" for video in range(1, 6)))
    write_lines(top / f"{prefix}-validation.csv", *(f"{video};{names[video % 3]}" for video in (6, 7)))
    for video in range(1, 8):
        write_counting_folder(top / "20bn-something-something-v1" / str(video), 10 + video)
    return f"dataset.root={top}/20bn-something-something-v1"


def something_v2(top: Path) -> str:
    templates = ["Poking [something] so that it falls over", "Tearing [something]"]
    names = [template.replace("[", "").replace("]", "") for template in templates]
    lists = top / "labels"
    write_lines(lists / "labels.json", json.dumps({name: str(label) for label, name in enumerate(names)}))
    for split, videos in {"train": range(1, 5), "validation": (5, 166766)}.items():
        write_lines(lists / f"{split}.json", json.dumps([{"id": str(v), "template": templates[v % 2]} for v in videos]))
    root = top / "20bn-something-something-v2"
    root.mkdir()
    copy_clip("ssv2/166766.webm", root / "166766.webm", codec="libvpx-vp9")
    for video in range(1, 6):
        write_counting_video(root / f"{video}.webm", 20 + video, codec="libvpx-vp9")
    return f"dataset.root={root}"


def jester(top: Path, flow: bool = False) -> str:
    names = ["Swiping Left", "Swiping Right", "No gesture"]
    write_lines(top / "jester-v1-labels.csv", *names)
    write_lines(top / "jester-v1-train.csv", *(f"{video};{names[video % 3]}" for video in range(1, 6)))
    write_lines(top / "jester-v1-validation.csv", *(f"{video};{names[video % 3]}" for video in (6, 7)))
    for video in range(1, 8):
        for name in ("flow_x_{:05d}.jpg", "flow_y_{:05d}.jpg") if flow else ("{:05d}.jpg",):
            write_counting_folder(top / "20bn-jester-v1" / str(video), 10 + video, name)
    return f"dataset.root={top}"


def kinetics400(top: Path) -> str:
    header = "label,youtube_id,time_start,time_end,split,is_cc"
    clips = {
        "R6llTwEh07w": ("using segway", "R6llTwEh07w"),
        "SOX5yA1l24A": ("using segway", "SOX5yA1l24A"),
        "-arm_wrest_": ("arm wrestling", "arm_wrestling_demo"),
        "_cleaning-p": ("cleaning pool", "cleaning_pool_test"),
    }
    rows = [f'"{name}",{video},0,10' for video, (name, _) in clips.items()]
    gone = '"abseiling",aaaaaaaaaaa,5,15'
    write_lines(top / "train.csv", header, *(f"{row},train,0" for row in [*rows, gone]))
    write_lines(top / "val.csv", header, *(f"{row},val,0" for row in rows[:2]))
    for video, (name, clip) in clips.items():
        folder = f"videos_train/{name.replace(' ', '_')}"
        copy_clip(f"kinetics400/{clip}.mp4", top / folder / f"{video}_000000_000010.mp4", gop=15)
    return f"dataset.root={top}"


def hmdb51(top: Path) -> str:
    clips = {
        "wave": ["RATRACE_wave_f_nm_np1_fr_goo_37.avi", "TrumanShow_wave_f_nm_np1_fr_med_26.avi"],
        "cartwheel": ["Turnk_r_Pippi_Michel_cartwheel_f_cm_np2_le_med_6.avi"],
    }
    lists = top / "testTrainMulti_7030_splits"
    for name, videos in clips.items():
        extra = f"#1_(again)_[{name}]_{name}_u_nm_np1_fr_goo_0.avi"
        for video in videos:
            copy_clip(f"hmdb51/{name}/{video}", top / "hmdb51_org" / name / video, codec="mpeg4", b_frames=2)
        shutil.copy(top / "hmdb51_org" / name / videos[0], top / "hmdb51_org" / name / extra)
        for number in (1, 2, 3):
            uses = [f"{video} {1 + (number == 2)} " for video in videos] + [f"{extra} {2 - (number == 2)} "]
            write_lines(lists / f"{name}_test_split{number}.txt", *uses)
    return f"dataset.root={top}/hmdb51_org"


def custom(top: Path) -> str:
    for number in range(6):
        write_counting_video(top / "my videos" / f"{number}.mp4" if number else top / "0.mp4", 12 + number)
    rows = [f"my videos/{number}.mp4,{'left' if number % 2 else 'right'},{12 + number}" for number in range(1, 6)]
    write_lines(top / "train.csv", "path,label,num_frames", *rows)
    write_lines(top / "val.csv", "label,path", "right,0.mp4")
    return f"dataset.root={top}"


MINIATURES = {
    # maker, further values, protocol, validation videos, classes
    "something_v1": (something_v1, [], "center_1clip", 2, 3),
    "something_v2": (something_v2, [], "center_2clip", 2, 2),
    "jester": (jester, [], "center_2clip", 2, 3),
    "jester_flow": (lambda top: jester(top, flow=True), ["data.modality=flow"], "center_2clip", 2, 3),
    "kinetics400": (kinetics400, ["dataset.max_missing_share=0.2"], "tencrop_10clip", 2, 400),
    "hmdb51": (hmdb51, ["dataset.split=2"], "tencrop_10clip", 3, 2),
    "custom": (custom, ["dataset.flip_pairs=[[left,right]]"], "center_1clip", 1, 2),
}


@pytest.mark.parametrize("name", MINIATURES)
def test_miniature_trains_and_is_evaluated(name, tmp_path):
    make, values, protocol, videos, classes = MINIATURES[name]
    top = tmp_path / "data"
    top.mkdir()
    if name == "custom":
        (top / "my videos").mkdir()
    dataset, run = name.removesuffix("_flow"), tmp_path / "run"
    values = [f"dataset={dataset}", make(top), *values, "schedule.epochs=1", f"hydra.run.dir={run}", *SMALL]
    trained = run_command("vsn-train", *values)
    assert trained.code == 0, trained.err
    evaluated = run_command("vsn-eval", f"checkpoint={run}/checkpoints/last.pt")
    assert evaluated.code == 0, evaluated.err
    scores = Scores.load(run / "eval" / "last" / protocol / "scores.npz")
    assert scores.scores.shape == (videos, classes)
    row = evaluated.out.splitlines()[1].split()
    assert row[:3] == [dataset, "val", protocol]
    log = (run / "log.txt").read_text()
    if name == "kinetics400":
        assert (run / "missing_train.txt").read_text() == "aaaaaaaaaaa_000005_000015\n"
        assert f"1 of 5 train videos are not under {top} and are left out; {run}/missing_train.txt lists them" in log
        (top / "videos_train" / "using_segway" / "SOX5yA1l24A_000000_000010.mp4").unlink()
        again = run_command("vsn-eval", f"checkpoint={run}/checkpoints/last.pt", "dataset.max_missing_share=0.5")
        assert again.code == 0, again.err
        assert "1 of 2 val videos are not under" in again.out
        assert (run / "eval" / "last" / protocol / "missing_val.txt").read_text() == "SOX5yA1l24A_000000_000010\n"
        assert json.loads((run / "eval" / "last" / protocol / "metrics.json").read_text())["missing"] == 1
    else:
        assert not list(run.glob("missing*"))
    if name == "hmdb51":
        check_mean_of_splits(run / "eval" / "last" / protocol / "scores.npz", tmp_path)


def test_class_order_of_a_checkpoint(tmp_path):
    root = Path(something_v1(tmp_path).removeprefix("dataset.root="))
    dataset = schema.Official(name="something_v1", root=str(root))
    alone = Process(0, 1, torch.device("cpu"))
    official = load_manifest(dataset, "val", alone)
    ordered = load_manifest(replace(dataset, class_order="sorted"), "val", alone)
    assert official.class_names == tuple(sorted(official.class_names)[i] for i in (2, 0, 1))
    assert [ordered.class_names[label] for label in ordered.labels] == [
        official.class_names[label] for label in official.labels
    ]
    check_classes(ordered, sorted(official.class_names), "a.pt")
    with pytest.raises(InputError, match=r"same names in another order: set dataset.class_order to that of the train"):
        check_classes(official, sorted(official.class_names), "a.pt")


def check_mean_of_splits(path: Path, folder: Path) -> None:
    scores = Scores.load(path)
    assert scores.facts["official_split"] == 2
    paths = [path]
    for number, labels in {1: scores.scores.argmax(axis=1), 3: scores.scores.argmin(axis=1)}.items():
        paths.append(folder / f"{number}.npz")  # all right, all wrong
        replace(scores, labels=labels, facts=scores.facts | {"official_split": number}).save(paths[-1])
    result = mean_of_splits(paths)
    assert [row["top1"] for row in result["splits"]] == [100, scores.top1(), 0]
    assert result["top1"] == pytest.approx((100 + scores.top1()) / 3)
    with pytest.raises(Exception, match=r"no score file of split 3; expected one for each of 1, 2, 3"):
        mean_of_splits(paths[:2])
    with pytest.raises(Exception, match=r"1.npz: a second file of split 1"):
        mean_of_splits([*paths, paths[1]])
    replace(scores, facts=scores.facts | {"official_split": 3, "num_frames": 16}).save(paths[2])
    with pytest.raises(Exception, match=r"3.npz: num_frames is 16, but 4 in"):
        mean_of_splits(paths)


def test_scan_counts_a_copy_and_saves_its_manifests(tmp_path, monkeypatch, capsys):
    root = something_v1(tmp_path / "data")
    arguments = ["vsn-tools", "scan", "dataset=something_v1", root, "--workers", "1", "--save", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit, match="0"):
        main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "train: 5 videos of 5 listed, 3 classes, 1 to 2 videos per class, 11 to 15 frames, median 13, 65 in all, "
        "0 unreadable, manifest "
    )
    assert Manifest.load(tmp_path / "out" / "something_v1_val.npz").num_frames.tolist() == [16, 17]
    shutil.rmtree(tmp_path / "data" / "20bn-something-something-v1" / "2")
    (tmp_path / "data" / "20bn-something-something-v1" / "3" / "00005.jpg").unlink()
    monkeypatch.setattr("sys.argv", [*arguments, "dataset.max_missing_share=0.5"])
    with pytest.raises(SystemExit, match="1"):
        main()
    out = capsys.readouterr().out
    assert "train: 4 videos of 5 listed" in out
    assert "1 unreadable" in out
    assert "  2: missing\n" in out
    assert "20bn-something-something-v1/3: 00005.jpg is missing" in out

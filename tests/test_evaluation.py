"""vsn-eval and vsn-predict end to end: the same bytes however they are computed, bad videos, splits without labels."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import SMALL, run_command
from tests.media import write_counting_folder, write_counting_video
from tests.warm import Command
from vsn_train.analysis.scores import Scores
from vsn_train.data.datasets.something_v1 import FLIP_CLASSES, load_something_v1
from vsn_train.data.loader import EvalVideos, eval_loader
from vsn_train.data.protocol import Protocol
from vsn_train.engine.distributed import Process
from vsn_train.engine.evaluate import Scoring, mean_of_views, score_videos, video_groups
from vsn_train.folder_lock import folder_lock

CLASSES = ["SoccerJuggling", "ApplyEyeMakeup", "HandstandPushups"]  # of the checkpoint of `ucf101_run`
VIDEOS = 12


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Twelve made videos in the layout of UCF101, of 30 to 90 frames."""
    top = tmp_path_factory.mktemp("many")
    lists = top / "ucfTrainTestlist"
    lists.mkdir()
    names = []
    for index in range(VIDEOS):
        name = f"{CLASSES[index % 3]}/v_{CLASSES[index % 3]}_g{index:02d}_c01.avi"
        (top / "UCF-101" / name).parent.mkdir(parents=True, exist_ok=True)
        width, height = ((64, 48), (48, 64))[index % 2]
        write_counting_video(top / "UCF-101" / name, 30 + 3 * index, codec="mpeg4", width=width, height=height)
        names.append(name)
    (lists / "classInd.txt").write_text("".join(f"{number} {name}\n" for number, name in enumerate(CLASSES, 1)))
    (lists / "trainlist01.txt").write_text(f"{names[0]} 1\n")
    (lists / "testlist01.txt").write_text("".join(f"{name}\n" for name in names))
    return top / "UCF-101"


def arguments_of(ucf101_run: Path, many: Path, folder: Path, *more: str) -> list[str]:
    return [
        f"checkpoint={ucf101_run}/checkpoints/last.pt", f"dataset.root={many}", f"hydra.run.dir={folder}",
        "runtime.threads=1", "report=false", "features=true", "protocol.clips=5", *more,
    ]  # fmt: skip


def evaluated(ucf101_run: Path, many: Path, folder: Path, *more: str) -> Path:
    result = run_command("vsn-eval", *arguments_of(ucf101_run, many, folder, *more))
    assert result.code == 0, result.err
    (scores,) = folder.glob("eval/*/*/scores.npz")
    assert not (scores.parent / "parts").exists()
    return scores


def assert_same_files(scores: Path, others: Path) -> None:
    for name in ("scores.npz", "features.npz"):
        assert scores.with_name(name).read_bytes() == others.with_name(name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(ucf101_run, many, tmp_path_factory):
    """The scores of one process without workers that nobody interrupted."""
    return evaluated(ucf101_run, many, tmp_path_factory.mktemp("whole"), "data.workers=0")


@pytest.mark.slow
def test_the_same_bytes_from_any_number_of_processes_and_workers(ucf101_run, many, whole, tmp_path):
    # One and two processes, and zero, one and two workers, are in the next test, which is not slow.
    again = evaluated(ucf101_run, many, tmp_path, "runtime.devices=3", "data.workers=4")
    assert_same_files(again, whole)
    scores = Scores.load(whole)
    assert len(scores) == len(set(scores.ids.tolist())) == VIDEOS
    assert scores.views.shape == (VIDEOS, 50, 3)
    assert scores.facts["protocol"]["name"] == "tencrop_5clip"


def test_killed_and_resumed_gives_the_same_bytes(ucf101_run, many, whole, tmp_path):
    folder = tmp_path / "run"
    more = ["runtime.devices=2", "data.workers=1"]
    command = str(Path(sys.executable).with_name("vsn-eval"))
    process = subprocess.Popen(
        [command, *arguments_of(ucf101_run, many, folder, *more)], cwd=tmp_path, start_new_session=True
    )
    parts = folder / "eval" / "last" / "tencrop_5clip" / "parts"
    deadline = time.monotonic() + 600  # generous: machines that run tests are busy
    while not list(parts.glob("*.npz")):
        assert process.poll() is None, "ended before its first part"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    found = list(parts.glob("*.npz"))
    assert found
    assert not (parts.parent / "scores.npz").exists()
    kept = found[0].read_bytes()

    other = run_command("vsn-eval", *arguments_of(ucf101_run, many, folder, "resume=true", "runtime.views_per_batch=9"))
    assert other.code == 2
    assert "parts of another evaluation: computed differ; restore it, or restart the evaluation" in other.err
    assert found[0].read_bytes() == kept

    plain = run_command("vsn-eval", *arguments_of(ucf101_run, many, folder, "resume=true", "features=false"))
    assert plain.code == 2
    assert "parts of another evaluation: features differ" in plain.err

    again = evaluated(ucf101_run, many, folder, "resume=true", "runtime.devices=1", "data.workers=2")
    assert_same_files(again, whole)


def test_a_bad_video_counts_as_wrong_where_the_user_says_so_and_is_named(ucf101_run, many, tmp_path):
    name = f"{CLASSES[1]}/v_{CLASSES[1]}_g01_c01.avi"
    shutil.copytree(many.parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "UCF-101" / name).write_bytes(b"no video")
    arguments = arguments_of(
        ucf101_run, tmp_path / "UCF-101", tmp_path / "run", "protocol=center_1clip", "on_bad_video=wrong",
        "report=true", "protocol.crop_size=40", "protocol.clips=1",
    )  # fmt: skip
    result = run_command("vsn-eval", *arguments)
    assert result.code == 0, result.err
    assert f"cannot read {name}: " in result.out
    assert "; counted as wrong" in result.out
    folder = tmp_path / "run" / "eval" / "last" / "center_1clip_crop40"  # named as what it is
    scores = Scores.load(folder / "scores.npz")
    assert len(scores) == VIDEOS
    bad = scores.ids.tolist().index(name)
    assert np.isnan(scores.scores[bad]).all()
    assert not scores.right()[bad]
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["n"] == VIDEOS
    assert [each["id"] for each in metrics["bad_videos"]] == [name]
    assert name in (folder / "report.html").read_text()


# ---- Something-Something V1 in small ---------------------------------------------------------------------------------

OTHERS = ["Holding something", "Unfolding something"]


@pytest.fixture(scope="module")
def something_v1(tmp_path_factory):
    """Its official file formats, the names of its flipped classes, and two others; frame folders of moving bars."""
    top = tmp_path_factory.mktemp("ssv1")
    names = [OTHERS[0], *(name for pair in FLIP_CLASSES for name in pair), OTHERS[1]]
    (top / "something-something-v1-labels.csv").write_text("".join(f"{name}\n" for name in names))
    rows = []
    for index, name in enumerate(names * 2):
        folder = top / "20bn-something-something-v1" / str(1000 + index)
        step = {"left to right": 1, "right to left": -1, "camera left": -1, "camera right": 1}
        write_bar(folder, next((way for words, way in step.items() if words in name), 0))
        rows.append(f"{1000 + index};{name}\n")
    for split in ("train", "validation"):
        (top / f"something-something-v1-{split}.csv").write_text("".join(rows))
    (top / "something-something-v1-test.csv").write_text("".join(row.partition(";")[0] + "\n" for row in rows))
    return top / "20bn-something-something-v1"


def write_bar(folder: Path, way: int) -> None:
    """12 JPEG frames of 48 x 36 with a bright bar that stays within every crop of 36: way 1 to the right, -1 left."""
    from torchvision.io import encode_jpeg

    folder.mkdir(parents=True)
    for number in range(12):
        image = torch.full((3, 36, 48), 30, dtype=torch.uint8)
        place = 22 + way * round(1.4 * (number - 5.5))
        image[:, :, place : place + 4] = 220
        (folder / f"{number + 1:05d}.jpg").write_bytes(encode_jpeg(image, quality=95).numpy().tobytes())


class TellsTheWay(nn.Module):
    """Answers left and right perfectly from where the bright bar is first and last; for one pair of classes."""

    def __init__(self, to_the_right: int, to_the_left: int, classes: int) -> None:
        super().__init__()
        self.to_the_right, self.to_the_left, self.classes = to_the_right, to_the_left, classes

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        columns = video.mean(dim=(2, 3)).softmax(dim=-1)  # (B, T, W)
        place = (columns * torch.arange(columns.shape[-1])).sum(-1)
        moved = place[:, -1] - place[:, 0]
        logits = torch.zeros(len(video), self.classes)
        logits[:, self.to_the_right], logits[:, self.to_the_left] = moved, -moved
        return logits


@pytest.mark.parametrize("pair", FLIP_CLASSES, ids=lambda pair: pair[0].split()[0])
def test_flipped_views_of_left_and_right_are_swapped_back(something_v1, pair):
    manifest = load_something_v1(something_v1, "val")
    assert len(manifest.flip_pairs) == 3
    left_to_right, right_to_left = (manifest.class_names.index(name) for name in pair)
    if "camera" in pair[0]:
        left_to_right, right_to_left = right_to_left, left_to_right
    model = TellsTheWay(left_to_right, right_to_left, len(manifest.class_names))
    protocol = Protocol(2, "uniform", 10, 36, 36)
    process = Process(0, 1, torch.device("cpu"))
    mine = np.flatnonzero(np.isin(manifest.labels, (left_to_right, right_to_left)))
    videos = EvalVideos(manifest, 8, protocol, "auto")
    fp32 = torch.autocast("cpu", enabled=False)

    def views(flipped_labels: np.ndarray) -> dict:
        groups = video_groups(len(manifest), protocol.views, 16, process)
        scoring = Scoring(protocol, flipped_labels, 16, fp32, keep_views=True)
        loader = eval_loader(videos, groups, 0)
        return score_videos(model, loader, len(groups), process, lambda results: None, scoring)

    swapped, kept = views(manifest.flipped_labels()), views(np.arange(len(manifest.class_names)))
    for index in mine:
        label = manifest.labels[index]
        assert (swapped[index].argmax(axis=1) == label).all()  # every view, flipped or not
        assert mean_of_views(swapped[index]).argmax() == label
        assert (kept[index][:, label] > 0).mean() == 0.5  # without the swap the flipped half says the other way


@pytest.fixture(scope="module")
def something_v1_run(something_v1, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ssv1_run")
    result = run_command(
        "vsn-train", "dataset=something_v1", f"dataset.root={something_v1}", "schedule.epochs=1",
        f"hydra.run.dir={folder}", *SMALL, "data.short_side=36",
    )  # fmt: skip
    assert result.code == 0, result.err
    return folder


def test_a_split_without_labels_gives_scores_and_a_submission_and_no_accuracy(something_v1_run, tmp_path):
    result = run_command(
        "vsn-eval", f"checkpoint={something_v1_run}/checkpoints/last.pt", "split=test", f"hydra.run.dir={tmp_path}"
    )
    assert result.code == 0, result.err
    assert "top" not in result.out.replace("stop", "")
    assert result.out.splitlines()[1].split() == ["something_v1", "test", "center_1clip", "16", "unknown"]
    folder = tmp_path / "eval" / "last" / "center_1clip_test"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["n"] == 16
    assert not {"top1", "top5", "loss"} & metrics.keys()
    scores = Scores.load(folder / "scores.npz")
    best = scores.class_names[scores.scores.argmax(axis=1)]
    lines = [f"{1000 + index};{name}" for index, name in enumerate(best)]
    assert (folder / "submission.csv").read_text().splitlines() == lines
    assert "no accuracy" in (folder / "report.html").read_text()


# ---- vsn-predict -----------------------------------------------------------------------------------------------------


def test_prediction_of_folders_patterns_and_parts_of_videos(ucf101_run, many, tmp_path):
    write_counting_folder(tmp_path / "frames", 12, width=64, height=48)
    (tmp_path / "videos").mkdir()
    write_counting_video(tmp_path / "videos" / "b [1].mp4", 60, width=64, height=48, fps=30)
    write_counting_video(tmp_path / "videos" / "a.mp4", 60, width=64, height=48, fps=30)
    (tmp_path / "videos" / "notes.txt").write_text("not a video")
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "ucf101.pt").write_bytes((ucf101_run / "checkpoints" / "last.pt").read_bytes())

    def predict(*more: str) -> tuple[dict, Path]:
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        result = run_command(
            "vsn-predict", f"checkpoint={tmp_path}/lone/ucf101.pt", "protocol=center_1clip",
            "protocol.placement=uniform", f"hydra.run.dir={out}", *more,
        )  # fmt: skip
        assert result.code == 0, result.err
        return json.loads((out / "prediction.json").read_text()), out

    facts, out = predict(f"video=[{tmp_path}/videos,{tmp_path}/frames,'{many}/*/*_g0[12]_c01.avi']")
    names = [Path(each["video"]).name for each in facts["predictions"]]
    assert names == ["a.mp4", "b [1].mp4", "frames", f"v_{CLASSES[1]}_g01_c01.avi", f"v_{CLASSES[2]}_g02_c01.avi"]
    assert facts["predictions"][0]["frames"] == [[7, 22, 37, 52]]
    assert facts["predictions"][0]["classes"] == facts["predictions"][1]["classes"]
    for each in facts["predictions"]:
        figure = (out / each["picture"]).read_bytes()
        assert figure.startswith(b"\x89PNG")
        assert len(each["classes"]) == 3
        assert sum(one["probability"] for one in each["classes"]) == pytest.approx(1)

    part, _ = predict(f"video={tmp_path}/videos/a.mp4", "start=0.5", "end=1.5", "top_k=1")
    assert part["predictions"][0]["frames"] == [[18, 26, 33, 41]]  # frames 15 to 44 in four segments
    assert len(part["predictions"][0]["classes"]) == 1


def test_prediction_names_what_it_cannot_read_and_does_the_rest(ucf101_run, tmp_path):
    write_counting_video(tmp_path / "good.mp4", 20, width=64, height=48)
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    arguments = [f"checkpoint={ucf101_run}/checkpoints/last.pt", "protocol=center_1clip"]
    result = run_command("vsn-predict", *arguments, f"video={tmp_path}/*.mp4", f"hydra.run.dir={tmp_path}/out")
    assert result.code == 2
    assert f"1 of 2 videos could not be read, first {tmp_path}/bad.mp4" in result.err
    facts = json.loads((tmp_path / "out" / "prediction.json").read_text())
    assert [set(each) >= {"error"} for each in facts["predictions"]] == [True, False]
    late = run_command(
        "vsn-predict", *arguments, f"video={tmp_path}/good.mp4", "start=5", f"hydra.run.dir={tmp_path}/none"
    )
    assert late.code == 2
    assert "it is 0.67 s long and has no frame between start and end" in late.err
    assert not (tmp_path / "none").exists()


def test_checkpoints_and_videos_are_named_as_people_do(ucf101_run, many, tmp_path):
    """Run folders, words without a key, sweeps, and names in which Hydra's grammar finds a meaning."""
    run = tmp_path / "my run, v=2 [final]"
    shutil.copytree(ucf101_run, run, ignore=shutil.ignore_patterns("eval"))
    few = ["runtime.threads=1", "report=false", f"dataset.root={many}", "data.workers=0"]
    swept = run_command(
        "vsn-eval", "--multirun", f"checkpoint={run}/checkpoints/best.pt", "protocol=center_1clip,center_2clip", *few
    )
    assert swept.code == 0, swept.err
    assert sorted(path.name for path in (run / "eval" / "best").iterdir()) == ["center_1clip", "center_2clip"]
    shown = run_command("vsn-eval", str(run), "--cfg", "job")
    assert shown.code == 0, shown.err
    assert "???" not in shown.out
    names = ["跑步.avi", "clip (1).avi", "a,b.avi", "x=y.avi", "it's.avi", "50% [final].avi", "v{1}.avi", "end .avi"]
    for name in names:
        shutil.copy(many / CLASSES[0] / f"v_{CLASSES[0]}_g00_c01.avi", tmp_path / name)
    (tmp_path / "100021").mkdir()
    shutil.copy(tmp_path / names[0], tmp_path / "100021" / "0.avi")
    out = f"hydra.run.dir={tmp_path}/out"
    loose = run_command("vsn-predict", str(run), *names, out, "protocol=center_1clip", cwd=tmp_path)
    assert loose.code == 0, loose.err
    found = json.loads((tmp_path / "out" / "prediction.json").read_text())["predictions"]
    assert [each["video"] for each in found] == names
    one = run_command("vsn-predict", f"checkpoint={run}", "video=100021", out, "protocol=center_1clip", cwd=tmp_path)
    assert one.code == 0, one.err
    (prediction,) = json.loads((tmp_path / "out" / "prediction.json").read_text())["predictions"]
    assert prediction["video"] == "100021/0.avi"
    empty = tmp_path / "empty"
    empty.mkdir()
    refused = run_command("vsn-eval", str(empty))
    assert refused.code == 2
    assert "a folder without checkpoints; expected a run folder or a .pt file" in refused.err


def test_results_of_another_checkpoint_are_replaced_as_a_whole_and_one_in_use_is_refused(ucf101_run, many, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(ucf101_run / "checkpoints", run / "checkpoints")
    few = ["runtime.threads=1", f"dataset.root={many}", "data.workers=0", "protocol=center_1clip"]
    first = run_command("vsn-eval", f"checkpoint={run}/checkpoints/last.pt", *few)
    assert first.code == 0, first.err
    folder = run / "eval" / "last" / "center_1clip"
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "scores.npz", "report.html"}
    content = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    torch.save(content | {"epoch": 7}, run / "checkpoints" / "last.pt")
    lock = folder.parent / ".center_1clip"
    lock.mkdir()
    with folder_lock(lock, ""):
        held = run_command("vsn-eval", f"checkpoint={run}/checkpoints/last.pt", "report=false", *few)
    assert held.code == 2
    assert f"is in use by process {os.getpid()}" in held.err
    assert json.loads((folder / "metrics.json").read_text())["epoch"] == 2
    second = run_command("vsn-eval", f"checkpoint={run}/checkpoints/last.pt", "report=false", *few)
    assert second.code == 0, second.err
    assert "replaced the results of an earlier evaluation (checkpoint differed)" in second.out
    assert {path.name for path in folder.iterdir()} == {"metrics.json", "scores.npz"}  # no report of another one
    assert json.loads((folder / "metrics.json").read_text())["epoch"] == 7


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_disk_leaves_the_results_that_were_there_and_names_the_file(ucf101_run, many, tmp_path, devices):
    few = [
        f"checkpoint={ucf101_run}/checkpoints/last.pt", "runtime.threads=1", f"dataset.root={many}", "data.workers=0",
        "protocol=center_1clip", f"hydra.run.dir={tmp_path}/run", f"runtime.devices={devices}",
    ]  # fmt: skip
    folder = tmp_path / "run" / "eval" / "last" / "center_1clip"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text("{}")
    process = Command("vsn-eval", few, tmp_path)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (8000, 8000))  # less than the report
    code, text = process.wait(timeout=300), process.output()
    assert code == 1, text
    (message,) = [line for line in text.splitlines() if line.startswith("vsn-eval: ")]
    assert f"cannot write {folder}/report.html: File too large; make room" in message
    assert "Traceback" not in text
    assert [(path.name, path.read_text()) for path in folder.iterdir() if path.is_file()] == [("metrics.json", "{}")]
    assert not list(folder.parent.glob(".*"))


def test_a_folder_of_predictions_holds_those_of_one_command(ucf101_run, many, tmp_path):
    videos = sorted(many.glob("*/*.avi"))[:2]
    few = [f"checkpoint={ucf101_run}", "protocol=center_1clip", f"hydra.run.dir={tmp_path}/out", "data.workers=0"]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.png").touch()
    (tmp_path / "victim.png").touch()
    with folder_lock(tmp_path / "out", ""):
        held = run_command("vsn-predict", *few, f"video={videos[0]}")
    assert held.code == 2
    assert f"out is in use by process {os.getpid()}" in held.err
    two = run_command("vsn-predict", *few, f"video=[{videos[0]},{videos[1]}]")
    assert two.code == 0, two.err
    pictures = {path.name for path in (tmp_path / "out").iterdir()} - {"prediction.json", "mine.png"}
    assert len(pictures) == 2
    found = json.loads((tmp_path / "out" / "prediction.json").read_text())
    found["predictions"] += [{"picture": "../victim.png"}, {"picture": 3}]
    (tmp_path / "out" / "prediction.json").write_text(json.dumps(found))
    one = run_command("vsn-predict", *few, f"video={videos[0]}")
    assert one.code == 0, one.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"prediction.json", "prediction.png", "mine.png"}
    assert (tmp_path / "victim.png").exists()


def test_links_in_a_foreign_run_folder_lead_nowhere(ucf101_run, many, tmp_path):
    """Whoever made the folder does not choose where we write: nothing outside of it is made, or written through."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim.txt").write_text("whole")
    evaluation = ["runtime.threads=1", f"dataset.root={many}", "data.workers=0", "protocol=center_1clip"]
    training = ["dataset=ucf101", f"dataset.root={many}", *SMALL, "resume=true"]
    for number, (name, to) in enumerate(
        (("eval", "."), ("eval/best", "."), ("eval/best/center_1clip", "."), ("eval/best/.center_1clip", "."),
         ("log.txt", "victim.txt"), ("metrics.jsonl", "victim.txt"), ("tensorboard", "."), ("manifests", "."))
    ):  # fmt: skip
        run = tmp_path / str(number)
        shutil.copytree(ucf101_run, run, ignore=shutil.ignore_patterns("eval", name))
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).symlink_to(outside / to)
        if name.startswith("eval"):
            refused = run_command("vsn-eval", f"checkpoint={run}", *evaluation)
        else:
            refused = run_command("vsn-train", f"hydra.run.dir={run}", *training)
        assert refused.code == 2, (name, refused.err)
        assert f"{run}/{name} is a link to {outside}" in refused.err
        assert [(path.name, path.read_text()) for path in outside.iterdir()] == [("victim.txt", "whole")]


def test_two_trainings_in_one_folder(ucf101, tmp_path):
    (tmp_path / "run").mkdir()
    with folder_lock(tmp_path / "run", ""):
        second = run_command(
            "vsn-train", "dataset=ucf101", f"dataset.root={ucf101}", f"hydra.run.dir={tmp_path}/run", *SMALL
        )
    assert second.code == 2
    assert re.search(r"run is in use by process \d+ on .*; choose another hydra\.run\.dir", second.err)
    assert not list((tmp_path / "run").iterdir())

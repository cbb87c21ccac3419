"""scripts/studies/real.py: never a person on both sides, exact accuracies within pairs, one study to its end."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from scripts.studies import real
from scripts.studies.comparison import Result
from scripts.studies.trainings import run_folder
from tests.conftest import SMALL
from vsn_train.analysis.scores import Scores
from vsn_train.errors import InputError
from vsn_train.models import create_model

CLASSES = ["bend_down", "bend_up", "jack_down", "jack_up"]


@pytest.fixture
def call(tmp_path, monkeypatch):
    """The script in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["real.py", "--output", "out/real", *arguments])
        try:
            real.main()
        except SystemExit as error:
            return int(error.code or 0)
        return 0

    return run


def make_data(folder, frames=7, pixels=0):
    """Nine people, a clip of each in every class and its flipped copy; without images where pixels is 0."""
    rows = ["path,frames,class,label,person,mirrored"]
    generator = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        for person in range(9):
            images = [generator.integers(0, 255, (pixels, pixels, 3), dtype=np.uint8) for _ in range(frames)]
            for flipped, letter in enumerate("ab"):
                path = folder / name / f"p{person}_{letter}_f001"
                path.mkdir(parents=True)
                rows.append(f"{name}/{path.name},{frames},{name},{label},{person},{flipped}")
                for number, image in enumerate(images if pixels else [], 1):
                    Image.fromarray(image[:, ::-1] if flipped else image).save(path / f"{number:05d}.jpg")
    (folder / "clips.csv").write_text("\n".join(rows) + "\n")
    return folder


def make_weights(folder):
    """A whole ResNet-18 in place of the stages that are completed."""
    folder.mkdir()
    torch.save(torchvision.models.resnet18().state_dict(), folder / "resnet18_imagenet_to_layer3.pth")
    (folder / "complete_resnet18.py").write_text(
        "import shutil, sys\nfrom pathlib import Path\n"
        "shutil.copy(Path(__file__).with_name('resnet18_imagenet_to_layer3.pth'), sys.argv[1])\n"
    )
    return folder


def test_without_data_or_weights_it_is_skipped(call, tmp_path, capsys):
    assert call("--data", "nowhere", "--weights-folder", "none") == 0
    said = capsys.readouterr().out
    assert said.startswith("skipped: found no nowhere/clips.csv, no none/resnet18_imagenet_to_layer3.pth, no none/")
    assert said.count("\n") == 1
    make_data(tmp_path / "data")
    assert call("--data", "data", "--weights-folder", "none", "--networks", "mobilenet_v2") == 0
    assert capsys.readouterr().out.startswith("skipped: found no none/mobilenet_v2_imagenet.pth; set --data")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_every_person_is_held_out_once_and_never_on_both_sides(tmp_path):
    clips = real.read_clips(make_data(tmp_path / "data"))
    values = real.write_lists(clips, tmp_path / "lists")
    by_path = {clip.path: clip for clip in clips}
    held_out = []
    for rotation in values:
        sides = []
        for value, split in zip(rotation, ("train", "val"), strict=True):
            key, _, path = value.partition("=")
            assert key == f"dataset.{split}"
            header, *lines = Path(path).read_text().splitlines()
            assert header == "path,label,num_frames"
            sides.append([by_path[line.split(",")[0]] for line in lines])
            assert [f"{clip.path},{clip.label},7" for clip in sides[-1]] == lines
        training, validation = sides
        assert not {clip.person for clip in training} & {clip.person for clip in validation}
        assert {clip.label for clip in training} == {clip.label for clip in validation} == set(CLASSES)
        assert sum(clip.flipped for clip in training) == len(training) / 2 == 24
        assert not any(clip.flipped for clip in validation)
        held_out += validation
    assert sorted(clip.path for clip in held_out) == sorted(clip.path for clip in clips if not clip.flipped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("person", "who"), "expected the columns path, frames, class, person, mirrored"),
        (("bend_up,1,0,0", "bend_up,1,9,0"), "people [9] are in no rotation"),
        (("jack_up", "jack_upward"), "jack_down, jack_upward: expected classes in pairs"),
    ],
)
def test_another_table_is_refused(tmp_path, change, message):
    table = make_data(tmp_path / "data") / "clips.csv"
    table.write_text(table.read_text().replace(*change))
    with pytest.raises(InputError) as error:
        real.read_clips(table.parent)
    assert message in str(error.value)


def made_up(rows):
    """rows: (label, scores of the four classes)."""
    labels, scores = zip(*rows, strict=True)
    ids = np.array([str(number) for number in range(len(labels))])
    return Scores(ids, np.array(labels), np.array(scores, np.float32), np.array(CLASSES), {})


def test_accuracy_within_the_pair_looks_at_the_two_classes_only():
    nan = float("nan")
    outcome = real.outcome_of(
        made_up(
            [
                (0, [3, 1, 0, 0]),  # right
                (1, [1, 3, 9, 9]),  # jack has the highest scores, but up is above down
                (1, [2, 1, 0, 0]),  # wrong within the pair
                (2, [9, 9, -1, -2]),  # right within the pair
                (3, [nan, nan, nan, nan]),  # could not be read: wrong
            ]
        )
    )
    assert outcome == real.Outcome(1, 5, {"bend": (2, 3), "jack": (1, 2)})
    assert (outcome.top1, outcome.within_pair) == (20, 60)
    assert real.together([outcome, outcome]) == real.Outcome(2, 10, {"bend": (4, 6), "jack": (2, 4)})


def outcome(right, clips, bend, jack):
    return real.Outcome(right, clips, {"bend": (bend, clips - 2), "jack": (jack, 2)})


def test_tables_pool_the_rotations_and_pair_the_runs():
    tsn = {(seed, rotation): outcome(2, (4, 6, 10)[rotation], 2, 1) for seed in (0, 1) for rotation in range(3)}
    tsm = {key: outcome(3 + key[0], each.clips, 2, 2) for key, each in tsn.items()}
    part = {(0, 0): tsn[0, 0]}  # two rotations are missing
    found = {"tsn": tsn, "tsm": tsm, "vsn_compact": part}
    header, _, *rows = (
        [cell.strip() for cell in line.strip("|").split("|")] for line in real.accuracy_table(found).splitlines()
    )
    # 20 clips a seed. TSN: 6 right; within pairs 6 of 14 and 3 of 6. TSM: 9 and 12 right; 6 of 14 and 6 of 6.
    assert header == [
        "operator", "runs", "top-1 %", "± seeds", "± runs", "within pair %", "± seeds", "± runs", "bend %", "jack %",
    ]  # fmt: skip
    assert [row[:4] for row in rows] == [["TSN", "6", "30.0", "0.0"], ["TSM", "6", "52.5", f"{15 / 2**0.5:.1f}"]]
    assert rows[0][4] == f"{np.std([50, 100 / 3, 20] * 2, ddof=1):.1f}"
    assert [row[5:7] + row[8:] for row in rows] == [["45.0", "0.0", "42.9", "50.0"], ["60.0", "0.0", "42.9", "100.0"]]

    several = {(each.measure, each.operator, each.base): each for each in real.differences(found)}
    gain = several["within pair", "tsm", "tsn"]
    steps = [25, 100 / 6, 10] * 2
    assert gain.mean == pytest.approx(np.mean(steps))
    assert gain.half == pytest.approx(2.571 * np.std(steps, ddof=1) / 6**0.5)  # Student's t of 5 degrees of freedom
    assert gain.runs == 6
    assert several["top-1", "tsn", "tsm"].mean == -several["top-1", "tsm", "tsn"].mean
    single = several["top-1", "vsn_compact", "tsm"]
    assert (single.mean, single.half, str(single)) == (-25, None, "-25.0 (one run)")
    assert "| TSN " in real.difference_table(found)


def test_finished_runs_are_reported_without_training(call, tmp_path, capsys):
    """The document of six runs that were made up, in the place where the study looks for them."""
    clips = real.read_clips(make_data(tmp_path / "data"))
    make_weights(tmp_path / "weights")
    for operator, bonus in (("tsn", 0.0), ("tsm", 3.0)):
        for rotation, held_out in enumerate(real.HELD_OUT):
            run = real.Run("resnet18", operator, rotation, 0)
            folder = run_folder(tmp_path / "runs", *run.place)
            (folder / "eval" / "best" / "center_1clip").mkdir(parents=True)
            (folder / "checkpoints").mkdir()
            _, validation = real.split_clips(clips, held_out)
            labels = [CLASSES.index(clip.label) for clip in validation]
            # Always "down", unless the bonus of the clip's own class is larger.
            rows = [(label, [1 - k % 2 + bonus * (k == label) for k in range(4)]) for label in labels]
            made_up(rows).save(folder / "eval" / "best" / "center_1clip" / "scores.npz")
            result = Result(
                run.place[0], operator, 0, 50.0, 100.0, len(rows), 4, 20, "center_1clip", f"m{rotation}", "resnet18",
                8, 64, 8, 48, 60.0,
            )  # fmt: skip
            (folder / "result.json").write_text(json.dumps(asdict(result)))
    what = ["--data", "data", "--weights-folder", "weights", "--networks", "resnet18", "--operators", "tsn", "tsm"]
    what += ["--seeds", "0", "--runs", "runs", "resnet18:optimizer.lr=0.01"]
    assert call(*what) == 0, capsys.readouterr().err
    assert "0 of 6 runs to train" in capsys.readouterr().out
    assert not list(tmp_path.rglob("checkpoints"))
    text = (tmp_path / "out" / "real.md").read_text()
    for part in (
        "mocogan @ 937a99d", "ImageNet up to layer3", "not part of this project", "resnet18:optimizer.lr=0.01",
        "8 frames of 64 x 64 pixels, epochs: 20, in batches of 8", "| 0        |         2, 5, 8 |",
        "- seeds: 0\n", "- versions: torch",
    ):  # fmt: skip
        assert part in text
    assert str(tmp_path) not in text
    assert "shared" not in text
    stored = json.loads((tmp_path / "out" / "real.json").read_text())["results"]
    assert [(row["operator"], row["within_pair"], row["clips"]) for row in stored["pooled"]] == [
        ("tsn", 50.0, 36), ("tsm", 100.0, 36),
    ]  # fmt: skip
    assert [row["mean"] for row in stored["differences"] if row["measure"] == "within pair"] == [50.0, -50.0]
    assert (tmp_path / "out" / "real.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # six trainings and six evaluations, each with a start of Python
def test_it_trains_evaluates_and_goes_on(call, tmp_path, capsys):
    make_data(tmp_path / "data", pixels=24)
    make_weights(tmp_path / "weights")
    small = [value for value in SMALL if value.partition(".")[0] == "data" and "workers" not in value]
    what = ["--data", "data", "--weights-folder", "weights", "--networks", "resnet18", "--runs", "runs"]
    what += ["--operators", "tsn", "tsm", "--seeds", "0", *small, "backbone.num_frames=4", "schedule.epochs=1"]
    assert call(*what, "--minutes", "0") == 2
    assert "no operator has all three rotations of a seed yet" in capsys.readouterr().err
    assert call(*what) == 0, capsys.readouterr().err
    assert "6 of 6 runs to train" in capsys.readouterr().out
    stored = json.loads((tmp_path / "out" / "real.json").read_text())["results"]
    assert [(row["operator"], row["rotation"], row["clips"], row["epochs"]) for row in stored["runs"]] == [
        (operator, rotation, 12, 1) for rotation in range(3) for operator in ("tsn", "tsm")
    ]  # fmt: skip
    for row in stored["runs"]:
        folder = run_folder(tmp_path / "runs", f"resnet18/rotation{row['rotation']}", row["operator"], 0)
        last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
        assert last["top1"] == pytest.approx(row["top1"])
        assert "120 tensors loaded" in (folder / "log.txt").read_text()
    before = (tmp_path / "out" / "real.json").read_text()
    assert call(*what) == 0
    assert "0 of 6 runs to train" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "real.json").read_text())["results"] == json.loads(before)["results"]
    assert call(*what, "optimizer.lr=0.5") == 2
    assert "give the same values or choose another --runs" in capsys.readouterr().err


def test_mobilenet_trains_sth_once_because_integration_has_no_effect_in_it(call, tmp_path, capsys):
    make_data(tmp_path / "data")
    weights = make_weights(tmp_path / "weights")
    (weights / "mobilenet_v2_imagenet.pth").touch()
    options = ["--data", "data", "--weights-folder", "weights", "--runs", "runs", "--seeds", "0", "--minutes", "0"]
    assert call(*options, "--operators", "sth", "sth:integration=sum") == 2  # no time for a run
    assert "9 of 9 runs to train" in capsys.readouterr().out  # two forms in ResNet-18, one in MobileNetV2
    assert call(*options, "--networks", "mobilenet_v2", "--operators", "sth") == 2
    assert "3 of 3 runs to train" in capsys.readouterr().out
    networks = []
    for integration in ("sum", "attention"):
        torch.manual_seed(0)
        networks.append(create_model("sth", "mobilenet_v2", 2, 3, integration=integration).state_dict())
    assert networks[0].keys() == networks[1].keys()
    assert all(torch.equal(networks[0][key], networks[1][key]) for key in networks[0])

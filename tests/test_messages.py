"""Wrong input: one message with what was found, what was expected and what to do; exit code 2; nothing left behind."""

from __future__ import annotations

import math
import pickle
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import SMALL, run_command
from vsn_train import cli
from vsn_train.config import Backbone, Data, Predict, Runtime, check_predict
from vsn_train.data.protocol import Protocol
from vsn_train.errors import InputError


def refused(command: str, *arguments: str, cwd: Path) -> str:
    result = run_command(command, *arguments, cwd=cwd)
    assert result.code == 2, (result.code, result.err)
    assert "Traceback" not in result.err
    assert result.err.count("\n") == 1, result.err
    assert list(cwd.iterdir()) == [], "something was left behind"
    return result.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optimizer.lrr=1"], "vsn-train: unknown key 'optimizer.lrr', did you mean optimizer.lr"),
        (["worker=2"], "unknown key 'worker'"),
        (["batch_size=2"], "unknown key 'batch_size', did you mean data.batch_size?"),
        (["+new=1"], "unknown key '+new=1': keys cannot be added; to change one write new=…"),
        (["--multirun", "--cfg", "job"], "Only one of --run, --multirun, --cfg, --info and --shell_completion"),
        (["--resolve"], "The --resolve flag can only be used in conjunction with --cfg or --help"),
        (["seed=abc"], "seed=abc: expected a whole number"),
        (["datset=custom"], "unknown key 'datset', did you mean dataset?"),
        (["optimizer.lr=fast"], "optimizer.lr=fast: expected a number"),
        (["resume=perhaps"], "resume=perhaps: expected true or false"),
        (
            ["backbone=tsmm"],
            "backbone=tsmm: no such choice; expected one of sth, tsm, tsm_online, tsn, vsn_compact, vsn_headtail",
        ),
        (["dataset=ucf"], "dataset=ucf: no such choice; expected one of custom, hmdb51, jester, kinetics400, motion, "),
        (["runtime.device=gpu"], "runtime.device=gpu: expected one of auto, cpu, cuda"),
        (["data.modality=depth"], "data.modality=depth: expected one of rgb, flow"),
        (["data.modality=flow", "augment.hue=0.1"], "augment.hue=0.1 with data.modality=flow: flow has no colours"),
        (["data.batch_size=0"], "data.batch_size=0: expected a number above 0"),
        (["data.short_side=20"], "is larger than data.short_side=20: the crop would not fit"),
        (["protocol.crops=4"], "protocol.crops=4: expected one of 1, 3, 5, 10"),
        (["backbone.arch=resnet19"], "arch 'resnet19': expected one of resnet18, resnet34, resnet50"),
        (["weights=nowhere.pth"], "nowhere.pth: no such file"),
        (["weights=any.pth", "weights_class_order=nowhere.txt"], "weights_class_order=nowhere.txt: no such file"),
        (["resume=true", "name=mine"], "resume=true, but no run under runs/mine holds a checkpoint"),
        (["resume=true", "hydra.run.dir=run"], "run/checkpoints/last.pt: no such file"),
        (["dataset=ucf101", "dataset.root=/no/where"], "dataset.root=/no/where: no such folder"),
        (["dataset=ucf101", "dataset.root=~/no-where"], f"dataset.root={Path.home()}/no-where: no such folder"),
        (["runtime.device=cuda"], "torch finds no CUDA device"),
        (["schedule.epochs=[1"], "schedule.epochs=[1"),
    ],
)
def test_vsn_train(arguments, message, tmp_path, motion_cache):
    if "runtime.device=cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    values = [] if arguments[0].startswith("dataset=") else motion_cache
    assert message in refused("vsn-train", *values, *arguments, cwd=tmp_path)


@pytest.fixture(scope="session")
def motion_cache(tmp_path_factory):
    """A data set that is there, so that the message is about the argument under test."""
    root = tmp_path_factory.mktemp("cache")
    values = [f"dataset.root={root}", "dataset.train_videos=12", "dataset.val_videos=12"]
    result = run_command("vsn-train", *values, *SMALL, "schedule.epochs=1", f"hydra.run.dir={root}/run", cwd=root)
    assert result.code == 0, result.err
    return values


def test_wrong_lists_and_videos_of_a_data_set(ucf101, tmp_path_factory):
    top, cwd = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("cwd")
    shutil.copytree(ucf101.parent, top, dirs_exist_ok=True)
    values = ["dataset=ucf101", f"dataset.root={top}/UCF-101", *SMALL]
    listing = top / "ucfTrainTestlist" / "trainlist01.txt"
    lines = listing.read_text()
    listing.write_text("")
    assert "trainlist01.txt: the list is empty; expected one video per line" in refused("vsn-train", *values, cwd=cwd)
    listing.write_text(lines.replace("c01.avi 3", "c01.avi 102"))
    assert "label 102, but HandstandPushups is 3 in classInd.txt, which has 3 classes (1 to 3)" in refused(
        "vsn-train", *values, cwd=cwd
    )


@pytest.mark.parametrize("command", ["vsn-eval", "vsn-predict"])
def test_vsn_eval_and_predict_without_a_good_checkpoint(command, ucf101_run, tmp_path_factory):
    top, cwd = tmp_path_factory.mktemp("bad"), tmp_path_factory.mktemp("cwd")
    more = ["video=any.mp4"] if command == "vsn-predict" else []
    whole = (ucf101_run / "checkpoints" / "last.pt").read_bytes()
    (top / "truncated.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"model": RunsCode()}, top / "code.pt")
    torch.save({"state_dict": {}}, top / "foreign.pt")
    assert "checkpoint is not given; add checkpoint=…" in refused(command, *more, cwd=cwd)
    assert "unknown key 'dataa.workers', did you mean data.workers" in refused(command, "dataa.workers=1", cwd=cwd)
    for name, message in {
        "nothing.pt": "no such file",
        "truncated.pt": "truncated, or not a checkpoint",
        "code.pt": "holds Python objects that would run code when loaded",
        "foreign.pt": "not a checkpoint of this version of vsn-train",
    }.items():
        text = refused(command, f"checkpoint={top}/{name}", *more, cwd=cwd)
        assert f"{top}/{name}: " in text
        assert message in text
        assert "RAN" not in text


class RunsCode:
    def __reduce__(self):
        return (exec, ("print('RAN')",))


def test_a_file_that_would_run_code_would_run_it_elsewhere(capsys):
    pickle.loads(pickle.dumps(RunsCode()))
    assert "RAN" in capsys.readouterr().out


def test_arguments_that_do_not_fit_the_checkpoint(ucf101_run, motion_cache, tmp_path_factory):
    cwd = tmp_path_factory.mktemp("cwd")
    checkpoint = f"checkpoint={ucf101_run}/checkpoints/last.pt"
    out = "hydra.run.dir=out"
    assert "backbone.num_frames=16, but" in (
        text := refused("vsn-eval", checkpoint, out, "backbone.num_frames=16", cwd=cwd)
    )
    assert "was trained with 4; leave backbone.num_frames out" in text
    assert "backbone.operator=tsn" in refused("vsn-eval", checkpoint, out, "backbone.operator=tsn", cwd=cwd)
    assert "data.modality=flow, but" in (text := refused("vsn-eval", checkpoint, out, "data.modality=flow", cwd=cwd))
    assert "was trained on rgb; leave data.modality out, or use a checkpoint" in text
    assert "motion has 12 classes and" in refused("vsn-eval", checkpoint, out, "dataset=motion", *motion_cache, cwd=cwd)
    assert "unknown key 'dataset.variant'" in refused("vsn-eval", checkpoint, "dataset.variant=x", cwd=cwd)
    assert "cannot read nowhere.mp4" in refused("vsn-predict", checkpoint, "video=nowhere.mp4", cwd=cwd)


@pytest.mark.parametrize("arguments", [["--help"], ["optimizer.lrr=1"], ["seed=abc"]])
def test_help_and_mistakes_are_answered_before_torch_is_imported(arguments, tmp_path):
    # A stand-in that fails when imported: the promise "in under 2 seconds" without a clock.
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    started = time.perf_counter()
    result = run_command("vsn-train", *arguments, PYTHONPATH=str(tmp_path))
    assert result.code == (0 if arguments == ["--help"] else 2), result.err
    assert "torch was imported" not in result.err
    if arguments == ["--help"]:
        assert "backbone    sth, tsm, tsm_online, tsn, vsn_compact, vsn_headtail\n" in result.out
        assert "_schema" not in result.out
    assert time.perf_counter() - started < 30  # far above what it takes: only a hang fails


def test_official_files_of_another_data_set(tmp_path_factory):
    top, cwd = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("cwd")
    values = ["dataset=jester", f"dataset.root={top}", *SMALL]
    (top / "kinetics-400_val.csv").touch()
    assert "found no jester-v1-labels.csv in" in (text := refused("vsn-train", *values, cwd=cwd))
    assert "only kinetics-400_val.csv; unpack the official annotation files there, or name their folder with" in text
    (top / "jester-v1-labels.csv").write_text("Swiping Left\nSwiping Right\n")
    (top / "jester-v1-train.csv").write_text("1;Swiping Left\n2;Holding something\n")
    message = (
        f"{top}/jester-v1-train.csv line 2: class 'Holding something' is not one of the 2 classes of jester-v1-lab"
    )
    assert message in refused("vsn-train", *values, cwd=cwd)
    assert "dataset.class_order=alphabetic: expected one of official, sorted" in refused(
        "vsn-train", *values, "dataset.class_order=alphabetic", cwd=cwd
    )
    assert "dataset.split=4: expected one of 1, 2, 3" in refused(
        "vsn-train", "dataset=hmdb51", "dataset.split=4", cwd=cwd
    )


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("train", "datset=custom", "unknown key 'datset', did you mean dataset?"),
        ("train", "backbon=tsn", "unknown key 'backbon', did you mean backbone?"),
        ("train", "optimiser=adamw", "unknown key 'optimiser', did you mean optimizer?"),
        ("train", "scedule.epochs=3", "unknown key 'scedule.epochs', did you mean schedule.epochs"),
        ("train", "seed=-1", "seed=-1: expected a whole number from 0 to 2^63 - 1"),
        ("train", "seed=9223372036854775808", "expected a whole number from 0 to 2^63 - 1"),
        ("train", "schedule.warmup_epochs=nan", "schedule.warmup_epochs=nan: expected a finite number"),
        ("train", "optimizer=adamw optimizer.betas=[nan,0.9]", "optimizer.betas=[nan, 0.9]: expected finite numbers"),
        ("train", "optimizer.clip_norm=-inf", "optimizer.clip_norm=-inf: expected a finite number"),
        ("train", "data.crop_size=300", "data.crop_size=300 is larger than data.short_side=36"),
        ("train", "validation.crop_size=300", "validation.crop_size=300 is larger than data.short_side=36"),
        ("train", "data.workers=-1", "data.workers=-1: expected zero or more"),
        ("train", "backbone.num_frames=1000000", "backbone.num_frames=1000000: expected at most 1024"),
        ("train", "runtime.views_per_batch=0", "runtime.views_per_batch=0: expected a number above 0"),
        ("train", "checkpoints.milestones=[0]", "checkpoints.milestones=[0]: expected epochs, counted from 1"),
        ("train", "weights=", "weights=: expected a path"),
        ("train", "dataset.root=", "dataset.root=: expected a path"),
        ("train", "hydra.run.dir=", "hydra.run.dir=: expected a folder to write to"),
        ("train", "name=null", "name=null: expected a value"),
        ("train", "~seed", "~seed: keys cannot be removed; leave it out"),
        ("eval", "checkpoint=x.pt datset=motion", "unknown key 'datset', did you mean dataset?"),
        ("eval", "checkpoint=x.pt protocl=center_1clip", "unknown key 'protocl', did you mean protocol?"),
        ("predict", "checkpoint=x.pt", "x.pt: no such file"),
    ],
)
def test_mistakes_are_found_before_anything_is_loaded(command, words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"vsn-{command}", *words.split()])
    with pytest.raises(SystemExit) as ended:
        {"train": cli.train, "eval": cli.evaluate, "predict": cli.predict}[command]()
    assert ended.value.code == 2
    assert message in (told := capsys.readouterr().err)
    assert told.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"video": None}, "video=null: expected a path"),
        ({"video": ""}, "video=: expected a path"),
        ({"video": []}, "video=[]: expected one or more files"),
        ({"video": ["a.mp4", None]}, "video=null: expected a path"),
        ({"start": math.nan}, "start=nan: expected a finite number"),
        ({"end": math.inf}, "end=inf: expected a finite number"),
    ],
)
def test_what_vsn_predict_is_given(values, message):
    config = Predict("best.pt", "a.mp4", **{"backbone": Backbone("tsn"), "data": Data(), "runtime": Runtime(),
                     "protocol": Protocol(1, "uniform", 1, 256, 224)})  # fmt: skip
    check_predict(config)
    with pytest.raises(InputError) as refused:
        check_predict(replace(config, **values))
    assert message in str(refused.value)

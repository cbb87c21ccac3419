"""The losses of twenty steps with every operator, beside the committed ones.

Every piece of a training has its own test, and yet a constant can be wrong: a group's learning rate, the length of the
warm-up, the mean of the pixels, the deviation that a classifier starts with. Here such a constant moves a number. A
change that is meant to move it writes the numbers anew (of the cases that are named, or of all):

    .venv/bin/python -m tests.engine.test_golden_losses --write sth

`--check` shows how far other rounding moves every case, `--sensitivity` how far the constants of the recipe do. The
learning rates are the compromise: with thirty times higher ones, the rounding of another processor grows into the
second digit of a loss. Dropout stays out: where torch has MKL, its draws are MKL's.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.io import write_png

from tests.conftest import run_command
from vsn_train.data import transforms
from vsn_train.data.loader import Batch, EpochBatches
from vsn_train.data.workers import Loader
from vsn_train.engine.checkpoint import Checkpoints
from vsn_train.engine.distributed import Process
from vsn_train.engine.interrupts import Interrupts
from vsn_train.engine.log import RunLog
from vsn_train.engine.optim import Schedule, build_adamw, build_average, build_sgd, lr_factor
from vsn_train.engine.precision import autocast_for, scaler_for
from vsn_train.engine.state import TrainState
from vsn_train.engine.train import StepOptions, TrainOptions, train
from vsn_train.models import create_model

GOLDEN = Path(__file__).with_name("golden_losses.json")
TOLERANCE = 1e-3  # relative
CPU = Process(0, 1, torch.device("cpu"))
CLASSES, FRAMES, SIDE, VIDEOS, EPOCHS = 5, 4, 32, 16, 5
LR = 1e-4
CASES: dict[str, dict[str, Any]] = {
    "tsn": {"operator": "tsn"},
    "tsm": {"operator": "tsm", "mixup": 0.2},
    "tsm placement=inplace": {"operator": "tsm", "placement": "inplace"},
    "vsn_compact": {"operator": "vsn_compact"},
    "vsn_compact standard_block=plain": {"operator": "vsn_compact", "standard_block": "plain"},
    "vsn_headtail": {"operator": "vsn_headtail"},
    "sth integration=attention": {"operator": "sth", "integration": "attention"},
    "sth integration=sum": {"operator": "sth", "integration": "sum"},
    "sth variant=merge": {"operator": "sth", "variant": "merge"},
    "tsm mobilenet_v2": {"operator": "tsm", "arch": "mobilenet_v2", "lr": 3e-5, "partial_bn": True},
    "sth mobilenet_v2": {"operator": "sth", "arch": "mobilenet_v2", "lr": 3e-5, "partial_bn": True},
    "tsn adamw ema accumulate": {
        "operator": "tsn", "adamw": True, "lr": 3e-5, "accumulate": 2, "mixup": 0.2, "ema": 0.9, "milestones": None,
    },
}  # fmt: skip
BY_COMMAND = "vsn-train with augmentation"
COMMAND = {
    "backbone": "tsm", "backbone.arch": "resnet18", "backbone.num_frames": FRAMES, "backbone.dropout": 0,
    "data.crop_size": SIDE, "data.short_side": 40, "data.batch_size": 4, "data.workers": 0, "schedule.epochs": EPOCHS,
    "schedule.warmup_epochs": 1, "optimizer.lr": 1e-4, "optimizer.reference_batch": 0, "optimizer.clip_norm": 8,
    "optimizer.label_smoothing": 0.1, "augment.mixup": 0.2, "augment.cutmix": 0.2, "runtime.precision": "fp32",
    "runtime.channels_last": False, "runtime.threads": 1, "runtime.log_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


@contextmanager
def one_thread():
    """Sums of several threads are rounded otherwise; the draws of what runs after this stay its own."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(threads)


def fixed_clip(index: int, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """uint8 (T, 3, H, W): squares in the colours of the class, which change with time, under noise of the video."""
    of_class, of_video = (torch.Generator().manual_seed(seed) for seed in (1000 + index % CLASSES, index))
    squares = torch.randint(192, (FRAMES, 3, 4, 4), generator=of_class, dtype=torch.uint8)
    clip = squares.repeat_interleave(height // 4, 2).repeat_interleave(width // 4, 3)
    return clip + torch.randint(64, clip.shape, generator=of_video, dtype=torch.uint8)


class FixedClips:
    manifest = SimpleNamespace(sample_id=str)

    def __getitem__(self, key):
        return fixed_clip(key[1]), key[1] % CLASSES


def collate(samples):
    return Batch(torch.stack([clip for clip, _ in samples]), torch.tensor([label for _, label in samples]), ())


def run(  # noqa: PLR0913 (each is a setting whose wrong constant is to be found)
    operator, arch="resnet18", adamw=False, lr=LR, accumulate=1, milestones=(4,), ema=0.0, mixup=0.0, *,
    momentum=0.9, head=5.0, decay_of_rate=0.1, warmup=1.0, smoothing=0.1, clip_norm=8.0, steps=20, **options,
):  # fmt: skip
    """What is compared: the loss of each step, of the averaged weights after each epoch, and norms of the start."""
    torch.manual_seed(1)
    model = create_model(operator, arch, FRAMES, CLASSES, dropout=0.0, **options)
    start = norms_of_start(model)
    if options.get("partial_bn"):
        settle_norms(model)
    batches = EpochBatches(VIDEOS, 4 // accumulate, 0, 1, seed=2, accumulate=accumulate)
    # fused: the same step in a third of the time
    if adamw:
        optimizer = build_adamw(model, lr, (momentum, 0.999), 1e-8, 0.05, head, fused=True)
    else:
        optimizer = build_sgd(model, lr, momentum, 5e-4, head, fused=True)
    factor = partial(
        lr_factor, steps_per_epoch=len(batches), epochs=EPOCHS, warmup_epochs=warmup, milestones=milestones,
        factor=decay_of_rate,
    )  # fmt: skip
    state = TrainState(
        model, optimizer, Schedule(optimizer, factor), scaler_for("fp32", CPU.device),
        build_average(model, ema) if ema else None,
    )  # fmt: skip
    state.set_rates(batches)
    means, averaged = [], []
    log = RunLog(None)
    log.metrics = lambda split, epoch, step, **values: means.append(values["loss"])

    def validate(position):
        if state.average:
            averaged.append(loss_on_all(state.average.module.eval()))
        return 0.0

    step = StepOptions(autocast_for("fp32", CPU.device), clip_norm, smoothing, mixup)
    train(
        state, Loader(FixedClips(), batches, collate, 0), batches, validate, Checkpoints(Path(), dict, False),
        Interrupts(), CPU, log, TrainOptions(step, steps // len(batches), seed=3, log_every=1, max_bad_share=0.0),
    )  # fmt: skip
    return {"loss": of_steps(means, len(batches)), "averaged": averaged, "start": start}


def of_steps(means: list[float], per_epoch: int) -> list[float]:
    """The loss of each step, from the log's means over the epoch so far; all steps have as many videos."""
    return [
        mean * (i % per_epoch + 1) - (means[i - 1] * (i % per_epoch) if i % per_epoch else 0.0)
        for i, mean in enumerate(means)
    ]


def norms_of_start(model: nn.Module) -> dict[str, float]:
    """Of the parameters together that have the same name in their layers, and of the classifier's."""
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        kind = name if name.startswith("head.") else name.rpartition(".")[2]
        squares[kind] = squares.get(kind, 0.0) + float(parameter.detach().double().square().sum())
    return {kind: square**0.5 for kind, square in sorted(squares.items())}


def settle_norms(model: nn.Module) -> None:
    """Let the batch norms that will not learn fit the clips, as those of a pretrained network do.

    The bias brings their outputs to where ReLU6 is straight. Fifty layers of kinks, or of norms over sixteen values,
    would make chaos of rounding: from the seventh digit to the second within these steps.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.constant_(norm.bias, 3.0)
        norm.train().momentum = 1.0
    loss_on_all(model)
    for norm in norms:
        norm.momentum = 0.1
    model.train()


@torch.no_grad()
def loss_on_all(model: nn.Module) -> float:
    video = transforms.normalize(torch.stack([fixed_clip(index) for index in range(VIDEOS)]))
    return float(F.cross_entropy(model(video), torch.arange(VIDEOS) % CLASSES))


def run_by_command(folder: Path, environment: dict[str, str] | None = None, **change: Any) -> dict[str, Any]:
    """The same of the installed command: its own start, groups, schedule and augmentation, of images without loss."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(VIDEOS):
        video = folder / f"video{index}"
        video.mkdir(exist_ok=True)
        for number, frame in enumerate(fixed_clip(index, 40, 56), 1):
            write_png(frame, str(video / f"{number:05}.png"))
    rows = [f"video{index},{index % CLASSES}\n" for index in range(VIDEOS)]
    (folder / "classes.txt").write_text("".join(f"class{label}\n" for label in range(CLASSES)))
    (folder / "train.csv").write_text("".join(rows))
    (folder / "val.csv").write_text("".join(rows[:CLASSES]))
    keys = COMMAND | {
        "dataset": "custom", "dataset.root": folder, "dataset.classes": "classes.txt",
        "dataset.flip_pairs": "[[class0,class1]]", "dataset.allow_overlap": True, "hydra.run.dir": folder / "run",
    }  # fmt: skip
    values = [f"{key}={value}" for key, value in (keys | change).items()]
    result = run_command("vsn-train", *values, **(environment or {}))
    assert result.code == 0, result.err
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    means = [line["loss"] for line in lines if line["split"] == "train"]
    return {"loss": of_steps(means, VIDEOS // 4), "averaged": [], "start": {}}


def differences(name: str, found: dict[str, Any], golden: dict[str, Any]) -> dict[str, float]:
    """What is compared, in words -> how far it is from the committed number, relative."""
    pairs = {f"{name}: start, norm of {kind}": (found["start"].get(kind), was) for kind, was in golden["start"].items()}
    for key, what in (("loss", "step"), ("averaged", "averaged weights after epoch")):
        assert len(found[key]) == len(golden[key]), f"{name}: {len(found[key])} {key}, {len(golden[key])} committed"
        pairs |= {
            f"{name}: {what} {number}": pair for number, pair in enumerate(zip(found[key], golden[key], strict=True), 1)
        }
    assert found["start"].keys() == golden["start"].keys(), f"{name}: other kinds of parameters; write the file anew"
    return {
        f"{words}: {now:.6f}, committed {was:.6f}": abs(now - was) / max(abs(was), 1e-9)
        for words, (now, was) in pairs.items()
    }


def compare(name: str, found: dict[str, Any]) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert name in golden, f"{name}: no committed losses; --write makes them"
    wrong = [words for words, far in differences(name, found, golden[name]).items() if not far <= TOLERANCE]
    assert not wrong, "\n".join(wrong[:5]) + f"\n{len(wrong)} in all; meant to be? see the head of {__file__}"


@pytest.mark.parametrize("name", CASES)
def test_the_losses_are_the_committed_ones(name):
    compare(name, run(**CASES[name]))


def test_so_are_those_of_the_command_with_augmented_clips(tmp_path):
    compare(BY_COMMAND, run_by_command(tmp_path))


def test_the_committed_losses_fall():
    golden = json.loads(GOLDEN.read_text())
    assert golden.keys() == CASES.keys() | {BY_COMMAND}
    for name, case in golden.items():
        assert len(case["loss"]) == 20
        if name != BY_COMMAND:  # which sees other crops and other mixed clips in each of its five epochs
            assert sum(case["loss"][-4:]) < 0.98 * sum(case["loss"][:4]), name


def test_a_rate_and_a_start_five_percent_off_are_seen():
    golden = json.loads(GOLDEN.read_text())["tsm"]
    off = differences("tsm", run(**CASES["tsm"], lr=1.05 * LR), golden)
    assert next(far for words, far in off.items() if "step 20" in words) > TOLERANCE
    with classifier_of_deviation(0.00105):
        off = differences("tsm", run(**CASES["tsm"], steps=0), golden | {"loss": []})
    assert next(far for words, far in off.items() if "head.weight" in words) > TOLERANCE


def classifier_of_deviation(std: float) -> Any:
    normal = nn.init.normal_
    return mock.patch.object(nn.init, "normal_", lambda weight, **_: normal(weight, std=std))


# ---- The command line ------------------------------------------------------------------------------------------------


def found_now(names: list[str]) -> dict[str, Any]:
    found = {}
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        for name in names:
            found[name] = run_by_command(Path(folder)) if name == BY_COMMAND else run(**CASES[name])
    return found


def farthest(name: str, found: dict[str, Any], golden: dict[str, Any]) -> str:
    off = differences(name, found, golden)
    last = next(far for words, far in off.items() if " step 20:" in words)
    start = max((far for words, far in off.items() if ": start," in words), default=0.0)
    rest = max(far for words, far in off.items() if ": start," not in words)
    return f"start {start:.1e}, losses {rest:.1e}, last {last:.1e}"


def check(names: list[str]) -> None:
    """Beside the committed numbers: other kernels of torch, those of an old processor, and none of oneDNN."""
    golden = json.loads(GOLDEN.read_text())
    old = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41"}
    command = [sys.executable, "-m", "tests.engine.test_golden_losses", "--print", *names]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, env=os.environ | old, stdout=subprocess.PIPE, text=True, check=True)
    for name, found in json.loads(done.stdout.splitlines()[-1]).items():
        print(f"{name:34} old processor    {farthest(name, found, golden[name])}", flush=True)
    with torch.backends.mkldnn.flags(enabled=False):
        for name in names:
            if name != BY_COMMAND:
                found = found_now([name])[name]
                print(f"{name:34} without oneDNN   {farthest(name, found, golden[name])}", flush=True)


def sensitivity(names: list[str]) -> None:
    """Beside the committed numbers: constants of the recipe, five percent off where they can be."""
    golden = json.loads(GOLDEN.read_text())
    for name in names:
        if name == BY_COMMAND:
            changes = {
                "optimizer.lr": 1.05e-4, "optimizer.momentum": 0.855, "optimizer.head_lr_factor": 5.25,
                "optimizer.label_smoothing": 0.105, "augment.mixup": 0.21, "augment.cutmix": 0.21,
                "augment.scales": "[1,0.875,0.75,0.693]", "augment.flip": "false", "seed": 1,
                "schedule.warmup_epochs": 1.25,
            }  # fmt: skip
            for key, value in changes.items():
                with tempfile.TemporaryDirectory() as folder:
                    found = run_by_command(Path(folder), **{key: value})
                print(f"{name:34} {key}={value}  {farthest(name, found, golden[name])}", flush=True)
            continue
        case = CASES[name]
        keys = {"lr": LR, "momentum": 0.9, "head": 5.0, "smoothing": 0.1, "decay_of_rate": 0.1, "clip_norm": 8.0}
        keys |= {key: case[key] for key in ("lr", "mixup", "ema") if case.get(key)}
        changes = {key: value * (0.95 if key in ("ema", "momentum") else 1.05) for key, value in keys.items()}
        for key, value in (changes | {"warmup": 1.25}).items():
            with one_thread():
                print(
                    f"{name:34} {key}={value:g}  {farthest(name, run(**case | {key: value}), golden[name])}", flush=True
                )
        with one_thread(), classifier_of_deviation(0.00105):
            print(f"{name:34} classifier's start  {farthest(name, run(**case), golden[name])}", flush=True)
        for constant in ("MEAN", "STD"):
            wrong = tuple(1.05 * each for each in getattr(transforms, constant))
            with one_thread(), mock.patch.object(transforms, constant, wrong):
                print(f"{name:34} {constant}  {farthest(name, run(**case), golden[name])}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="The numbers of golden_losses.json.")
    action = parser.add_mutually_exclusive_group(required=True)
    for each in ("write", "check", "sensitivity", "print"):
        action.add_argument(f"--{each}", action="store_true")
    parser.add_argument("names", nargs="*", help="parts of the cases' names; without any, all cases")
    options = parser.parse_args()
    names = [case for case in [*CASES, BY_COMMAND] if not options.names or any(name in case for name in options.names)]
    if options.check or options.sensitivity:
        (check if options.check else sensitivity)(names)
        return
    found = found_now(names)
    if options.print:
        print(json.dumps(found))
        return
    golden = (json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}) | found
    golden = {name: golden[name] for name in [*CASES, BY_COMMAND] if name in golden}
    rounded = json.loads(json.dumps(golden), parse_float=lambda text: float(f"{float(text):.7g}"))
    rows = [f"{json.dumps(name)}: {json.dumps(case)}" for name, case in rounded.items()]
    GOLDEN.write_text("{\n" + ",\n".join(rows) + "\n}\n")
    print(f"{GOLDEN}: {', '.join(names)}")


if __name__ == "__main__":
    main()

"""What a checkpoint holds, and that a state comes back from it as it was."""

from __future__ import annotations

from dataclasses import MISSING, fields

import numpy as np
import torch

from tests.runs import checkpoint_with
from vsn_train.data.loader import Batch, EpochBatches
from vsn_train.engine.checkpoint import load_checkpoint, save_checkpoint
from vsn_train.engine.distributed import Process
from vsn_train.engine.optim import Schedule, build_average, build_sgd
from vsn_train.engine.precision import autocast_for, scaler_for
from vsn_train.engine.state import Checkpoint, TrainState
from vsn_train.engine.train import StepOptions, train_step
from vsn_train.models import create_model

CPU = Process(0, 1, torch.device("cpu"))

# What the files of earlier versions have, in this order: those files are to be read, and theirs to read ours.
KEYS = (
    "format", "version", "model", "average", "optimizer", "scaler", "processes", "step_videos", "choices",
    "metrics_bytes", "config", "class_names", "flip_pairs", "flips_allowed", "manifests", "mixing", "epoch", "step",
    "videos", "unreadable", "sums", "best",
)  # fmt: skip


def make_state(seed: int) -> TrainState:
    torch.manual_seed(seed)
    model = create_model("sth", "resnet18", num_frames=2, num_classes=3, integration="attention", dropout=0)
    optimizer = build_sgd(model, 0.01, 0.9, 1e-4, 1)
    schedule = Schedule(optimizer, lambda steps: 1 / (1 + steps))
    return TrainState(model, optimizer, schedule, scaler_for("fp32", CPU.device), build_average(model, 0.9))


def step(state: TrainState, batches: EpochBatches) -> float:
    generator = torch.Generator().manual_seed(state.position.step)
    clips = torch.randint(256, (2, 2, 3, 32, 32), generator=generator, dtype=torch.uint8)
    batch = Batch(clips, torch.tensor([0, 2]), ())
    options = StepOptions(autocast_for("fp32", CPU.device))
    done = train_step(state, [batch], options, CPU, 2, np.random.default_rng(0))
    state.advance(batches)
    return float(done.losses[0])


def test_a_state_that_comes_back_from_a_file_takes_the_same_steps(tmp_path):
    state, batches = make_state(0), EpochBatches(10, 2, 0, 1, seed=0)
    state.set_rates(batches)
    step(state, batches)
    assert state.rates["weight"] == 0.01 / 2
    state.position.end_epoch(40.0)
    save_checkpoint(tmp_path / "last.pt", checkpoint_with(**state.state_dict()))

    other = make_state(1)
    other.load_state_dict(load_checkpoint(tmp_path / "last.pt").content())
    other.set_rates(batches)
    assert other.position == state.position
    state.set_rates(batches)
    assert [step(other, batches) for _ in range(2)] == [step(state, batches) for _ in range(2)]
    for part in ("model", "average"):
        ours, theirs = (each.state_dict()[part] for each in (state, other))
        for name, value in ours.items():
            assert torch.equal(value, theirs[name]), (part, name)


def test_the_file_keeps_its_keys(tmp_path):
    save_checkpoint(tmp_path / "last.pt", checkpoint_with())
    assert tuple(torch.load(tmp_path / "last.pt", weights_only=True)) == KEYS


def test_files_of_older_versions_lack_what_came_later(tmp_path):
    content = checkpoint_with(flips_allowed=False, epoch=3).content()
    for each in fields(Checkpoint):
        if each.default is not MISSING or each.default_factory is not MISSING:
            del content[each.name]
    older = Checkpoint.of(content)
    assert older is not None
    assert (older.epoch, older.flips_allowed, older.manifests) == (3, True, [])
    assert Checkpoint.of(content | {"format": 1}) is None
    del content["config"]
    assert Checkpoint.of(content) is None


def test_a_network_tells_how_much_of_its_attention_is_temporal():
    state = make_state(0)
    assert state.model.diagnostics() == {"attention": {}}
    step(state, EpochBatches(10, 2, 0, 1, seed=0))
    shares = state.model.diagnostics()["attention"]
    assert set(shares.values()) == {0.5}
    assert all(name.startswith("backbone.layer") for name in shares)

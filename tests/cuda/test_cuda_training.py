"""Trainings on the device: one that learns, and what a step does beside the update."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from tests.cuda.command import run
from tests.cuda.device import ALONE, DEVICE, ON_GPU, example_batch, example_model, needs_gpu, record, training_state
from vsn_train.engine.distributed import rebuild_buckets
from vsn_train.engine.finite import Step, what_is_broken
from vsn_train.engine.precision import autocast_for
from vsn_train.engine.state import TrainState
from vsn_train.engine.train import StepOptions, train_step
from vsn_train.models import Recognizer
from vsn_train.models.saving import recompute_blocks

CLIPS, FRAMES, SIZE = (4, 4, 64) if ON_GPU else (2, 4, 32)


def model_on_device(operator: str = "tsm", arch: str = "resnet18") -> Recognizer:
    return example_model(operator, arch, FRAMES).to(DEVICE, memory_format=torch.channels_last)


def step(state: TrainState, precision: str = "fp32", clips: int = CLIPS, size: int = SIZE) -> Step:
    options = StepOptions(autocast_for(precision, DEVICE))
    batch = example_batch(clips, FRAMES, size)
    return train_step(state, [batch], options, ALONE, clips, np.random.default_rng(0))


def tensors(model: Recognizer) -> dict[str, torch.Tensor]:
    return {name: each.clone() for name, each in model.state_dict().items()}


def metrics(run_folder) -> list[dict]:
    return [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]


def test_motion_is_learned(tmp_path):
    # The quickstart's training: 100 % after four epochs on a CPU. TSN, which cannot learn it, stays below 50 %.
    small = () if ON_GPU else ("dataset.train_videos=24", "dataset.val_videos=12", "schedule.epochs=1")
    run(
        "vsn-train", f"dataset.root={tmp_path / 'videos'}", f"runtime.device={DEVICE.type}", "data.workers=4", *small,
        f"hydra.run.dir={tmp_path / 'run'}", folder=tmp_path,
    )  # fmt: skip
    val = [line for line in metrics(tmp_path / "run") if line["split"] == "val"]
    speed = [line["clips_per_s"] for line in metrics(tmp_path / "run") if line["split"] == "train"]
    record("motion", top1=[line["top1"] for line in val], videos=val[-1]["n"], clips_per_s=speed[-1])
    assert np.isfinite(val[-1]["loss"])
    if ON_GPU:
        assert val[-1]["n"] == 360
        assert val[-1]["top1"] > 90


@pytest.fixture
def fresh_memory_is_nan():
    """Memory that is allocated and not written holds NaN: a side effect of torch's deterministic mode."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("fused", [False, True])
def test_fp16_leaves_out_the_update_that_overflows_and_goes_on_with_a_smaller_scale(fused, fresh_memory_is_nan):
    # In the first step, as with the scale that a training starts with: the optimizer has no momentum yet.
    model = model_on_device()
    state = training_state(model, "fp16", lr=0.01, ema=0.5, fused=fused)
    # A scale at which every gradient overflows in fp16, and one step further one at which none does.
    state.scaler.load_state_dict(state.scaler.state_dict() | {"scale": 2.0**40, "backoff_factor": 2.0**-30})
    before = {name: each.detach().clone() for name, each in model.named_parameters()}

    overflowed = step(state, "fp16")
    assert what_is_broken(overflowed, float(overflowed.grad_norm), state.scaler, ALONE) == ""  # training goes on
    assert not overflowed.grad_norm.isfinite()
    assert overflowed.losses[0].isfinite()
    assert state.scaler.get_scale() == 2.0**10
    assert all(torch.equal(each, before[name]) for name, each in model.named_parameters())

    updated = step(state, "fp16")
    assert updated.grad_norm.isfinite()
    assert state.scaler.get_scale() == 2.0**10
    moved, gradient = model.head.weight - before["head.weight"], model.head.weight.grad
    torch.testing.assert_close(moved, -0.01 * gradient, rtol=1e-3, atol=1e-7)
    assert all(each.isfinite().all() for each in model.parameters())
    assert state.average is not None
    assert all(each.isfinite().all() for each in state.average.module.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"] if ON_GPU else ["fp32"])
@pytest.mark.parametrize("operator", ["tsm", "vsn_compact", "sth"])
def test_recomputed_blocks_give_the_same_and_keep_less(operator, precision):
    peaks, gradients, buffers = [], [], []
    clips, size = (8, 112) if ON_GPU else (CLIPS, SIZE)  # activations that outweigh weights and workspaces
    for recompute in (False, True):
        model = model_on_device(operator, "resnet50" if ON_GPU else "resnet18")
        if recompute:
            recompute_blocks(model.backbone)
        state = training_state(model, precision)
        step(state, precision, clips, size)
        if ON_GPU:
            torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated() if ON_GPU else 0
        step(state, precision, clips, size)
        peaks.append(torch.cuda.max_memory_allocated() - held if ON_GPU else 0)
        gradients.append(torch.cat([each.grad.flatten().double() for each in model.parameters()]))
        buffers.append([each.double() for each in model.buffers()])
        del model, state
    difference = float((gradients[1] - gradients[0]).norm() / gradients[0].norm())
    record(
        "recompute", operator=operator, precision=precision, difference=difference,
        mib=[round(each / 2**20, 1) for each in peaks],
    )  # fmt: skip
    # The same kernels see the same numbers twice; only sums in the order of threads may differ.
    assert difference < 1e-2
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*buffers, strict=True))
    if ON_GPU:
        assert peaks[1] < 0.8 * peaks[0]


def test_the_average_follows_the_weights():
    model = model_on_device()
    state = training_state(model, lr=0.05, ema=0.75)
    assert state.average is not None
    expected: dict[str, torch.Tensor] = {}
    for _ in range(4):
        step(state)
        now = tensors(model)
        if not expected:  # the first update copies
            expected = now
        for name, each in now.items():
            if each.is_floating_point():
                expected[name] = 0.75 * expected[name] + 0.25 * each
    average = state.average.module.state_dict()
    assert all(each.device.type == DEVICE.type for each in average.values())
    for name, each in expected.items():
        if each.is_floating_point():
            torch.testing.assert_close(average[name], each, rtol=1e-5, atol=1e-6)
    assert not torch.equal(average["head.weight"], model.head.weight)


@pytest.fixture
def group(tmp_path):
    """A group of one process with the backends that vsn-train joins: nccl for what is on the device."""
    backend = "cpu:gloo,cuda:nccl" if ON_GPU else "gloo"
    if ON_GPU:
        torch.cuda.set_device(0)
    dist.init_process_group(backend, store=dist.FileStore(str(tmp_path / "store"), 1), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("static_graph", [False, True])
def test_a_group_of_one_process_trains_like_one_without_a_group(group, static_graph):
    # vsn-train does without a group where there is one process, so that this is DDP as wrap_network builds it.
    alone, shared = model_on_device(), model_on_device()
    states = [training_state(alone, lr=0.01), training_state(shared, lr=0.01)]
    network = DistributedDataParallel(shared, gradient_as_bucket_view=True, static_graph=static_graph)
    clip = torch.zeros(CLIPS, FRAMES, 3, SIZE, SIZE, device=DEVICE)
    before = tensors(shared)
    rebuild_buckets(network.train(), clip, autocast_for("fp32", DEVICE))
    assert all(torch.equal(each, before[name]) for name, each in shared.state_dict().items())
    states[1].network = network
    total = torch.ones(3, device=DEVICE)
    dist.all_reduce(total)  # nccl's, where there is a GPU
    assert total.tolist() == [1, 1, 1]
    # One step: after it the two would part by what ReLU's kinks make of a rounding.
    norms = [float(step(state).grad_norm) for state in states]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    for (name, found), expected in zip(shared.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5, msg=name)


def test_two_processes_on_one_device_train_like_one(tmp_path):
    # Through gloo: nccl refuses two processes on one device. Without batch statistics, which each takes of its own
    # half of the clips, the losses have to be the same.
    losses = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        run(
            "vsn-train", f"dataset.root={tmp_path / 'videos'}", "dataset.train_videos=36", "dataset.val_videos=12",
            "schedule.epochs=1", f"data.batch_size={8 // processes}", f"runtime.devices={processes}",
            f"runtime.device={DEVICE.type}", "runtime.precision=fp32", "runtime.tf32=false", "runtime.log_every=1",
            "backbone.num_frames=4", "backbone.frozen_bn=true", "backbone.dropout=0", "data.workers=1",
            "runtime.threads=2", f"hydra.run.dir={folder}", folder=tmp_path, VSN_TRAIN_SHARE_GPU="1",
        )  # fmt: skip
        losses.append([line["loss"] for line in metrics(folder)])
    assert len(losses[0]) == 6  # 36 videos in steps of 8, and a validation
    record("losses of one and of two processes", losses=losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@needs_gpu
def test_tf32_rounds_and_fp32_does_not():
    from vsn_train.engine.precision import allow_tf32

    model = model_on_device().eval()
    video = torch.randn(2, FRAMES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    errors = {}
    with torch.no_grad():
        expected = copy.deepcopy(model).cpu().double()(video.double())
        for allowed in (False, True):
            allow_tf32(allowed)
            found = model(video.to(DEVICE)).double().cpu()
            errors["tf32" if allowed else "fp32"] = float((found - expected).norm() / expected.norm())
    record("TF32", **errors)
    assert errors["fp32"] < 1e-5
    assert 1e-5 < errors["tf32"] < 1e-2

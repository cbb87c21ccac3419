"""The loop on clips that need no decoding: accumulation, losses that are no numbers, early end."""

from __future__ import annotations

import copy
import signal
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.runs import checkpoint_with
from vsn_train.data.loader import IGNORED, Batch, EpochBatches
from vsn_train.data.workers import BadVideo, Loader
from vsn_train.engine.checkpoint import Checkpoints, load_checkpoint
from vsn_train.engine.distributed import Process
from vsn_train.engine.interrupts import Interrupts
from vsn_train.engine.log import RunLog
from vsn_train.engine.optim import Schedule, build_sgd
from vsn_train.engine.precision import autocast_for, scaler_for
from vsn_train.engine.state import Position, TrainState
from vsn_train.engine.train import (
    StepOptions,
    TrainOptions,
    clip_loss,
    report_bad_videos,
    train,
    update_unless_broken,
)
from vsn_train.errors import InputError, StoppedError
from vsn_train.models import create_model

CPU = Process(0, 1, torch.device("cpu"))


class Clips:
    """Noise of one colour a class; some keys give an unreadable video."""

    manifest = SimpleNamespace(sample_id=lambda index: f"video{index}.mp4")

    def __getitem__(self, key):
        generator = torch.Generator().manual_seed(int(key[1]))
        return torch.randint(256, (2, 3, 32, 32), generator=generator, dtype=torch.uint8), int(key[1]) % 3

    def video_of(self, key):
        return key[1], f"video{key[1]}.mp4"


def collate(samples):
    return Batch(torch.stack([clip for clip, _ in samples]), torch.tensor([label for _, label in samples]), ())


def trained(tmp_path, *, batch_size=4, accumulate=1, precision="fp32", epochs=1, scores=(), change=None, **options):
    """The model after training on 11 clips, and where the training stood."""
    torch.manual_seed(0)
    model = create_model("tsm", "resnet18", num_frames=2, num_classes=3, dropout=0, frozen_bn=True)
    if change:
        change(model)
    batches = EpochBatches(11, batch_size, 0, 1, seed=5, accumulate=accumulate)
    optimizer = build_sgd(model, 0.01, 0.9, 1e-4, 1)
    state = TrainState(model, optimizer, Schedule(optimizer, lambda step: 1.0), scaler_for(precision, CPU.device))
    tops = iter(scores)
    checkpoints = Checkpoints(tmp_path / "checkpoints", lambda: checkpoint_with(**state.state_dict()), True)
    interrupts = options.pop("interrupts", Interrupts())
    settings = TrainOptions(
        StepOptions(autocast_for(precision, CPU.device)), epochs, seed=0, max_bad_share=0.0,
        log_every=options.pop("log_every", 1), **options,
    )  # fmt: skip
    train(
        state, Loader(Clips(), batches, collate, 0), batches, lambda position: next(tops, 0.0), checkpoints,
        interrupts, CPU, RunLog(tmp_path), settings,
    )  # fmt: skip
    checkpoints.wait()
    return model, state.position


def test_accumulated_batches_take_the_step_of_one_batch(tmp_path):
    whole, position = trained(tmp_path / "a", batch_size=4)
    parts, accumulated = trained(tmp_path / "b", batch_size=1, accumulate=4)  # the last step has 3 videos
    assert position.step == accumulated.step == 3
    for name, value in whole.state_dict().items():
        assert torch.allclose(value, parts.state_dict()[name], atol=1e-6), name


@pytest.mark.slow
def test_fp16_leaves_out_what_overflows_and_learns_from_the_rest(tmp_path):
    start, _ = trained(tmp_path / "a", precision="fp16", epochs=0)
    half, position = trained(tmp_path / "b", precision="fp16", epochs=2)
    assert position.step == 6
    moved = half.head.weight - start.head.weight
    assert moved.isfinite().all()
    assert moved.any()


def test_a_loss_that_is_no_number_stops_before_the_update(tmp_path):
    def poison(model):
        model.head.bias.data[1] = float("nan")

    with pytest.raises(
        StoppedError, match=r"the loss is not a finite number at step 1 .epoch 1., learning rate 0.01"
    ) as e:
        trained(tmp_path, change=poison)
    order = np.random.default_rng((5, 0)).permutation(11)[:4]
    assert ", ".join(f"video{index}.mp4" for index in order) in str(e.value)
    assert e.value.code == 1


def test_so_does_an_infinite_loss_whose_gradient_is_a_number(tmp_path):
    def exaggerate(model):
        model.head.bias.data[1] = 2e38  # the sum over a batch is more than a float holds

    before, _ = trained(tmp_path / "a", epochs=0, change=exaggerate)
    logits = before.head.bias.detach().clone().requires_grad_()
    torch.nn.functional.cross_entropy(
        logits.expand(4, 3), torch.zeros(4, dtype=torch.int64), reduction="sum"
    ).backward()
    assert logits.grad.isfinite().all()
    with pytest.raises(StoppedError, match="the loss is not a finite number at step 1 "):
        trained(tmp_path / "b", change=exaggerate)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("fused", [False, True])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_optimizer(kind, fused):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = kind([weight], lr=0.1, weight_decay=0.1, fused=fused)
    scaler = scaler_for("fp32", CPU.device)

    def update(gradient):
        weight.grad = torch.full((3,), gradient)
        update_unless_broken(optimizer, scaler, weight.grad.norm())
        return copy.deepcopy((weight.detach(), optimizer.state_dict()["state"]))

    first = update(1.0)
    assert not torch.equal(first[0], torch.ones(3))
    for broken in (float("nan"), float("inf")):
        assert repr(update(broken)) == repr(first)
    assert repr(update(1.0)) != repr(first)  # and goes on with the next


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_first_update_that_is_left_out_leaves_no_trace_in_fused_kernels(precision):
    """torch's fused SGD takes uninitialised memory for the momentum then."""

    def after(*gradients):
        torch.manual_seed(0)
        model = create_model("tsm", "resnet18", num_frames=2, num_classes=3, dropout=0)
        optimizer, scaler = build_sgd(model, 0.01, 0.9, 1e-4, 1, fused=True), scaler_for(precision, CPU.device)
        weight = model.head.weight
        for gradient in gradients:
            optimizer.zero_grad()
            scaler.scale((weight * gradient).sum()).backward()
            scaler.unscale_(optimizer)
            update_unless_broken(optimizer, scaler, weight.grad.norm())
        return weight.detach(), optimizer.state[weight]["momentum_buffer"]

    for clean, overflowed in zip(after(1.0, 2.0), after(float("inf"), 1.0, 2.0), strict=True):
        assert torch.equal(clean, overflowed)


def test_what_is_broken_is_said_before_it_is_logged_or_saved(tmp_path):
    def poison(model):
        model.head.bias.data[1] = float("nan")

    with pytest.raises(StoppedError, match=r"the loss is not a finite number at step 1 "):
        trained(tmp_path, change=poison)
    assert not (tmp_path / "metrics.jsonl").exists() or "nan" not in (tmp_path / "metrics.jsonl").read_text().lower()
    assert not (tmp_path / "checkpoints" / "last.pt").exists()


def test_a_broken_step_is_found_when_the_next_one_is_started(tmp_path):
    """Between two lines of the log nothing waits for a step but the one behind it; it is named all the same."""
    labels = iter([0, 1, 2, 3, 4])

    def poison(model):
        model.register_forward_pre_hook(
            lambda module, inputs: (inputs[0] * float("nan"),) if next(labels) == 1 else None
        )

    order = np.random.default_rng((5, 0)).permutation(11)[4:8]
    with pytest.raises(StoppedError, match=r"at step 2 .epoch 1.*video" + str(order[0])):
        trained(tmp_path, change=poison, log_every=100)
    assert next(labels) == 3  # steps 1, 2 and 3 were started


def test_it_ends_when_validations_get_no_better(tmp_path):
    scores = [10, 30, 20, 30, 25, 90]
    _, position = trained(tmp_path, epochs=6, scores=scores, patience=3)
    assert position.epoch == 5
    assert position.best[0] == [30, 2]
    assert torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)["epoch"] == 2
    assert torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["epoch"] == 5


def test_a_signal_saves_after_the_step(tmp_path):
    interrupts = Interrupts()
    interrupts.received = signal.SIGTERM
    with pytest.raises(StoppedError, match=r"stopped by SIGTERM; saved .*last.pt .to resume: resume=true") as error:
        trained(tmp_path, interrupts=interrupts)
    assert error.value.code == 75
    saved = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert (saved["epoch"], saved["step"], saved["videos"]) == (0, 1, 4)
    assert saved["sums"][0][3] == 4


def test_the_best_and_the_milestones_are_kept(tmp_path):
    position = Position()
    checkpoints = Checkpoints(tmp_path, lambda: checkpoint_with(**asdict(position)), True, keep_best=2, milestones=[3])
    for top1 in (10, 50, 20, 40, 60):
        position.end_epoch(top1)
        checkpoints.save()
        checkpoints.wait()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best.pt", "epoch_2.pt", "epoch_3.pt", "epoch_5.pt", "last.pt",
    ]  # fmt: skip
    assert torch.load(tmp_path / "best.pt", weights_only=True)["epoch"] == 5


def test_the_lowest_loss_is_the_best_where_that_is_asked(tmp_path):
    _, position = trained(tmp_path, epochs=4, scores=[1.5, 0.5, 200.0, 0.7], lowest_is_best=True, patience=9)
    assert position.best[0] == [0.5, 2]
    saved = torch.load(tmp_path / "checkpoints" / "best.pt", weights_only=True)
    assert saved["epoch"] == 2
    assert load_checkpoint(tmp_path / "checkpoints" / "last.pt").best[-1] == [200.0, 3]


def test_class_weights_count_what_each_class_has_of_a_mixed_and_smoothed_target():
    logits, label, partner = torch.randn(4, 5), torch.tensor([0, 1, 2, IGNORED]), torch.tensor([1, 2, 0, IGNORED])
    weights = torch.tensor([0.5, 1.0, 4.0, 2.0, 1.0])
    own, other = (torch.nn.functional.one_hot(each[:3], 5).float() for each in (label, partner))
    target = 0.9 * (0.7 * own + 0.3 * other) + 0.1 / 5
    expected = -(weights * target * logits[:3].log_softmax(1)).sum()
    assert torch.allclose(clip_loss(logits, label, partner, 0.7, 0.1, weights), expected)
    assert torch.equal(
        clip_loss(logits, label, partner, 0.7, 0.1, torch.ones(5)), clip_loss(logits, label, partner, 0.7, 0.1)
    )


def test_smoothed_and_mixed_loss():
    logits, label, partner = torch.randn(4, 5), torch.tensor([0, 1, 2, IGNORED]), torch.tensor([1, 2, 0, IGNORED])
    target = 0.7 * torch.eye(5)[label[:3]] + 0.3 * torch.eye(5)[partner[:3]]
    target = 0.9 * target + 0.1 / 5
    expected = -(target * logits[:3].log_softmax(1)).sum()
    assert torch.allclose(clip_loss(logits, label, partner, 0.7, 0.1), expected)


def test_a_training_of_nothing_ends_whatever_share_is_allowed():
    bad = BadVideo(0, "a.mp4", "no video")
    step = [Batch(torch.zeros(1, 1, 3, 2, 2, dtype=torch.uint8), torch.tensor([IGNORED]), (bad,))]
    loader, log = SimpleNamespace(quarantine={}), SimpleNamespace(line=lambda text: None)
    position = SimpleNamespace(unreadable=1)
    report_bad_videos(step, loader, SimpleNamespace(videos=2), position, 1.0, CPU, log)
    with pytest.raises(InputError, match=r"none of the 1 training videos could be read.*a\.mp4: no video"):
        report_bad_videos(step, loader, SimpleNamespace(videos=1), position, 1.0, CPU, log)

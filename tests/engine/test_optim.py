import math

import pytest
import torch

from vsn_train.engine.optim import build_optimizer, build_schedule, lr_factor, parameter_groups
from vsn_train.models import create_model


def test_every_parameter_moves_in_exactly_one_group_with_tsms_factors():
    model = create_model("tsm", "resnet50", num_frames=2, num_classes=5)
    groups = {group["name"]: group for group in parameter_groups(model, lr=0.1, weight_decay=1e-4)}
    grouped = [id(parameter) for group in groups.values() for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    rates = {name: (round(group["lr"], 6), group["weight_decay"]) for name, group in groups.items()}
    assert rates == {
        "weight": (0.1, 1e-4),
        "norm": (0.1, 0),
        "head_weight": (0.5, 1e-4),
        "head_bias": (1.0, 0),
    }
    assert len(groups["weight"]["params"]) == 53
    assert len(groups["norm"]["params"]) == 106


def test_step_schedule_falls_at_epoch_boundaries():
    factors = [lr_factor(step, 10, 50, 0, [0.4, 0.8], 0.1) for step in (0, 199, 200, 399, 400, 499)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_with_warm_up():
    factors = [lr_factor(step, 10, 5, 1, [], 1) for step in range(50)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1
    assert factors[30] == pytest.approx(0.5)
    assert factors[49] == pytest.approx(0.5 * (1 + math.cos(math.pi * 39 / 40)))


def test_schedule_scales_every_group():
    model = create_model("tsn", "resnet18", num_frames=1, num_classes=2)
    optimizer = build_optimizer(model, 0.1, 0.9, 0, 5)
    schedule = build_schedule(optimizer, 1, 10, 0, [0.1], 0.1)
    before = [group["lr"] for group in optimizer.param_groups]
    model(torch.randn(2, 1, 3, 32, 32)).sum().backward()
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate * 0.1 for rate in before])

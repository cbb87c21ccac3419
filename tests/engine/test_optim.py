import math

import pytest
import torch

from vsn_train.engine.optim import (
    Schedule,
    build_adamw,
    build_average,
    build_sgd,
    lr_factor,
    parameter_groups,
    scaled_lr,
)
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


@pytest.mark.parametrize(
    ("operator", "arch", "stem"), [("tsm", "mobilenet_v2", "features.0.0"), ("sth", "resnet18", "conv1")]
)
def test_the_first_convolution_of_a_flow_network_is_faster(operator, arch, stem):
    def rates(modality, factor):
        model = create_model(operator, arch, num_frames=2, num_classes=5, modality=modality)
        weight = model.backbone.get_submodule(stem).weight
        groups = parameter_groups(model, lr=0.1, weight_decay=1e-4, flow_stem_lr_factor=factor)
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
        (group,) = [group for group in groups if any(each is weight for each in group["params"])]
        return round(group["lr"], 6), group["weight_decay"], len(group["params"])

    assert rates("flow", 5) == (0.5, 1e-4, 1)
    assert rates("flow", 1) == (0.1, 1e-4, 1)
    rate, decay, others = rates("rgb", 5)
    assert (rate, decay) == (0.1, 1e-4)
    assert others > 20


def test_step_schedule_falls_at_epoch_boundaries():
    factors = [lr_factor(step, 10, 50, 0, [20, 40], 0.1) for step in (0, 199, 200, 399, 400, 499)]
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_cosine_with_warm_up():
    factors = [lr_factor(step, 10, 5, 1, None, 1) for step in range(50)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10] == 1
    assert factors[30] == pytest.approx(0.5)
    assert factors[49] == pytest.approx(0.5 * (1 + math.cos(math.pi * 39 / 40)))


def test_per_epoch_the_rate_stays_within_an_epoch():
    factors = [lr_factor(step, 10, 4, 2, None, 1, per="epoch") for step in range(40)]
    assert factors[:20] == [0.5] * 10 + [1] * 10
    assert factors[20:30] == [1] * 10
    assert factors[30:] == pytest.approx([0.5] * 10)


def test_schedule_scales_every_group_from_the_step_alone():
    model = create_model("tsn", "resnet18", num_frames=1, num_classes=2)
    optimizer = build_sgd(model, 0.1, 0.9, 0, 5)
    schedule = Schedule(optimizer, lambda step: 1 / (1 + step))
    before = [group["lr"] for group in optimizer.param_groups]
    for step in (3, 0, 7):
        schedule.step(step)
        assert [group["lr"] for group in optimizer.param_groups] == [rate / (1 + step) for rate in before]


def test_linear_scaling():
    assert scaled_lr(0.01, 256, 64) == 0.04
    assert scaled_lr(0.01, 256, 0) == 0.01


@pytest.mark.parametrize("build", ["sgd", "adamw"])
def test_fused_kernels_take_the_same_steps(build):
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        model = create_model("tsn", "resnet18", num_frames=1, num_classes=2)
        if build == "sgd":
            optimizer = build_sgd(model, 0.1, 0.9, 1e-4, 5, nesterov=True, fused=fused)
        else:
            optimizer = build_adamw(model, 0.1, (0.9, 0.999), 1e-8, 0.05, 5, fused)
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape)
        optimizer.step()
        found.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    assert torch.allclose(*found, atol=1e-6)


def test_average_follows_weights_and_statistics():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    average = build_average(model, 0.9)
    weights, means = [], []
    for _ in range(3):
        with torch.no_grad():
            model[0].weight += torch.randn(2, 2)
            model[1].running_mean += torch.randn(2)
        average.update_parameters(model)
        weights.append(model[0].weight.detach().clone())
        means.append(model[1].running_mean.clone())
    expected = 0.81 * weights[0] + 0.09 * weights[1] + 0.1 * weights[2]
    assert torch.allclose(average.module[0].weight, expected)
    assert torch.allclose(average.module[1].running_mean, 0.81 * means[0] + 0.09 * means[1] + 0.1 * means[2])

import pytest
import torch

from vsn_train.analysis.complexity import complexity, count_layers, layer_table, total
from vsn_train.models import create_model
from vsn_train.tools import complexity as command

ATTENTION = sum(blocks * width**2 for blocks, width in ((3, 64), (4, 128), (6, 256), (3, 512)))


@pytest.mark.parametrize(
    ("operator", "arch", "options", "millions", "gmacs"),
    [
        # 23,508,032 parameters of the backbone; GMACs of 8 frames worked out by hand from torchvision's layers.
        ("tsn", "resnet50", {}, 23.86, 32.7),
        ("tsm", "resnet50", {"placement": "inplace"}, 23.86, 32.7),
        ("vsn_compact", "resnet101", {}, 42.86, 62.4),
        ("vsn_headtail", "resnet50", {}, 23.86, 32.7),
        ("sth", "resnet50", {"p": 1 / 8, "integration": "sum"}, 22.92, 31.5),
        ("sth", "resnet50", {"p": 1 / 4, "integration": "sum"}, 21.98, 30.2),
        ("sth", "resnet50", {"p": 1 / 4, "variant": "merge", "integration": "sum"}, 21.98, 30.2),
        ("sth", "resnet50", {"p": 1 / 4}, 23.24, 30.2),
        ("sth", "resnet50", {"p": 1 / 2, "integration": "sum"}, 20.09, 27.8),
    ],
)
def test_models_of_the_papers(operator, arch, options, millions, gmacs):
    parameters, macs = total(complexity(operator, arch, 8, 174, **options))
    assert round(parameters / 1e6, 2) == millions
    assert macs / 1e9 == pytest.approx(gmacs, rel=0.005)


def test_one_hybrid_convolution_by_hand():
    by_name = {cost.name: cost for cost in complexity("sth", "resnet50", 8, 5)}
    cost = by_name["backbone.layer2.1.conv2"]
    assert cost.parameters == 128 * 128 * (9 * 0.75 + 3 * 0.25)
    assert cost.macs == cost.parameters * 8 * 28 * 28
    assert (
        by_name["backbone.layer2.1.conv2.attention"].macs == 128**2
    )  # of one clip: FC sees the difference of the branches
    assert by_name["head"].macs == 8 * 2048 * 5
    assert by_name["backbone.bn1"].macs == 0
    attention = [cost.parameters for name, cost in by_name.items() if name.endswith("attention")]
    assert sum(attention) == ATTENTION


def test_mobilenet_agrees_with_torchs_own_counter():
    from torch.utils.flop_counter import FlopCounterMode

    model = create_model("tsm", "mobilenet_v2", 2, 5).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 2, 3, 64, 64))
    parameters, macs = total(count_layers(model, size=64))
    assert 2 * macs == counter.get_total_flops()
    assert parameters == sum(parameter.numel() for parameter in model.parameters())
    hybrid_parameters, hybrid_macs = total(complexity("sth", "mobilenet_v2", 2, 5, size=64))
    assert hybrid_parameters < parameters
    assert hybrid_macs < macs


def test_counting_leaves_the_model_as_it_was():
    model = create_model("sth", "resnet18", 2, 5).train()
    costs = count_layers(model, size=32)
    assert model.training
    assert next(model.parameters()).device.type == "cpu"
    assert model.backbone.layer1[0].conv1.last_attention is None
    assert not model.backbone.layer1[0].conv1._forward_hooks
    assert layer_table(costs).splitlines()[-1].startswith("total")


def test_table_of_the_command(monkeypatch):
    assert command.parse_option("p=0.25") == ("p", 0.25)
    monkeypatch.setattr(command, "PAPERS", command.PAPERS[9:10])
    assert command.paper_table().splitlines()[-1].split() == [
        "STH", "p=1/4", "attention", "resnet50", "23.24", "23.70", "23.2", "30.23", "30.6", "60.47", "61.3",
    ]  # fmt: skip

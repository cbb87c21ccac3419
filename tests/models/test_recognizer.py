import pytest
import torch
import torchvision

from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.shift import ShiftedConv2d


@pytest.mark.parametrize("operator", ["tsn", "tsm"])
@pytest.mark.parametrize(("arch", "blocks"), [("resnet18", 8), ("resnet50", 16)])
def test_every_block_of_tsm_is_shifted_and_none_of_tsn(operator, arch, blocks):
    model = create_model(operator, arch, num_frames=4, num_classes=7)
    shifted = [name for name, module in model.named_modules() if isinstance(module, ShiftedConv2d)]
    assert len(shifted) == (blocks if operator == "tsm" else 0)
    assert all(name.endswith("conv1") for name in shifted)
    assert model(torch.randn(2, 4, 3, 32, 32)).shape == (2, 7)


def test_tsn_averages_the_frames_of_torchvisions_network():
    model = create_model("tsn", "resnet18", num_frames=3, num_classes=5).eval()
    plain = torchvision.models.resnet18()
    plain.fc = torch.nn.Linear(512, 5)
    state = {name.removeprefix("backbone."): value for name, value in model.state_dict().items()}
    plain.load_state_dict({name.replace("head.", "fc."): value for name, value in state.items()})
    plain.eval()
    video = torch.randn(2, 3, 3, 40, 40)
    with torch.no_grad():
        expected = torch.stack([plain(video[:, t]) for t in range(3)]).mean(0)
        torch.testing.assert_close(model(video), expected)


@pytest.mark.parametrize(("operator", "same"), [("tsn", True), ("tsm", False)])
def test_only_tsm_sees_the_order_of_frames(operator, same):
    torch.manual_seed(0)
    model = create_model(operator, "resnet18", num_frames=4, num_classes=5).eval()
    torch.nn.init.normal_(model.head.weight)
    video = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(model(video), model(video.flip(1)), atol=1e-4) is same


def test_parameters_of_resnet50_with_174_classes():
    model = create_model("tsm", "resnet50", num_frames=8, num_classes=174)
    assert sum(parameter.numel() for parameter in model.parameters()) == 23_508_032 + 174 * 2049


def test_flow_has_ten_channels_a_frame():
    model = create_model("tsm", "resnet18", num_frames=2, num_classes=3, modality="flow")
    assert model(torch.randn(1, 2, 10, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": "tsmm"}, "operator 'tsmm': expected one of tsn, tsm"),
        ({"arch": "resnet19"}, "arch 'resnet19': expected one of resnet18, resnet50"),
        ({"modality": "depth"}, "modality 'depth': expected one of rgb, flow"),
        ({"fold": 8}, "tsm has no option fold; its options: fold_div"),
        ({"num_frames": 0}, "num_frames 0: expected at least 1"),
    ],
)
def test_wrong_arguments(change, message):
    arguments = {"operator": "tsm", "arch": "resnet18", "num_frames": 8, "num_classes": 5} | change
    with pytest.raises(InputError, match=message):
        create_model(**arguments)


def test_clip_of_another_length():
    model = create_model("tsm", "resnet18", num_frames=8, num_classes=5)
    with pytest.raises(ValueError, match="the clip has 4 frames; this model was built for 8"):
        model(torch.zeros(1, 4, 3, 32, 32))

import pickle

import pytest
import torch
import torchvision

from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.weights import load_weights


def test_torchvision_file_fills_the_backbone(tmp_path):
    source = torchvision.models.resnet18(num_classes=1000)
    torch.save(source.state_dict(), tmp_path / "resnet18.pth")
    model = create_model("tsm", "resnet18", num_frames=4, num_classes=7)
    report = load_weights(model, tmp_path / "resnet18.pth")
    assert set(report.skipped) == {"fc.weight", "fc.bias"}
    assert set(report.missing) == {"head.weight", "head.bias"}
    assert len(report.loaded) == len(source.state_dict()) - 2
    assert torch.equal(model.backbone.layer2[1].conv1.conv.weight, source.layer2[1].conv1.weight)
    assert torch.equal(model.backbone.bn1.running_mean, source.bn1.running_mean)


def test_own_tsn_checkpoint_starts_a_tsm_with_other_classes(tmp_path):
    source = create_model("tsn", "resnet18", num_frames=4, num_classes=7)
    torch.save({"model": source.state_dict()}, tmp_path / "tsn.pt")
    model = create_model("tsm", "resnet18", num_frames=8, num_classes=9, weights=str(tmp_path / "tsn.pt"))
    assert torch.equal(model.backbone.layer4[0].conv1.conv.weight, source.backbone.layer4[0].conv1.weight)
    same = create_model("tsm", "resnet18", num_frames=8, num_classes=7, weights=str(tmp_path / "tsn.pt"))
    assert torch.equal(same.head.weight, source.head.weight)


class RunsCode:
    def __reduce__(self):
        return (print, ("this file ran code",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"", "truncated, or not a checkpoint"),
        (b"PK not really", "it is damaged"),
        (pickle.dumps(RunsCode()), "holds Python objects that would run code"),
    ],
)
def test_files_that_are_no_weights(tmp_path, content, message, capsys):
    path = tmp_path / "weights.pth"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_weights(create_model("tsn", "resnet18", 2, 3), path)
    assert "ran code" not in capsys.readouterr().out


def test_truncated_file(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"weights.pth: truncated, or not a checkpoint"):
        load_weights(create_model("tsn", "resnet18", 2, 3), path)


def test_weights_of_another_network(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "r18.pth")
    with pytest.raises(InputError, match=r"check backbone\.arch"):
        create_model("tsm", "resnet50", 2, 3, weights=str(tmp_path / "r18.pth"))
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="tensors are missing"):
        create_model("tsm", "resnet18", 2, 3, weights=str(tmp_path / "empty.pth"))

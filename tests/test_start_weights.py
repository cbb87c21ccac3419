"""Keys of the command line that no end-to-end test turns."""

from dataclasses import asdict

import pytest
import torch

from tests.runs import checkpoint_with, log_of
from vsn_train.config import Dataset, Sth, Train
from vsn_train.engine.checkpoint import save_checkpoint
from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.hybrid import HybridConv2d
from vsn_train.run.network import note_random_start, start_weights
from vsn_train.run.resume import find_checkpoint
from vsn_train.trained import build_network, load_weights_of

CLASSES = ["wave", "bow", "jump"]  # in a data set's official order


@pytest.fixture
def file(tmp_path):
    """A network as torchvision names it, whose classifier has one class a row."""
    import torchvision

    network = torchvision.models.resnet18(weights=None, num_classes=3)
    torch.save(network.state_dict(), tmp_path / "file.pth")
    return str(tmp_path / "file.pth"), network.fc.weight.detach()


def started(file, **keys):
    model = create_model("tsn", "resnet18", 2, 3)
    before = model.head.weight.detach().clone()
    start_weights(model, Train(weights=file, **keys), CLASSES)
    return model.head.weight.detach(), before


def test_classifier_rows_follow_the_stated_class_order(file, tmp_path):
    path, rows = file
    assert torch.equal(started(path)[0], rows)
    assert torch.equal(started(path, weights_class_order="sorted")[0], rows[[2, 0, 1]])  # sorted: bow, jump, wave
    (tmp_path / "order.txt").write_text("jump\nwave\nbow\n")
    assert torch.equal(started(path, weights_class_order=str(tmp_path / "order.txt"))[0], rows[[1, 2, 0]])


def test_new_head_leaves_the_classifier_as_it_started(file):
    head, before = started(file[0], weights_new_head=True)
    assert torch.equal(head, before)


def test_random_weights_are_warned_of_where_the_recipe_has_others(ucf101_run):
    (first, last) = [line for line in log_of(ucf101_run).splitlines() if "WARNING: RANDOM WEIGHTS" in line]
    assert "The recipe of ucf101 starts from Kinetics-400 or ImageNet weights" in first
    assert "Set weights=imagenet or weights=FILE" in last
    for name, weights, warned in (("motion", None, False), ("jester", None, True), ("jester", "imagenet", False)):
        config = Train(weights=weights, dataset=Dataset(name=name, root="data"))
        assert bool(note_random_start(config)) == warned


def test_other_operator_is_taken_only_when_asked_for(tmp_path):
    state = create_model("tsm", "resnet18", 2, 3).state_dict()
    content = {"state_dict": {f"module.base_model.{tsm_name(k)}": v for k, v in state.items() if "backbone" in k}}
    content["state_dict"] |= {f"module.new_fc.{kind}": state[f"head.{kind}"] for kind in ("weight", "bias")}
    torch.save(content, tmp_path / "tsm.pth")
    with pytest.raises(InputError, match="shift"):
        started(str(tmp_path / "tsm.pth"))
    head, _ = started(str(tmp_path / "tsm.pth"), weights_other_operator=True)
    assert torch.equal(head, state["head.weight"])


def tsm_name(name):
    return name.removeprefix("backbone.").replace("conv1.conv.", "conv1.net.")


def test_an_sth_checkpoint_from_before_the_choice_of_its_start_gives_what_it_gave():
    """Its config lacks the keys, and its attention layers start from doubled weights."""
    torch.manual_seed(0)
    trained = create_model("sth", "resnet18", 4, 3).eval()
    with torch.no_grad():
        for module in trained.modules():
            if isinstance(module, HybridConv2d):
                module.spatial.mul_(2)
                module.temporal.mul_(2)
    before = asdict(Sth(operator="sth", arch="resnet18", num_frames=4))
    del before["temporal_start"], before["outer_taps"]
    checkpoint = checkpoint_with(
        config={"data": {}, "backbone": before}, class_names=CLASSES, model=trained.state_dict()
    )
    network = build_network(before, len(CLASSES), "rgb")
    load_weights_of(checkpoint, network, "old.pt")
    video = torch.randn(1, 4, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(video), trained(video))


def test_a_run_from_before_the_choice_of_the_start_can_be_resumed(tmp_path):
    now = {"seed": 0, "backbone": asdict(Sth(operator="sth"))}
    before = {"seed": 0, "backbone": {**now["backbone"]}}
    del before["backbone"]["temporal_start"], before["backbone"]["outer_taps"]
    save_checkpoint(tmp_path / "last.pt", checkpoint_with(config=before, step_videos=8))
    found, _ = find_checkpoint(True, tmp_path, now, 8, [])
    assert found.config == before
    now["backbone"]["p"] = 0.5
    with pytest.raises(InputError, match=r"backbone.p \(was 0.25, is 0.5\)"):
        find_checkpoint(True, tmp_path, now, 8, [])
    config = {"seed": 0, "backbone": asdict(Sth(operator="sth"))}
    save_checkpoint(tmp_path / "last.pt", checkpoint_with(config=config, step_videos=8))
    now = {"seed": 0, "backbone": asdict(Sth(operator="sth", temporal_start="random"))}
    with pytest.raises(InputError, match=r"backbone.temporal_start \(was auto, is random\)"):
        find_checkpoint(True, tmp_path, now, 8, [])

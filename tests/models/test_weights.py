import pickle
import re

import pytest
import torch
import torchvision
from safetensors.torch import save_file

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
    with pytest.raises(InputError, match=r"a resnet18, this model a resnet50; set backbone\.arch=resnet18"):
        create_model("tsm", "resnet50", 2, 3, weights=str(tmp_path / "r18.pth"))
    torch.save({}, tmp_path / "empty.pth")
    with pytest.raises(InputError, match="tensors are missing"):
        create_model("tsm", "resnet18", 2, 3, weights=str(tmp_path / "empty.pth"))


def saved(tmp_path, operator, classes=7, arch="resnet18", frames=4, class_names=None, **options):
    """An own checkpoint with its config, and the model that it holds."""
    model = create_model(operator, arch, frames, classes, **options)
    torch.nn.init.normal_(model.head.bias)
    backbone = {"operator": operator, "arch": arch, "num_frames": frames, "dropout": 0.5, **options}
    content = {"model": model.state_dict(), "config": {"backbone": backbone}}
    torch.save(content | ({"class_names": class_names} if class_names else {}), tmp_path / "own.pt")
    return tmp_path / "own.pt", model


@pytest.mark.parametrize(
    ("operator", "options"),
    [
        ("tsn", {}),
        ("tsm", {"placement": "inplace"}),
        ("vsn_compact", {}),
        ("vsn_headtail", {"standard_block": "plain"}),
        ("sth", {"integration": "sum", "variant": "merge"}),
        ("sth", {}),
    ],
)
def test_own_checkpoint_of_every_operator_loads_whole(tmp_path, operator, options):
    path, source = saved(tmp_path, operator, **options)
    model = create_model(operator, "resnet18", 4, 7, **options)
    report = load_weights(model, path)
    assert not report.adapted
    assert not report.missing
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), source.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize(
    ("trained", "wanted", "message"),
    [
        ({"operator": "tsm"}, {"operator": "tsn"}, "shift 1/8 before conv1 in 8 blocks; this model has no operator"),
        ({"operator": "tsm"}, {"operator": "tsm", "fold_div": 4}, "this model has shift 1/4 before conv1"),
        ({"operator": "tsm"}, {"operator": "vsn_compact"}, r"first difference in layer1\.1"),
        ({"operator": "vsn_compact"}, {"operator": "vsn_headtail"}, r"first difference in layer1\.1"),
        ({"operator": "vsn_compact"}, {"operator": "vsn_compact", "frames": 8}, "4 frames .* 8 frames"),
        ({"operator": "sth"}, {"operator": "sth", "p": 0.5}, "hybrid 1/4 .* hybrid 1/2"),
    ],
)
def test_own_checkpoint_of_another_operator(tmp_path, trained, wanted, message):
    path, _ = saved(tmp_path, **trained)
    frames = wanted.pop("frames", 4)
    model = create_model(arch="resnet18", num_frames=frames, num_classes=7, **wanted)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(InputError, match=f"(?s){message}.*allow_other_operator=True"):
        load_weights(model, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    if trained["operator"] != "sth":
        assert load_weights(model, path, allow_other_operator=True).loaded


def test_shifted_file_of_the_tsm_repository_is_no_start_of_a_tsn(tmp_path):
    state = {
        f"base_model.{name}": tensor for name, tensor in torchvision.models.resnet18(num_classes=7).state_dict().items()
    }
    state = {name.replace("base_model.fc", "new_fc"): tensor for name, tensor in state.items()}
    name = "base_model.layer1.0.conv1"
    state[f"{name}.net.weight"] = state.pop(f"{name}.weight")
    torch.save(state, tmp_path / "tsm.pth")
    for operator, here in (("tsn", "no operator"), ("tsm", "shift of the residual branch in 8 blocks")):
        with pytest.raises(InputError, match=f"shift of the residual branch in 1 block; this model has {here}"):
            load_weights(create_model(operator, "resnet18", 4, 7), tmp_path / "tsm.pth")
    report = load_weights(create_model("sth", "resnet18", 4, 7), tmp_path / "tsm.pth", allow_other_operator=True)
    assert len(report.adapted) == 2 * 16


def test_2d_kernels_start_a_hybrid_network(tmp_path):
    source = torchvision.models.resnet50(num_classes=7)
    torch.save(source.state_dict(), tmp_path / "r50.pth")
    model = create_model("sth", "resnet50", 4, 7, integration="sum", temporal_start="centre")
    report = load_weights(model, tmp_path / "r50.pth")
    assert len(report.adapted) == 2 * 16
    assert not report.missing
    kernel, conv = source.layer2[0].conv2.weight, model.backbone.layer2[0].conv2
    own, output, pair = 32, 40, 3  # output 40 lies in the second of four groups of 32
    torch.testing.assert_close(
        conv.temporal[output, pair, :, 0], torch.tensor([0, 1, 0]) * kernel[output, own + pair].sum()
    )
    assert torch.equal(conv.spatial[output], torch.cat([kernel[output, :own], kernel[output, 2 * own :]]))
    with_attention = create_model("sth", "resnet50", 4, 7)
    report = load_weights(with_attention, tmp_path / "r50.pth")
    assert len(report.missing) == 16
    assert all(name.endswith("attention.weight") for name in report.missing)
    assert "16 missing" in str(report)


@pytest.mark.parametrize("frozen", ["frozen_bn", "partial_bn"])
@pytest.mark.parametrize("arch", ["resnet18", "resnet50"])
def test_attention_from_2d_weights_computes_what_the_sum_computes(tmp_path, arch, frozen):
    """Batch norms that are frozen, and all of them in evaluation mode, keep fitting."""
    torch.manual_seed(0)
    source = getattr(torchvision.models, arch)(num_classes=7)
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 1e-5, 2)
    torch.save(source.state_dict(), tmp_path / "2d.pth")
    video, logits = torch.randn(1, 4, 3, 32, 32), {}
    for integration in ("sum", "attention"):
        torch.manual_seed(1)
        model = create_model("sth", arch, 4, 7, integration=integration, dropout=0.0, **{frozen: True})
        torch.manual_seed(1)
        load_weights(model, tmp_path / "2d.pth")
        logits[integration] = [model(video)] if frozen == "frozen_bn" else []
        logits[integration].append(model.eval()(video))
    for ours, expected in zip(logits["attention"], logits["sum"], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_2d_kernels_start_a_hybrid_network_that_sees_time(tmp_path):
    source = torchvision.models.resnet18(num_classes=7)
    torch.save(source.state_dict(), tmp_path / "r18.pth")
    model = create_model("sth", "resnet18", 4, 7)
    load_weights(model, tmp_path / "r18.pth")
    conv, kernel = model.backbone.layer3[1].conv1, source.layer3[1].conv1.weight
    torch.testing.assert_close(conv.temporal[:64], kernel[:64, :64].sum(3, keepdim=True))


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
def test_stem_for_flow_is_the_mean_over_rgb(tmp_path, arch):
    source = getattr(torchvision.models, arch)(num_classes=7)
    torch.save(source.state_dict(), tmp_path / "rgb.pth")
    model = create_model("tsm", arch, 4, 7, modality="flow")
    (name,) = load_weights(model, tmp_path / "rgb.pth").adapted
    stem = next(iter(source.parameters()))
    torch.testing.assert_close(model.state_dict()[name], stem.mean(1, keepdim=True).expand(-1, 10, -1, -1))


def test_classes_are_brought_into_the_order_of_the_model(tmp_path):
    names, order = ["a", "b", "c", "d"], ["c", "a", "d", "b"]
    path, source = saved(tmp_path, "tsm", classes=4, class_names=order)
    model = create_model("tsm", "resnet18", 4, 4)
    assert "4 of the classifier's 4 rows" in str(load_weights(model, path, class_names=names))
    for row, name in enumerate(names):
        assert torch.equal(model.head.weight[row], source.head.weight[order.index(name)])
        assert model.head.bias[row] == source.head.bias[order.index(name)]
    torch.save(source.state_dict(), path)  # without names, as the files of others
    told = create_model("tsm", "resnet18", 4, 4)
    load_weights(told, path, class_order=order, class_names=names)
    assert torch.equal(told.head.weight, model.head.weight)
    untold = create_model("tsm", "resnet18", 4, 4)
    assert "in the order of the file" in str(load_weights(untold, path, class_names=names))
    assert torch.equal(untold.head.weight, source.head.weight)


@pytest.mark.parametrize(
    ("order", "names", "message"),
    [
        (["a", "b", "x"], ["a", "b", "c"], "has the classes 'x', which this model lacks; set weights_new_head=true"),
        (["a", "b"], ["a", "b", "c"], "weights_class_order has 2 different names, the classifier 3 rows"),
        (["a", "b", "b"], ["a", "b", "c"], "weights_class_order has 2 different names, the classifier 3 rows"),
        (["a", "b", "c"], None, "class_order needs class_names too"),
    ],
)
def test_classes_that_do_not_fit(tmp_path, order, names, message):
    path, _ = saved(tmp_path, "tsn", classes=3)
    with pytest.raises(InputError, match=message):
        load_weights(create_model("tsn", "resnet18", 4, 3), path, class_order=order, class_names=names)


def test_classifier_is_dropped_on_request_or_for_other_classes(tmp_path):
    path, source = saved(tmp_path, "tsn")
    model = create_model("tsn", "resnet18", 4, 7)
    report = load_weights(model, path, new_head=True)
    assert report.skipped == dict.fromkeys(("head.weight", "head.bias"), "a new classifier was requested")
    assert not torch.equal(model.head.weight, source.head.weight)
    report = load_weights(create_model("tsn", "resnet18", 4, 9), path)
    assert "a classifier of 7 classes, this model has 9" in str(report)
    torch.save({n: t for n, t in source.state_dict().items() if not n.startswith("head")}, path)
    with pytest.raises(
        InputError, match=r"2 tensors are missing in the file: head\.weight, head\.bias; set weights_new_head=true"
    ):
        load_weights(model, path)
    assert load_weights(model, path, new_head=True).missing == ("head.weight", "head.bias")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"encoder.weight": torch.zeros(2)}, "found tensors named encoder.weight; expected those of a torchvision"),
        ({"state_dict": {"conv1.weight": "text"}}, r"expected tensors, found conv1\.weight \(str\)"),
        ({"conv1.weight": torch.zeros(64, 3, 7, 7), "extra": torch.zeros(1)}, r"1 tensors of .* in this model: extra"),
        ({"model": {"head.bias": torch.zeros(7)}, "config": {"backbone": {"operator": "x", "arch": "resnet18",
          "num_frames": 4}}}, "its config is not one of this version of vsn-train: operator 'x'"),
    ],
)  # fmt: skip
def test_foreign_tensors(tmp_path, content, message):
    torch.save(content, tmp_path / "file.pth")
    with pytest.raises(InputError, match=f"file.pth: .*{message}"):
        load_weights(create_model("tsn", "resnet18", 4, 7), tmp_path / "file.pth")


@pytest.mark.parametrize(
    ("there", "here"), [("resnet18", "resnet50"), ("resnet50", "resnet34"), ("mobilenet_v2", "resnet18")]
)
def test_another_network_is_named(tmp_path, there, here):
    path = tmp_path / "weights.pth"
    torch.save(getattr(torchvision.models, there)().state_dict(), path)
    message = f"its network is a {there}, this model a {here}; set backbone.arch={there}, or use a file of a {here}"
    with pytest.raises(InputError, match=re.escape(message)):
        load_weights(create_model("tsm", here, 4, 3), path)


def test_a_safetensors_file_with_timms_names(tmp_path):
    """timm names a ResNet's tensors as torchvision does; its files carry no counts of batches where they are old."""
    state = torchvision.models.resnet18().state_dict()
    save_file({name: each for name, each in state.items() if "num_batches" not in name}, tmp_path / "model.safetensors")
    model = create_model("tsm", "resnet18", 4, 7)
    report = load_weights(model, tmp_path / "model.safetensors")
    assert set(report.missing) == {"head.weight", "head.bias"}
    assert torch.equal(model.backbone.layer4[0].downsample[0].weight, state["layer4.0.downsample.0.weight"])
    # Those with a stem of three convolutions, such as resnet18d, are other networks.
    deep = {f"conv1.{name}" if name == "weight" else name: each for name, each in state.items()}
    deep["conv1.0.weight"] = deep.pop("conv1.weight")
    save_file(deep, tmp_path / "deep.safetensors")
    with pytest.raises(InputError, match=r"deep\.safetensors: found tensors named .*; expected those of a torchvision"):
        load_weights(model, tmp_path / "deep.safetensors")


@pytest.mark.parametrize("cut", [0, 5, -4])
def test_a_damaged_safetensors_file(tmp_path, cut):
    path = tmp_path / "model.safetensors"
    save_file({"conv1.weight": torch.zeros(3)}, path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"truncated, or not a \.safetensors file"):
        load_weights(create_model("tsn", "resnet18", 2, 3), path)

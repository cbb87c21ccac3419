"""Files in every published layout, made here from random weights, against a plain forward pass over the raw tensors."""

import csv
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torchvision

from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.weights import load_weights

KEYS = Path(__file__).resolve().parents[3] / "shared" / "reference" / "checkpoint-keys-resnet50.csv"
FRAMES, CLASSES = 4, 6
MOBILENET_RUNS = [
    (1, 1, 1),
    (6, 2, 2),
    (6, 3, 2),
    (6, 4, 2),
    (6, 3, 1),
    (6, 3, 2),
    (6, 1, 1),
]  # expansion, blocks, stride


def random_state(arch: str, classes: int = CLASSES) -> dict[str, torch.Tensor]:
    """torchvision's names, batch norm as after a training."""
    torch.manual_seed(0)
    state = getattr(torchvision.models, arch)(num_classes=classes).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return {re.sub(r"^classifier\.1\.", "fc.", name): tensor for name, tensor in state.items()}


def shift(x):
    """Channel by channel and frame by frame, as the TSM paper words it."""
    fold, out = x.shape[1] // 8, x.clone()
    for index in range(x.shape[0]):
        t = index % FRAMES
        out[index, :fold] = x[index + 1, :fold] if t + 1 < FRAMES else 0
        out[index, fold : 2 * fold] = x[index - 1, fold : 2 * fold] if t > 0 else 0
    return out


def layer(state, x, conv, norm, stride=1, padding=0, groups=1):
    x = F.conv2d(x, state[f"{conv}.weight"], stride=stride, padding=padding, groups=groups)
    values = [state[f"{norm}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *values)


def classify(state, x):
    logits = F.linear(x.mean((2, 3)), state["fc.weight"], state["fc.bias"])
    return logits.unflatten(0, (-1, FRAMES)).mean(1)


def resnet_logits(state, video, place=None):
    x = F.relu(layer(state, video.flatten(0, 1), "conv1", "bn1", 2, 3))
    x = F.max_pool2d(x, 3, 2, 1)
    for stage in range(1, 5):
        block = 0
        while f"layer{stage}.{block}.conv1.weight" in state:
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            x = shift(x) if place == "inplace" else x
            y = shift(x) if place == "residual" else x
            if f"{name}.conv3.weight" in state:
                y = F.relu(layer(state, y, f"{name}.conv1", f"{name}.bn1"))
                y = F.relu(layer(state, y, f"{name}.conv2", f"{name}.bn2", stride, 1))
                y = layer(state, y, f"{name}.conv3", f"{name}.bn3")
            else:
                y = F.relu(layer(state, y, f"{name}.conv1", f"{name}.bn1", stride, 1))
                y = layer(state, y, f"{name}.conv2", f"{name}.bn2", 1, 1)
            if f"{name}.downsample.0.weight" in state:
                x = layer(state, x, f"{name}.downsample.0", f"{name}.downsample.1", stride)
            x, block = F.relu(x + y), block + 1
    return classify(state, x)


def mobilenet_logits(state, video, place=None):
    x, index = F.relu6(layer(state, video.flatten(0, 1), "features.0.0", "features.0.1", 2, 1)), 1
    for expansion, blocks, first_stride in MOBILENET_RUNS:
        for block in range(blocks):
            name, stride, last = f"features.{index}.conv", first_stride if block == 0 else 1, 2 if expansion > 1 else 1
            y = x
            if expansion > 1:
                y = shift(x) if place and block > 0 else x
                y = F.relu6(layer(state, y, f"{name}.0.0", f"{name}.0.1"))
            y = F.relu6(layer(state, y, f"{name}.{last - 1}.0", f"{name}.{last - 1}.1", stride, 1, y.shape[1]))
            y = layer(state, y, f"{name}.{last}", f"{name}.{last + 1}")
            x, index = x + y if block > 0 else y, index + 1
    return classify(state, F.relu6(layer(state, x, "features.18.0", "features.18.1")))


def tsm_names(state, place=None, head="new_fc"):
    """How the TSM repository saves a ResNet, `module.` from its DataParallel included."""
    renamed = {}
    for name, tensor in state.items():
        if place == "inplace":
            name = re.sub(r"^(layer\d\.\d+)\.", r"\1.net.", name)
        elif place == "residual":
            name = re.sub(r"^(layer\d\.\d+\.conv1)\.", r"\1.net.", name)
        name = name.replace("fc.", f"{head}.") if name.startswith("fc.") else f"base_model.{name}"
        renamed[f"module.{name}"] = tensor
    return renamed


def mmaction2_names(state, place=None):
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("downsample.0.", "downsample.conv.").replace("downsample.1.", "downsample.bn.")
        name = re.sub(r"\bconv(\d)\.", r"conv\1.conv.", name)
        name = re.sub(r"\bbn(\d)\.", r"conv\1.bn.", name)
        if place == "inplace":
            name = re.sub(r"^(layer\d\.\d+)\.", r"\1.net.", name)
        elif place == "residual":
            name = re.sub(r"^(layer\d\.\d+\.conv1\.conv)\.", r"\1.net.", name)
        renamed[name.replace("fc.", "cls_head.fc_cls.") if name.startswith("fc.") else f"backbone.{name}"] = tensor
    return renamed


def mmaction_names(state):
    return {
        f"{'cls_head.fc_cls.' if n[:3] == 'fc.' else 'backbone.'}{n.removeprefix('fc.')}": t for n, t in state.items()
    }


def mobilenet_names(state, layout, place=None):
    """Written from the block structure: each block's convolutions and norms in order."""
    renamed, index = {}, 1
    stem, last = ("features.0.{}", "features.18.{}") if layout == "tsm" else ("conv1.{}", "conv2.{}")
    for old, new in (("features.0", stem), ("features.18", last)):
        for i, part in enumerate(("conv", "bn")):
            renamed[f"{old}.{i}"] = new.format(i if layout == "tsm" else part)
    for run, (expansion, blocks, _) in enumerate(MOBILENET_RUNS):
        for block in range(blocks):
            old = f"features.{index}.conv"
            pairs = [(f"{old}.{i}.0", f"{old}.{i}.1") for i in range(2 if expansion > 1 else 1)]
            pairs.append((f"{old}.{len(pairs)}", f"{old}.{len(pairs) + 1}"))
            for i, (conv, norm) in enumerate(pairs):
                net = ".net" if place and i == 0 and block > 0 and expansion > 1 else ""
                if layout == "tsm":
                    renamed[conv], renamed[norm] = f"{old}.{3 * i}{net}", f"{old}.{3 * i + 1}"
                else:
                    new = f"layer{run + 1}.{block}.conv.{i}{net}"
                    renamed[conv], renamed[norm] = f"{new}.conv", f"{new}.bn"
            index += 1
    prefix, head = ("module.base_model.", "module.new_fc") if layout == "tsm" else ("backbone.", "cls_head.fc_cls")
    return {
        f"{head if module == 'fc' else prefix + renamed[module]}.{part}": tensor
        for (module, _, part), tensor in ((name.rpartition("."), tensor) for name, tensor in state.items())
    }


def wrapped(state, layout):
    if layout.startswith("tsm"):
        return {"epoch": 3, "arch": "resnet18", "best_prec1": torch.tensor(1.0), "state_dict": state}
    return {"state_dict": state, "meta": {"config": "model = dict()"}} if layout.startswith("mm") else state


def check_logits(tmp_path, content, arch, operator, expected_of, **options):
    """The file loads completely and gives the logits of the plain forward pass."""
    torch.save(content, tmp_path / "file.pth")
    model = create_model(operator, arch, FRAMES, CLASSES, **options).eval()
    report = load_weights(model, tmp_path / "file.pth")
    assert not report.missing
    assert not report.skipped
    assert set(report.loaded) >= {name for name in model.state_dict() if not name.endswith("num_batches_tracked")}
    video = torch.randn(2, FRAMES, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(video), expected_of(video), rtol=1e-5, atol=1e-5)
    return report


@pytest.mark.parametrize(
    ("layout", "operator", "place", "arch"),
    [
        ("torchvision", "tsn", None, "resnet18"),
        ("torchvision", "tsm", "residual", "resnet18"),
        ("tsm", "tsn", None, "resnet18"),
        ("tsm", "tsm", "residual", "resnet50"),
        ("tsm", "tsm", "inplace", "resnet18"),
        ("mmaction2", "tsn", None, "resnet18"),
        ("mmaction2", "tsm", "residual", "resnet50"),
        ("mmaction2", "tsm", "inplace", "resnet18"),
        pytest.param("mmaction2", "tsm", "inplace", "resnet101", marks=pytest.mark.slow),
        ("mmaction", "tsn", None, "resnet18"),
    ],
)
def test_resnet_of_every_layout(tmp_path, layout, operator, place, arch):
    state = random_state(arch)
    names = {
        "torchvision": lambda: state,
        "tsm": lambda: tsm_names(state, place),
        "mmaction2": lambda: mmaction2_names(state, place),
        "mmaction": lambda: mmaction_names(state),
    }[layout]()
    options = {"placement": place} if place else {}
    check_logits(
        tmp_path, wrapped(names, layout), arch, operator, lambda video: resnet_logits(state, video, place), **options
    )


@pytest.mark.parametrize("layout", ["torchvision", "tsm", "mmaction2"])
@pytest.mark.parametrize(("operator", "place"), [("tsn", None), ("tsm", "residual")])
def test_mobilenet_of_every_layout(tmp_path, layout, operator, place):
    state = random_state("mobilenet_v2")
    if layout == "torchvision":
        names = {re.sub("^fc", "classifier.1", name): tensor for name, tensor in state.items()}
    else:
        names = mobilenet_names(state, layout, place)
        assert sum(".net." in name and name.endswith("conv.weight" if layout == "mmaction2" else "weight")
                   for name in names) == (10 if place else 0)  # fmt: skip
    check_logits(
        tmp_path,
        wrapped(names, layout),
        "mobilenet_v2",
        operator,
        lambda video: mobilenet_logits(state, video, place),
    )


def test_variants_of_tsm_files(tmp_path):
    """No dropout and so no new_fc; after torch.compile; written before PyTorch counted batches: 267 keys of 320."""
    state = random_state("resnet18")
    names = tsm_names(state, "residual", head="base_model.fc")
    names = {name.replace("module.", "module._orig_mod."): tensor for name, tensor in names.items()}
    names = {name: tensor for name, tensor in names.items() if not name.endswith("num_batches_tracked")}
    check_logits(tmp_path, names, "resnet18", "tsm", lambda video: resnet_logits(state, video, "residual"))


def test_preprocessing_constants_of_mmaction2_are_no_weights(tmp_path):
    names = mmaction2_names(random_state("resnet18")) | {"data_preprocessor.mean": torch.zeros(3, 1, 1)}
    torch.save({"state_dict": names}, tmp_path / "file.pth")
    report = load_weights(create_model("tsn", "resnet18", FRAMES, CLASSES), tmp_path / "file.pth")
    assert report.skipped == {"data_preprocessor.mean": "no part of the network"}


def hollow(state):
    """The same names and shapes, without values."""
    return {name: torch.zeros(tensor.shape) for name, tensor in state.items()}


def test_resnet101_is_shifted_in_every_second_block(tmp_path):
    with torch.device("meta"):
        state = torchvision.models.resnet101(num_classes=CLASSES).state_dict()
    plain = {f"base_model.{name}".replace("base_model.fc", "new_fc"): tensor for name, tensor in hollow(state).items()}
    even = re.compile(r"(layer\d\.\d*[02468]\.conv1)\.weight")
    torch.save({even.sub(r"\1.net.weight", name): tensor for name, tensor in plain.items()}, tmp_path / "even.pth")
    model = create_model("tsm", "resnet101", FRAMES, CLASSES)
    assert not load_weights(model, tmp_path / "even.pth").missing
    name = "base_model.layer1.0.conv1"
    torch.save(plain | {f"{name}.net.weight": plain[f"{name}.weight"]}, tmp_path / "twice.pth")
    with pytest.raises(InputError, match=r"several tensors map to layer1\.0\.conv1\.weight"):
        load_weights(model, tmp_path / "twice.pth")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("base_model.layer2.0.nl.g.weight", "non-local blocks"),
        ("base_model.layer2.net.0.conv1.net.weight", "temporal pooling"),
    ],
)
def test_parts_that_no_model_here_has(tmp_path, key, message):
    torch.save(tsm_names(random_state("resnet18")) | {key: torch.zeros(1)}, tmp_path / "file.pth")
    with pytest.raises(InputError, match=f"file.pth: the file's network has {message}"):
        load_weights(create_model("tsm", "resnet18", FRAMES, CLASSES), tmp_path / "file.pth")


@pytest.mark.skipif(not KEYS.is_file(), reason="the table of published keys is not here")
@pytest.mark.parametrize(
    ("column", "operator", "layout"),
    [
        ("torchvision", "tsm", "torchvision"),
        ("tsm_repo_tsn", "tsn", "TSM repository"),
        ("tsm_repo_tsm", "tsm", "TSM repository"),
        ("mmaction2_tsn", "tsn", "mmaction2"),
        ("mmaction2_tsm", "tsm", "mmaction2"),
        ("mmaction_0x_tsn", "tsn", "mmaction 0.x"),
    ],
)
def test_every_published_key_of_resnet50_is_used(tmp_path, column, operator, layout):
    rows = list(csv.DictReader(KEYS.open()))
    shapes = {row["torchvision"]: [int(n) for n in row["shape"].split("x") if n.isdigit()] for row in rows}
    assert len(rows) == 320
    classes = 1000
    shapes |= {"fc.weight": [classes, 2048], "fc.bias": [classes]}
    state = {row[column]: torch.zeros(shapes[row["torchvision"]]) for row in rows}
    torch.save({"state_dict": state}, tmp_path / "file.pth")
    report = load_weights(create_model(operator, "resnet50", 8, classes), tmp_path / "file.pth")
    assert len(report.loaded) == 320
    assert not report.skipped
    assert not report.missing
    assert report.layout == layout

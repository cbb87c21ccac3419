import pytest
import torch
import torchvision
from torch import nn

from vsn_train.bench.reference_operators import reference_model
from vsn_train.engine.optim import parameter_groups
from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.backbone import ARCHS, OPERATORS
from vsn_train.models.hybrid import HybridConv2d
from vsn_train.models.shift import ShiftedConv2d

# Every form of every operator that a user can ask for.
FORMS = [
    ("tsn", {}),
    ("tsm", {}),
    ("tsm", {"placement": "inplace", "fold_div": 4}),
    ("tsm_online", {}),
    ("vsn_compact", {}),
    ("vsn_compact", {"standard_block": "plain", "where": "all"}),
    ("vsn_headtail", {}),
    ("vsn_headtail", {"where": "all"}),
    ("sth", {}),
    ("sth", {"integration": "sum", "p": 0.5}),
    ("sth", {"variant": "merge"}),
]
NAMES = [" ".join([operator, *map(str, options.values())]) for operator, options in FORMS]


def set_random(model: nn.Module) -> None:
    """No weight or statistic at its start value: zeros and ones hide mistakes."""
    generator = torch.Generator().manual_seed(0)
    for name, value in model.state_dict().items():
        if name.endswith("running_var"):
            value.uniform_(0.5, 2, generator=generator)
        elif value.is_floating_point():
            scale = 0.3 if value.dim() == 1 else (2 / value[0].numel()) ** 0.5
            value.normal_(std=scale, generator=generator)


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


@pytest.mark.parametrize("operator", ["tsn", "tsm", "vsn_compact", "vsn_headtail"])
@pytest.mark.parametrize(("arch", "millions"), [("resnet50", "23.86"), ("resnet101", "42.86")])
def test_parameters_with_174_classes(operator, arch, millions):
    with torch.device("meta"):
        model = create_model(operator, arch, num_frames=8, num_classes=174)
    number = sum(parameter.numel() for parameter in model.parameters())
    assert f"{number / 1e6:.2f}" == millions
    assert arch != "resnet50" or number == 23_508_032 + 174 * 2049


@pytest.mark.parametrize(
    ("arch", "layout"),
    [
        ("resnet18", torch.contiguous_format),
        ("resnet50", torch.channels_last),
        ("mobilenet_v2", torch.contiguous_format),
        ("mobilenet_v2", torch.channels_last),
    ],
)
@pytest.mark.parametrize(("operator", "options"), FORMS[1:], ids=NAMES[1:])
def test_equals_the_reference_form(operator, options, arch, layout):
    fast = create_model(operator, arch, 4, 5, **options).double().eval()
    slow = reference_model(operator, arch, 4, 5, **options).double().eval()
    set_random(fast)
    slow.load_state_dict(dict(zip(slow.state_dict(), fast.state_dict().values(), strict=True)))
    fast.to(memory_format=layout)
    video = torch.randn(2, 4, 3, 33, 40, dtype=torch.float64)
    out, expected = fast(video), slow(video)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    weights = [next(model.parameters()) for model in (fast, slow)]  # the stem's: its gradient comes through all blocks
    gradients = [torch.autograd.grad(y.square().sum(), w)[0] for y, w in zip((out, expected), weights, strict=True)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


def stage_of(operator: str, arch: str, options: dict) -> tuple[nn.Module, torch.Tensor]:
    """Part of the network with all that the operator brings, a stride included, and two clips for it."""
    model = create_model(operator, arch, 4, 5, **options)
    set_random(model)
    if arch == "mobilenet_v2":
        return model.backbone.features[2:6], torch.randn(8, 16, 8, 8)
    return model.backbone.layer2, torch.randn(8, 64 if arch == "resnet18" else 256, 8, 8)


@pytest.mark.parametrize("arch", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow), "mobilenet_v2"])
@pytest.mark.parametrize(("operator", "options"), FORMS, ids=NAMES)
def test_compiles_as_one_graph(operator, options, arch):
    torch._dynamo.reset()
    stage, x = stage_of(operator, arch, options)
    compiled = torch.compile(stage.eval(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), stage(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("operator", ["tsm", "vsn_compact", "vsn_headtail", "sth"])
def test_trains_compiled_as_it_does_eagerly(operator, layout):
    torch._dynamo.reset()
    stage, x = stage_of(operator, "resnet18", {})
    stage, x = stage.double(), x.double().contiguous(memory_format=layout)
    gradients = []
    for network in (stage, torch.compile(stage, backend="aot_eager", fullgraph=True)):
        stage.zero_grad()
        network(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in stage.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize(("operator", "options"), FORMS, ids=NAMES)
def test_trains_in_bf16(operator, options, arch):
    stage, x = stage_of(operator, arch, options)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = stage(x)
    expected = stage(x)
    assert (out - expected).norm() < 0.05 * expected.norm()
    out.float().square().sum().backward()
    assert all(parameter.grad is not None for parameter in stage.parameters())


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2"])
@pytest.mark.parametrize(("operator", "options"), FORMS, ids=NAMES)
@pytest.mark.slow
def test_exports_with_any_number_of_clips(operator, options, arch):
    stage, x = stage_of(operator, arch, options)
    clips = torch.export.Dim("clips", min=1, max=8)
    program = torch.export.export(stage.eval(), (x,), dynamic_shapes=({0: 4 * clips},))
    x = torch.cat([x, x.flip(0)[:4]])
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), stage(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("operator", ["tsm", "vsn_compact", "vsn_headtail", "sth"])
@pytest.mark.slow
def test_onnx_file_gives_the_same_features(operator, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    stage, x = stage_of(operator, "resnet18", {})
    torch.onnx.export(stage.eval(), (x,), tmp_path / "stage.onnx", dynamo=True, verbose=False)
    session = runtime.InferenceSession(tmp_path / "stage.onnx")
    (features,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(features), stage(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_parameter_is_in_one_group_and_only_the_head_learns_faster(operator, arch):
    with torch.device("meta"):
        model = create_model(operator, arch, 8, 5)
    groups = {group["name"]: group["params"] for group in parameter_groups(model, lr=0.1, weight_decay=1e-4)}
    grouped = [id(parameter) for parameters in groups.values() for parameter in parameters]
    assert sorted(grouped) == sorted(id(parameter) for parameter in model.parameters())
    assert [*groups["head_weight"], *groups["head_bias"]] == list(model.head.parameters())
    attention = [each.attention.weight for each in model.modules() if isinstance(each, HybridConv2d)]
    assert {id(each) for each in attention} <= {id(each) for each in groups["weight"]}


@pytest.mark.parametrize("operator", ["vsn_headtail", "sth"])
def test_partial_bn_moves_only_the_first_norm(operator):
    model = create_model(operator, "resnet18", 2, 3, partial_bn=True).eval().train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [norm.training for norm in norms] == [True] + [False] * 19
    before = [norm.running_mean.clone() for norm in norms]
    model(torch.randn(2, 2, 3, 32, 32)).square().sum().backward()
    assert [norm.weight.grad is not None for norm in norms] == [True] + [False] * 19
    moved = [not torch.equal(norm.running_mean, old) for norm, old in zip(norms, before, strict=True)]
    assert moved == [True] + [False] * 19
    assert not any(norm.training for norm in model.eval().modules())


def test_flow_has_ten_channels_a_frame():
    for arch in ("resnet18", "mobilenet_v2"):
        model = create_model("tsm", arch, num_frames=2, num_classes=3, modality="flow")
        assert model(torch.randn(1, 2, 10, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operator": "tsmm"}, "operator 'tsmm': expected one of tsn, tsm, tsm_online, vsn_compact, vsn_headtail, sth"),
        (
            {"arch": "resnet19"},
            "arch 'resnet19': expected one of resnet18, resnet34, resnet50, resnet101, mobilenet_v2",
        ),
        ({"modality": "depth"}, "modality 'depth': expected one of rgb, flow"),
        ({"fold": 8}, "tsm has no option fold; its options: fold_div, placement"),
        ({"num_frames": 0}, "num_frames 0: expected at least 1"),
        ({"fold_div": 1}, "fold_div 1: expected at least 2"),
        ({"placement": "block"}, "placement 'block': expected one of residual, inplace"),
        ({"operator": "vsn_compact", "where": "first"}, "where 'first': expected one of last, all"),
        (
            {"operator": "vsn_compact", "num_frames": 5},
            r"layer1\.1\.conv2: 64 channels do not split into 5 equal groups",
        ),
        ({"operator": "vsn_headtail", "arch": "resnet50", "num_frames": 3}, r"layer1\.2\.conv1: 256 channels"),
        ({"operator": "sth", "p": 0.3}, r"layer1\.0\.conv1: p 0\.3: expected 1/2, 1/3"),
        ({"operator": "sth", "p": 1 / 3}, r"layer1\.0\.conv1: 64 input channels do not split into 1/p = 3"),
        ({"operator": "sth", "p": 1 / 5, "arch": "mobilenet_v2"}, r"features\.1\.conv\.0\.0: 32 channels do not split"),
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

import copy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vsn_train.bench.reference_operators import ReferenceDepthwiseHybridConv3d, ReferenceHybridConv3d
from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models import hybrid as hybrid_module
from vsn_train.models.hybrid import DepthwiseHybridConv2d, HybridConv2d, dense_kernel, grouped_spatial_conv


def random_hybrid(*arguments, **options) -> HybridConv2d:
    """In float64 and with every weight at random, the attention's too."""
    conv = HybridConv2d(*arguments, **options).double()
    for parameter in conv.parameters():
        torch.nn.init.normal_(parameter)
    return conv


def slow_hybrid(conv: HybridConv2d, x: torch.Tensor) -> torch.Tensor:
    """Tap by tap from the formula, kernels 3x3x3 with zeros where a pair has no weight; attention from equation 3."""
    T, G, Ci, Co = conv.num_frames, conv.groups, conv.in_channels, conv.out_channels
    W_T, W_S = (x.new_zeros(Co, Ci, 3, 3, 3) for _ in range(2))
    for m in range(Co):
        if conv.variant == "merge":
            temporal = list(range(Ci)) if m < Co // G else []
        else:
            j = m // (Co // G)
            temporal = list(range(j * Ci // G, (j + 1) * Ci // G))
        spatial = [c for c in range(Ci) if c not in temporal]
        for position, c in enumerate(temporal):
            W_T[m, c, :, 1, 1] = conv.temporal[m, position, :, 0]
        for position, c in enumerate(spatial):
            row = m - Co // G if conv.variant == "merge" else m
            W_S[m, c, 1] = conv.spatial[row, position]
    clips = x.unflatten(0, (-1, T)).transpose(1, 2)
    stride = (1, conv.stride, conv.stride)
    O_T, O_S = (F.conv3d(clips, weight, stride=stride, padding=1) for weight in (W_T, W_S))
    if conv.integration == "sum":
        out = O_T + O_S
    else:
        logits = [F.linear(branch.mean((2, 3, 4)), conv.attention.weight) for branch in (O_T, O_S)]
        a_T, a_S = torch.stack(logits).softmax(0)[..., None, None, None]
        out = a_T * O_T + a_S * O_S
    return out.transpose(1, 2).flatten(0, 1)


@settings(max_examples=60, deadline=None)
@given(
    clips=st.integers(1, 3),
    num_frames=st.integers(1, 5),
    groups=st.sampled_from([2, 3, 4, 5, 8]),
    inputs=st.integers(1, 2),
    outputs=st.integers(1, 2),
    size=st.integers(1, 5),
    stride=st.integers(1, 2),
    variant=st.sampled_from(["hybrid", "merge"]),
    integration=st.sampled_from(["sum", "attention"]),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
    fewest=st.sampled_from([1, 10**6]),
)
def test_equals_masked_conv3d_in_value_and_gradient(
    clips, num_frames, groups, inputs, outputs, size, stride, variant, integration, layout, fewest
):
    conv = random_hybrid(groups * inputs, groups * outputs, num_frames, stride, 1 / groups, variant, integration)
    x = torch.randn(clips * num_frames, groups * inputs, size, size + 1, dtype=torch.float64)
    x = x.contiguous(memory_format=layout).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hybrid_module, "MIN_GROUPED_CHANNELS", fewest)
        fast = conv(x)
    slow, reference = slow_hybrid(conv, x), ReferenceHybridConv3d(conv)(x)
    weight = torch.randn_like(slow)
    variables = [x, *conv.parameters()]
    expected = torch.autograd.grad((slow * weight).sum(), variables)
    for out in (fast, reference):
        torch.testing.assert_close(out, slow, rtol=1e-10, atol=1e-10)
        for got, want in zip(torch.autograd.grad((out * weight).sum(), variables), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("variant", ["hybrid", "merge"])
def test_a_quarter_is_conv3d_with_the_right_weights_zeroed(variant):
    conv = random_hybrid(16, 8, 4, p=0.25, variant=variant)
    dense = torch.nn.Conv3d(16, 8, 3, padding=1, bias=False).double()
    with torch.no_grad():
        dense.weight.zero_()
        for j in range(4):
            rows, own = slice(2 * j, 2 * j + 2), slice(4 * j, 4 * j + 4)
            if variant == "hybrid":
                others = [c for c in range(16) if not 4 * j <= c < 4 * j + 4]
                dense.weight[rows, own, :, 1, 1] = conv.temporal[rows, :, :, 0]
                for position, c in enumerate(others):
                    dense.weight[rows, c, 1] = conv.spatial[rows, position]
            elif j == 0:
                dense.weight[rows, :, :, 1, 1] = conv.temporal[:, :, :, 0]
            else:
                dense.weight[rows, :, 1] = conv.spatial[2 * j - 2 : 2 * j]
    assert int((dense.weight != 0).sum()) == conv.spatial.numel() + conv.temporal.numel() == int(8 * 16 * 7.5)
    x = torch.randn(2, 16, 4, 5, 6, dtype=torch.float64)
    expected = dense(x).transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(conv(x.transpose(1, 2).flatten(0, 1)), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("variant", ["hybrid", "merge"])
@pytest.mark.parametrize("integration", ["sum", "attention"])
def test_centre_starts_as_the_documented_2d_function(variant, integration):
    kernel = torch.randn(12, 8, 3, 3, dtype=torch.float64)
    conv = HybridConv2d(8, 12, 3, 2, variant=variant, integration=integration, temporal_start="centre").double()
    conv.init_from_conv2d(kernel)
    expected = kernel.clone()
    for m in range(12):
        own = slice(m // 3 * 2, m // 3 * 2 + 2)
        cut = own if variant == "hybrid" else slice(0, 8 if m < 3 else 0)
        expected[m, cut] = 0
        expected[m, cut, 1, 1] = kernel[m, cut].sum((1, 2))
    if integration == "attention":
        expected /= 2
    x = torch.randn(6, 8, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(conv(x), F.conv2d(x, expected, stride=2, padding=1), rtol=1e-12, atol=1e-12)


def pairs_in_time(kernel: torch.Tensor) -> torch.Tensor:
    """The 3x3 kernels (Co, Ci / 4, 3, 3) that the hybrid variant with p = 1/4 replaces."""
    return torch.cat([rows.chunk(4, dim=1)[j] for j, rows in enumerate(kernel.chunk(4))])


@pytest.mark.parametrize("integration", ["sum", "attention"])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("asked", ["auto", "random", "rows", "mixed", "centre"])
def test_temporal_taps_at_the_start(integration, trained, asked):
    torch.manual_seed(0)
    kernel = 0.03 * torch.randn(256, 128, 3, 3)
    conv = HybridConv2d(128, 256, 8, integration=integration, temporal_start=asked, outer_taps=2.0)
    conv.init_from_conv2d(kernel, trained)
    before, centre, after = conv.temporal.unbind(2)
    total = pairs_in_time(kernel).sum((2, 3))[..., None]
    form = {"auto": "rows" if trained else "random"}.get(asked, asked)
    if form == "random":
        assert float(conv.temporal.std()) == pytest.approx(0.03, rel=0.05)
        assert float((centre - total).std()) > 0.03  # not the 2D kernel's sum
    elif form == "rows":
        torch.testing.assert_close(conv.temporal, pairs_in_time(kernel).sum(3, keepdim=True))
        torch.testing.assert_close(before + centre + after, total)  # a still video gives the 2D kernel's response
    else:
        torch.testing.assert_close(centre, total)
    if form == "centre":
        assert not before.any()
        assert not after.any()
    if form == "mixed":
        for taps in (before, after):
            assert float(taps.std()) == pytest.approx(2 * 0.03, rel=0.05)
            assert abs(float(taps.mean())) < 0.005
    others = [c for c in range(128) if c >= 32]
    torch.testing.assert_close(conv.spatial[:64], kernel[:64, others])


def test_networks_from_random_weights_mix_frames_from_the_first_step():
    for arch in ("resnet18", "mobilenet_v2"):
        torch.manual_seed(0)
        model = create_model("sth", arch, 4, 5).eval()
        video = torch.randn(1, 4, 3, 32, 32)
        with torch.no_grad():
            features = model.backbone(video.flatten(0, 1))
            turned = model.backbone(video.flip(1).flatten(0, 1)).flip(0)
        assert float((features - turned).norm() / features.norm()) > 0.05, arch


def test_one_step_changes_the_function_alike_with_sum_and_attention():
    """Behind a batch norm that is training, whose output does not depend on the scale of the weights."""
    changes = []
    for integration in ("sum", "attention"):
        torch.manual_seed(0)
        conv = HybridConv2d(64, 64, 4, integration=integration).double()
        norm = torch.nn.BatchNorm2d(64).double()
        torch.manual_seed(1)
        x, weight = torch.randn(8, 64, 6, 6).double(), torch.randn(8, 64, 6, 6).double()
        before = norm(conv(x))
        (before * weight).mean().backward()
        with torch.no_grad():
            for taps in (conv.spatial, conv.temporal):
                taps -= taps.grad
        changes.append((norm(conv(x)) - before).detach())
    assert float(changes[0].abs().max()) > 0.05  # doubled weights would give a quarter of it
    torch.testing.assert_close(changes[1], changes[0], rtol=0, atol=1e-5)


def test_last_attention_can_be_read_and_starts_at_one_half():
    conv = HybridConv2d(8, 16, 4, integration="attention")
    assert conv.last_attention is None
    conv(torch.randn(12, 8, 5, 5))
    assert torch.equal(conv.last_attention, torch.full((3, 2, 16), 0.5))
    assert not conv.last_attention.requires_grad
    torch.nn.init.normal_(conv.attention.weight)
    conv(torch.randn(12, 8, 5, 5))
    torch.testing.assert_close(conv.last_attention.sum(1), torch.ones(3, 16))
    assert HybridConv2d(8, 16, 4).last_attention is None


def test_grouped_form_equals_dense_form():
    for groups in (2, 4, 8):
        spatial = torch.randn(16, 16 - 16 // groups, 3, 3, dtype=torch.float64)
        x = torch.randn(2, 16, 6, 6, dtype=torch.float64)
        expected = F.conv2d(x, dense_kernel(spatial, groups), padding=1)
        torch.testing.assert_close(grouped_spatial_conv(x, spatial, groups), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("p", "integration", "millions"),
    [
        (1 / 8, "sum", "22.92"),
        (1 / 8, "attention", "24.18"),
        (1 / 4, "sum", "21.98"),
        (1 / 4, "attention", "23.24"),
        (1 / 2, "sum", "20.09"),
        (1 / 2, "attention", "21.35"),
    ],
)
def test_parameters_of_resnet50_with_174_classes(p, integration, millions):
    with torch.device("meta"):
        model = create_model("sth", "resnet50", num_frames=8, num_classes=174, p=p, integration=integration)
    assert f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f}" == millions


@settings(max_examples=30, deadline=None)
@given(
    num_frames=st.integers(1, 4),
    groups=st.integers(2, 5),
    runs=st.integers(1, 3),
    size=st.integers(1, 5),
    stride=st.integers(1, 2),
    layout=st.sampled_from([torch.contiguous_format, torch.channels_last]),
)
def test_depthwise_equals_its_definition(num_frames, groups, runs, size, stride, layout):
    conv = DepthwiseHybridConv2d(groups * runs, num_frames, stride, 1 / groups).double()
    torch.nn.init.normal_(conv.temporal)
    x = torch.randn(2 * num_frames, groups * runs, size, size + 1, dtype=torch.float64)
    x = x.contiguous(memory_format=layout).requires_grad_()
    kernels = []
    for c in range(groups * runs):
        kernel = x.new_zeros(1, 3, 3, 3)
        if c % groups == 0:
            kernel[0, :, 1, 1] = conv.temporal[c // groups, 0, :, 0]
        else:
            kernel[0, 1] = conv.spatial[c - c // groups - 1, 0]
        kernels.append(kernel)
    clips = x.unflatten(0, (-1, num_frames)).transpose(1, 2)
    slow = F.conv3d(clips, torch.stack(kernels), stride=(1, stride, stride), padding=1, groups=groups * runs)
    slow = slow.transpose(1, 2).flatten(0, 1)
    weight = torch.randn_like(slow)
    variables = [x, conv.spatial, conv.temporal]
    expected = torch.autograd.grad((slow * weight).sum(), variables)
    for out in (conv(x), ReferenceDepthwiseHybridConv3d(conv)(x)):
        torch.testing.assert_close(out, slow, rtol=1e-10, atol=1e-10)
        for got, want in zip(torch.autograd.grad((out * weight).sum(), variables), expected, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_depthwise_starts_as_the_documented_2d_function():
    kernel = torch.randn(8, 1, 3, 3, dtype=torch.float64)
    conv = DepthwiseHybridConv2d(8, 2, stride=2, temporal_start="centre").double()
    conv.init_from_conv2d(kernel)
    expected = kernel.clone()
    expected[::4] = 0
    expected[::4, :, 1, 1] = kernel[::4].sum((2, 3))
    x = torch.randn(4, 8, 7, 7, dtype=torch.float64)
    torch.testing.assert_close(conv(x), F.conv2d(x, expected, stride=2, padding=1, groups=8))


def test_depthwise_temporal_taps_at_the_start():
    torch.manual_seed(0)
    kernel = 0.2 * torch.randn(4096, 1, 3, 3)
    conv = DepthwiseHybridConv2d(4096, 2, temporal_start="mixed", outer_taps=2.0)
    conv.init_from_conv2d(kernel)
    torch.testing.assert_close(conv.temporal[:, :, 1], kernel[::4].sum((2, 3))[..., None])
    assert float(conv.temporal[:, :, ::2].std()) == pytest.approx(2 * 0.2, rel=0.05)
    conv = DepthwiseHybridConv2d(4096, 2)
    conv.init_from_conv2d(kernel)
    torch.testing.assert_close(conv.temporal, kernel[::4].sum(3, keepdim=True))
    conv.init_from_conv2d(kernel, trained=False)
    assert float(conv.temporal.std()) == pytest.approx(0.2, rel=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"p": 0}, "p 0: expected 1/2, 1/3.*operator tsn"),
        ({"p": 0.3}, "p 0.3: expected 1/2, 1/3, 1/4"),
        ({"p": 1}, "p 1: expected 1/2, 1/3, 1/4"),
        ({"p": 1 / 3}, "8 input channels do not split into 1/p = 3 equal groups"),
        ({"out_channels": 6}, "6 output channels do not split into 1/p = 4 equal groups"),
        ({"variant": "mixed"}, "variant 'mixed': expected one of hybrid, merge"),
        ({"integration": "mean"}, "integration 'mean': expected one of sum, attention"),
        ({"temporal_start": "zero"}, "temporal_start 'zero': expected one of auto, random, rows, mixed, centre"),
    ],
)
def test_wrong_arguments(change, message):
    with pytest.raises(InputError, match=message):
        HybridConv2d(**({"in_channels": 8, "out_channels": 8, "num_frames": 4} | change))


def test_batch_that_is_no_whole_number_of_clips():
    for conv in (HybridConv2d(8, 8, 4), DepthwiseHybridConv2d(8, 4)):
        with pytest.raises(ValueError, match="7 frames are not a whole number of clips of 4 frames"):
            conv(torch.zeros(7, 8, 4, 4))


@pytest.mark.parametrize("variant", ["hybrid", "merge"])
def test_maps_of_one_pixel_have_the_gradient_of_wide_precision_in_bf16_and_channels_last(variant):
    """torch's own weight gradient is wrong there: the strides of (B, C, T, 1) can be read in two ways."""
    torch.manual_seed(0)
    exact = HybridConv2d(64, 64, 4, variant=variant).double()
    conv = copy.deepcopy(exact).float().to(memory_format=torch.channels_last)
    x = torch.randn(8, 64, 1, 1)
    exact(x.double()).square().sum().backward()
    with torch.autocast("cpu", torch.bfloat16):
        out = conv(x)
    out.float().square().sum().backward()
    for (name, wide), narrow in zip(exact.named_parameters(), conv.parameters(), strict=True):
        error = float((narrow.grad.double() - wide.grad).norm() / wide.grad.norm())
        assert error < 0.03, name  # bf16 keeps 8 bits

import pytest
import torch
import torch.nn.functional as F

from vsn_train.models import create_model
from vsn_train.models.single_pixel import Conv3x3, conv3x3


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_is_the_convolution_in_value_and_gradient(size, stride, layout):
    x = torch.randn(6, 8, size, size, dtype=torch.float64).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(12, 8, 3, 3, dtype=torch.float64, requires_grad=True)
    out, expected = conv3x3(x, weight, stride), F.conv2d(x, weight, stride=stride, padding=1)
    torch.testing.assert_close(out, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(expected)
    for got, want in zip(
        torch.autograd.grad((out * upstream).sum(), (x, weight)),
        torch.autograd.grad((expected * upstream).sum(), (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_every_dense_3x3_convolution_of_a_resnet_uses_it():
    for operator, count in (("tsn", 16), ("tsm", 16), ("vsn_compact", 16), ("sth", 0)):
        modules = list(create_model(operator, "resnet18", 4, 5).modules())
        assert sum(isinstance(module, Conv3x3) for module in modules) == count, operator

"""An exported file gives on the CPU the logits that the network gives on the device."""

from __future__ import annotations

import copy
from importlib.util import find_spec

import pytest
import torch

from tests.cuda.device import DEVICE, ON_GPU, OPERATORS, example_model, record
from vsn_train.analysis.export import ONNX_PACKAGES, TOLERANCE, example_video, export_model, run_file

SIZE = 64 if ON_GPU else 32


@pytest.mark.skipif(not all(map(find_spec, ONNX_PACKAGES)), reason=f"needs {', '.join(ONNX_PACKAGES)}")
@pytest.mark.parametrize("operator", OPERATORS if ON_GPU else ("tsm", "sth"))
def test_an_onnx_file_gives_the_logits_of_the_device(operator, tmp_path):
    model = example_model(operator, "resnet18").eval()
    path = tmp_path / "model.onnx"
    export_model(model, path, SIZE, batch=2)
    video = example_video(model, SIZE, 2)
    with torch.no_grad():
        expected = copy.deepcopy(model).to(DEVICE, memory_format=torch.channels_last)(video.to(DEVICE)).cpu()
    found = run_file(path, ".onnx", video)
    difference = float((found - expected).abs().max() / expected.abs().max())
    record("ONNX", operator=operator, difference=difference, bytes=path.stat().st_size)
    assert difference < TOLERANCE

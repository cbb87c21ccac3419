import importlib.util
import subprocess

import numpy as np
import pytest
import torch

from tests.runs import TOOLS
from vsn_train.analysis import export
from vsn_train.analysis.export import export_model
from vsn_train.data.transforms import normalize
from vsn_train.errors import InputError
from vsn_train.models import create_model

OPERATORS = ["tsn", "tsm", "tsm_online", "vsn_compact", "vsn_headtail", "sth"]
HAS_ONNX = all(importlib.util.find_spec(name) for name in export.ONNX_PACKAGES)


def example(operator, **options):
    """ResNet-18 with logits and attention that are not all alike."""
    torch.manual_seed(0)
    model = create_model(operator, "resnet18", 4, 5, **options)
    torch.nn.init.normal_(model.head.weight)
    for name, parameter in model.named_parameters():
        if "attention" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def first_stage(model):
    """Cut behind a standard and a last block: what an operator does, without the minutes of the other stages."""
    for stage in ("layer2", "layer3", "layer4"):
        setattr(model.backbone, stage, torch.nn.Identity())
    model.head = torch.nn.Linear(64, 5)
    return model


@pytest.mark.parametrize("operator", OPERATORS)
def test_no_graph_breaks(operator):
    model, video = example(operator).eval(), torch.randn(2, 4, 3, 32, 32)
    torch._dynamo.reset()
    with torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(video), model(video), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
def test_torch_export_of_every_operator(tmp_path, operator):
    model = example(operator).train()
    assert export_model(model, tmp_path / "model.pt2", size=32, batch=1) < 1e-4
    assert (tmp_path / "model.pt2").is_file()
    assert model.training


@pytest.mark.skipif(not HAS_ONNX, reason="needs the extra onnx")
@pytest.mark.parametrize(
    ("operator", "options"),
    [*((operator, {}) for operator in OPERATORS), ("tsm", {"placement": "inplace"}), ("sth", {"variant": "merge"})],
)
def test_onnx_of_every_operator(tmp_path, operator, options):
    """Any number of clips: the check runs one and two."""
    assert export_model(first_stage(example(operator, **options)), tmp_path / "model.onnx", size=32) < 1e-4


@pytest.mark.slow
@pytest.mark.skipif(not HAS_ONNX, reason="needs the extra onnx")
@pytest.mark.parametrize("operator", OPERATORS)
def test_onnx_of_the_whole_network(tmp_path, operator):
    assert export_model(example(operator), tmp_path / "model.onnx", size=64) < 1e-4


def test_file_that_gives_other_logits_is_not_written(tmp_path):
    with pytest.raises(InputError, match=r"not written: .* logits differ"):
        export_model(first_stage(example("tsn")), tmp_path / "model.pt2", size=32, batch=1, tolerance=-1.0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "message"),
    [("model.pth", r"expected a name that ends in \.pt2 or \.onnx"), ("no/folder.pt2", "no such folder")],
)
def test_names_that_do_not_do(tmp_path, name, message):
    with pytest.raises(InputError, match=message):
        export_model(example("tsn"), tmp_path / name)


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("onnx", "not_a_package"))
    with pytest.raises(InputError, match=r"not_a_package.*pip install 'vsn-train\[onnx\]'"):
        export_model(example("tsn"), tmp_path / "model.onnx")


@pytest.mark.skipif(not HAS_ONNX, reason="needs the extra onnx")
def test_an_onnx_file_says_what_it_is_and_takes_frames_as_they_are(tmp_path):
    import onnx
    import onnxruntime

    path, model = tmp_path / "model.onnx", first_stage(example("tsm"))
    facts = {"class_names": ["a", "b"], "checkpoint": "0123", "protocol": {"clips": 1}}
    assert export_model(model, path, size=32, uint8=True, facts=facts) < 1e-4
    session = onnxruntime.InferenceSession(path)
    found = session.get_modelmeta().custom_metadata_map
    assert found == {"class_names": '["a", "b"]', "checkpoint": "0123", "protocol": '{"clips": 1}'}
    (video,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (video.name, video.type, video.shape) == ("video", "tensor(uint8)", ["batch", 4, 32, 32, 3])
    assert (logits.name, logits.shape) == ("logits", ["batch", 5])
    dimensions = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [each.denotation for each in dimensions] == [
        "DATA_BATCH", "DATA_TIME", "DATA_FEATURE", "DATA_FEATURE", "DATA_CHANNEL",
    ]  # fmt: skip
    frames = torch.randint(256, (3, 4, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = model.eval()(normalize(frames.movedim(-1, -3)))
    np.testing.assert_allclose(session.run(None, {"video": frames.numpy()})[0], expected, rtol=1e-3, atol=1e-3)


def test_frames_as_they_are_need_colours(tmp_path):
    with pytest.raises(InputError, match="input=uint8 is for networks of RGB frames"):
        export_model(create_model("tsn", "resnet18", 2, 3, modality="flow"), tmp_path / "model.pt2", uint8=True)


def test_script_exports_a_checkpoint(tmp_path):
    from tests.runs import checkpoint_with
    from vsn_train.engine.checkpoint import save_checkpoint

    model = create_model("tsm", "resnet18", 2, 3)
    config = {
        "backbone": {"operator": "tsm", "arch": "resnet18", "num_frames": 2},
        "dataset": {"name": "custom", "root": "data"},
        "protocol": {"clips": 1, "placement": "uniform", "crops": 1, "short_side": 32, "crop_size": 32},
        "data": {"short_side": 32, "crop_size": 32},
        "runtime": {},
    }
    content = checkpoint_with(model=model.state_dict(), config=config, class_names=["a", "b", "c"])
    save_checkpoint(tmp_path / "best.pt", content)
    command = [*TOOLS, "export", "--checkpoint", tmp_path / "best.pt", "--batch", "1", "--output"]
    done = subprocess.run([*command, tmp_path / "model.pt2"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "written:" in done.stdout
    network = torch.export.load(tmp_path / "model.pt2").module()
    video = torch.randn(1, 2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(video), model.eval()(video))


def test_an_onnxscript_that_does_not_know_this_torch_is_named(tmp_path, monkeypatch):
    def missing(*arguments, **options):
        raise ModuleNotFoundError("No module named 'onnxscript.torch_99'", name="onnxscript.torch_99")

    monkeypatch.setattr(torch.onnx, "export", missing)
    monkeypatch.setattr(export, "require_onnx", lambda: None)
    with pytest.raises(InputError, match=r"onnxscript .* is too old for torch .*; pip install --upgrade onnxscript"):
        export_model(first_stage(example("tsn")), tmp_path / "model.onnx", size=32)
    assert not list(tmp_path.iterdir())


def test_a_torch_that_needs_a_number_of_clips_is_named(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise torch._dynamo.exc.UserError(
            torch._dynamo.exc.UserErrorType.CONSTRAINT_VIOLATION, "Constraints violated (batch)!\nlong text"
        )

    monkeypatch.setattr(torch.export, "export", refuse)
    with pytest.raises(InputError, match=r"for any number of clips \(Constraints violated \(batch\)!\); .*--batch 1"):
        export_model(first_stage(example("tsn")), tmp_path / "model.pt2", size=32)

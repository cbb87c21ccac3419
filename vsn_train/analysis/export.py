"""Export a recognizer to ONNX or torch.export, and compare the file with the network.

The number of frames T and the image size are fixed in the file; the number of clips is variable unless it is given. The
metadata for users of the file are stored in it: in metadata_props (ONNX) or the extra file metadata.json
(torch.export).
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vsn_train.atomic import atomic_path
from vsn_train.data.transforms import mean_and_std
from vsn_train.errors import InputError
from vsn_train.models import Recognizer
from vsn_train.versions import installed

TORCH, ONNX = ".pt2", ".onnx"  # the suffix selects the format
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # relative to the largest logit: runtimes sum in different orders
METADATA = "metadata.json"  # the extra file of torch.export
# ONNX's standard denotations of dimensions; height and width of an image are DATA_FEATURE.
FLOAT_AXES = ("DATA_BATCH", "DATA_TIME", "DATA_CHANNEL", "DATA_FEATURE", "DATA_FEATURE")
UINT8_AXES = ("DATA_BATCH", "DATA_TIME", "DATA_FEATURE", "DATA_FEATURE", "DATA_CHANNEL")


class Uint8Input(nn.Module):
    """An RGB recognizer that normalizes its input itself: uint8 (B, T, H, W, 3) -> (B, K)."""

    mean: Tensor
    std: Tensor

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.recognizer = recognizer
        for name, each in zip(("mean", "std"), mean_and_std(True, torch.device("cpu")), strict=True):
            self.register_buffer(name, each.clone())

    def forward(self, video: Tensor) -> Tensor:
        return self.recognizer((video.movedim(-1, -3).to(self.mean.dtype) - self.mean) / self.std)


def export_model(
    model: Recognizer,
    path: str | Path,
    size: int = 224,
    batch: int | None = None,
    tolerance: float = TOLERANCE,
    *,
    uint8: bool = False,
    facts: Mapping[str, Any] | None = None,
) -> float:
    """Write `path` (.pt2: torch.export, .onnx: ONNX), run the file and compare its logits with the model's.

    Input "video": normalized float (B, T, C, size, size); with uint8, RGB frames uint8 (B, T, size, size, 3), which the
    file normalizes. Output "logits": (B, K). B is `batch`; None: variable, which takes twice as long to export. facts:
    metadata to store, plain types. The comparison reads the file back and runs noise through it: `batch` clips, or one
    and two clips. Returns the largest difference divided by the largest logit. Raises InputError, and writes nothing,
    for another suffix, a missing folder, missing ONNX packages, and a difference above `tolerance`.
    """
    path = Path(path)
    if path.suffix not in (TORCH, ONNX):
        raise InputError(f"{path}: expected a name that ends in {TORCH} or {ONNX}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: no such folder: {path.parent}; create it first")
    if uint8 and channels_of(model) != 3:
        raise InputError("input=uint8 is for networks of RGB frames; this one takes optical flow: leave it out")
    if path.suffix == ONNX:
        require_onnx()
    was_training = model.training
    model.eval()
    network = Uint8Input(model).eval() if uint8 else model
    try:
        program = capture(network, example_video(model, size, batch or 2, uint8), batch is None)
        with atomic_path(path) as written:
            if path.suffix == ONNX:
                write_onnx(program, written, as_text(facts or {}), UINT8_AXES if uint8 else FLOAT_AXES)
            else:
                with written.open("wb") as file:  # torch warns of names that do not end in .pt2
                    torch.export.save(program, file, extra_files={METADATA: json.dumps(facts or {}, indent=2)})
            difference = max(
                relative_difference(run_file(written, path.suffix, video), reference(network, video))
                for video in (example_video(model, size, clips, uint8) for clips in ([batch] if batch else [1, 2]))
            )
            if not difference <= tolerance:  # also where it is not a number
                raise InputError(
                    f"{path}: not written: the exported network's logits differ from the model's by {difference:.1e} "
                    f"of the largest logit, more than {tolerance:.1e}; try the other format or another torch version"
                )
    finally:
        model.train(was_training)
    return difference


def as_text(facts: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as text: strings unchanged, everything else as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def capture(network: nn.Module, example: Tensor, any_batch: bool) -> torch.export.ExportedProgram:
    """Capture the network in evaluation mode as one graph: video (B, …) -> logits (B, K).

    any_batch: make B variable. The example must then have two clips: torch.export treats a size of one as a constant.
    """
    shapes = {"video": {0: torch.export.Dim("batch")}} if any_batch else None
    try:
        with torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes=shapes)
    except torch._dynamo.exc.UserError as error:  # torch 2.6 and 2.7 with STH
        if not any_batch:
            raise
        reason = str(error).splitlines()[0]
        raise InputError(
            f"torch {torch.__version__} cannot export this network for any number of clips ({reason}); export it for "
            "one number with --batch 1, or install a newer torch"
        ) from error


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, texts: Mapping[str, str], axes: tuple[str, ...]
) -> None:
    """Write one self-contained file with input "video" and output "logits". axes: denotations of the dimensions of
    "video"."""
    import onnx

    try:
        exported = torch.onnx.export(
            program, input_names=["video"], output_names=["logits"], dynamo=True, external_data=False, verbose=False
        )
    except ModuleNotFoundError as error:  # onnxscript has a module for each torch that it knows
        if not (error.name or "").startswith("onnxscript"):
            raise
        raise InputError(
            f"onnxscript {installed('onnxscript').get('onnxscript')} is too old for torch {torch.__version__}; pip "
            "install --upgrade onnxscript"
        ) from error
    assert exported is not None  # None only from the exporter of older torch versions
    model = exported.model_proto
    onnx.helper.set_model_props(model, dict(texts))
    (video,), (logits,) = model.graph.input, model.graph.output
    for value, names in ((video, axes), (logits, ("DATA_BATCH", "DATA_CHANNEL"))):
        for dimension, name in zip(value.type.tensor_type.shape.dim, names, strict=True):
            dimension.denotation = name
    # The exporter names a free dimension s15 or the like, also within 8*s15.
    if free := video.type.tensor_type.shape.dim[0].dim_param:
        for value in (video, logits, *model.graph.value_info):
            for dimension in value.type.tensor_type.shape.dim:
                if dimension.dim_param:
                    dimension.dim_param = re.sub(rf"\b{free}\b", "batch", dimension.dim_param)
    path.write_bytes(model.SerializeToString())


def run_file(path: Path, suffix: str, video: Tensor) -> Tensor:
    """Run an exported file on the CPU, with the runtime of its suffix. Returns logits (B, K)."""
    if suffix == ONNX:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(["logits"], {"video": video.numpy()})[0])
    with path.open("rb") as file:
        network: Any = torch.export.load(file).module()
    with torch.no_grad():
        return network(video)


def reference(network: nn.Module, video: Tensor) -> Tensor:
    with torch.no_grad():
        return network(video)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def channels_of(model: Recognizer) -> int:
    return next(parameter for parameter in model.backbone.parameters()).shape[1]


def example_video(model: Recognizer, size: int, clips: int, uint8: bool = False) -> Tensor:
    """Fixed noise as input of the model: (clips, T, C, size, size), or uint8 (clips, T, size, size, 3)."""
    generator = torch.Generator().manual_seed(clips)
    if uint8:
        shape = (clips, model.num_frames, size, size, 3)
        return torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return torch.randn(clips, model.num_frames, channels_of(model), size, size, generator=generator)


def require_onnx() -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"writing and checking ONNX files needs {', '.join(missing)}, not installed here; "
            "install with: pip install 'vsn-train[onnx]'"
        )

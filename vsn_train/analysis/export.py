"""Export a recognizer to ONNX or torch.export, and compare the file with the network.

The number of frames T and the image size are fixed in the file; the number of clips stays free unless one is given.
What a user of the file has to know lies in it: of ONNX in metadata_props, of torch.export in the extra file
metadata.json.
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

TORCH, ONNX = ".pt2", ".onnx"  # the file's ending says which format it is
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # of the largest logit: two runtimes order their sums differently
METADATA = "metadata.json"  # the extra file of torch.export
# ONNX's standard words for what a dimension is; height and width are features of an image there.
FLOAT_AXES = ("DATA_BATCH", "DATA_TIME", "DATA_CHANNEL", "DATA_FEATURE", "DATA_FEATURE")
UINT8_AXES = ("DATA_BATCH", "DATA_TIME", "DATA_FEATURE", "DATA_FEATURE", "DATA_CHANNEL")


class Uint8Input(nn.Module):
    """A recognizer of RGB that takes frames as decoders give them: uint8 (B, T, H, W, 3) -> (B, K)."""

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

    The file's network takes "video", float (B, T, C, size, size), normalised, and gives "logits", (B, K). uint8: it
    takes uint8 (B, T, size, size, 3), RGB, and normalises itself. B is `batch`, or free where that is None, which takes
    twice as long to write. facts: what the file says of itself, plain types. The comparison reads the written file back
    and runs noise through it: `batch` clips, or one and two of them.
    Returns the largest difference / the largest logit. Raises InputError for another ending, for a missing folder,
    where the ONNX packages are not installed, and where the difference exceeds `tolerance`: then nothing is written.
    """
    path = Path(path)
    if path.suffix not in (TORCH, ONNX):
        raise InputError(f"{path}: expected a name that ends in {TORCH} or {ONNX}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
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
                    f"of the largest logit, more than {tolerance:.1e}; try the other format, or another torch"
                )
    finally:
        model.train(was_training)
    return difference


def as_text(facts: Mapping[str, Any]) -> dict[str, str]:
    """Texts as they are, everything else as JSON."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in facts.items()}


def capture(network: nn.Module, example: Tensor, any_batch: bool) -> torch.export.ExportedProgram:
    """The network in evaluation mode as one graph: video (B, …) -> logits (B, K).

    any_batch: leave B free. The example then has two clips, which stand for any number: one would be a constant.
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
            "one number with --batch 1, or take a newer torch"
        ) from error


def write_onnx(
    program: torch.export.ExportedProgram, path: Path, texts: Mapping[str, str], axes: tuple[str, ...]
) -> None:
    """One self-contained file: weights inside, names "video" and "logits". axes: what the dimensions of "video" are."""
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
    """Logits (B, K) of an exported file, by the runtime that the suffix stands for, on the CPU."""
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
    """Noise of the shape that the model takes, the same at every call: (clips, T, C, size, size), or uint8 (clips, T,
    size, size, 3)."""
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

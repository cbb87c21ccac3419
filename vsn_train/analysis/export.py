"""Export a recognizer to ONNX or torch.export, and compare the file with the network.

The number of frames T and the image size are fixed in the file; the number of clips stays free unless one is given.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsn_train.atomic import atomic_path
from vsn_train.errors import InputError
from vsn_train.models import Recognizer
from vsn_train.versions import installed

TORCH, ONNX = ".pt2", ".onnx"  # the file's ending says which format it is
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-3  # of the largest logit: two runtimes order their sums differently


def export_model(
    model: Recognizer, path: str | Path, size: int = 224, batch: int | None = None, tolerance: float = TOLERANCE
) -> float:
    """Write `path` (.pt2: torch.export, .onnx: ONNX), run the file and compare its logits with the model's.

    The file's network takes "video", float (B, T, C, size, size), and gives "logits", (B, K). B is `batch`, or free
    where that is None, which takes twice as long to write. The comparison reads the written file back and runs noise
    through it: `batch` clips, or one and two of them.
    Returns the largest difference / the largest logit. Raises InputError for another ending, for a missing folder,
    where the ONNX packages are not installed, and where the difference exceeds `tolerance`: then nothing is written.
    """
    path = Path(path)
    if path.suffix not in (TORCH, ONNX):
        raise InputError(f"{path}: expected a name that ends in {TORCH} or {ONNX}")
    if not path.parent.is_dir():
        raise InputError(f"{path}: there is no folder {path.parent}; make it first")
    if path.suffix == ONNX:
        require_onnx()
    was_training = model.training
    model.eval()
    try:
        program = capture(model, size, batch)
        with atomic_path(path) as written:
            if path.suffix == ONNX:
                write_onnx(program, written)
            else:
                with written.open("wb") as file:  # torch warns of names that do not end in .pt2
                    torch.export.save(program, file)
            difference = max(
                relative_difference(run_file(written, path.suffix, video), reference(model, video))
                for video in (example_video(model, size, clips) for clips in ([batch] if batch else [1, 2]))
            )
            if not difference <= tolerance:  # also where it is not a number
                raise InputError(
                    f"{path}: not written: the exported network's logits differ from the model's by {difference:.1e} "
                    f"of the largest logit, more than {tolerance:.1e}; try the other format, or another torch"
                )
    finally:
        model.train(was_training)
    return difference


def capture(model: Recognizer, size: int, batch: int | None) -> torch.export.ExportedProgram:
    """The model in evaluation mode as one graph: video (B, T, C, size, size) -> logits (B, K); batch None: B free."""
    shapes = None if batch else {"video": {0: torch.export.Dim("batch")}}
    # Two clips stand for any number: one would be taken for a constant.
    example = example_video(model, size, batch or 2)
    try:
        with torch.no_grad():
            return torch.export.export(model, (example,), dynamic_shapes=shapes)
    except torch._dynamo.exc.UserError as error:  # torch 2.6 and 2.7 with STH
        if batch:
            raise
        reason = str(error).splitlines()[0]
        raise InputError(
            f"torch {torch.__version__} cannot export this network for any number of clips ({reason}); export it for "
            "one number with --batch 1, or take a newer torch"
        ) from error


def write_onnx(program: torch.export.ExportedProgram, path: Path) -> None:
    """One self-contained file: weights inside, names "video" and "logits"."""
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
    exported.save(path, external_data=False)


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


def reference(model: Recognizer, video: Tensor) -> Tensor:
    with torch.no_grad():
        return model(video)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1e-12))


def example_video(model: Recognizer, size: int, clips: int) -> Tensor:
    """Noise of the shape that the model takes: (clips, T, C, size, size), the same at every call."""
    generator = torch.Generator().manual_seed(clips)
    channels = next(parameter for parameter in model.backbone.parameters()).shape[1]
    return torch.randn(clips, model.num_frames, channels, size, size, generator=generator)


def require_onnx() -> None:
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"writing and checking ONNX files needs {', '.join(missing)}, not installed here; "
            "install with: pip install 'vsn-train[onnx]'"
        )

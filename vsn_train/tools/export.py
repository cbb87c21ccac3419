"""Export a network to ONNX or torch.export, and compare the file's logits with the network's.

    vsn-tools export --checkpoint runs/…/checkpoints/best.pt --output model.onnx
    vsn-tools export --operator sth --arch resnet50 --num-frames 8 --classes 174 --output model.pt2

The suffix chooses the format: .onnx (needs pip install 'vsn-train[onnx]') or .pt2 (torch.export). Input: normalized
video, float (clips, frames, channels, height, width); output: logits (clips, classes). The number of frames and the
size are fixed in the file; the number of clips is variable unless --batch is given.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vsn_train.analysis.export import export_model
from vsn_train.config import check_checkpoint
from vsn_train.engine.checkpoint import checkpoint_in, open_checkpoint
from vsn_train.engine.checkpoint_fields import load_network
from vsn_train.engine.state import Checkpoint
from vsn_train.errors import InputError
from vsn_train.import_function import find_operator
from vsn_train.models import Recognizer, create_model
from vsn_train.models.backbone import parse_option


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint of vsn-train; defines operator, network, frames and classes"
    )
    parser.add_argument(
        "--operator",
        help="tsn, tsm, vsn_compact, vsn_headtail, sth or module.function, with random weights; with --checkpoint only "
        "where the checkpoint's is a function of your own: its name again",
    )
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the operator")
    parser.add_argument("--modality", default="rgb", choices=("rgb", "flow"))
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--classes", type=int, default=400)
    parser.add_argument("--size", type=int, help="height and width in pixels; default: the checkpoint's, or 224")
    parser.add_argument("--batch", type=int, help="clips in one call; default: any number")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .onnx or .pt2")


def run(arguments: argparse.Namespace) -> int:
    for name in ("size", "batch"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise InputError(f"--{name} {value}: expected a number above 0")
    if not (arguments.checkpoint or arguments.operator):
        raise InputError("one of --checkpoint and --operator is needed")
    if arguments.checkpoint:
        opened = open_checkpoint(checkpoint_in(arguments.checkpoint))
        checkpoint = opened.checkpoint
        check_checkpoint(checkpoint.config, str(opened.path))
        model = checkpoint_model(checkpoint, arguments.operator)
        size = checkpoint.config["data"]["crop_size"]
    else:
        options: dict[str, Any] = dict(parse_option(text) for text in arguments.option)
        model = create_model(
            find_operator(arguments.operator), arguments.arch, arguments.num_frames, arguments.classes,
            modality=arguments.modality, **options,
        )  # fmt: skip
        size = 224
    difference = export_model(model, arguments.output, arguments.size or size, arguments.batch)
    print(
        f"written: {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB); its logits differ from the "
        f"network's by at most {difference:.1e} of the largest"
    )
    return 0


def checkpoint_model(checkpoint: Checkpoint, operator: str | None) -> Recognizer:
    """operator: as the user names it. Raises InputError where it differs, or is the user's own and is not named."""
    backbone = dict(checkpoint.config["backbone"])
    trained = backbone.pop("operator")
    if operator != trained and (operator or "." in trained):
        raise InputError(
            f"the checkpoint's operator is {trained}; name it with --operator {trained}"
            + (", as loading a checkpoint imports no module" if "." in trained else ", or leave --operator out")
        )
    backbone |= backbone.pop("options", {})
    modality = checkpoint.config["data"].get("modality", "rgb")
    model = create_model(find_operator(trained), num_classes=len(checkpoint.class_names), modality=modality, **backbone)
    load_network(model, checkpoint.average or checkpoint.model, "average" if checkpoint.average else "model")
    return model

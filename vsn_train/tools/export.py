"""Export a network to ONNX or torch.export and check the file; or export a folder for model hubs.

    vsn-tools export checkpoint=runs/…/checkpoints/best.pt output=model.onnx input=uint8
    vsn-tools export checkpoint=runs/…/checkpoints/best.pt output=shared/model format=folder
    vsn-tools export operator=sth arch=resnet50 num_frames=8 classes=174 output=model.pt2

key=value and --key value are the same. The suffix of output chooses the format: .onnx (needs pip install
'vsn-train[onnx]') or .pt2 (torch.export). Input: normalized video, float (clips, frames, channels, height, width), or,
with input=uint8, unnormalized frames, (clips, frames, height, width, 3); output: logits (clips, classes). The number of
frames and the size are fixed in the file; the number of clips is variable unless batch is given. The file also holds
class names, preprocessing, protocol and the checkpoint's hash: ONNX metadata_props, torch.export's metadata.json.

format=folder writes model.safetensors, config.json and README.md with the accuracies of the evaluations in the run
folder. load_model, vsn-eval, vsn-predict and weights= accept the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from vsn_train.analysis.export import ONNX, TORCH, export_model
from vsn_train.analysis.model_card import evaluations_of, model_card
from vsn_train.config import check_checkpoint
from vsn_train.engine.checkpoint import OpenedCheckpoint, checkpoint_in, open_checkpoint
from vsn_train.errors import InputError
from vsn_train.import_function import find_operator, import_function
from vsn_train.models import create_model
from vsn_train.models.backbone import parse_option
from vsn_train.models.model_folder import LEFT_OUT, write_model_folder
from vsn_train.trained import TrainedModel, trained_model

ENDINGS = {"onnx": ONNX, "torch": TORCH}  # format -> suffix of the output


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", type=Path, help="checkpoint of vsn-train; defines operator, network, frames and classes"
    )
    parser.add_argument(
        "--operator",
        help="tsn, tsm, vsn_compact, vsn_headtail, sth or module.function; without --checkpoint the network has random "
        "weights; with --checkpoint only needed if it was trained with your own function",
    )
    parser.add_argument("--arch", default="resnet50", help="without --checkpoint; default resnet50")
    parser.add_argument("--option", action="append", default=[], metavar="KEY=VALUE", help="option of the operator")
    parser.add_argument("--modality", default="rgb", choices=("rgb", "flow"), help="without --checkpoint; default rgb")
    parser.add_argument("--num-frames", type=int, default=8, help="without --checkpoint; default 8")
    parser.add_argument("--classes", type=int, default=400, help="without --checkpoint; default 400")
    parser.add_argument("--size", type=int, help="height and width in pixels; default: the checkpoint's, or 224")
    parser.add_argument("--batch", type=int, help="fixed number of clips per call; default: variable")
    parser.add_argument(
        "--input", default="float", choices=("float", "uint8"), help="uint8: the file normalizes the frames itself"
    )
    parser.add_argument("--format", choices=(*ENDINGS, "folder"), help="default: from the suffix of the output")
    parser.add_argument("--output", type=Path, required=True, help="file to write, .onnx or .pt2; or folder")


def run(arguments: argparse.Namespace) -> int:
    for name in ("size", "batch"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise InputError(f"--{name} {value}: expected a number above 0")
    if not (arguments.checkpoint or arguments.operator):
        raise InputError("no network given; add checkpoint=… or operator=…")
    ending = ENDINGS.get(arguments.format)
    if ending and arguments.output.suffix != ending:
        raise InputError(f"format={arguments.format} output={arguments.output}: expected a name that ends in {ending}")
    trained = opened_model(arguments.checkpoint, arguments.operator) if arguments.checkpoint else None
    if arguments.format == "folder":
        if trained is None:
            raise InputError("format=folder needs checkpoint=…: it exports trained weights only")
        export_folder(trained, arguments.output)
        return 0
    size = arguments.size
    if trained:
        model = trained.model.to(memory_format=torch.contiguous_format)
        size = size or trained.protocol.crop_size
        facts = trained.facts
        facts["preprocessing"] |= {"crop_size": size}
    else:
        options: dict[str, Any] = dict(parse_option(text) for text in arguments.option)
        model = create_model(
            find_operator(arguments.operator), arguments.arch, arguments.num_frames, arguments.classes,
            modality=arguments.modality, **options,
        )  # fmt: skip
        facts = {}
    facts |= {"input": arguments.input, "layout": "B T H W C" if arguments.input == "uint8" else "B T C H W"}
    difference = export_model(
        model, arguments.output, size or 224, arguments.batch, uint8=arguments.input == "uint8", facts=facts
    )
    print(
        f"written: {arguments.output} ({arguments.output.stat().st_size / 1e6:.1f} MB); its logits differ from the "
        f"network's by at most {difference:.1e} of the largest"
    )
    return 0


def opened_model(path: Path, operator: str | None) -> TrainedModel:
    """operator: as given on the command line. Raises InputError where it differs from the checkpoint's, and where the
    checkpoint's is the user's own function and was not given."""
    opened = open_checkpoint(checkpoint_in(path.expanduser()))
    check_checkpoint(opened.checkpoint.config, str(opened.path))
    trained = opened.checkpoint.config["backbone"]["operator"]
    if operator != trained and (operator or "." in trained):
        raise InputError(
            f"the checkpoint's operator is {trained}; name it with --operator {trained}"
            + (", as loading a checkpoint imports no module" if "." in trained else ", or leave --operator out")
        )
    own = import_function(trained, "operator") if "." in trained else None
    return trained_model(opened, torch.device("cpu"), opened.checkpoint.config, operator=own)


def export_folder(trained: TrainedModel, folder: Path) -> None:
    opened: OpenedCheckpoint = trained.checkpoint
    content = opened.checkpoint.content()
    about = {key: value for key, value in content.items() if key not in ("model", *LEFT_OUT)}
    facts = trained.facts
    # These keys must not collide with the fields of a checkpoint.
    about["made_from"] = {key: facts[key] for key in ("checkpoint", "averaged")}
    about["preprocessing"] = facts["preprocessing"]
    evaluations = evaluations_of(opened.path.parent.parent / "eval" / opened.path.stem, opened.hash)
    folder.parent.mkdir(parents=True, exist_ok=True)
    write_model_folder(
        folder, opened.checkpoint.average or opened.checkpoint.model, about, model_card(facts, evaluations)
    )
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"written: {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))} ({size / 1e6:.1f} MB)")
    if evaluations:
        print(f"its README.md has {len(evaluations)} evaluation(s) of this checkpoint")
    else:
        print(f"its README.md has no accuracy: evaluate with vsn-eval checkpoint={opened.path}, then export again")

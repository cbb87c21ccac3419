"""Compute costs and hours of the published recipes, in configs/experiment/*/ and docs/recipes.md.

Writes headers to configs/experiment/*/*.yaml, tables to docs/recipes.md, and docs/results/recipes/rates.json.

    python scripts/studies/recipes.py          print the tables
    python scripts/studies/recipes.py write    write costs and hours to the headers, and the tables to docs/recipes.md
    python scripts/studies/recipes.py check    exit code 1 if one of these is out of date
    python scripts/studies/recipes.py measure  time training steps on this CPU, which should be idle, for the hours

The commands and accuracies in a header are written by hand and read here; costs and hours are computed. Costs come from
the network that the file's config builds. Hours are training clips divided by clips per second: on 2 CPU cores from
docs/results/recipes/rates.json, which `measure` writes, and on V100 GPUs from the training time published by the
authors of TSM. Rates of networks that were not measured are scaled by their MACs.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from omegaconf import OmegaConf

from vsn_train import config as schema
from vsn_train.analysis.complexity import LayerCost, complexity, total
from vsn_train.analysis.tables import markdown_table
from vsn_train.bench.network import Setting, Workload, model_action
from vsn_train.bench.timing import hardware
from vsn_train.engine.interleave import interleave
from vsn_train.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "recipes.md"
RATES = ROOT / "docs" / "results" / "recipes" / "rates.json"

# Classes and training videos, as in docs/data-sets.md: of split 1; for Kinetics-400, the videos in the CVDF copy.
CLASSES = {"something_v1": 174, "something_v2": 174, "jester": 27, "kinetics400": 400, "ucf101": 101, "hmdb51": 51}
VIDEOS = {
    "something_v1": 86_017, "something_v2": 168_913, "jester": 118_562, "kinetics400": 240_258, "ucf101": 9_537,
    "hmdb51": 3_570,
}  # fmt: skip
TITLES = {
    "something_v1": "Something-Something V1", "something_v2": "Something-Something V2", "jester": "Jester",
    "kinetics400": "Kinetics-400", "ucf101": "UCF101", "hmdb51": "HMDB51",
}  # fmt: skip

# TSM on ResNet-50, 8 frames of Kinetics-400: 49 h 55 min to 74.0 % (Lin, Gan, Han, arXiv 1910.00932, abstract), on six
# V100 (the first author in issue 28 of the TSM repository). 100 epochs are those of the recipe with that accuracy.
V100_HOURS, V100_GPUS, V100_EPOCHS = 49 + 55 / 60, 6, 100
GPUS = 8  # number of GPUs that the commands are meant for

# Networks that `measure` times: one of each operator and depth.
MEASURED = [
    ("tsn", "resnet50"), ("tsm", "resnet50"), ("vsn_compact", "resnet50"), ("sth", "resnet50"), ("tsn", "resnet101"),
    ("tsm", "resnet101"), ("vsn_compact", "resnet101"), ("tsm", "mobilenet_v2"),
]  # fmt: skip

ACCURACY = r"(?:about \d+|\d+\.\d+(?: / \d+\.\d+)?)(?:, \d+\.\d+ on the test split)?"
EXPECTED = re.compile(rf"# Expected: (?P<accuracy>{ACCURACY}) \((?P<views>[^;()]+); (?P<source>[^()]+)\)")
FUSED = re.compile(rf"# Fused with (?P<other>\S+): (?P<accuracy>{ACCURACY}) \((?P<views>[^;()]+); (?P<source>[^()]+)\)")


@dataclass(frozen=True)
class Number:
    """A published accuracy. other: the recipe with which scores are fused; empty for a single network."""

    accuracy: str  # top-1, or top-1 / top-5, in percent
    views: str  # protocol, then a blank and values that differ from it; or words if the source names no protocol
    source: str
    other: str = ""


@dataclass(frozen=True)
class Recipe:
    name: str  # something_v1/vsn_compact_r50_8f
    text: str  # of the file
    values: tuple[str, ...]  # of the command in its header: experiment=… dataset.root=… …
    config: schema.Train  # composed from that command
    numbers: tuple[Number, ...]

    @property
    def dataset(self) -> str:
        return self.config.dataset.name

    @property
    def clips(self) -> int:
        """The number of clips of a training."""
        return VIDEOS[self.dataset] * self.config.schedule.epochs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "work", nargs="?", choices=("show", "write", "check", "measure"), default="show", help="default: show"
    )
    parser.add_argument("--rounds", type=int, default=3, help="rounds of measure, after a warm-up; default 3")
    arguments = parser.parse_args()
    try:
        if arguments.work == "measure":
            RATES.parent.mkdir(parents=True, exist_ok=True)
            RATES.write_text(json.dumps(measure(arguments.rounds), indent=1) + "\n")
            print(f"written: {RATES}")
            return
        recipes = load_recipes()
        if arguments.work == "show":
            print(tables(recipes))
            return
        wanted = contents(recipes)
        stale = {path: text for path, text in wanted.items() if path.read_text(encoding="utf-8") != text}
        for path, text in stale.items():
            if arguments.work == "write":
                path.write_text(text, encoding="utf-8")
            print(f"{'written' if arguments.work == 'write' else 'out of date'}: {path.relative_to(ROOT)}")
        if stale and arguments.work == "check":
            print("update them: python scripts/studies/recipes.py write", file=sys.stderr)
            sys.exit(1)
    except InputError as error:
        print(f"recipes: {error}", file=sys.stderr)
        sys.exit(2)


def recipe_names() -> list[str]:
    folder = schema.config_folder() / "experiment"
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.glob("*/*.yaml"))


def load_recipes() -> list[Recipe]:
    """Every recipe, composed from the command in its header. Raises InputError for a header that cannot be read."""
    with composer():
        return [load_recipe(name) for name in recipe_names()]


def composer() -> Any:
    """A context in which `compose` works."""
    schema.register_schemas()
    for resolver in ("run_folder", "checkpoint_folder", "choices"):
        OmegaConf.register_new_resolver(resolver, lambda *_: "", replace=True)
    return hydra.initialize_config_dir(str(schema.config_folder()), version_base="1.3")


def compose(*values: str) -> schema.Train:
    config = OmegaConf.to_object(hydra.compose("train", list(values)))
    assert isinstance(config, schema.Train)
    schema.check_train(config)
    return config


def load_recipe(name: str) -> Recipe:
    text = (schema.config_folder() / "experiment" / f"{name}.yaml").read_text(encoding="utf-8")
    joined = text.replace("\\\n#", "")
    command = re.search(r"^# vsn-train (.*)$", joined, re.M)
    values = command[1].split() if command else []
    if f"experiment={name}" not in values:
        raise InputError(f"experiment/{name}.yaml: expected the line '# vsn-train experiment={name} …'")
    return Recipe(name, text, tuple(values), compose(*values), tuple(published(name, text)))


def published(name: str, text: str) -> list[Number]:
    """The accuracies that a header names."""
    found = []
    for line in text.splitlines():
        match = EXPECTED.fullmatch(line) or FUSED.fullmatch(line)
        if match:
            found.append(Number(**match.groupdict()))
        elif line.startswith(("# Expected: ", "# Fused ")) and "none published" not in line:
            raise InputError(
                f"experiment/{name}.yaml: {line!r}: expected '# Expected: 46.6 (center_1clip; VSN, table 2)'"
            )
    return found


def contents(recipes: list[Recipe]) -> dict[Path, str]:
    """The wanted content of the files: headers with costs and hours, and the document with its tables."""
    folder = schema.config_folder() / "experiment"
    wanted = {folder / f"{recipe.name}.yaml": with_costs(recipe) for recipe in recipes}
    document = DOCUMENT.read_text(encoding="utf-8")
    begin, end = "<!-- written by scripts/studies/recipes.py: begin -->\n", "<!-- end -->"
    head, _, rest = document.partition(begin)
    wanted[DOCUMENT] = f"{head}{begin}\n{tables(recipes)}\n\n{end}{rest.partition(end)[2]}"
    return wanted


def with_costs(recipe: Recipe) -> str:
    """The file with its two computed lines after the accuracies."""
    parameters, macs = costs(recipe)
    gpus, cores = hours(recipe)
    lines = [
        f"# Costs: {parameters / 1e6:.2f} M parameters, {macs / 1e9:.1f} GMACs a view; "
        f"{recipe.config.schedule.epochs} epochs of {VIDEOS[recipe.dataset]:,} videos",
        f"# Hours: {readable(gpus)} on {GPUS} V100, computed from a published time; {readable(cores)} on 2 CPU cores, "
        "computed from measured steps",
    ]
    rest = [line for line in recipe.text.splitlines() if not line.startswith(("# Costs: ", "# Hours: "))]
    last = max(number for number, line in enumerate(rest) if line.startswith(("# Expected: ", "# Fused with ")))
    return "\n".join([*rest[: last + 1], *lines, *rest[last + 1 :]]) + "\n"


def costs(recipe: Recipe) -> tuple[int, int]:
    """Parameters, and MACs of one clip at the training resolution."""
    config = recipe.config
    network = asdict(config.backbone)
    for key in ("dropout", "partial_bn", "frozen_bn"):
        del network[key]
    body, head = count(modality=config.data.modality, size=config.data.crop_size, **network)
    classes = CLASSES[recipe.dataset]
    return body.parameters + classes * head.parameters, body.macs + classes * head.macs


@cache
def count(
    operator: str, arch: str, num_frames: int, modality: str, size: int, **options: Any
) -> tuple[LayerCost, LayerCost]:
    """The costs of the network without a classifier, and of the classifier per class."""
    layers = complexity(operator, arch, num_frames, 1, size, modality, **options)
    assert layers[-1].name == "head"
    return LayerCost("body", "", *total(layers[:-1])), layers[-1]


def hours(recipe: Recipe) -> tuple[float, float]:
    """Hours of a training: on 8 V100, on 2 CPU cores."""
    _, macs = costs(recipe)
    reference = count("tsm", "resnet50", 8, "rgb", 224)[0].macs  # the classifier is negligible
    v100 = V100_EPOCHS * VIDEOS["kinetics400"] * reference / (V100_HOURS * V100_GPUS)  # forward MACs per GPU hour
    rates = json.loads(RATES.read_text(encoding="utf-8"))["clips_per_s"]
    network = recipe.config.backbone
    measured = count(network.operator, network.arch, 8, "rgb", 224)[0].macs
    core = 3600 * rates[f"{network.operator} {network.arch}"] * measured
    return recipe.clips * macs / (v100 * GPUS), recipe.clips * macs / core


def readable(hours: float) -> str:
    """Two significant digits: 0.31, 6.5, 13, 140, 2,900."""
    if hours >= 10:
        digits = 10 ** (len(str(int(hours))) - 2)
        return f"{round(hours / digits) * digits:,.0f}"
    return f"{hours:.1f}" if hours >= 1 else f"{hours:.2f}"


def tables(recipes: list[Recipe]) -> str:
    """Markdown: a table for each data set, then a table of the fused pairs of networks."""
    parts = []
    header = ["`experiment=`", "top-1 / top-5 %", "protocol", "source", "GMACs", "M par.", "8 V100, h", "2 cores, h"]
    for dataset, title in TITLES.items():
        rows = []
        for recipe in (each for each in recipes if each.dataset == dataset):
            alone = [number for number in recipe.numbers if not number.other] or [Number("fusion only", "", "")]
            parameters, macs = costs(recipe)
            figures = [f"{macs / 1e9:.1f}", f"{parameters / 1e6:.2f}", *map(readable, hours(recipe))]
            for position, number in enumerate(alone):
                cells = [number.accuracy, ticks(number.views), number.source]
                rows.append([f"`{recipe.name}`", *cells, *figures] if not position else ["", *cells, "", "", "", ""])
        parts.append(f"### {title}\n\n{markdown_table(header, rows)}")
    rows = [
        [f"`{recipe.name}`", f"`{number.other}`", number.accuracy, ticks(number.views), number.source]
        for recipe in recipes
        for number in recipe.numbers
        if number.other
    ]
    parts.append(
        "### Two networks together\n\n"
        + markdown_table(["one", "the other", "top-1 / top-5 %", "protocol", "source"], rows)
    )
    return "\n\n".join(parts)


def ticks(views: str) -> str:
    return f"`{views}`" if re.match(r"\w+clip\b", views) else views


def measure(rounds: int) -> dict[str, Any]:
    """Time training steps with one clip of 8 × 224 × 224 in fp32, channels_last, all networks interleaved.

    The fastest step of each network counts, since other load can only slow steps down.
    """
    actions = {
        f"{operator} {arch}": model_action(operator, Workload(arch), Setting("fp32", True), "train")
        for operator, arch in MEASURED
    }
    facts = hardware() | {"rounds": str(rounds)}
    times = interleave(actions, rounds)
    for name, seconds in times.items():
        print(
            f"{name:<24} {seconds.min():6.3f} s  {1 / seconds.min():6.3f} clips/s  median {np.median(seconds):6.3f} s"
        )
    return {
        "facts": facts,
        "clips_per_s": {name: round(1 / float(seconds.min()), 4) for name, seconds in times.items()},
        "seconds": {name: [round(float(each), 4) for each in seconds] for name, seconds in times.items()},
    }


if __name__ == "__main__":
    main()

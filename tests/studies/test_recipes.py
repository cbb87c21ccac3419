"""The recipes of configs/experiment/*/: each composes, builds, says what is true of it, and trains."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.studies import recipes as script
from scripts.studies.recipes import Recipe
from tests.conftest import run_command
from tests.media import write_counting_folder
from tests.runs import TOOLS
from tests.test_datasets import hmdb51, jester, kinetics400, something_v1, something_v2
from vsn_train.analysis.scores import Scores
from vsn_train.engine.distributed import Process
from vsn_train.run.data import load_manifest
from vsn_train.run.train import train

NAMES = script.recipe_names()


def key(name: str) -> tuple[str, str, bool]:
    """What differs in the code that a recipe goes through: data set, operator, modality."""
    dataset, _, rest = name.partition("/")
    operator = next(each for each in ("vsn_compact", "tsn", "tsm", "sth") if rest.startswith(each))
    return dataset, operator, rest.endswith("_flow")


def representatives() -> list[str]:
    """Every data set and every operator with each modality that it has; the slow test takes all recipes."""
    chosen, seen = [], set()
    for name in sorted(
        NAMES, key=lambda name: NAMES.index(name) * 7 % len(NAMES)
    ):  # not all data sets with one operator
        dataset, operator, flow = key(name)
        if {(dataset, flow), (operator, flow)} - seen:
            seen |= {(dataset, flow), (operator, flow)}
            chosen.append(name)
    return chosen


@pytest.fixture(scope="session")
def recipes() -> dict[str, Recipe]:
    return {recipe.name: recipe for recipe in script.load_recipes()}


def test_commands_compose_what_the_names_say(recipes):
    assert len(recipes) >= 60
    for name, recipe in recipes.items():
        dataset, operator, flow = key(name)
        config = recipe.config
        assert config.name == name.replace("/", "_")
        assert (config.dataset.name, config.backbone.operator) == (dataset, operator)
        assert config.data.modality == ("flow" if flow else "rgb")
        assert f"_{config.backbone.num_frames}f" in name
        arch = {"r50": "resnet50", "r101": "resnet101", "mobilenet": "mobilenet_v2"}
        assert arch[next(each for each in arch if f"_{each}_" in name)] == config.backbone.arch
        assert config.runtime.devices * config.data.batch_size == config.optimizer.reference_batch == 64
        assert (config.schedule.shape, config.schedule.milestones) == ("step", [0.4, 0.8])
        assert (config.data.sampling == "dense") == name.endswith("_dense")
        assert config.validation.views == 1 or config.validation == config.protocol
        assert recipe.numbers or "none published" in recipe.text


def test_protocols_of_the_published_numbers_are_ours(recipes):
    """The first one is that of vsn-eval without a protocol; the others are what vsn-eval takes."""
    known: dict[str, str] = {}
    with script.composer():
        for recipe in recipes.values():
            alone = [number for number in recipe.numbers if not number.other]
            for number in alone:
                preset, *values = number.views.split()
                if preset.endswith("clip") and number.views not in known:
                    protocol = script.compose(f"protocol={preset}", *values).protocol
                    known[number.views] = protocol.name(36, 32)  # motion's sizes
            if alone and alone[0].views in known:
                found = recipe.config.protocol.name(recipe.config.data.short_side, recipe.config.data.crop_size)
                assert found == known[alone[0].views]
    assert known.keys() > {"center_1clip", "fullres_3crop_2clip", "threecrop_10clip"}
    assert known["center_1clip protocol.crops=10"] == "tencrop_1clip"


def test_partners_of_sums_exist_and_are_tested_alike(recipes):
    sums = [(recipe, number.other) for recipe in recipes.values() for number in recipe.numbers if number.other]
    assert len(sums) >= 12
    for recipe, other in sums:
        partner = recipes[other].config
        assert partner.dataset.name == recipe.dataset
        assert partner.protocol == recipe.config.protocol


def test_headers_and_document_hold_what_is_computed(recipes):
    """Costs build every network. After a change: python scripts/studies/recipes.py write."""
    for path, text in script.contents(list(recipes.values())).items():
        assert path.read_text(encoding="utf-8") == text, path


def test_costs_and_hours_are_those_of_the_papers(recipes):
    parameters, macs = script.costs(recipes["something_v1/sth_r50_8f"])
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 1)) == (23.24, 30.2)
    parameters, macs = script.costs(recipes["kinetics400/vsn_compact_r101_8f"])
    assert (round(parameters / 1e6, 2), round(macs / 1e9, 1)) == (43.32, 62.4)
    # The training whose time is known, on eight GPUs in place of six.
    gpus, _ = script.hours(recipes["kinetics400/tsm_r50_8f_dense"])
    assert gpus == pytest.approx((49 + 55 / 60) * 6 / 8, rel=1e-3)
    assert [script.readable(hours) for hours in (0.314, 6.52, 137.0, 2849.0)] == ["0.31", "6.5", "140", "2,800"]


def test_help_lists_them_and_a_wrong_one_is_told(tmp_path):
    shown = run_command("vsn-train", "--help", "experiment").out
    assert "\n  hmdb51/ tsm_r50_16f, tsm_r50_8f\n" in shown
    assert max(map(len, shown.splitlines())) <= 80
    wrong = run_command("vsn-train", "experiment=jester/tsm_r50_9f", cwd=tmp_path)
    assert (wrong.code, wrong.err) == (
        2,
        "vsn-train: experiment=jester/tsm_r50_9f: no such choice; expected one of jester/sth_r50_16f, "
        "jester/sth_r50_8f, jester/tsm_r50_8f, jester/tsn_r50_16f, jester/tsn_r50_8f\n",
    )


@pytest.fixture(scope="session")
def miniatures(tmp_path_factory, ucf101, recipes):
    """(data set, flow or not) -> root and annotations of a miniature."""
    makers = {"something_v1": something_v1, "something_v2": something_v2, "jester": jester, "kinetics400": kinetics400}
    makers["hmdb51"] = hmdb51
    found = {("ucf101", False): (ucf101, None)}
    for dataset, make in makers.items():
        top = tmp_path_factory.mktemp(dataset)
        root = Path(make(top).removeprefix("dataset.root="))
        found[dataset, False] = (root, None)
        if not any(key(name)[::2] == (dataset, True) for name in NAMES):
            continue
        config = deepcopy(next(recipe.config for recipe in recipes.values() if recipe.dataset == dataset).dataset)
        config.root, config.annotations, config.max_missing_share = str(root), None, 0.5
        for split in ("train", "val"):
            manifest = load_manifest(config, split, Process(0, 1, torch.device("cpu")))
            for index in range(len(manifest)):
                folder = top / "flow" / manifest.path(index).relative_to(root).with_suffix("")
                for axis in "xy":
                    write_counting_folder(folder, 20, f"flow_{axis}_{{:05d}}.jpg")
        found[dataset, True] = (top / "flow", root if dataset == "kinetics400" else None)
    return found


def takes_two_steps(recipe: Recipe, miniatures, run: Path, **backbone: object) -> None:
    """Train on a miniature as vsn-train does, with smaller images; `backbone` makes the network smaller too."""
    config = deepcopy(recipe.config)
    root, annotations = miniatures[recipe.dataset, config.data.modality == "flow"]
    config.dataset.root, config.dataset.annotations = str(root), annotations and str(annotations)
    config.dataset.max_missing_share = 0.2  # of Kinetics-400 there is always one missing
    config.weights, config.runtime.devices, config.runtime.device, config.runtime.threads = None, 1, "cpu", 1
    config.schedule.epochs, config.runtime.log_every, config.data.workers = 1, 1, 0
    config.data.short_side, config.data.crop_size = 40, 32
    for protocol in (config.protocol, config.validation):
        protocol.short_side, protocol.crop_size = 40, 40 if protocol.crops == 3 else 32
    for name, value in backbone.items():
        setattr(config.backbone, name, value)
    videos = len(load_manifest(config.dataset, "train", Process(0, 1, torch.device("cpu"))))
    config.data.batch_size = -(-videos // 2)
    train(config, run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["split"] == "train"]
    assert all(math.isfinite(loss) for loss in losses)
    (val,) = [line for line in lines if line["split"] == "val"]
    assert (val["step"], len(losses)) == (2, 2)
    assert val["protocol"] == config.validation.name(40, 32)


@pytest.mark.parametrize("name", representatives())
def test_one_of_each_kind_takes_two_steps(name, recipes, miniatures, tmp_path):
    takes_two_steps(recipes[name], miniatures, tmp_path / "run", arch="resnet18", num_frames=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_takes_two_steps(name, recipes, miniatures, tmp_path):
    takes_two_steps(recipes[name], miniatures, tmp_path / "run")
    shutil.rmtree(tmp_path / "run")  # half a gigabyte


@pytest.mark.slow
def test_two_streams_are_fused_as_the_document_says(recipes, miniatures, tmp_path):
    files = []
    for name in ("something_v1/vsn_compact_r50_8f", "something_v1/vsn_compact_r50_8f_flow"):
        run = tmp_path / name.rpartition("/")[2]
        takes_two_steps(recipes[name], miniatures, run)
        evaluated = run_command("vsn-eval", f"checkpoint={run}/checkpoints/last.pt")
        assert evaluated.code == 0, evaluated.err
        files.append(run / "eval" / "last" / "center_1clip" / "scores.npz")
    output = tmp_path / "fused.npz"
    subprocess.run([*TOOLS, "scores", "fuse", *files, "--output", output], check=True)
    rgb, flow, fused = (Scores.load(path) for path in (*files, output))
    assert np.allclose(fused.scores, (rgb.scores + flow.scores) / 2, atol=1e-6)

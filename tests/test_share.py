"""A trained model handed on: folder, features, exported files, and the programs of docs/use-your-model.md."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision

from tests.runs import log_of
from tests.test_documents import blocks_of, shell_lines
from tests.warm import Command
from vsn_train import cli, load_model
from vsn_train.analysis.export import ONNX_PACKAGES
from vsn_train.analysis.features import Features
from vsn_train.analysis.scores import Scores
from vsn_train.errors import InputError
from vsn_train.models import create_model, imagenet
from vsn_train.models.weights import load_weights
from vsn_train.tools import export
from vsn_train.tools import main as tools
from vsn_train.tools.main import parse

DOCUMENT = "docs/use-your-model.md"
TINY = ["dataset.train_videos=12", "dataset.val_videos=12", "schedule.epochs=1", "data.workers=0"]
HAS_ONNX = all(importlib.util.find_spec(name) for name in ONNX_PACKAGES)


def done(name: str, words: list[str], folder: Path) -> str:
    command = Command(name, words, folder)
    assert command.wait(timeout=300) == 0, command.output()
    return command.output()


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """One epoch of TSM with averaged weights, evaluated, one video at a time as `load_model` does."""
    folder = tmp_path_factory.mktemp("share")
    run = folder / "run"
    done("vsn-train", [*TINY, "optimizer.ema=0.5", f"dataset.root={folder}/data", f"hydra.run.dir={run}"], folder)
    more = ["features=true", "report=false", "runtime.views_per_batch=1"]
    done("vsn-eval", [f"checkpoint={run}/checkpoints/best.pt", *more], folder)
    return run


def exported(*words: str) -> int:
    return export.run(parse("export", export, list(words)))


@pytest.fixture(scope="module")
def folder(trained_run):
    path = trained_run.parent / "shared" / "model"
    assert exported(f"checkpoint={trained_run}", "format=folder", f"output={path}") == 0
    return path


def a_video(trained_run: Path) -> Path:
    return sorted(trained_run.parent.glob("data/**/*.mp4"))[0]


def results(run: Path, stem: str) -> Path:
    return run / "eval" / stem / "center_1clip"


# ---- Features --------------------------------------------------------------------------------------------------------


def test_features_are_those_of_load_model_and_carry_the_header_of_the_scores(trained_run):
    features = Features.load(results(trained_run, "best") / "features.npz")
    scores = Scores.load(results(trained_run, "best") / "scores.npz")
    assert features.features.shape == (12, 512)
    assert features.features.dtype == np.float32
    assert np.array_equal(features.ids, scores.ids)
    assert np.array_equal(features.labels, scores.labels)
    assert np.array_equal(features.class_names, scores.class_names)
    assert features.facts == scores.facts
    trained = load_model(trained_run, device="cpu")
    paths = {path.relative_to(path.parents[2]).as_posix(): path for path in trained_run.parent.glob("data/**/*.mp4")}
    for name, row, expected in zip(features.ids[:3], features.features, scores.scores, strict=False):
        assert np.array_equal(trained.features(paths[str(name)]), row)
        assert np.array_equal(trained.scores(paths[str(name)]), expected)


def test_what_is_no_feature_file_is_told(trained_run, tmp_path):
    with pytest.raises(InputError, match=r"scores\.npz: not a feature file, or damaged .*features=true writes"):
        Features.load(results(trained_run, "best") / "scores.npz")
    with pytest.raises(InputError, match="not a feature file"):
        Features.load(tmp_path / "nothing.npz")


# ---- A folder --------------------------------------------------------------------------------------------------------


def test_the_folder_gives_the_same_scores(folder, trained_run):
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    theirs, mine = load_model(folder, device="cpu"), load_model(trained_run, device="cpu")
    video = a_video(trained_run)
    assert np.array_equal(theirs.scores(video), mine.scores(video))
    assert np.array_equal(theirs.features(video), mine.features(video))
    assert (theirs.class_names, theirs.protocol, theirs.preprocessing) == (
        mine.class_names, mine.protocol, mine.preprocessing,
    )  # fmt: skip


def test_its_card_has_the_accuracy_with_what_it_stands_on(folder, trained_run):
    card = (folder / "README.md").read_text(encoding="utf-8")
    metrics = json.loads((results(trained_run, "best") / "metrics.json").read_text())
    (row,) = [line for line in card.splitlines() if line.startswith("| motion ")]
    low, high = metrics["top1_interval"]
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        "motion", "val", "center_1clip", f"{metrics['top1']:.2f}", f"{low:.2f} to {high:.2f}", f"{metrics['top5']:.2f}",
        "12", metrics["manifest"],
    ]  # fmt: skip
    assert f"checkpoint `{metrics['checkpoint']}`" in card
    assert "# tsm on resnet18, 8 frames, trained on motion" in card
    assert "averaged weights" in card
    assert card.startswith('---\nlibrary_name: "vsn-train"\npipeline_tag: "video-classification"\n')
    (program,) = re.findall(r"```python\n(.*?)```", card, re.S)
    exec(program.replace("FOLDER", str(folder)).replace("clip.mp4", str(a_video(trained_run))), {})


def test_vsn_eval_takes_it(folder, trained_run, tmp_path):
    """Any number of videos in a batch rounds differently; the settings are those of the first evaluation."""
    words = [f"checkpoint={folder}", f"hydra.run.dir={tmp_path}", "report=false", "runtime.views_per_batch=1"]
    done("vsn-eval", words, tmp_path)
    mine, theirs = (Scores.load(results(run, stem) / "scores.npz") for run, stem in
                    ((trained_run, "best"), (tmp_path, "model")))  # fmt: skip
    assert np.array_equal(mine.scores, theirs.scores)
    assert theirs.facts["checkpoint"] != mine.facts["checkpoint"]  # other files


def test_a_training_starts_from_it(folder, trained_run, tmp_path):
    words = [*TINY, f"weights={folder}", f"dataset.root={trained_run.parent}/data", f"hydra.run.dir={tmp_path}/run"]
    done("vsn-train", words, tmp_path)
    assert "weights: vsn-train layout, 122 tensors loaded" in log_of(tmp_path / "run")
    trained = load_model(folder, device="cpu")
    model = create_model("tsm", "resnet18", 8, len(trained.class_names))
    assert not load_weights(model, folder).missing
    assert torch.equal(model.head.weight, trained.model.head.weight)
    with pytest.raises(InputError, match=r"trained with shift 1/8 before conv1 .* this model has no operator"):
        load_weights(create_model("tsn", "resnet18", 8, 12), folder)


def test_what_is_wrong_with_a_folder_is_told(folder, trained_run, tmp_path):
    words = [f"checkpoint={trained_run}", "format=folder"]
    with pytest.raises(InputError, match="already exists; expected a new or empty folder"):
        exported(*words, f"output={folder}")
    with pytest.raises(InputError, match=r"format=folder needs checkpoint="):
        exported("operator=tsn", "format=folder", f"output={tmp_path}/x")
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "config.json").write_text('{"format": 2')
    with pytest.raises(InputError, match=r"config\.json: damaged, or not JSON"):
        load_model(broken)
    (broken / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(InputError, match="not a checkpoint of this version of vsn-train"):
        load_model(broken)
    (broken / "config.json").unlink()
    with pytest.raises(InputError, match="a folder without checkpoints"):
        load_model(broken)
    with pytest.raises(InputError, match=r"a folder without config\.json and model\.safetensors"):
        load_weights(create_model("tsm", "resnet18", 8, 12), broken)


# ---- Exported files, and the document -----------------------------------------------------------------------------


def test_a_torch_export_file_says_what_it_is(trained_run, tmp_path):
    exported(f"checkpoint={trained_run}", f"output={tmp_path}/model.pt2", "--batch", "1", "input=uint8")
    texts = {"metadata.json": ""}
    network = torch.export.load(tmp_path / "model.pt2", extra_files=texts).module()
    facts = json.loads(texts["metadata.json"])
    trained = load_model(trained_run, device="cpu")
    assert facts["class_names"] == trained.class_names
    assert facts["preprocessing"]["short_side"] == trained.preprocessing.short_side
    assert (facts["protocol"]["clips"], facts["sampling"], facts["input"]) == (1, "uniform", "uint8")
    assert facts["checkpoint"] == trained.checkpoint.hash
    video = torch.randint(256, (1, 8, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        expected = trained.model(((video.movedim(-1, -3) / 255 - mean_of(facts)) / std_of(facts)).float())
    torch.testing.assert_close(network(video), expected, rtol=1e-3, atol=1e-3)


def mean_of(facts: dict) -> torch.Tensor:
    return torch.tensor(facts["preprocessing"]["mean"]).view(3, 1, 1)


def std_of(facts: dict) -> torch.Tensor:
    return torch.tensor(facts["preprocessing"]["std"]).view(3, 1, 1)


@pytest.fixture(scope="module")
def reader(folder, trained_run):
    """The folder of the document's reader: its files by the names that the document has."""
    place = trained_run.parent / "reader"
    (place / "runs").mkdir(parents=True)
    (place / "runs" / "mine").symlink_to(trained_run)
    shutil.copy(a_video(trained_run), place / "clip.mp4")
    shutil.copytree(folder, place / "shared" / "model")
    return place


def program(opening: str) -> str:
    (text,) = [block.text for block in blocks_of(DOCUMENT) if block.language == "python" and opening in block.text]
    return text


def test_the_documents_programs_run(reader, monkeypatch, capsys):
    monkeypatch.chdir(reader)
    names: dict = {}
    exec(program('trained.top("clip'), names)
    assert len(program('trained.top("clip').splitlines()) <= 7
    assert "(512,)" in capsys.readouterr().out
    names["frames"] = np.random.default_rng(0).integers(256, size=(30, 48, 64, 3), dtype=np.uint8)
    exec(program("trained.top(frames"), names)
    exec(program('load_model("shared/model")'), names)
    exec(program("Features.load("), names)
    assert "(12, 512)" in capsys.readouterr().out


def commands(*keys: str) -> list[list[str]]:
    return [shlex.split(line) for line in shell_lines(DOCUMENT) if any(key in line for key in keys)]


SMALL = ["backbone.arch=resnet18", "data.short_side=36", "data.crop_size=32", "schedule.epochs=1", "data.batch_size=2"]
# What makes a command of the document smaller.
MORE = {"vsn-train": SMALL, "vsn-eval": ["report=false"], "vsn-predict": [], "vsn-tools": ["batch=1"]}
PROGRAMS = {"vsn-train": cli.train, "vsn-eval": cli.evaluate, "vsn-predict": cli.predict, "vsn-tools": tools.main}


def run_here(words: list[str], monkeypatch) -> int:
    name, *arguments = words
    few = ["data.workers=0", "runtime.threads=1"] if name != "vsn-tools" else []
    monkeypatch.setattr(sys, "argv", [name, *arguments, *MORE[name], *few])
    try:
        PROGRAMS[name]()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.parametrize("key", ["features=true", "shared/model", "weights=imagenet", "model.pt2"])
def test_the_documents_commands_run(key, reader, trained_run, monkeypatch, tmp_path):
    """With the videos of the training for /data/videos, and two classes of them for /data/mine."""
    monkeypatch.chdir(reader)
    shutil.rmtree(reader / "shared" / "model", ignore_errors=True)
    if key == "shared/model":
        exported("checkpoint=runs/mine", "format=folder", "output=shared/model")
    for number, path in enumerate(sorted(trained_run.parent.glob("data/**/*.mp4"))[:6]):
        target = tmp_path / "mine" / ("train" if number < 4 else "val") / f"class{number % 2}" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    weights = tmp_path / "hub" / "checkpoints" / "weights"
    weights.parent.mkdir(parents=True)
    torch.save(torchvision.models.resnet18().state_dict(), weights)
    digits = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
    weights.rename(weights.with_name(f"resnet18-{digits}.pth"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    address = SimpleNamespace(url=f"https://nowhere.invalid/resnet18-{digits}.pth")
    monkeypatch.setattr(imagenet, "get_model_weights", lambda arch: {"IMAGENET1K_V1": address})
    found = commands(key)
    assert found
    for words in found:
        if "format=folder" in words:
            shutil.rmtree(reader / "shared" / "model", ignore_errors=True)
        places = {"/data/videos": str(trained_run.parent / "data"), "/data/mine": str(tmp_path / "mine")}
        for name, place in places.items():
            words = [word.replace(name, place) for word in words]
        # The second training of one process would get the folder of the first.
        own = [f"hydra.run.dir={tmp_path / 'run'}"] if words[0] == "vsn-train" else []
        assert run_here([*words, *own], monkeypatch) == 0, words


@pytest.mark.skipif(not HAS_ONNX, reason="needs the extra onnx")
def test_the_documents_onnx_program_gives_our_scores(reader, monkeypatch, capsys):
    monkeypatch.chdir(reader)
    (command,) = commands("model.onnx")
    assert run_here(command, monkeypatch) == 0
    text = program("onnxruntime")
    names: dict = {}
    exec(text, names)
    assert len([line for line in text.splitlines() if line]) <= 20
    expected = load_model("runs/mine", device="cpu").scores("clip.mp4")
    bound = 1e-2 * np.ptp(expected)
    assert np.abs(names["scores"] - expected).max() < bound
    (others,) = names["network"].run(["logits"], {"video": 255 - names["clip"][None]})[0]
    assert np.abs(others - expected).max() > 10 * bound  # of another input: the bound can be missed
    capsys.readouterr()

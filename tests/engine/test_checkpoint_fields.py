"""Files that somebody else wrote as checkpoints: one message that names the key, whatever they hold."""

from __future__ import annotations

import copy
import zipfile
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from tests.runs import checkpoint_with
from vsn_train.config import BACKBONES, Data, Motion, Runtime, check_checkpoint
from vsn_train.data.protocol import Protocol
from vsn_train.engine.checkpoint import (
    OpenedCheckpoint,
    load_checkpoint,
    newest_checkpoint,
    open_checkpoint,
    save_checkpoint,
)
from vsn_train.engine.checkpoint_fields import check_content, resume_state
from vsn_train.engine.optim import Schedule, build_adamw, build_average, build_sgd
from vsn_train.engine.precision import scaler_for
from vsn_train.engine.state import FORMAT, Checkpoint, TrainState
from vsn_train.errors import InputError
from vsn_train.models import create_model
from vsn_train.models.layouts import identify
from vsn_train.models.weights import check_extent, load_weights
from vsn_train.trained import trained_model

CONFIG = {
    "seed": 0,
    "dataset": asdict(Motion("motion", "clips", "direction", 12, 12, 32, 8)),
    "backbone": asdict(BACKBONES["tsm"](operator="tsm", arch="resnet18", num_frames=4)),
    "protocol": asdict(Protocol(1, "uniform", 1, 40, 32)),
    "data": asdict(Data(short_side=40, crop_size=32)),
    "runtime": asdict(Runtime()),
}


@pytest.fixture(scope="module")
def content():
    torch.manual_seed(0)
    model = create_model("tsm", "resnet18", 4, 2)
    found = checkpoint_with(
        model=model.state_dict(), config=CONFIG, class_names=["left", "right"], flip_pairs=[[0, 1]], epoch=1, step=3,
        choices={"precision": "fp32", "channels_last": False}, best=[[50.0, 1]], sums=[[0.5, 1.0, 1.0, 2.0]],
        manifests=["a", "b"], mixing={"layer1.0": "shift"},
    )  # fmt: skip
    return found.content()


def use(content: dict) -> None:
    """What every command does with a file once it has been unpacked."""
    check_extent(content)
    check_content(content)
    checkpoint = Checkpoint.of(content)
    check_checkpoint(checkpoint.config, "best.pt")
    backbone = checkpoint.config["backbone"]
    if backbone != CONFIG["backbone"] or checkpoint.model is not content["model"]:
        trained_model(OpenedCheckpoint(Path("best.pt"), "", checkpoint), torch.device("cpu"), checkpoint.config)


ODD = [None, -1, 0, 1.5, 10**30, float("nan"), float("inf"), "x", "", "\ud800", True, b"x", [], [None], [[9, 9]],
       [["a"]], {}, {"a": 1}, {1: 1}, torch.zeros(2), "DELETED"]  # fmt: skip
PLACES = [("format",), *((key,) for key in checkpoint_with().content()), ("config", "new"), ("extra",)]
PLACES += [("config", group, key) for group, keys in CONFIG.items() if isinstance(keys, dict) for key in [*keys, "new"]]
PLACES += [("config", group) for group in CONFIG] + [("choices", key) for key in ("precision", "channels_last")]


@pytest.mark.parametrize("place", PLACES, ids=".".join)
def test_any_value_at_any_key_is_taken_or_refused_with_one_line(content, place):
    for odd in ODD:
        changed = content | {"config": copy.deepcopy(content["config"]), "choices": dict(content["choices"])}
        table = changed
        for key in place[:-1]:
            table = table[key]
        if odd == "DELETED" if isinstance(odd, str) else False:
            table.pop(place[-1], None)
        else:
            table[place[-1]] = odd
        try:
            use(changed)
        except InputError as error:
            message = str(error)
            assert "\n" not in message
            assert len(message) < 400
            names = (place[-1], "config.backbone describes", *(("vsn-train",) if place == ("format",) else ()))
            assert any(name in message for name in names), (place, odd, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"format": FORMAT + 1, "version": "9.1"},
            "written by a newer vsn-train (9.1): its format is 3, this version ",
        ),
        ({"format": FORMAT - 1}, "not a checkpoint of this version of vsn-train"),
        ({"epoch": "three"}, "epoch is 'three', expected a whole number; vsn-train did not write this file, or"),
        ({"epoch": True}, "epoch is true, expected a whole number"),
        ({"class_names": ["left", 3]}, "class_names[1] is 3, expected text"),
        ({"class_names": ["left"], "flip_pairs": []}, "model.head.bias is (2,), but class_names has 1 names"),
        ({"flip_pairs": [[0, 2]]}, "flip_pairs[0] is '[0, 2]', expected two of the 2 classes, from 0"),
        ({"model": {"a": "b"}}, "model.a is 'b', expected a tensor"),
        ({"config": CONFIG | {"data": None}}, "config.data is null, expected a table of keys"),
        ({"best": [[50.0, 0]]}, "best[0] is '[50.0, 0]', expected an accuracy or a loss, and the epoch"),
    ],
)
def test_the_message_names_the_key(tmp_path, content, changes, message):
    torch.save(content | {"model": {"head.bias": torch.zeros(2)}} | changes, tmp_path / "best.pt")
    with pytest.raises(InputError) as refused:
        load_checkpoint(tmp_path / "best.pt")
    assert f"{tmp_path}/best.pt: {message}" in str(refused.value)


@pytest.mark.parametrize(
    ("group", "values", "message"),
    [
        ("backbone", {"num_frames": 10**9}, "backbone.num_frames=1000000000: expected at most 1024"),
        ("protocol", {"clips": 10**9}, "protocol.clips=1000000000: expected at most 1000"),
        ("protocol", {"short_side": 10**6}, "protocol.short_side=1000000: expected at most 4096"),
        (
            "data",
            {"crop_size": 4096, "short_side": 4096},
            "with data.crop_size=4096: expected at most 536870912 pixels",
        ),
        ("backbone", {"dropout": "much"}, "config.backbone.dropout is 'much', expected a number"),
        ("backbone", {"later": 1}, "config.backbone.later is a key that this version of vsn-train does not know"),
        ("dataset", {"name": "moving"}, "the checkpoint's config.dataset.name is 'moving', but this version"),
    ],
)
def test_values_of_its_config_have_types_and_bounds(group, values, message):
    frames = {"num_frames": 64} if "crop_size" in values else {}
    config = CONFIG | {"backbone": CONFIG["backbone"] | frames}
    with pytest.raises(InputError) as refused:
        check_checkpoint(config | {group: config[group] | values}, "best.pt")
    assert message in str(refused.value)


def test_small_files_that_stand_for_endless_ones(tmp_path, content):
    endless: list = []
    endless.append(endless)
    many = ["a"]
    for _ in range(15):
        many = [many] * 30
    vast = {"weight": torch.zeros(1).expand(10**9, 512)}
    for name, value, message in (
        ("class_names", endless, "are endless"),
        ("choices", {"a": many}, "are endless, or have too many parts"),
        ("model", vast, "model.weight is (1000000000, 512), more than the data in the file"),
        ("model", {"weight": torch.zeros(2, device="meta")}, "model.weight is a tensor of an unusual kind"),
        ("model", {"weight": torch.zeros(2).to_sparse()}, "model.weight is a tensor of an unusual kind"),
    ):
        torch.save(content | {"model": {}} | {name: value}, tmp_path / "best.pt")
        with pytest.raises(InputError, match=r"best\.pt: ") as refused:
            load_checkpoint(tmp_path / "best.pt")
        assert message in str(refused.value)
    torch.save(content | {"model": {"weight": torch.zeros(1000)}}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(tmp_path / "packed.pt", "w", 8) as packed:
        for each in plain.namelist():
            packed.writestr(each, plain.read(each))
    with pytest.raises(InputError, match=r"is compressed, which torch.save does not do"):
        load_checkpoint(tmp_path / "packed.pt")


def test_tensors_are_those_of_the_network(content):
    model = content["model"]
    for tensors, message in (
        ({}, "model.backbone.conv1.weight is missing (one of 122)"),
        (model | {"more": torch.zeros(1)}, "model.more is not in its network"),
        (model | {"head.weight": torch.zeros(2, 8)}, "model.head.weight is (2, 8), expected (2, 512)"),
    ):
        opened = OpenedCheckpoint(Path("best.pt"), "", Checkpoint.of(content | {"model": tensors}))
        with pytest.raises(InputError, match=r"best\.pt: ") as refused:
            trained_model(opened, torch.device("cpu"), CONFIG)
        assert message in str(refused.value)


@pytest.mark.parametrize(
    "build",
    [lambda model: build_sgd(model, 0.1, 0.9, 0.0, 1), lambda model: build_adamw(model, 0.1, (0.9, 0.99), 1e-8, 0, 1)],
    ids=["sgd", "adamw"],
)
def test_what_a_training_goes_on_from(content, build):
    def state() -> TrainState:
        model = create_model("tsm", "resnet18", 4, 2)
        optimizer = build(model)
        return TrainState(
            model, optimizer, Schedule(optimizer, lambda steps: 1.0), scaler_for("fp32", torch.device("cpu")),
            build_average(model, 0.9),
        )  # fmt: skip

    trained = state()
    for each in trained.model.parameters():
        each.grad = torch.zeros_like(each)
    trained.optimizer.step()
    optimizer = trained.optimizer.state_dict()
    whole = content | {"optimizer": optimizer, "average": trained.average.module.state_dict()}
    ours = state()
    resume_state(ours, Checkpoint.of(whole))
    assert ours.optimizer.state_dict()["state"].keys() == optimizer["state"].keys()

    name = max(optimizer["state"][0])
    short = optimizer["state"] | {0: optimizer["state"][0] | {name: torch.zeros(3)}}
    groups = [optimizer["param_groups"][0] | {"lr": "fast"}, *optimizer["param_groups"][1:]]
    for key, value, message in (
        ("optimizer", {}, "optimizer.param_groups is null, expected a list"),
        ("optimizer", optimizer | {"state": short}, rf"optimizer\.state\.0\.{name} is \(3,\), expected"),
        ("optimizer", optimizer | {"state": {999: {}}}, r"optimizer\.state\.999 belongs to no parameter"),
        ("optimizer", optimizer | {"state": {0: {"x": torch.zeros(1)}}}, r"optimizer\.state\.0\.\w+ is missing"),
        ("optimizer", optimizer | {"param_groups": groups}, r"param_groups\[0\]\.lr is 'fast', expected a number"),
        ("optimizer", optimizer | {"param_groups": groups[1:]}, r"param_groups has \d groups, expected \d"),
        ("average", {"a": torch.zeros(1)}, r"average\.a is not in its network"),
    ):
        with pytest.raises(InputError, match=message):
            resume_state(state(), Checkpoint.of(whole | {key: value}))


def test_no_training_starts_or_goes_on_from_weights_that_are_not_finite(tmp_path, content):
    torch.save(content, tmp_path / "epoch_1.pt")
    broken = content["model"] | {"head.bias": torch.tensor([0.0, float("nan")])}
    torch.save(content | {"model": broken}, tmp_path / "last.pt")
    with pytest.raises(InputError, match=r"last\.pt: head\.bias has values that are not finite"):
        open_checkpoint(tmp_path / "last.pt")
    path, _, passed_over = newest_checkpoint(tmp_path)
    assert path.name == "epoch_1.pt"
    assert "head.bias has values that are not finite" in passed_over[0]
    with pytest.raises(InputError, match=r"head\.bias has values that are not finite: no training can start from it"):
        load_weights(create_model("tsm", "resnet18", 4, 2), tmp_path / "last.pt")


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_weights_with_an_odd_description(content, odd):
    model = create_model("tsm", "resnet18", 4, 2)
    for key in ("config", "class_names", "mixing"):
        for value in (
            odd,
            {"backbone": odd},
            {"backbone": {"operator": odd}},
            {"backbone": {"operator": "tsm", "p": odd}},
        ):
            check = content | {key: value}
            with suppress(InputError):
                identify(check, model)


def test_a_file_as_it_is_written_passes(tmp_path, content):
    save_checkpoint(tmp_path / "best.pt", Checkpoint.of(content))
    found = open_checkpoint(tmp_path / "best.pt").checkpoint
    check_checkpoint(found.config, "best.pt")
    assert found.class_names == ["left", "right"]

"""Every shipped YAML file composes. test_wheel.py does so from the installed wheel."""

from __future__ import annotations

from pathlib import Path

import hydra
import pytest
from omegaconf import OmegaConf

from tests.conftest import run_command
from vsn_train import config as schema
from vsn_train.tools.compose import composed

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"


def compose(command: str, *overrides: str):
    schema.register_schemas()
    schema.register_checkpoint(None)
    OmegaConf.register_new_resolver("run_folder", lambda *_: "run", replace=True)
    OmegaConf.register_new_resolver("checkpoint_folder", lambda *_: "run", replace=True)
    with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return hydra.compose(command, list(overrides))


@pytest.mark.parametrize("path", sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.glob("*/*.yaml")))
def test_every_file_can_be_chosen_for_training(path):
    group, name = path.removesuffix(".yaml").split("/")
    config = OmegaConf.to_object(compose("train", f"{group}={name}"))
    schema.check_train(config)


@pytest.mark.parametrize("protocol", sorted(path.stem for path in (CONFIGS / "protocol").glob("*.yaml")))
@pytest.mark.parametrize("command", ["eval", "predict"])
def test_every_protocol_can_be_chosen_for_a_test(command, protocol):
    config = compose(command, f"protocol={protocol}", "data.crop_size=96", "data.short_side=128")
    chosen = OmegaConf.to_object(config.protocol)
    assert chosen.crop_size == (128 if chosen.crops == 3 else 96)
    views = {"center_1clip": 1, "center_2clip": 2, "fullres_3crop_2clip": 6, "threecrop_10clip": 30}
    assert chosen.views == views.get(protocol, 100)
    assert chosen.name(128, 96) == protocol


@pytest.mark.parametrize(
    ("dataset", "protocol"),
    [
        ("motion", (1, 1)), ("motion_static", (1, 1)), ("motion_order", (1, 1)), ("custom", (1, 1)),
        ("something_v1", (1, 1)),
        ("something_v2", (2, 1)), ("jester", (2, 1)), ("kinetics400", (10, 10)), ("ucf101", (10, 10)),
        ("hmdb51", (10, 10)),
    ],
)  # fmt: skip
def test_the_default_protocol_follows_the_data_set_and_can_be_overridden(dataset, protocol):
    config = compose("train", f"dataset={dataset}")
    assert (config.protocol.clips, config.protocol.crops) == protocol
    chosen = compose("train", f"dataset={dataset}", "protocol=center_2clip")
    assert (chosen.protocol.clips, chosen.protocol.crops) == (2, 1)


def test_cfg_job_prints_the_config():
    result = run_command("vsn-train", "--cfg", "job")
    assert result.code == 0, result.err
    assert "num_frames: 8" in result.out


def test_the_views_sizes_follow_those_of_the_data_where_they_were_trained_equal():
    data = {"short_side": 64, "crop_size": 64}
    config = {
        "dataset": {"name": "motion"}, "backbone": {"operator": "tsm"}, "data": data, "runtime": {},
        "protocol": {"clips": 1, "placement": "uniform", "crops": 1} | data,
    }  # fmt: skip
    schema.register_schemas()
    schema.register_checkpoint(config)
    for value, sizes in (("data.crop_size=48", (64, 48)), ("data.short_side=80", (80, 64))):
        found = composed("eval", ["checkpoint=best.pt", value]).protocol
        assert (found.short_side, found.crop_size) == sizes


def test_checkpoints_of_a_sweep_keep_their_names(tmp_path):
    (tmp_path / "${x}.pt").write_bytes(b"no checkpoint")
    for words, name in ((["--multirun", "checkpoint=it's.pt,b.pt"], "it's.pt"), (["checkpoint=${x}.pt"], "${x}.pt")):
        result = run_command("vsn-eval", *words, cwd=tmp_path)
        assert result.code == 2
        assert result.err.startswith(f"vsn-eval: {name}: ")

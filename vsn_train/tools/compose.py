"""The configs of vsn-train and vsn-eval for verbs that take the same values. Hydra starts and ends here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, OmegaConf

from vsn_train import config as schema


def train_config(values: Sequence[str], config_dir: Path | None = None) -> schema.Train:
    """The config of vsn-train with these values (key=value). config_dir: a folder with configs of one's own.

    Raises InputError, HydraException and OmegaConfBaseException for values that vsn-train refuses.
    """
    config = OmegaConf.to_object(composed("train", values, config_dir))
    assert isinstance(config, schema.Train)
    schema.check_train(config)
    return config


def eval_config(path: Path, stored: dict[str, Any], values: Sequence[str]) -> schema.Eval:
    """The config of vsn-eval for a checkpoint and these values. stored: the config that the checkpoint holds.

    Raises as `train_config`.
    """
    schema.register_checkpoint(stored)
    found = composed("eval", values)
    found.checkpoint = str(path)  # not among the values: a path may hold what Hydra's grammar gives a meaning
    config = OmegaConf.to_object(found)
    assert isinstance(config, schema.Eval)
    schema.check_eval(config)
    return config


def composed(name: str, values: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """The file configs/<name>.yaml with these values, not yet checked. A ~ is the home folder."""
    schema.register_schemas()
    for resolver in ("run_folder", "checkpoint_folder", "choices"):  # of a run, which these commands do not start
        OmegaConf.register_new_resolver(resolver, lambda *_: "", replace=True)
    overrides = [schema.with_home(value) for value in values]
    if config_dir:
        place = str(config_dir.absolute()).replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"hydra.searchpath=['file://{place}']")
    with hydra.initialize_config_dir(str(schema.config_folder()), version_base="1.3"):
        return hydra.compose(name, overrides)

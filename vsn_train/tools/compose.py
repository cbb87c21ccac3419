"""The configs of vsn-train and vsn-eval for verbs that take the same keys. Hydra starts and ends here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from vsn_train import config as schema
from vsn_train.engine.checkpoint import OpenedCheckpoint
from vsn_train.typed_paths import hydra_words


def train_config(values: Sequence[str], config_dir: Path | None = None) -> schema.Train:
    """The config of vsn-train with these values (key=value). config_dir: a folder with the user's own configs.

    Raises InputError, HydraException and OmegaConfBaseException for values that vsn-train refuses.
    """
    config = OmegaConf.to_object(composed("train", values, config_dir))
    assert isinstance(config, schema.Train)
    schema.check_train(config)
    return config


def eval_config(opened: OpenedCheckpoint, values: Sequence[str]) -> schema.Eval:
    """The config of vsn-eval for a checkpoint and these values. Raises as `train_config`."""
    schema.check_checkpoint(opened.checkpoint.config, str(opened.path))
    schema.register_checkpoint(opened.checkpoint.config)
    config = OmegaConf.to_object(composed("eval", [*values, f"checkpoint={opened.path}"]))
    assert isinstance(config, schema.Eval)
    schema.check_eval(config)
    return config


def composed(name: str, values: Sequence[str], config_dir: Path | None = None) -> DictConfig:
    """The file configs/<name>.yaml with these values, not yet checked. A ~ is the home folder."""
    schema.register_schemas()
    for resolver in ("run_folder", "checkpoint_folder", "overview", "new_folder"):  # used by runs only
        OmegaConf.register_new_resolver(resolver, lambda *_: "", replace=True)
    overrides = hydra_words(values, schema.PATHS, schema.PATH_LISTS)
    if config_dir:
        place = str(config_dir.absolute()).replace("\\", "\\\\").replace("'", "\\'")
        overrides.append(f"hydra.searchpath=['file://{place}']")
    with hydra.initialize_config_dir(str(schema.config_folder()), version_base="1.3"):
        return hydra.compose(name, overrides)

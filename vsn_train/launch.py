"""One process, N local processes, torchrun: who am I, and who starts the others."""

from __future__ import annotations

import os
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from vsn_train import config as schema
from vsn_train import run
from vsn_train.errors import InputError


def launch_train(config: schema.Train, stored: dict[str, Any], run_folder: Path) -> None:
    """Train in this process, or in runtime.devices local ones."""
    # Absolute paths: the config goes into checkpoints, which are used from other folders.
    stored["dataset"]["root"] = os.path.abspath(os.path.expanduser(config.dataset.root))
    _launch(run.train, config.runtime.devices, config, stored, run_folder.absolute())


def launch_evaluate(config: schema.Eval, run_folder: Path) -> None:
    _launch(run.evaluate, config.runtime.devices, config, run_folder.absolute())


def _launch(work: Callable[..., None], devices: int, *arguments: Any) -> None:
    if devices == 1 or "RANK" in os.environ:  # torchrun has started the others
        work(*arguments)
        return
    launcher = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.1,
        start_method="spawn",
    )
    try:
        elastic_launch(launcher, _work_or_explain)(work, *arguments)
    except ChildFailedError as failure:
        # The process that failed has said why.
        sys.exit(max(each.exitcode for each in failure.failures.values()) if failure.failures else 1)


def _work_or_explain(work: Callable[..., None], *arguments: Any) -> None:
    """What each local process runs: wrong input ends it with the message and exit code of a single process."""
    try:
        work(*arguments)
    except InputError as error:
        print(f"vsn-train: {error}", file=sys.stderr)
        sys.exit(2)

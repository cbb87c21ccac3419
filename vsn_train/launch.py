"""One process, N local processes, torchrun: who am I, and who starts the others."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from vsn_train import config as schema
from vsn_train import run
from vsn_train.errors import InputError

PEER_LOST = 3  # exit code of a process that ended because another one did; that one tells why


def launch_train(config: schema.Train, stored: dict[str, Any], run_folder: Path) -> None:
    """Train in this process, or in runtime.devices local ones."""
    # Absolute paths: the config goes into checkpoints, which are used from other folders.
    for key in ("root", "annotations"):
        if value := getattr(config.dataset, key, None):
            stored["dataset"][key] = os.path.abspath(os.path.expanduser(value))
    _launch("vsn-train", run.train, config.runtime.devices, config, stored, run_folder.absolute())


def launch_evaluate(config: schema.Eval, run_folder: Path) -> None:
    """Evaluate in this process, or in runtime.devices local ones."""
    _launch("vsn-eval", run.evaluate, config.runtime.devices, config, run_folder.absolute())


def _launch(command: str, work: Callable[..., None], devices: int, *arguments: Any) -> None:
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
    _silence_launcher()
    try:
        elastic_launch(launcher, _work_or_explain)(command, work, *arguments)
    except ChildFailedError as failure:
        codes = {rank: each.exitcode for rank, each in failure.failures.items()}
        for rank, code in codes.items():
            if code < 0:
                print(f"{command}: process {rank} was ended by {signal.Signals(-code).name}", file=sys.stderr)
        sys.exit(2 if 2 in codes.values() else 1)


def _work_or_explain(command: str, work: Callable[..., None], *arguments: Any) -> None:
    """What each local process runs: it tells what went wrong itself, once, and ends with a single process's code."""
    _silence_launcher()
    try:
        work(*arguments)
    except InputError as error:
        print(f"{command}: {error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if re.search("closed by peer|reset by peer|Broken pipe", str(error)):
            sys.exit(PEER_LOST)
        traceback.print_exc()
        sys.exit(1)


def _silence_launcher() -> None:
    # Its log repeats every failure that the failing process has told already.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)

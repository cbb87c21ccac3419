"""Start one process, N local processes, or join those of torchrun or Slurm; agree on the run folder."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from vsn_train import config as schema
from vsn_train.data.workers import die_with_parent
from vsn_train.engine.checkpoint import OpenedCheckpoint
from vsn_train.engine.distributed import OWN_LAUNCH, launched_before, rendezvous
from vsn_train.engine.interrupts import CANCELLED, REQUEUE
from vsn_train.errors import InputError, StoppedError, refusal
from vsn_train.run.evaluate import evaluate
from vsn_train.run.train import train
from vsn_train.terminal import forgive_output

PEER_LOST = 3  # exit code of a process that ended because another one failed, which prints the reason


def launch_train(config: schema.Train, run_folder: Path) -> None:
    """Train in this process, or in runtime.devices local ones."""
    _launch("vsn-train", train, config.runtime.devices, config.runtime.restarts, config, run_folder.absolute())


def launch_evaluate(config: schema.Eval, opened: OpenedCheckpoint, run_folder: Path) -> None:
    """Evaluate in this process, or in runtime.devices local ones."""
    _launch("vsn-eval", evaluate, config.runtime.devices, 0, config, opened, run_folder.absolute())


def agree_on_run_folder(name: str, choose: Callable[[], str]) -> str:
    """One run folder for all processes of torchrun or srun: rank 0 chooses, the others read it from the store.

    Processes that the elastic launcher has restarted get the same folder. Raises in all processes what
    choose() raises in the main one.
    """
    set_torch_env_from_slurm()
    store, rank, _ = rendezvous()
    if rank == 0:
        try:
            answer = ["folder", _folder_of_this_launch(name) or choose()]
        except InputError as error:
            answer = ["error", str(error)]
        store.set("vsn-train/run_folder", json.dumps(answer))
    kind, text = json.loads(store.get("vsn-train/run_folder"))
    if kind == "error":
        raise InputError(text)
    return str(text)


def _folder_of_this_launch(name: str) -> str | None:
    folders = sorted((path.parent for path in Path("runs", name).glob("*/environment.json")), reverse=True)
    return next((str(folder) for folder in folders if launched_before(folder)), None)


def set_torch_env_from_slurm() -> None:
    """Set RANK, WORLD_SIZE, … from Slurm's variables unless already set.

    A batch script without srun, or srun with a single task, is one process.
    """
    env = os.environ
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", 1))
    if "RANK" in env or tasks == 1:
        return
    node = int(env.get("SLURM_NODEID", 0))
    per_node = _tasks_per_node(env.get("SLURM_STEP_TASKS_PER_NODE", str(tasks)))
    port = 15000 + int(env.get("SLURM_JOB_ID", 0)) % 20000  # the same in all tasks, another one for another job
    for key, value in {
        "RANK": env["SLURM_PROCID"],
        "LOCAL_RANK": env["SLURM_LOCALID"],
        "WORLD_SIZE": str(tasks),
        "LOCAL_WORLD_SIZE": str(per_node[min(node, len(per_node) - 1)]),
        "MASTER_ADDR": _first_host(env.get("SLURM_STEP_NODELIST", "localhost")),
        "MASTER_PORT": str(port),
    }.items():
        env.setdefault(key, value)


def _tasks_per_node(text: str) -> list[int]:
    """ "2(x3),1" -> [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts


def _first_host(text: str) -> str:
    """The first of Slurm's list of nodes: "gpu[003-007,9],login1" -> "gpu003"."""
    match = re.match(r"([^,\[]+)(?:\[([^\],-]+)[^\]]*\])?([^,\[]*)", text)
    assert match, text
    return match[1] + (match[2] or "") + match[3]


def _launch(command: str, work: Callable[..., None], devices: int, restarts: int, *arguments: Any) -> None:
    set_torch_env_from_slurm()
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:  # torchrun, srun or the like has started the others
        if "TORCHELASTIC_RUN_ID" in os.environ:
            die_with_parent(os.getppid())  # a killed torchrun must not leave processes that write
        _work_or_explain(command, None, work, *arguments)
        return
    if devices == 1:
        work(*arguments)
        return
    os.environ[OWN_LAUNCH] = "1"
    outcome = multiprocessing.get_context("spawn").Value("i", 0)
    launcher = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=devices,
        run_id=str(uuid.uuid4()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
        monitor_interval=0.1,
        start_method="spawn",
    )
    _silence_launcher()
    failures: list[BaseException] = []

    def supervise() -> None:
        try:
            elastic_launch(launcher, _local_process)(command, outcome, os.getpid(), work, *arguments)
        except BaseException as error:
            failures.append(error)

    # In a thread: in the main thread the launcher would install its own signal handlers, but the processes handle them.
    supervisor = threading.Thread(target=supervise)
    with _signals_passed_on() as received:
        supervisor.start()
        while supervisor.is_alive():
            supervisor.join(0.2)
    if outcome.value:
        sys.exit(outcome.value)
    if not failures:
        return
    if not isinstance(failures[0], ChildFailedError):
        raise failures[0]
    for rank, failure in failures[0].failures.items():
        if failure.exitcode < 0 and not received:
            print(f"{command}: process {rank} was killed by {signal.Signals(-failure.exitcode).name}", file=sys.stderr)
    sys.exit((CANCELLED if signal.SIGINT in received else REQUEUE) if received else 1)


@contextmanager
def _signals_passed_on() -> Iterator[list[int]]:
    """Forward SIGTERM, SIGUSR1 and Ctrl-C to the local processes. Yields the list of the signals received so far."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for child in multiprocessing.active_children():
            if child.pid:
                os.kill(child.pid, number)

    wanted = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in wanted}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _local_process(command: str, outcome: Any, parent: int, work: Callable[..., None], *arguments: Any) -> None:
    die_with_parent(parent)
    forgive_output()
    _silence_launcher()
    if int(os.environ["RANK"]) > 0:
        warnings.simplefilter("ignore")  # rank 0 prints the same warnings
    _work_or_explain(command, outcome, work, *arguments)


def _work_or_explain(command: str, outcome: Any, work: Callable[..., None], *arguments: Any) -> None:
    """Run work in one of several processes. An error is printed once; all processes exit as a single one would.

    outcome: shared by local processes: the exit code of the error that was printed; 0: none yet. None under torchrun.
    """
    run_folder = arguments[-1]
    try:
        work(*arguments)
    except KeyboardInterrupt:
        sys.exit(CANCELLED)
    except (InputError, StoppedError) as error:
        code = error.code if isinstance(error, StoppedError) else 2
        # Most errors occur in all processes; the first local one prints it, under torchrun rank 0.
        prints = outcome.value == 0 if outcome is not None else os.environ["RANK"] == "0" or code == 2
        if prints:
            if outcome is not None:
                outcome.value = code
            print(f"{command}: {error}", file=sys.stderr)
        if outcome is not None and code in (REQUEUE, CANCELLED):
            return  # all processes end this way; the launcher must not restart them
        sys.exit(code)
    except Exception as error:
        if isinstance(error, OSError) and (message := refusal(error, run_folder)):
            if outcome is None or outcome.value == 0:
                print(f"{command}: {message}", file=sys.stderr)
            if outcome is not None:
                outcome.value = 1
            sys.exit(1)
        if not re.search(
            "closed by peer|reset by peer|Broken pipe|failed to recv|Connection was likely closed", str(error)
        ):
            traceback.print_exc()
            sys.exit(1)
        if outcome is None:
            print(
                f"{command}: process {os.environ['RANK']} lost the connection to another process of this run: that "
                "process or its machine stopped; its own messages give the cause. Resume from the last checkpoint with "
                "resume=true",
                file=sys.stderr,
            )
        os._exit(PEER_LOST)  # at once: destroying the process group would wait for the lost process


def _silence_launcher() -> None:
    # torch's launcher logs failures again that the failing process has already printed.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)

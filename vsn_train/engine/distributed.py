"""Rank, device and the collectives that the loops need.

Every function works in a single process too, where there is nothing to exchange.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vsn_train.data.isolated import usable_cores
from vsn_train.errors import InputError

Result = TypeVar("Result")

RENDEZVOUS_TIME = timedelta(minutes=10)  # how long processes wait for each other at the start
# Environment variable: local processes may share CUDA devices, for tests on machines with a single one. All
# communication then uses gloo, since nccl refuses two processes on one device.
SHARE_GPU = "VSN_TRAIN_SHARE_GPU"
OWN_LAUNCH = "VSN_TRAIN_LAUNCH"  # set for local processes that vsn-train itself has started


@dataclass(frozen=True)
class Process:
    """rank of world_size processes; `device` is what this one computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def all_reduce_sum(self, *values: float) -> list[float]:
        """The sums of each value over all processes."""
        if self.world_size == 1:
            return list(values)
        # float64 keeps counts exact. On the CPU, where the numbers are: the device does not wait for them.
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return sums.tolist()

    def all_gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks, on every process."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def on_rank_zero(self, work: Callable[[], Result]) -> Result:
        """The result of work() on rank 0, in every process; an InputError there is raised in all."""
        if self.world_size == 1:
            return work()
        values: list[Any] = [None, None]
        if self.is_main:
            try:
                values[0] = work()
            except InputError as error:
                values[1] = error
        dist.broadcast_object_list(values, 0)
        if values[1] is not None:
            raise values[1]
        return values[0]

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers of rank 0: batch-norm statistics are kept per process while training."""
        if self.world_size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)


@contextmanager
def join_processes(device: str, threads: int) -> Iterator[Process]:
    """Join the process group described by RANK, WORLD_SIZE, …; a group of one without these.

    device: "auto", "cpu" or "cuda". threads: CPU threads of this process; 0: OMP_NUM_THREADS if the user has set it,
    else an equal share of the cores. Raises InputError for "cuda" without a CUDA device.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank, local_size = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("runtime.device=cuda, but torch finds no CUDA device; use runtime.device=auto or cpu")
    use_cuda = device != "cpu" and torch.cuda.is_available()
    shared = bool(os.environ.get(SHARE_GPU))
    if use_cuda and not shared and local_size > torch.cuda.device_count():
        raise InputError(
            f"{local_size} processes on this machine, but it has {torch.cuda.device_count()} CUDA devices; lower "
            "runtime.devices or use runtime.device=cpu"
        )
    torch.set_num_threads(threads or threads_of_user(local_size) or max(1, usable_cores() // local_size))
    own = torch.device("cuda", local_rank % torch.cuda.device_count()) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(own)
    if world_size == 1:
        yield Process(0, 1, own)
        return
    # CPU tensors are reduced by gloo: nccl would make the host wait for the device.
    store, _, _ = rendezvous()
    backend = "cpu:gloo,cuda:nccl" if use_cuda and not shared else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    try:
        yield Process(rank, world_size, own)
    finally:
        dist.destroy_process_group()


def threads_of_user(local_size: int) -> int:
    """The value of OMP_NUM_THREADS; 0 if it is not set. local_size: processes on this machine."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    by_torchrun = launch_id() and local_size > 1 and first == "1" and not os.environ.get(OWN_LAUNCH)
    return int(first) if first.isascii() and first.isdigit() and not by_torchrun else 0  # torchrun sets 1 by itself


@cache
def rendezvous() -> tuple[dist.Store, int, int]:
    """The store through which the launcher's processes find each other, rank and world size, from the environment.

    Raises InputError when the main process cannot listen on MASTER_PORT.
    """
    try:
        store, rank, world_size = next(dist.rendezvous("env://", timeout=RENDEZVOUS_TIME))
        return dist.PrefixStore(_agree_on_store_prefix(store, rank, world_size), store), rank, world_size
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise InputError(
            f"port {os.environ.get('MASTER_PORT')} of this machine is in use, but the processes need it to connect; "
            "set MASTER_PORT (torchrun: --master-port or --rdzv-endpoint) to a free one"
        ) from None


def _agree_on_store_prefix(store: dist.Store, rank: int, world_size: int) -> str:
    """A prefix for the keys of these processes in the store that no earlier start of them has used.

    When torch's elastic launcher restarts processes, it keeps its store (seen with 2.14) with the addresses of the dead
    ones, and its restart count may differ between machines. So each rank stores a random number of its own; rank 0
    answers every number that it finds with the prefix. A rank confirms the prefix, which tells rank 0 that the number
    was not one of an earlier start.
    """
    own = uuid.uuid4().hex
    if rank > 0:
        store.set(f"vsn-train/{rank}", own)
        prefix = store.get(f"vsn-train/{own}").decode()
        store.set(f"vsn-train/{prefix}/{rank}", "heard")
        return prefix
    for other in range(1, world_size):
        while not store.check([f"vsn-train/{own}/{other}"]):
            store.set(f"vsn-train/{store.get(f'vsn-train/{other}').decode()}", own)
            time.sleep(0.01)
    return own


def rebuild_buckets(network: DistributedDataParallel, video: Tensor, autocast: torch.autocast) -> None:
    """Make DDP rebuild its buckets before the first step, in a pass that changes nothing. video: (B, T, C, H, W).

    DDP rebuilds its gradient buckets after the first backward pass, in the order in which gradients became ready. The
    place of a gradient in its bucket determines the order in which more than two processes sum it. Without this pass
    the first step of a resumed run would round differently from the same step of an uninterrupted run.
    """
    before = [buffer.clone() for buffer in network.buffers()]
    with autocast:
        logits = network(video)
    logits.float().sum().backward()
    network.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, value in zip(network.buffers(), before, strict=True):
            buffer.copy_(value)


def launch_id() -> str:
    """The id of this launch by torch's elastic launcher, the same after a restart; "" without the launcher."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def launched_before(run_folder: Path) -> bool:
    """Whether torch's elastic launcher restarted a run that can be resumed, after a failure or on other machines."""
    path = run_folder / "environment.json"
    if not launch_id() or not path.exists() or not (run_folder / "checkpoints" / "last.pt").exists():
        return False
    # "none" is torchrun's default id, the same for every launch.
    again = launch_id() != "none" or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # truncated by a power cut: the launch is unknown
        return False
    return again and isinstance(written, dict) and bool(written.get("launch") == launch_id())

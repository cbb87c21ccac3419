"""What each speed switch of vsn-train changes in a training step on this machine: time, and memory at the peak.

    python scripts/benchmark_step.py                                   TSM on ResNet-50, 2 clips of 8 x 112 x 112
    python scripts/benchmark_step.py --only fp32 bf16,channels_last --size 224 --batch 8 --device cuda

All are timed in turns, against the first; reported are medians, and the median ratio within a round with its quartiles.
Run it on a machine with nothing else to do.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from vsn_train.analysis.speed import hardware, interleave, markdown_table, peak_memory, ratio
from vsn_train.engine.checkpoint import Checkpoints, Position, save_checkpoint
from vsn_train.engine.optim import build_adamw, build_average, build_sgd
from vsn_train.engine.speed import autocast_for, recompute_blocks, scaler_for
from vsn_train.models import create_model

SWITCHES = [
    "fp32", "channels_last", "bf16", "bf16,channels_last", "fused", "adamw", "adamw,fused", "recompute", "frozen_bn",
    "ema",
]  # fmt: skip


def training_step(switches: set[str], arguments: argparse.Namespace) -> Callable[[], None]:
    """The arithmetic of one step of vsn-train with these switches on."""
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    model = create_model("tsm", arguments.arch, arguments.num_frames, 174, frozen_bn="frozen_bn" in switches).to(device)
    if "recompute" in switches:
        recompute_blocks(model.backbone)
    if "channels_last" in switches:
        model.to(memory_format=torch.channels_last)
    fused = "fused" in switches
    if "adamw" in switches:
        optimizer: torch.optim.Optimizer = build_adamw(model, 1e-4, (0.9, 0.999), 1e-8, 0.05, 5, fused)
    else:
        optimizer = build_sgd(model, 1e-4, 0.9, 5e-4, 5, fused=fused)
    average = build_average(model, 0.999) if "ema" in switches else None
    precision = next((each for each in ("bf16", "fp16") if each in switches), "fp32")
    autocast, scaler = autocast_for(precision, device), scaler_for(precision, device)
    run = torch.compile(model) if "compile" in switches else model
    size = (arguments.batch, arguments.num_frames, 3, arguments.size, arguments.size)
    video, label = torch.randn(size, device=device), torch.zeros(arguments.batch, dtype=torch.int64, device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            logits = run(video)
        scaler.scale(F.cross_entropy(logits.float(), label)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 20.0)
        scaler.step(optimizer)
        scaler.update()
        if average is not None:
            average.update_parameters(model)

    return step


def saving(arguments: argparse.Namespace, repeats: int = 5) -> tuple[float, float, float]:
    """Seconds that a step waits for a checkpoint, written by a thread and written at once; and its size in MB."""
    model = create_model("tsm", arguments.arch, arguments.num_frames, 174)
    content = {"model": model.state_dict(), "optimizer": model.state_dict()}  # momentum is as large as the weights
    copied, written = [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(Path(folder), lambda: content, True)
        for _ in range(repeats):
            started = time.perf_counter()
            checkpoints.save(Position())
            copied.append(time.perf_counter() - started)
            checkpoints.wait()
            started = time.perf_counter()
            save_checkpoint(Path(folder) / "other.pt", content)
            written.append(time.perf_counter() - started)
        size = (Path(folder) / "other.pt").stat().st_size / 1e6
    return float(np.median(copied)), float(np.median(written)), size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", default=SWITCHES, metavar="SWITCH[,SWITCH…]", help="the first is compared with"
    )
    parser.add_argument("--arch", default="resnet50")
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--size", type=int, default=112, help="height and width in pixels")
    parser.add_argument("--batch", type=int, default=2, help="clips")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    actions = {names: training_step(set(names.split(",")), arguments) for names in arguments.only}
    memory = {}
    for names, action in actions.items():
        action()  # the first step allocates the optimizer's state, and compiles
        memory[names] = peak_memory(action, arguments.device)
    times = interleave(actions, arguments.rounds, device=arguments.device)
    base = arguments.only[0]
    rows = [
        [
            names,
            f"{1000 * float(np.median(seconds)):.0f}",
            str(ratio(seconds, times[base])),
            f"{memory[names] / 1e6:.0f}",
        ]
        for names, seconds in times.items()
    ]
    work = f"{arguments.batch} x {arguments.num_frames} x 3 x {arguments.size} x {arguments.size}"
    print(f"TSM on {arguments.arch}, {work}; {hardware(arguments.device)}")
    header = ["switches", "ms a step", f"time / {base} (quartiles)", "MB at the peak, beyond the state"]
    print(markdown_table(header, rows))
    copied, written, size = saving(arguments)
    print(f"a checkpoint of {size:.0f} MB holds a step up for {copied:.2f} s, written at once for {written:.2f} s")


if __name__ == "__main__":
    main()

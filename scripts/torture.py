"""Stress tests: kill and resume a training at random moments; train on damaged videos.

Writes run folders and damaged videos to --folder, by default a new temporary folder; prints the problems found.

    python scripts/torture.py kill --processes 2 --kills 20
    python scripts/torture.py mutate --source DIR_OF_VIDEOS --clips 1000

kill: sends SIGKILL within a step, while a checkpoint is written, during validation, to a loader worker, or to the
launcher alone, and resumes each time. In the end weights, optimizer, metrics and TensorBoard scalars must be
bit-identical to those of an uninterrupted run. mutate: trains on damaged copies of real videos (truncated, bytes
flipped or zeroed, damaged headers) with decord, which crashes on some of them; the run must finish, name every bad
clip, and leave no process behind. Exit code 0: no problem, 1: problems found, 2: wrong input.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from vsn_train.data.prepare import find_sources
from vsn_train.data.video import open_video
from vsn_train.errors import InputError

VSN_TRAIN = str(Path(sys.executable).with_name("vsn-train"))
SMALL_BYTES = 400_000  # size limit of the videos that are damaged
TIMELESS = ("epoch", "step", "loss", "top1", "top5", "lr", "grad_norm", "n")
SMALL = [
    "backbone.arch=resnet18", "backbone.num_frames=4", "data.short_side=40", "data.crop_size=32", "data.workers=2",
    "runtime.threads=1", "runtime.log_every=1", "checkpoints.every_steps=3",
]  # fmt: skip


def motion(root: Path, processes: int) -> list[str]:
    """A small training with all sources of randomness and state: workers, augmentation, dropout, mixup, EMA."""
    return [
        f"dataset.root={root}", "dataset.train_videos=60", "dataset.val_videos=24", "schedule.epochs=3",
        f"data.batch_size={8 // processes}", f"runtime.devices={processes}", "augment=mix", "optimizer.ema=0.9", *SMALL,
    ]  # fmt: skip


def kill_until(process: subprocess.Popen[bytes], how: str, moment: Callable[[], bool], whole_group: bool) -> bool:
    """Kill the training once moment() is true. Returns False if it ended before."""
    while process.poll() is None:
        if moment():
            if how == "worker":
                victims = [pid for pid in descendants(process.pid) if is_worker(pid)]
                if not victims:
                    continue
                os.kill(random.choice(victims), signal.SIGKILL)
                return True
            if whole_group:
                os.killpg(process.pid, signal.SIGKILL)
            else:  # its children must detect it themselves
                os.kill(process.pid, signal.SIGKILL)
            return process.wait() == -signal.SIGKILL
        time.sleep(0.002)
    return False


def descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        found += children + [below for child in children for below in descendants(child)]
    return found


def is_worker(pid: int) -> bool:
    """Whether a process is a forked loader worker: unlike other children, it has its parent's command line."""
    try:
        parent = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("PPid"))
        return command_line(pid) == command_line(int(parent.split()[1]))
    except (OSError, StopIteration):
        return False


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def moments(run: Path, how: str, rng: random.Random) -> Callable[[], bool]:
    """A function that is true at the moment to kill a launch that is about to start."""
    log = run / "log.txt"
    before = log.read_text() if log.exists() else ""
    if how == "saving":
        left = [rng.randrange(3)]  # files to let pass
        present = [False]

        def saving() -> bool:
            before_now, present[0] = present[0], any((run / "checkpoints").glob(".*.pt.*"))
            if present[0] and not before_now:
                left[0] -= 1
            return left[0] < 0

        return saving
    if how == "validating":
        return lambda: (
            log.exists() and "  train loss" in log.read_text()[len(before) :].rstrip("\n").rpartition("\n")[2]
        )
    return steps_later(run, rng, lambda: log.exists() and "a step:" in log.read_text()[len(before) :])


def steps_later(run: Path, rng: random.Random, begun: Callable[[], bool] = lambda: True) -> Callable[[], bool]:
    """True a few steps after begun(), at a random time within a step. Steps are counted, so that the progress between
    kills does not depend on the speed of the machine."""
    metrics = run / "metrics.jsonl"
    last: list[int] = []

    def moment() -> bool:
        lines = metrics.read_text().count("\n") if metrics.exists() else 0
        if not last and begun():
            last.append(lines + rng.randrange(6))
        if not last or lines < last[0]:
            return False
        time.sleep(rng.uniform(0, 0.3))
        return True

    return moment


def torture(folder: Path, processes: int, kills: int, seed: int, overrides: list[str]) -> list[str]:
    """Train twice, once with kills. Returns the differences, empty if there are none."""
    rng = random.Random(seed)
    # One epoch of 8 steps per kill: twice the progress of the training between two kills.
    values = [*motion(folder / "cache", processes), f"schedule.epochs={max(3, kills)}", *overrides]
    whole, killed = folder / f"whole_{processes}_{kills}", folder / f"killed_{processes}_{kills}_{seed}"
    if not (whole / "log.txt").exists():
        subprocess.run([VSN_TRAIN, *values, f"hydra.run.dir={whole}"], check=True, stdout=subprocess.DEVNULL)
    ways = ["step", "saving", "validating", "worker", "launcher"]
    for done in range(kills):
        resume = (killed / "checkpoints" / "last.pt").exists()
        how = ways[done % len(ways)]
        command = [VSN_TRAIN, *values, f"hydra.run.dir={killed}", f"resume={str(resume).lower()}"]
        process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
        struck = kill_until(process, how, moments(killed, how, rng), whole_group=how != "launcher")
        if struck and how == "worker":  # the training continues; kill it too, a little later
            struck = kill_until(process, "step", steps_later(killed, rng), whole_group=True)
        code = process.wait()
        if not struck:
            return [f"after {done} of {kills} kills a launch ended by itself, with exit code {code}"]
        last = killed / "checkpoints" / "last.pt"
        step = torch.load(last, weights_only=True)["step"] if last.exists() else "none"
        print(f"{done + 1:2}/{kills} {how}: killed, last checkpoint: step {step}", flush=True)
    left = subprocess.run(
        [VSN_TRAIN, *values, f"hydra.run.dir={killed}", "resume=true"], stdout=subprocess.DEVNULL, check=False
    )
    return (
        [f"the last launch ended with exit code {left.returncode}"] if left.returncode else differences(whole, killed)
    )


def differences(first: Path, second: Path) -> list[str]:
    """The bitwise differences between two finished runs, except times and memory."""
    found = []
    for name in ("last.pt", "best.pt"):
        a, b = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (first, second))
        for key in ("model", "average", "optimizer", "scaler", "step", "epoch", "best"):
            if not same(a[key], b[key]):
                found.append(f"{name}: {key} differs")
    a, b = (timeless_metrics(run) for run in (first, second))
    if a != b:
        where = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        found.append(
            f"metrics.jsonl: {len(a)} and {len(b)} lines, first difference at {where}: {a[where:][:1]} {b[where:][:1]}"
        )
    a, b = (scalars(run) for run in (first, second))
    for tag in sorted(a.keys() | b.keys()):
        if a.get(tag) != b.get(tag):
            found.append(f"TensorBoard: {tag} differs: {a.get(tag)} {b.get(tag)}")
    return found


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def timeless_metrics(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("split", *TIMELESS) if key in line} for line in lines]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) as TensorBoard shows them, without times and memory."""
    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    measured = ("clips_per_s", "data_wait", "memory_gib")
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.endswith(measured)
    }


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One of five kinds of damage."""
    kind, size = rng.randrange(5), len(data)
    if kind == 0:
        return data[: rng.randrange(size)]
    changed = bytearray(data)
    if kind == 1:
        for _ in range(rng.choice([1, 10, 100, 1000])):
            changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
    elif kind == 2:
        start = rng.randrange(size)
        end = min(size, start + rng.choice([16, 1000, 50000]))
        changed[start:end] = bytes(end - start)
    elif kind == 3:  # the header
        for _ in range(rng.choice([1, 4, 16])):
            changed[rng.randrange(min(size, 600))] = rng.randrange(256)
    else:  # the index, which is at the end of many files
        for _ in range(rng.choice([1, 4, 16])):
            changed[size - 1 - rng.randrange(min(size, 4000))] = rng.randrange(256)
    return bytes(changed)


def videos_of(source: Path) -> list[Path]:
    """The small videos below a folder, or its ten smallest. Raises InputError if there are none."""
    if not source.is_dir():
        raise InputError(f"--source {source}: no such folder")
    videos = sorted(source / name for name in find_sources(source)[0] if (source / name).is_file())
    if not videos:
        raise InputError(f"--source {source}: found no videos; expected a folder with some")
    small = [path for path in videos if path.stat().st_size < SMALL_BYTES]
    return small or sorted(videos, key=lambda path: path.stat().st_size)[:10]


def first_whole(videos: list[Path]) -> Path:
    """The first video that decord can read to its end. Raises InputError if there is none."""
    for path in videos:
        try:
            with open_video(path, "decord") as video:
                video.read([0, video.num_frames - 1])
        except InputError:  # VideoError is one
            continue
        return path
    raise InputError("--source: decord can read none of its videos to the end; expected one for validation")


def write_mutated(source: Path, folder: Path, clips: int, seed: int) -> Path:
    """Write a data set in UCF101's layout: `clips` damaged copies of the videos below `source` for training, an intact
    video for validation."""
    rng = random.Random(seed)
    videos = videos_of(source)
    whole = first_whole(videos).read_bytes()
    root, lists = folder / "UCF-101", folder / "ucfTrainTestlist"
    classes = ["One", "Two"]
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
    lists.mkdir(exist_ok=True)
    train, test = [], []
    for number in range(clips):
        name = classes[number % 2]
        video = f"{name}/v_{name}_g{number:04d}_c01.avi"  # readers recognize the content, not the suffix
        (root / video).write_bytes(mutate(videos[number % len(videos)].read_bytes(), rng))
        train.append(f"{video} {1 + number % 2}\n")
    for name in classes:
        video = f"{name}/v_{name}_g9999_c01.avi"
        (root / video).write_bytes(whole)
        test.append(f"{video}\n")
    (lists / "classInd.txt").write_text("".join(f"{label + 1} {name}\n" for label, name in enumerate(classes)))
    (lists / "trainlist01.txt").write_text("".join(train))
    (lists / "testlist01.txt").write_text("".join(test))
    return root


def train_on_mutated(folder: Path, source: Path, clips: int, seed: int, overrides: list[str]) -> list[str]:
    """Train on damaged copies. Returns the problems, empty if there are none."""
    root, run = write_mutated(source, folder, clips, seed), folder / "run"
    command = [
        VSN_TRAIN, "dataset=ucf101", f"dataset.root={root}", f"hydra.run.dir={run}", "schedule.epochs=2",
        "data.max_bad_share=1", "data.timeout=20", "data.decoder=decord", "data.batch_size=16", *SMALL, *overrides,
    ]  # fmt: skip
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    memory: list[int] = []
    seen: set[int] = set()
    while process.poll() is None:
        family = descendants(process.pid)
        seen.update(family)
        memory.append(sum(resident(pid) for pid in [process.pid, *family]))
        time.sleep(1)
    log = (run / "log.txt").read_text()
    named = {
        line.split("skipped unreadable video ")[1].split(": ")[0] for line in log.splitlines() if "skipped unr" in line
    }
    quarantined = (run / "quarantine.txt").read_text().splitlines() if (run / "quarantine.txt").exists() else []
    half = len(memory) // 2
    print(
        f"{clips} clips, {time.monotonic() - started:.0f} s, exit code {process.returncode}; {len(named)} named as "
        f"unreadable, {len(quarantined)} of them crashed or hung a worker; memory of all processes: median "
        f"{median(memory[:half]):.0f} MiB in the first half, {median(memory[half:]):.0f} MiB in the second"
    )
    for line in quarantined:
        print("quarantined:", line)
    found = [f"exit code {process.returncode}"] if process.returncode else []
    found += [f"process {pid} is left" for pid in seen if Path(f"/proc/{pid}").exists()]
    found += ["no video was named"] if not named else []
    # Epochs read different frames of a clip and may find different damage; each must count the videos that it names.
    of_epoch: set[str] = set()
    for line in log.splitlines():
        if "skipped unreadable video " in line:
            of_epoch.add(line.split("skipped unreadable video ")[1].split(": ")[0])
        elif epoch := re.search(r"  train loss .*?(?:  (\d+) unreadable)?$", line):
            count = int(epoch[1] or 0)
            found += [f"{count} counted, {len(of_epoch)} named"] if count != len(of_epoch) else []
            of_epoch.clear()
    return found


def resident(pid: int) -> int:
    """Memory of a process in MiB."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20
    except (OSError, IndexError):
        return 0


def median(values: list[int]) -> float:
    return sorted(values)[len(values) // 2] if values else float("nan")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["kill", "mutate"], help="the test to run")
    parser.add_argument("--folder", type=Path, help="folder for runs and videos; default: a new temporary folder")
    parser.add_argument("--seed", type=int, default=0, help="of the kills or the damage; default 0")
    parser.add_argument("--processes", type=int, default=1, help="kill: processes of the training; default 1")
    parser.add_argument("--kills", type=int, default=20, help="kill: number of kills; default 20")
    parser.add_argument("--source", type=Path, help="mutate: folder of videos to damage copies of")
    parser.add_argument("--clips", type=int, default=1000, help="mutate: number of damaged copies; default 1000")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="further values for vsn-train")
    arguments = parser.parse_intermixed_args()
    if arguments.what == "mutate" and arguments.source is None:
        parser.error("mutate needs --source FOLDER, a folder of videos")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="torture"))
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.what == "kill":
        found = torture(folder, arguments.processes, arguments.kills, arguments.seed, arguments.overrides)
    else:
        try:
            found = train_on_mutated(folder, arguments.source, arguments.clips, arguments.seed, arguments.overrides)
        except InputError as error:
            parser.error(str(error))
    print("\n".join(found) or f"no problem found ({folder})")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

"""Run the trainings of a comparison: installed commands, several at a time, resumed if they were stopped.

For scripts that train many networks with one recipe. A run is in RUNS/DATASET/OPERATOR/seedN; once it is finished, its
result.json has the result.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
import yaml

from scripts.studies.comparison import Result
from vsn_train.atomic import write_atomic
from vsn_train.data.isolated import usable_cores
from vsn_train.errors import InputError
from vsn_train.models.backbone import OPERATORS

VSN_TRAIN, VSN_EVAL = (str(Path(sys.executable).with_name(name)) for name in ("vsn-train", "vsn-eval"))
WRONG_INPUT = 2  # their exit code
# Lines at the start and at the end of a run's log.
DONE = r"done: \d+ epochs"
COUNTS = r": (?P<videos>\d+) training and \d+ validation videos of (?P<classes>\d+) classes"
RESULT = "result.json"  # in the folder of a finished run: its result
RECIPE = "recipe.json"  # in the folder of all runs: their common values


@dataclass(frozen=True)
class Job:
    """Commands that run in sequence with a common log. name: for messages. runs: number of trainings in them."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    log: Path
    runs: int = 1


# ---- The command line ------------------------------------------------------------------------------------------------


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--parallel", type=int, default=0, help="runs at a time; 0: one per core, on CUDA one")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"),
        help="start no run that would take longer; repeat the command to train the remaining runs",
    )  # fmt: skip
    parser.add_argument("--keep-checkpoints", action="store_true", help="keep the checkpoints of finished runs")


def parse(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, list[str]]:
    """Parse the command line into the options and the values for vsn-train."""
    values = [argument for argument in sys.argv[1:] if is_value(argument)]
    return parser.parse_args([argument for argument in sys.argv[1:] if not is_value(argument)]), values


def is_value(argument: str) -> bool:
    """Whether an argument is for vsn-train. Options of an operator also have "=", but follow the operator's name."""
    match = re.match(r"(?:(\w+):)?[\w./]+=", argument)
    return match is not None and match[1] not in OPERATORS


def run_script(name: str, work: Callable[[], None]) -> None:
    """Call work(), which starts trainings. Wrong input gives one line and exit code 2."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that the trainings are ended too
    try:
        work()
    except InputError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT)


def device_of(values: Sequence[str]) -> str:
    return "cuda" if torch.cuda.is_available() and "runtime.device=cpu" not in values else "cpu"


def side_by_side(parallel: int, device: str) -> tuple[int, int]:
    """The number of runs at a time, and threads per run. parallel: the requested number, 0: automatic."""
    number = parallel or (1 if device == "cuda" else usable_cores())
    return number, max(usable_cores() // number, 1)


def values_for(name: str, values: Sequence[str]) -> list[str]:
    """The values for all runs, then those for `name` only (NAME:key=value)."""
    split = [re.fullmatch(r"(?:(\w+):)?(.*)", value, re.S) for value in values]
    found = [(match[1], match[2]) for match in split if match]
    return [value for own, value in found if own is None] + [value for own, value in found if own == name]


def operator_values(operator: str) -> list[str]:
    """ "sth:p=0.5" -> backbone=sth backbone.p=0.5"""
    name, _, rest = operator.partition(":")
    return [f"backbone={name}", *(f"backbone.{option}" for option in rest.split(",") if option)]


# ---- The folder of the runs ------------------------------------------------------------------------------------------


def keep_recipe(folder: Path, values: list[str]) -> None:
    """Record the common values of all runs in the folder. Raises InputError if other values are recorded."""
    path, recipe = folder / RECIPE, sorted(values)
    if path.exists():
        before = json.loads(path.read_text())
        if before != recipe:
            raise InputError(
                f"{folder}: its runs were trained with {' '.join(before) or 'no values'}, but now "
                f"{' '.join(recipe) or 'none'} are given; give the same values or choose another --runs"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe) + "\n")


def run_folder(runs: Path, dataset: str, operator: str, seed: int) -> Path:
    return runs / dataset / re.sub(r"[^\w.]+", "-", operator) / f"seed{seed}"


def is_begun(folder: Path) -> bool:
    """Whether vsn-train can resume the run."""
    return (folder / "checkpoints" / "last.pt").exists()


def collect(runs: Path, dataset: str, operator: str, seed: int, keep_checkpoints: bool) -> Result | None:
    """The result of a finished run; written to its folder the first time. None for an unfinished run."""
    folder = run_folder(runs, dataset, operator, seed)
    if (folder / RESULT).exists():
        return read_result(runs, dataset, operator, seed)
    if not (folder / "config.yaml").exists() or not (folder / "metrics.jsonl").exists():
        return None
    config = yaml.safe_load((folder / "config.yaml").read_text())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    last = next((line for line in reversed(lines) if line["split"] == "val"), None)
    log = (folder / "log.txt").read_text()
    counts = re.search(COUNTS, log)
    if last is None or counts is None or not re.search(DONE, log):
        return None
    result = Result(
        dataset, operator, seed, last["top1"], last["top5"], last["n"], int(counts["classes"]), last["epoch"],
        last["protocol"], last["manifest"], config["backbone"]["arch"], config["backbone"]["num_frames"],
        config["data"]["crop_size"], config["data"]["batch_size"], int(counts["videos"]),
        (folder / "metrics.jsonl").stat().st_mtime - (folder / "config.yaml").stat().st_mtime,
    )  # fmt: skip
    write_atomic(folder / RESULT, json.dumps(asdict(result), indent=1) + "\n")
    if not keep_checkpoints:
        shutil.rmtree(folder / "checkpoints")
    return result


def read_result(runs: Path, dataset: str, operator: str, seed: int) -> Result | None:
    path = run_folder(runs, dataset, operator, seed) / RESULT
    if not path.exists():
        return None
    stored = json.loads(path.read_text())
    return Result(**{field.name: stored[field.name] for field in fields(Result)})


# ---- Jobs ------------------------------------------------------------------------------------------------------------


def run_jobs(
    jobs: Sequence[Job], runs: Path, parallel: int, limit: float, ended: Callable[[Job], object] = lambda job: None
) -> None:
    """Run the jobs, `parallel` at a time, for about `limit` seconds: starts no job that would take longer.

    runs: the folder of all runs, which has the logs. ended: called when a job has ended.
    Raises InputError if a command refuses its input; exits with code 1 if a job fails otherwise.
    """
    start = time.monotonic()
    waiting, active, started = list(jobs), dict[Job, tuple[int, subprocess.Popen[bytes]]](), dict[Job, float]()
    failed: list[str] = []
    a_run = 0.0  # seconds: the longest so far
    try:
        while waiting or active:
            while waiting and len(active) < parallel:
                if time.monotonic() - start + a_run * waiting[0].runs > limit:
                    waiting.clear()
                    break
                job = waiting.pop(0)
                started[job], active[job] = time.monotonic(), (0, _start(job, 0))
            time.sleep(0.2)
            for job, (number, process) in list(active.items()):
                code = process.poll()
                if code is None:
                    continue
                if code == 0 and number + 1 < len(job.commands):
                    active[job] = number + 1, _start(job, number + 1)
                    continue
                del active[job]
                a_run = max(a_run, (time.monotonic() - started[job]) / job.runs)
                ended(job)
                if code:
                    failed.append(describe_failure(job, code))
                if code == WRONG_INPUT:  # the others would be refused as well
                    remove_traces(job, runs)
                    raise InputError(failed[-1])
    finally:
        for _, process in active.values():
            process.terminate()  # a run saves its state and ends
        for _, process in active.values():
            process.wait()
    if failed:
        sys.exit("\n".join(f"failed: {text}" for text in failed))


def _start(job: Job, number: int) -> subprocess.Popen[bytes]:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(job.commands[number], stdout=log, stderr=subprocess.STDOUT)


def describe_failure(job: Job, code: int) -> str:
    lines = job.log.read_text(errors="replace").splitlines()
    said = next((line for line in reversed(lines) if re.match(r"vsn-\w+: ", line)), "no message")
    text = f"{job.name}: {re.sub(r'^vsn-train: ', '', said)}"
    return text if code == WRONG_INPUT else f"{text} (exit code {code}, {job.log})"


def remove_traces(job: Job, runs: Path) -> None:
    """Remove the files of a refused job, and those of the whole comparison if it has no run yet."""
    job.log.unlink()
    if not any(runs.rglob("config.yaml")):
        (runs / RECIPE).unlink(missing_ok=True)  # the attention study has none
    for folder in job.log.parents:
        if any(folder.iterdir()):
            return
        folder.rmdir()
        if folder == runs:
            return

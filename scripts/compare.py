"""Train operators with one recipe on several data sets and seeds, and put what comes out side by side.

    python scripts/compare.py                                    the papers' operators on the three embedded data sets
    python scripts/compare.py --datasets motion_order --operators tsn tsm sth:p=0.5,integration=sum --seeds 0 1 2 3 4
    python scripts/compare.py --datasets something_v1 --runs runs/ssv1 dataset.root=/data/20bn weights=resnet50.pth

What is none of the options goes to vsn-train: key=value for all runs, DATASET:key=value for those of one data set, the
same for all operators. Each operator and data set is a `vsn-train --multirun` over the seeds; --parallel of them run
side by side. A comparison that was stopped goes on where it stopped, and finished runs are not trained again. Written
are OUTPUT.md, OUTPUT.json and OUTPUT.png: accuracy, its spread over the seeds, parameters, multiplications and speed,
and which of the papers' claims come out.
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
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml

from vsn_train.analysis.claims import TIMELESS, spread, summary, verdict_rows
from vsn_train.analysis.comparison import (
    Costs,
    Result,
    accuracies,
    canonical,
    comparison_tables,
    draw_comparison,
    options_of,
)
from vsn_train.analysis.complexity import complexity, total
from vsn_train.analysis.speed import (
    Setting,
    Workload,
    hardware,
    interleave,
    markdown_table,
    model_action,
    write_results,
)
from vsn_train.config import BACKBONES
from vsn_train.data.isolated import usable_cores
from vsn_train.errors import InputError

VSN_TRAIN = str(Path(sys.executable).with_name("vsn-train"))
DATASETS = ["motion_order", "motion", "motion_static"]
OPERATORS = [  # in this order: where time is short, the first ones are there
    "tsn", "tsm", "vsn_compact:standard_block=plain", "vsn_compact", "vsn_headtail", "sth", "sth:integration=sum",
    "sth:variant=merge", "sth:p=0.5", "sth:p=0.125", "sth:variant=merge,integration=sum",
]  # fmt: skip
WRONG_INPUT = 2  # vsn-train's exit code
# What the log of a run says at its start and at its end.
DONE = r"done: \d+ epochs"
COUNTS = r": (?P<videos>\d+) training and \d+ validation videos of (?P<classes>\d+) classes"
RESULT = "result.json"  # in a run folder: the run is finished, and this is what it came to


@dataclass(frozen=True)
class Sweep:
    """One operator on one data set: the seeds that are not finished, all of them new or all of them begun."""

    dataset: str
    operator: str
    seeds: tuple[int, ...]
    begun: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--datasets", nargs="+", metavar="DATASET[:SEED,…]", default=DATASETS,
        help="with seeds of their own, where --seeds are too many; default: " + " ".join(DATASETS),
    )  # fmt: skip
    parser.add_argument(
        "--operators", nargs="+", metavar="OPERATOR[:KEY=VALUE,…]", default=OPERATORS,
        help="default: " + " ".join(OPERATORS),
    )  # fmt: skip
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--parallel", type=int, default=0, help="runs side by side; 0: one a core, on CUDA one")
    parser.add_argument(
        "--minutes", type=float, default=float("inf"),
        help="start nothing that would not be done by then; what is left is trained the next time",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=7, help="of the measurement of speed")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="folder of the run folders")
    parser.add_argument("--output", type=Path, default=None, help="without suffix; default: RUNS/compare")
    parser.add_argument("--keep-checkpoints", action="store_true", help="of finished runs; else they are removed")
    values = [argument for argument in sys.argv[1:] if is_value(argument)]
    arguments = parser.parse_args([argument for argument in sys.argv[1:] if not is_value(argument)])
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # not without ending the trainings
    try:
        compare(arguments, values)
    except InputError as error:
        print(f"compare: {error}", file=sys.stderr)
        sys.exit(2)


def is_value(argument: str) -> bool:
    """Whether it is for vsn-train. An operator's options have an "=" too, and come behind its name."""
    match = re.match(r"(?:(\w+):)?[\w./]+=", argument)
    return match is not None and match[1] not in BACKBONES


def compare(arguments: argparse.Namespace, values: list[str]) -> None:
    """Train what is missing, measure, write. Raises InputError for wrong arguments and for another recipe's folder."""
    operators = list(dict.fromkeys(canonical(text) for text in arguments.operators))
    seeds = {}
    for text in arguments.datasets:
        dataset, _, own = text.partition(":")
        if not re.fullmatch(r"[\d,]*", own):
            raise InputError(f"--datasets {text}: expected a data set's name, or with its seeds, as in {dataset}:0,1")
        seeds[dataset] = [int(seed) for seed in own.split(",") if seed] or sorted(set(arguments.seeds))
    device = "cuda" if torch.cuda.is_available() and "runtime.device=cpu" not in values else "cpu"
    parallel = arguments.parallel or (1 if device == "cuda" else usable_cores())
    keep_recipe(arguments.runs, values)

    runs = [(dataset, operator, seed) for dataset in seeds for operator in operators for seed in seeds[dataset]]
    for run in runs:
        collect(arguments.runs, *run, arguments.keep_checkpoints)
    sweeps = missing_sweeps(arguments.runs, runs)
    print(f"{sum(len(sweep.seeds) for sweep in sweeps)} of {len(runs)} runs to train, {parallel} side by side")
    train(sweeps, arguments.runs, values, parallel, arguments.keep_checkpoints, 60 * arguments.minutes)

    results = [result for run in runs if (result := read_result(arguments.runs, *run))]
    if len(results) < len(runs):
        print(f"{len(runs) - len(results)} runs are left; the same command goes on with them")
    if not results:
        raise InputError(f"--minutes {arguments.minutes:g}: no run has been finished; give it more time")
    costs = measure_costs(results, device, arguments.rounds)
    write(arguments.output or arguments.runs / "compare", results, costs, device, arguments.runs)


def keep_recipe(folder: Path, values: list[str]) -> None:
    """Write down what all runs in the folder share; refuse to mix recipes."""
    path, recipe = folder / "recipe.json", sorted(values)
    if path.exists():
        before = json.loads(path.read_text())
        if before != recipe:
            raise InputError(
                f"{folder}: its runs were trained with {' '.join(before) or 'no values'}, now given are "
                f"{' '.join(recipe) or 'none'}; give the same ones or choose another --runs"
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(recipe) + "\n")


def run_folder(runs: Path, dataset: str, operator: str, seed: int) -> Path:
    return runs / dataset / re.sub(r"[^\w.]+", "-", operator) / f"seed{seed}"


def missing_sweeps(runs: Path, wanted: Sequence[tuple[str, str, int]]) -> list[Sweep]:
    seeds: dict[tuple[str, str, bool], list[int]] = {}
    for dataset, operator, seed in wanted:
        folder = run_folder(runs, dataset, operator, seed)
        if not (folder / RESULT).exists():
            begun = (folder / "checkpoints" / "last.pt").exists()
            seeds.setdefault((dataset, operator, begun), []).append(seed)
    return [Sweep(dataset, operator, tuple(found), begun) for (dataset, operator, begun), found in seeds.items()]


def sweep_command(sweep: Sweep, runs: Path, values: list[str], threads: int) -> list[str]:
    name, _, rest = sweep.operator.partition(":")
    options = [f"backbone.{option}" for option in rest.split(",") if option]
    folder = run_folder(runs, sweep.dataset, sweep.operator, 0).parent
    return [
        VSN_TRAIN, "--multirun", f"dataset={sweep.dataset}", f"backbone={name}", *options,
        f"seed={','.join(map(str, sweep.seeds))}", f"resume={str(sweep.begun).lower()}",
        f"runtime.threads={threads}", "data.workers=0", *values_for(sweep.dataset, values),
        f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=seed${seed}",
    ]  # fmt: skip


def values_for(dataset: str, values: list[str]) -> list[str]:
    """Those for all data sets, then those for this one."""
    split = [re.fullmatch(r"(?:(\w+):)?(.*)", value, re.S) for value in values]
    found = [(match[1], match[2]) for match in split if match]
    return [value for name, value in found if name is None] + [value for name, value in found if name == dataset]


def train(
    sweeps: list[Sweep], runs: Path, values: list[str], parallel: int, keep_checkpoints: bool, limit: float
) -> None:
    """Run the sweeps, so many at a time, for about `limit` seconds: none is started that would take longer.

    Raises InputError when vsn-train refuses its input; exits 1 when a sweep fails otherwise.
    """
    threads, start = max(usable_cores() // parallel, 1), time.monotonic()
    waiting, active, started = list(sweeps), dict[Sweep, subprocess.Popen[bytes]](), dict[Sweep, float]()
    failed: list[str] = []
    a_run = 0.0  # seconds: the longest so far
    try:
        while waiting or active:
            while waiting and len(active) < parallel:
                sweep, started[sweep] = waiting[0], time.monotonic()
                if time.monotonic() - start + a_run * len(sweep.seeds) > limit:
                    waiting.clear()
                    break
                waiting.pop(0)
                log_of(runs, sweep).parent.mkdir(parents=True, exist_ok=True)
                with log_of(runs, sweep).open("ab") as log:
                    command = sweep_command(sweep, runs, values, threads)
                    active[sweep] = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            time.sleep(0.2)
            for sweep in [each for each, process in active.items() if process.poll() is not None]:
                code = active.pop(sweep).returncode
                a_run = max(a_run, (time.monotonic() - started[sweep]) / len(sweep.seeds))
                for seed in sweep.seeds:
                    if result := collect(runs, sweep.dataset, sweep.operator, seed, keep_checkpoints):
                        text = f"seed {seed}: {result.top1:.2f} % ({result.seconds:.0f} s)"
                        print(f"{sweep.dataset} {sweep.operator} {text}", flush=True)
                if code:
                    failed.append(describe_failure(runs, sweep, code))
                if code == WRONG_INPUT:  # the others would be refused as well
                    remove_traces(runs, sweep)
                    raise InputError(failed[-1])
    finally:
        for process in active.values():
            process.terminate()  # a run saves its state and ends
        for process in active.values():
            process.wait()
    if failed:
        print("\n".join(f"compare: failed: {text}" for text in failed), file=sys.stderr)
        sys.exit(1)


def describe_failure(runs: Path, sweep: Sweep, code: int) -> str:
    log = log_of(runs, sweep)
    lines = log.read_text(errors="replace").splitlines()
    said = next((line for line in reversed(lines) if line.startswith("vsn-train: ")), "no message")
    text = f"{sweep.dataset} {sweep.operator}: {said.removeprefix('vsn-train: ')}"
    return text if code == WRONG_INPUT else f"{text} (exit code {code}, {log})"


def remove_traces(runs: Path, sweep: Sweep) -> None:
    """Of a sweep that was refused, and of the whole comparison where it had no run yet."""
    log = log_of(runs, sweep)
    log.unlink()
    if not any(runs.glob("*/*/*/config.yaml")):
        (runs / "recipe.json").unlink()
    for folder in (log.parent, log.parent.parent, runs):
        if any(folder.iterdir()):
            return
        folder.rmdir()


def log_of(runs: Path, sweep: Sweep) -> Path:
    return run_folder(runs, sweep.dataset, sweep.operator, 0).parent / "sweep.log"


def collect(runs: Path, dataset: str, operator: str, seed: int, keep_checkpoints: bool) -> Result | None:
    """The result of a run that has come to its end; written into its folder the first time. None before the end."""
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
    partial = folder / f".{RESULT}"
    partial.write_text(json.dumps(asdict(result), indent=1) + "\n")
    partial.replace(folder / RESULT)
    if not keep_checkpoints:
        shutil.rmtree(folder / "checkpoints")
    return result


def read_result(runs: Path, dataset: str, operator: str, seed: int) -> Result | None:
    path = run_folder(runs, dataset, operator, seed) / RESULT
    if not path.exists():
        return None
    stored = json.loads(path.read_text())
    return Result(**{field.name: stored[field.name] for field in fields(Result)})


def measure_costs(results: Sequence[Result], device: str, rounds: int) -> dict[tuple[str, str], Costs]:
    """Of every operator on every data set: counted, and measured in turns with all others of that data set."""
    costs: dict[tuple[str, str], Costs] = {}
    measured: dict[Workload, dict[str, tuple[float, float]]] = {}
    for dataset, operators in accuracies(results).items():
        run = next(each for each in results if each.dataset == dataset)
        work = Workload(
            run.arch, run.num_frames, run.size, run.batch_size, max(each.classes for each in results), device
        )
        if set(operators) - measured.get(work, {}).keys():
            measured[work] = speeds(list(operators), work, rounds)
        for operator in operators:
            name = operator.partition(":")[0]
            layers = complexity(name, run.arch, run.num_frames, run.classes, run.size, **options_of(operator))
            costs[dataset, operator] = Costs(*total(layers), *measured[work][operator])
    return costs


def speeds(operators: list[str], work: Workload, rounds: int) -> dict[str, tuple[float, float]]:
    """Clips a second of each, forward and in training: the medians over the rounds."""
    print(f"measuring {len(operators)} networks, {work.num_frames} x {work.size} x {work.size}", flush=True)
    found: dict[str, list[float]] = {operator: [] for operator in operators}
    for mode in ("forward", "train"):
        actions = {operator: model_action(operator, work, Setting(), mode) for operator in operators}
        for operator, times in interleave(actions, rounds, device=work.device).items():
            found[operator].append(work.batch / sorted(times)[len(times) // 2])
    return {operator: (forward, training) for operator, (forward, training) in found.items()}


def write(
    output: Path, results: Sequence[Result], costs: dict[tuple[str, str], Costs], device: str, runs: Path
) -> None:
    found, facts = accuracies(results), hardware(device)
    facts["seeds"] = ", ".join(str(seed) for seed in sorted({each.seed for each in results}))
    facts["training"] = (
        f"{len(results)} runs, {sum(each.seconds for each in results) / 60:.0f} minutes in all, one by one"
    )
    values = json.loads((runs / "recipe.json").read_text())
    facts["values given"] = " ".join(values) or "none: the recipe of each data set"
    tables = comparison_tables(results, costs)
    note = f"{facts['cpu' if device == 'cpu' else 'gpu']}; {facts['date']}; seeds {facts['seeds']}: ticks; mean: marker"
    draw_comparison(results, costs, output.with_suffix(".png"), note)
    parts = [f"![Accuracy of every operator on every data set, and speed]({output.name}.png)", tables]
    temporal = {dataset: top1 for dataset, top1 in found.items() if dataset not in TIMELESS}
    header = ["claim", "paper, %", "source", *temporal]
    if rows := verdict_rows(temporal):
        lines = [summary(temporal), *(spread(dataset, found[dataset]) for dataset in TIMELESS if dataset in found)]
        parts[1:1] = [CLAIMS_HEAD, "\n".join(line for line in lines if line), markdown_table(header, rows)]
    data: dict[str, Any] = {
        "runs": [asdict(each) for each in results],
        "costs": [{"dataset": key[0], "operator": key[1], **asdict(each)} for key, each in costs.items()],
        "claims": [dict(zip(header, row, strict=True)) for row in rows],
    }
    write_results(output, "Operators compared", facts, "\n\n".join(parts), data)
    print(f"written: {output.with_suffix('.md')}, .json, .png")


CLAIMS_HEAD = """## The papers' claims

Accuracy of the first operator minus that of the second, mean over the seeds in percentage points, ± half the 95 %
interval of Student's t over the seeds' paired differences. A claim holds, or is contradicted, where the interval leaves
0 out. The papers' figures are top-1 on Something-Something V1 with ResNet-50 from ImageNet weights."""


if __name__ == "__main__":
    main()

"""Train operators with one recipe on several data sets and seeds, and compare the results with the papers' claims.

Writes run folders to --runs, and OUTPUT.md, OUTPUT.json and OUTPUT.png, by default RUNS/compare.*.

    python scripts/studies/claims.py                        the papers' operators on the three built-in data sets
    python scripts/studies/claims.py --datasets motion_order --operators tsn sth:p=0.5,integration=sum --seeds 0 1 2 3 4
    python scripts/studies/claims.py --datasets something_v1 --runs runs/ssv1 dataset.root=/data/20bn weights=r50.pth

Other arguments are passed to vsn-train: key=value for all runs, DATASET:key=value for the runs of one data set; all
operators get the same. Each operator and data set is a `vsn-train --multirun` over the seeds; --parallel of them run at
a time. Repeat the command to continue a stopped comparison; finished runs are not trained again. The output has
accuracy, its spread over the seeds, parameters, MACs and speed, and whether each of the papers' claims holds.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scripts.studies.comparison import (
    Costs,
    Result,
    accuracies,
    canonical,
    comparison_tables,
    draw_comparison,
    options_of,
)
from scripts.studies.trainings import (
    RECIPE,
    RESULT,
    VSN_TRAIN,
    Job,
    add_options,
    collect,
    device_of,
    is_begun,
    keep_recipe,
    operator_values,
    parse,
    read_result,
    run_folder,
    run_jobs,
    run_script,
    side_by_side,
    values_for,
)
from scripts.studies.verdicts import TIMELESS, spread, summary, verdict_rows
from vsn_train.analysis.complexity import complexity, total
from vsn_train.analysis.tables import markdown_table, write_results
from vsn_train.bench.network import Setting, Workload, model_action
from vsn_train.bench.timing import hardware
from vsn_train.engine.interleave import interleave
from vsn_train.errors import InputError

DATASETS = ["motion_order", "motion", "motion_static"]
OPERATORS = [  # trained in this order, in case time runs out
    "tsn", "tsm", "vsn_compact:standard_block=plain", "vsn_compact", "vsn_headtail", "sth", "sth:integration=sum",
    "sth:variant=merge", "sth:p=0.5", "sth:p=0.125", "sth:variant=merge,integration=sum",
]  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """One operator on one data set, with the unfinished seeds: either all new, or all to be resumed."""

    dataset: str
    operator: str
    seeds: tuple[int, ...]
    begun: bool


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--datasets", nargs="+", metavar="DATASET[:SEED,…]", default=DATASETS,
        help="data sets, with their own seeds instead of --seeds; default: " + " ".join(DATASETS),
    )  # fmt: skip
    parser.add_argument(
        "--operators", nargs="+", metavar="OPERATOR[:KEY=VALUE,…]", default=OPERATORS,
        help="operators with options; default: " + " ".join(OPERATORS),
    )  # fmt: skip
    add_options(parser)
    parser.add_argument("--rounds", type=int, default=7, help="rounds of the speed measurement; default 7")
    parser.add_argument("--runs", type=Path, default=Path("runs/compare"), help="folder of the run folders")
    parser.add_argument("--output", type=Path, default=None, help="output path without suffix; default: RUNS/compare")
    arguments, values = parse(parser)
    run_script("compare", lambda: compare(arguments, values))


def compare(arguments: argparse.Namespace, values: list[str]) -> None:
    """Train the missing runs, measure speed, write the results. Raises InputError for wrong arguments, and for a folder
    with runs of another recipe."""
    operators = list(dict.fromkeys(canonical(text) for text in arguments.operators))
    seeds = {}
    for text in arguments.datasets:
        dataset, _, own = text.partition(":")
        if not re.fullmatch(r"[\d,]*", own):
            raise InputError(f"--datasets {text}: expected a data set's name, or with its seeds, as in {dataset}:0,1")
        seeds[dataset] = [int(seed) for seed in own.split(",") if seed] or sorted(set(arguments.seeds))
    device = device_of(values)
    parallel, threads = side_by_side(arguments.parallel, device)
    keep_recipe(arguments.runs, values)

    runs = [(dataset, operator, seed) for dataset in seeds for operator in operators for seed in seeds[dataset]]
    for run in runs:
        collect(arguments.runs, *run, arguments.keep_checkpoints)
    sweeps = missing_sweeps(arguments.runs, runs)
    print(f"{sum(len(sweep.seeds) for sweep in sweeps)} of {len(runs)} runs to train, {parallel} at a time")
    jobs = {sweep_job(sweep, arguments.runs, values, threads): sweep for sweep in sweeps}
    run_jobs(
        list(jobs), arguments.runs, parallel, 60 * arguments.minutes,
        lambda job: tell_results(jobs[job], arguments.runs, arguments.keep_checkpoints),
    )  # fmt: skip

    results = [result for run in runs if (result := read_result(arguments.runs, *run))]
    if len(results) < len(runs):
        print(f"{len(runs) - len(results)} runs are left; repeat the command to train them")
    if not results:
        raise InputError(f"--minutes {arguments.minutes:g}: no run has finished; raise --minutes")
    costs = measure_costs(results, device, arguments.rounds)
    write(arguments.output or arguments.runs / "compare", results, costs, device, arguments.runs)


def missing_sweeps(runs: Path, wanted: Sequence[tuple[str, str, int]]) -> list[Sweep]:
    seeds: dict[tuple[str, str, bool], list[int]] = {}
    for dataset, operator, seed in wanted:
        folder = run_folder(runs, dataset, operator, seed)
        if not (folder / RESULT).exists():
            seeds.setdefault((dataset, operator, is_begun(folder)), []).append(seed)
    return [Sweep(dataset, operator, tuple(found), begun) for (dataset, operator, begun), found in seeds.items()]


def sweep_job(sweep: Sweep, runs: Path, values: list[str], threads: int) -> Job:
    folder = run_folder(runs, sweep.dataset, sweep.operator, 0).parent
    command = (
        VSN_TRAIN, "--multirun", f"dataset={sweep.dataset}", *operator_values(sweep.operator),
        f"seed={','.join(map(str, sweep.seeds))}", f"resume={str(sweep.begun).lower()}",
        f"runtime.threads={threads}", "data.workers=0", *values_for(sweep.dataset, values),
        f"hydra.sweep.dir={folder}", "hydra.sweep.subdir=seed${seed}",
    )  # fmt: skip
    return Job(f"{sweep.dataset} {sweep.operator}", (command,), folder / "sweep.log", len(sweep.seeds))


def tell_results(sweep: Sweep, runs: Path, keep_checkpoints: bool) -> None:
    for seed in sweep.seeds:
        if result := collect(runs, sweep.dataset, sweep.operator, seed, keep_checkpoints):
            text = f"seed {seed}: {result.top1:.2f} % ({result.seconds:.0f} s)"
            print(f"{sweep.dataset} {sweep.operator} {text}", flush=True)


def measure_costs(results: Sequence[Result], device: str, rounds: int) -> dict[tuple[str, str], Costs]:
    """The costs of every operator on every data set: counted, and timed in interleaved rounds per data set."""
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
    """Clips per second of each operator, forward and in training: medians over the rounds."""
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
    values = json.loads((runs / RECIPE).read_text())
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
0 out; two are close where the interval has 0 in it and lies within ±5 points. The papers' figures are top-1 on
Something-Something V1 with ResNet-50 from ImageNet weights."""


if __name__ == "__main__":
    main()

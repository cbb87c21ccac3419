"""Fine-tune operators on real videos from ImageNet weights, and measure how well they use the order of the frames.

Writes lists, weights and run folders to --runs, and OUTPUT.md, OUTPUT.json and OUTPUT.png.

    python scripts/studies/real.py --data /data/weizmann_order --weights-folder /data/weights
    python scripts/studies/real.py --networks resnet18 --operators tsn tsm --seeds 0 --minutes 30
    python scripts/studies/real.py --runs runs/longer schedule.epochs=40 mobilenet_v2:optimizer.lr=0.005

The data set weizmann_order has four movements, each up and down, of nine people. In each of three rotations, three
people are held out, so every person is validated once. Each network, operator, rotation and seed is one `vsn-train` and
one `vsn-eval` of the last epoch. Other arguments are passed to vsn-train: key=value for all runs, NETWORK:key=value for
the runs of one network; all operators get the same. --parallel runs at a time. Repeat the command to continue a stopped
study. If data or weights are missing, it prints "skipped" and ends with exit code 0.

Reads DATA/clips.csv and the clips next to it; from the folder of weights, mobilenet_v2_imagenet.pth, and
resnet18_imagenet_to_layer3.pth with complete_resnet18.py. The output has top-1, accuracy within the pairs of up and
down, their spread, and the differences to TSN and TSM with 95 % intervals.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # no window system needed
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.lines import Line2D

from scripts.studies.comparison import Result, canonical, draw_spread, finish_drawing, recipe, rows_of, title_of
from scripts.studies.trainings import (
    VSN_EVAL,
    VSN_TRAIN,
    Job,
    add_options,
    collect,
    device_of,
    is_begun,
    keep_recipe,
    operator_values,
    parse,
    run_folder,
    run_jobs,
    run_script,
    side_by_side,
    values_for,
)
from scripts.studies.verdicts import STH, STH_SUM, TSM, TSN, half_interval
from vsn_train.analysis.scores import Scores, right_among
from vsn_train.analysis.tables import markdown_table, write_results
from vsn_train.bench.timing import hardware
from vsn_train.errors import InputError

OPERATORS = ["tsn", "tsm", "vsn_compact", "vsn_headtail", STH_SUM, STH]
WEIGHTS = {  # network -> the files from which its weights are made
    "resnet18": ("resnet18_imagenet_to_layer3.pth", "complete_resnet18.py"),
    "mobilenet_v2": ("mobilenet_v2_imagenet.pth",),
}
HELD_OUT = ((2, 5, 8), (0, 3, 6), (1, 4, 7))  # people in each rotation's validation split
# The clips have 64 x 64 pixels and 7 to 39 frames. Other values are those of experiment/custom.
VALUES = [
    "backbone.num_frames=8", "data.short_side=64", "data.crop_size=64", "schedule.epochs=8", "optimizer.lr=0.003",
]  # fmt: skip
COLUMNS = ("path", "frames", "class", "person", "mirrored")  # columns of clips.csv that are read


@dataclass(frozen=True)
class Clip:
    """path: of its folder of frames, relative to the data set's folder. label: class name, <movement>_up or _down."""

    path: str
    frames: int
    label: str
    person: int
    flipped: bool


@dataclass(frozen=True)
class Outcome:
    """The accuracy of one or several runs on their validation clips. right: clips whose class has the highest score.

    pairs: movement -> (clips whose class has the higher score of the movement's two classes, clips of the movement).
    """

    right: int
    clips: int
    pairs: dict[str, tuple[int, int]]

    @property
    def top1(self) -> float:
        """Percent."""
        return 100 * self.right / self.clips

    @property
    def within_pair(self) -> float:
        """Percent of all clips."""
        return 100 * sum(right for right, _ in self.pairs.values()) / self.clips


@dataclass(frozen=True)
class Run:
    """One training. rotation: index of HELD_OUT."""

    network: str
    operator: str
    rotation: int
    seed: int

    @property
    def place(self) -> tuple[str, str, int]:
        """Its place in the folder of the runs, as data set, operator and seed."""
        return f"{self.network}/rotation{self.rotation}", self.operator, self.seed

    def __str__(self) -> str:
        return f"{self.network} {self.operator} rotation {self.rotation} seed {self.seed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/weizmann_order"), help="folder of clips.csv")
    parser.add_argument("--weights-folder", type=Path, default=Path("data/weights"), help="default: data/weights")
    parser.add_argument("--networks", nargs="+", choices=WEIGHTS, default=list(WEIGHTS), help="default: all")
    parser.add_argument(
        "--operators", nargs="+", metavar="OPERATOR[:KEY=VALUE,…]", default=OPERATORS,
        help="operators with options; default: " + " ".join(OPERATORS),
    )  # fmt: skip
    add_options(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs/real"), help="folder of lists, weights and run folders")
    parser.add_argument("--output", type=Path, default=Path("docs/results/real"), help="output path without suffix")
    arguments, values = parse(parser)
    run_script("real", lambda: study(arguments, values))


def study(arguments: argparse.Namespace, values: list[str]) -> None:
    """Train and evaluate the missing runs, write the results. Raises InputError as `run_jobs`."""
    operators = list(dict.fromkeys(canonical(text) for text in arguments.operators))
    networks = list(dict.fromkeys(arguments.networks))
    if absent := missing_files(arguments.data, arguments.weights_folder, networks):
        print(f"skipped: found no {', no '.join(map(str, absent))}; set --data and --weights-folder")
        return
    clips = read_clips(arguments.data)
    device = device_of(values)
    parallel, threads = side_by_side(arguments.parallel, device)
    keep_recipe(arguments.runs, values)
    lists = write_lists(clips, arguments.runs / "lists")
    weights = {network: weights_of(network, arguments.weights_folder, arguments.runs) for network in networks}

    # All rotations and operators of a seed come before the next seed, so that comparable sets are complete early.
    runs = [
        Run(network, operator, rotation, seed)
        for seed in sorted(set(arguments.seeds)) for network in networks
        for rotation in range(len(HELD_OUT)) for operator in operators_in(network, operators)
    ]  # fmt: skip
    jobs = {}
    for run in runs:
        if not finish(run, arguments.runs, arguments.keep_checkpoints):
            source = [
                f"dataset.root={arguments.data.resolve()}", *lists[run.rotation],
                f"weights={weights[run.network].resolve()}", f"runtime.threads={threads}",
            ]  # fmt: skip
            jobs[job_of(run, arguments.runs, [*source, *VALUES, *values_for(run.network, values)])] = run
    print(f"{len(jobs)} of {len(runs)} runs to train, {parallel} at a time", flush=True)

    def tell(job: Job) -> None:
        if found := finish(jobs[job], arguments.runs, arguments.keep_checkpoints):
            result, outcome = found
            text = f"top-1 {outcome.top1:.1f} %, within the pair {outcome.within_pair:.1f} % ({result.seconds:.0f} s)"
            print(f"{job.name}: {text}", flush=True)

    run_jobs(list(jobs), arguments.runs, parallel, 60 * arguments.minutes, tell)
    done = {run: found for run in runs if (found := finish(run, arguments.runs, arguments.keep_checkpoints))}
    if len(done) < len(runs):
        print(f"{len(runs) - len(done)} runs are left; repeat the command to train them")
    if not any(pooled(outcomes_of(done, run.network, run.operator)) for run in done):
        raise InputError("no operator has all three rotations of a seed yet; raise --minutes or repeat the command")
    write(arguments.output, clips, done, values, device)


def operators_in(network: str, operators: Sequence[str]) -> list[str]:
    """The operators that are different networks. A depthwise hybrid, in MobileNetV2, has one branch per channel and
    nothing to integrate, so STH with attention is the same as with the sum."""
    same = network == "mobilenet_v2" and STH_SUM in operators
    return [operator for operator in operators if not (same and operator == STH)]


# ---- Data and weights ------------------------------------------------------------------------------------------------


def missing_files(data: Path, weights: Path, networks: Sequence[str]) -> list[Path]:
    needed = [data / "clips.csv", *(weights / name for network in networks for name in WEIGHTS[network])]
    return [path for path in needed if not path.exists()]


def read_clips(data: Path) -> list[Clip]:
    """Read clips.csv. Raises InputError for a table of another data set."""
    with open(data / "clips.csv", newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise InputError(f"{data / 'clips.csv'}: expected the columns {', '.join(COLUMNS)}")
        clips = [
            Clip(row["path"], int(row["frames"]), row["class"], int(row["person"]), row["mirrored"] == "1")
            for row in reader
        ]
    if strangers := {clip.person for clip in clips} - {person for people in HELD_OUT for person in people}:
        raise InputError(f"{data / 'clips.csv'}: people {sorted(strangers)} are in no rotation; expected 0 to 8")
    classes = {clip.label for clip in clips}
    if lonely := {name for name in classes if not {f"{movement_of(name)}_{way}" for way in ("up", "down")} <= classes}:
        raise InputError(f"{data / 'clips.csv'}: {', '.join(sorted(lonely))}: expected classes in pairs, _up and _down")
    return clips


def movement_of(class_name: str) -> str:
    """ "bend_up" -> "bend", the name of the pair of classes."""
    return class_name.rpartition("_")[0]


def split_clips(clips: Iterable[Clip], held_out: Sequence[int]) -> tuple[list[Clip], list[Clip]]:
    """Training and validation clips of a rotation. Flipped copies are augmentation, so only in training."""
    training = [clip for clip in clips if clip.person not in held_out]
    validation = [clip for clip in clips if clip.person in held_out and not clip.flipped]
    assert not {clip.person for clip in training} & {clip.person for clip in validation}
    return training, validation


def write_lists(clips: Sequence[Clip], folder: Path) -> list[list[str]]:
    """Write the lists of all rotations. Returns the values for vsn-train that name them, for each rotation."""
    folder.mkdir(parents=True, exist_ok=True)
    values: list[list[str]] = []
    for rotation, held_out in enumerate(HELD_OUT):
        values.append([])
        for split, part in zip(("train", "val"), split_clips(clips, held_out), strict=True):
            path = folder / f"rotation{rotation}_{split}.csv"
            lines = [f"{clip.path},{clip.label},{clip.frames}" for clip in part]
            path.write_text("\n".join(["path,label,num_frames", *lines, ""]), encoding="utf-8")
            values[-1].append(f"dataset.{split}={path.resolve()}")
    return values


def weights_of(network: str, folder: Path, runs: Path) -> Path:
    """The weights file for vsn-train. ResNet-18's is made once, so that all runs share its random part."""
    if network != "resnet18":
        return folder / WEIGHTS[network][0]
    path, partial = runs / "weights" / "resnet18.pth", runs / "weights" / ".resnet18.pth"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, str(folder / "complete_resnet18.py"), str(partial)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise InputError(f"{command[1]}: exit code {made.returncode}: {made.stderr.strip().rpartition(chr(10))[2]}")
        partial.replace(path)
    return path


# ---- Runs ------------------------------------------------------------------------------------------------------------


def job_of(run: Run, runs: Path, values: list[str]) -> Job:
    """The training, unless it is finished, and the evaluation of its last epoch."""
    folder = run_folder(runs, *run.place)
    training = (
        VSN_TRAIN, "dataset=custom", f"backbone.arch={run.network}", *operator_values(run.operator),
        f"seed={run.seed}", "weights_new_head=true", "data.workers=0", *values,
        f"hydra.run.dir={folder}", f"resume={str(is_begun(folder)).lower()}",
    )  # fmt: skip
    # Without the report: nobody reads ninety of them.
    evaluation = (VSN_EVAL, f"checkpoint={folder / 'checkpoints' / 'last.pt'}", "report=false")
    over = collect(runs, *run.place, keep_checkpoints=True)
    return Job(str(run), (evaluation,) if over else (training, evaluation), folder.parent / f"seed{run.seed}.log")


def finish(run: Run, runs: Path, keep_checkpoints: bool) -> tuple[Result, Outcome] | None:
    """The result of a trained and evaluated run; removes its checkpoints. None for an unfinished run."""
    folder = run_folder(runs, *run.place)
    result = collect(runs, *run.place, keep_checkpoints=True)
    scores = next(folder.glob("eval/*/*/scores.npz"), None)
    if result is None or scores is None:
        return None
    if not keep_checkpoints:
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return result, outcome_of(Scores.load(scores))


def outcome_of(scores: Scores) -> Outcome:
    """A clip is right within its pair if its class has a higher score than the other class of its movement."""
    movements = np.array([movement_of(str(name)) for name in scores.class_names])  # (K,)
    own = movements[scores.labels]  # (N,)
    # Only the two classes of the pair compete. (N, K)
    of_pair = np.where(movements[None] == own[:, None], scores.scores, -np.inf)
    right = right_among(of_pair, scores.labels, 1)
    pairs = {str(name): (int(right[own == name].sum()), int((own == name).sum())) for name in np.unique(own)}
    return Outcome(int(scores.right().sum()), len(scores), pairs)


def together(outcomes: Iterable[Outcome]) -> Outcome:
    """The clips of several runs pooled."""
    right = clips = 0
    pairs: dict[str, tuple[int, int]] = {}
    for each in outcomes:
        right, clips = right + each.right, clips + each.clips
        for name, (hits, number) in each.pairs.items():
            before = pairs.get(name, (0, 0))
            pairs[name] = before[0] + hits, before[1] + number
    return Outcome(right, clips, pairs)


Outcomes = dict[tuple[int, int], Outcome]  # (seed, rotation) -> of an operator's run


def outcomes_of(done: dict[Run, tuple[Result, Outcome]], network: str, operator: str) -> Outcomes:
    """The outcomes of one operator in one network: (seed, rotation) -> outcome."""
    return {
        (run.seed, run.rotation): outcome
        for run, (_, outcome) in done.items()
        if (run.network, run.operator) == (network, operator)
    }


def pooled(outcomes: Outcomes) -> dict[int, Outcome]:
    """seed -> its rotations pooled, for the seeds that have all of them."""
    found: dict[int, list[Outcome]] = {}
    for (seed, _), outcome in sorted(outcomes.items()):
        found.setdefault(seed, []).append(outcome)
    return {seed: together(parts) for seed, parts in found.items() if len(parts) == len(HELD_OUT)}


# ---- Tables and figure ----------------------------------------------------------------------------------------------


MEASURES: dict[str, Callable[[Outcome], float]] = {
    "top-1": lambda outcome: outcome.top1,
    "within pair": lambda outcome: outcome.within_pair,
}


def accuracy_table(found: dict[str, Outcomes]) -> str:
    """Markdown: one row per operator that has a seed with all rotations. found: operator -> its runs."""
    movements = sorted({name for outcomes in found.values() for each in outcomes.values() for name in each.pairs})
    header = ["operator", "runs"]
    header += [text for name in MEASURES for text in (f"{name} %", "± seeds", "± runs")] + [f"{m} %" for m in movements]
    rows = []
    for operator, outcomes in found.items():
        if not (seeds := pooled(outcomes)):
            continue
        row = [title_of(operator), str(len(outcomes))]
        for measure in MEASURES.values():
            values = [measure(each) for each in seeds.values()]
            row += [
                f"{np.mean(values):.1f}",
                deviation(values),
                deviation([measure(each) for each in outcomes.values()]),
            ]
        for name in movements:
            hits, number = together(seeds.values()).pairs[name]
            row.append(f"{100 * hits / number:.1f}")
        rows.append(row)
    return markdown_table(header, rows)


def deviation(values: Sequence[float]) -> str:
    """The sample standard deviation; "-" for a single value."""
    return f"{np.std(values, ddof=1):.1f}" if len(values) > 1 else "-"


@dataclass(frozen=True)
class Difference:
    """The difference in accuracy between two operators, mean over their common runs, in percentage points.

    half: half its 95 % interval, None for a single run.
    """

    measure: str
    operator: str
    base: str
    mean: float
    half: float | None
    runs: int

    def __str__(self) -> str:
        return f"{self.mean:+.1f} " + ("(one run)" if self.half is None else f"± {self.half:.1f}")


def differences(found: dict[str, Outcomes]) -> list[Difference]:
    """The differences of every operator to TSN and to TSM, over runs with the same seed and rotation. found: operator
    -> its runs."""
    result = []
    for base in (TSN, TSM):
        for operator, outcomes in found.items():
            both = sorted(outcomes.keys() & found.get(base, {}).keys())
            if operator == base or not both:
                continue
            for name, measure in MEASURES.items():
                values = [measure(outcomes[key]) - measure(found[base][key]) for key in both]
                half = half_interval(values) if len(values) > 1 else None
                result.append(Difference(name, operator, base, float(np.mean(values)), half, len(values)))
    return result


def difference_table(found: dict[str, Outcomes]) -> str:
    """Markdown: one row per operator, one column per measure and per reference (TSN, TSM)."""
    values = {(each.operator, each.base, each.measure): str(each) for each in differences(found)}
    columns = [(base, name) for base in (TSN, TSM) if base in found for name in MEASURES]
    header = ["operator", *(f"{name}, minus {title_of(base)}" for base, name in columns)]
    rows = [[title_of(each), *(values.get((each, *column), "-") for column in columns)] for each in found]
    return markdown_table(header, rows)


def draw(found: dict[str, dict[str, Outcomes]], classes: int, output: Path, note: str) -> None:
    """Draw a PNG: one panel per network, one row per operator. found: network -> operator -> its runs."""
    operators = list(dict.fromkeys(operator for runs in found.values() for operator in runs))
    rows = rows_of(operators)
    size = (3.4 + 3.6 * len(found), 1.9 + 0.66 * len(operators))
    figure, grid = plt.subplots(1, len(found), sharey=True, squeeze=False, figsize=size, layout="constrained")
    axes = list(grid[0])
    for axis, (network, runs) in zip(axes, found.items(), strict=True):
        for operator, outcomes in runs.items():
            if seeds := pooled(outcomes):
                for name, above, hollow in (("top-1", 0.17, False), ("within pair", -0.17, True)):
                    values = [MEASURES[name](each) for each in seeds.values()]
                    draw_spread(axis, operator, values, rows[operator] + above, hollow)
        axis.axvline(50, color="black", linewidth=1, linestyle=":")
        axis.axvline(100 / classes, color="black", linewidth=1, linestyle=":", alpha=0.4)
        axis.set(title=network, xlabel="clips of held-out people (%)", xlim=(0, 102))
    marks = [
        Line2D([], [], color="#444444", marker="o", linestyle="", label=f"top-1 of {classes} classes"),
        Line2D([], [], color="#444444", marker="o", markerfacecolor="white", linestyle="", label="within up and down"),
        Line2D([], [], color="black", linewidth=1, linestyle=":", label="chance within up and down"),
        Line2D([], [], color="black", linewidth=1, linestyle=":", alpha=0.4, label="chance, top-1"),
    ]
    figure.legend(handles=marks, loc="outside upper center", ncols=2, frameon=False, fontsize=8)
    finish_drawing(figure, axes, rows, output, note)


# ---- The document ----------------------------------------------------------------------------------------------------


def write(
    output: Path, clips: Sequence[Clip], done: dict[Run, tuple[Result, Outcome]], values: list[str], device: str
) -> None:
    networks, operators = dict.fromkeys(run.network for run in done), dict.fromkeys(run.operator for run in done)
    found = {
        network: {operator: runs for operator in operators if (runs := outcomes_of(done, network, operator))}
        for network in networks
    }
    facts = hardware(device)
    facts["seeds"] = ", ".join(str(seed) for seed in sorted({run.seed for run in done}))
    facts["training"] = (
        f"{len(done)} runs, {sum(result.seconds for result, _ in done.values()) / 60:.0f} minutes in all, one by one"
    )
    # If a key is given twice, vsn-train uses the last value.
    last = {value.partition("=")[0]: value for value in ["experiment=custom", *VALUES, *values]}
    facts["values of all operators"] = f"`{' '.join(last.values())}`"
    machine = facts["cpu" if device == "cpu" else "gpu"]
    note = f"{machine}; {facts['date']}; seeds {facts['seeds']}: ticks; mean: marker"
    draw(found, len({clip.label for clip in clips}), output.with_suffix(".png"), note)
    parts = [f"![Accuracy of every operator in every network]({output.name}.png)", QUESTION, READING]
    for network, of_operators in found.items():
        parts += [f"## {network}", f"{STARTS[network]} {shared_recipe(done, network)}", accuracy_table(of_operators)]
        if differences(of_operators):
            parts += ["Differences, in percentage points, with their 95 % intervals:", difference_table(of_operators)]
    parts += [DATA, rotation_table(clips), DOUBTS]
    data = {
        "runs": [
            asdict(run)
            | {"top1": outcome.top1, "within_pair": outcome.within_pair}
            | asdict(outcome)
            | {"epochs": result.epochs, "manifest": result.manifest, "seconds": result.seconds}
            for run, (result, outcome) in done.items()
        ],
        "pooled": [
            {"network": network, "operator": operator, "seed": seed, "top1": each.top1, "within_pair": each.within_pair}
            | asdict(each)
            for network, runs in found.items()
            for operator, outcomes in runs.items()
            for seed, each in pooled(outcomes).items()
        ],
        "differences": [
            {"network": network} | asdict(each) for network, runs in found.items() for each in differences(runs)
        ],
    }
    write_results(output, "Operators on real videos", facts, "\n\n".join(parts), data)
    print(f"written: {output.with_suffix('.md')}, .json, .png")


def shared_recipe(done: dict[Run, tuple[Result, Outcome]], network: str) -> str:
    """A description of the common recipe of a network's runs. Raises InputError if it differs between them."""
    for rotation in range(len(HELD_OUT)):
        results = [each for run, (each, _) in done.items() if (run.network, run.rotation) == (network, rotation)]
        if results:
            recipe(results)
    run = results[0] if results else next(each for key, (each, _) in done.items() if key.network == network)
    return (
        f"{run.num_frames} frames of {run.size} x {run.size} pixels, epochs: {run.epochs}, in batches of "
        f"{run.batch_size}; protocol `{run.protocol}`."
    )


def rotation_table(clips: Sequence[Clip]) -> str:
    rows = []
    for rotation, held_out in enumerate(HELD_OUT):
        training, validation = split_clips(clips, held_out)
        rows.append([str(rotation), ", ".join(map(str, held_out)), str(len(training)), str(len(validation))])
    return markdown_table(["rotation", "people held out", "training clips, with flips", "validation clips"], rows)


QUESTION = """Networks start from ImageNet weights and are fine-tuned on short videos of people. The videos show four
movements, each up and down. The poses of "up" and "down" are nearly the same; their order differs. So the study asks
how well each operator uses the order of real frames."""

READING = """- "Top-1" is the share of clips whose class has the highest score of all classes.
- "Within pair" looks at the two classes of the clip's movement only: has the right one the higher score? Chance is
  50 %. The columns named after movements are the same for the clips of that movement.
- The clips of the three rotations count together: each clip that is not a flipped copy is validated once for a seed,
  by a network that has not seen its person. The value is the mean over the seeds.
- "± seeds" is the standard deviation of these values over the seeds; "± runs", that of the single runs, one for each
  seed and rotation.
- A difference is the mean over pairs of runs with the same seed and rotation, ± half its 95 % interval (Student's t).
  Rotations share people in training, so the runs are not independent and the intervals are rather too narrow.
- All values are those of the last epoch, never of the best one."""

STARTS = {
    "resnet18": """Start: ImageNet up to layer3, from shiyegao/CudaResnet18 @ 85b5947. The 3x3 kernels of layer4 and the
classifier start at random, the same kernels for all runs.""",
    "mobilenet_v2": """Start: ImageNet weights of google-coral/test_data @ 104342d
(`mobilenet_v2_1.0_224_quant.tflite`), 8-bit weights turned back into floats; their accuracy on ImageNet was not
measured. The classifier starts at random.""",
}

DATA = """## The data

The data set is not part of this project. It was cut from 36 videos of the Weizmann action data set, which are in
`data/actions` of sergeytulyakov/mocogan @ 937a99d. The videos have their own terms, for research. There are 154 clips
of nine people, and a flipped copy of each clip, in 64 x 64 pixels. There are eight classes in four pairs: jack,
wave1, wave2 and bend, each up and down. Each clip is one half of a movement and has 7 to 39 frames, median 12. The cut
points were found by the height of the highest moving pixel and checked by eye. Training has the flipped copies, and
flips clips at random too; validation has none."""

DOUBTS = """What limits these numbers:

- There is one background, and there are few clips. One clip of a rotation is about two percentage points.
- Bend has nine clips up and nine clips down. Some "up" clips run a little beyond the turning point.
- The flipped copies are exact. They are augmentation, not evidence.
- The weights of ResNet-18 are "ImageNet up to layer3", not a whole ImageNet network."""


if __name__ == "__main__":
    main()

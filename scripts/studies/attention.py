"""Train the STH networks of the attention study and draw its figures; docs/attention.md explains the results.

Writes trainings to --folder, OUTPUT.md, OUTPUT.json and OUTPUT_*.png, and the findings in --document.

    python scripts/studies/attention.py                                      as `make attention-study`
    python scripts/studies/attention.py --seeds 0 1 2 --flow-method tvl1     more seeds; flow as in the papers
    python scripts/studies/attention.py --folder /tmp/try --output /tmp/try/attention schedule.epochs=1

ResNet-18, STH hybrid with attention, recipe of experiment/motion at 64 pixels and for 20 epochs: p = 1/8, 1/4, 1/2 on
motion; p = 1/4 on motion_static and on the optical flow of motion. key=value arguments apply to every training.
Finished trainings in the folder are kept, and interrupted ones are resumed; so repeat the command to continue a stopped
study or to add seeds. --parallel trainings run at a time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from scripts.studies.trainings import VSN_TRAIN, Job, device_of, is_begun, run_jobs, run_script, side_by_side
from vsn_train.data.datasets.motion import load_motion
from vsn_train.data.optical_flow import METHODS

VSN_TOOLS = str(Path(sys.executable).with_name("vsn-tools"))
# At 64 pixels the feature maps of the last stage have 2 x 2 pixels: all taps of its spatial kernels see data.
# In four epochs no layer's mean moved more than 3.5 points. channels_last shortens a step on a CPU by an eighth.
VALUES = ["data.short_side=64", "data.crop_size=64", "schedule.epochs=20", "runtime.channels_last=true"]
# The shapes of motion (64 pixels, 24 frames) move by at most about 4 pixels per frame. TSM's bound of 20, for videos of
# 256 pixels and more, would use only a tenth of the grey levels.
FLOW_BOUND = "5"
# Name of a run, its p, its data, and the label of the data in the figures.
RUNS = [
    ("motion_p4", "0.25", "motion", "motion"),
    ("motion_static_p4", "0.25", "motion_static", "motion_static"),
    ("motion_flow_p4", "0.25", "flow", "motion"),
    ("motion_p8", "0.125", "motion", "motion"),
    ("motion_p2", "0.5", "motion", "motion"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("values", nargs="*", metavar="key=value", help="values for vsn-train, in every training")
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/attention_study"), help="folder of the trainings and the flow"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("docs/results/attention"), help="see output= of vsn-tools attention"
    )
    parser.add_argument("--document", type=Path, help="see document= of vsn-tools attention")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="default: 0")
    parser.add_argument("--flow-method", choices=METHODS, default="dis", help="tvl1 takes about 40 times as long")
    parser.add_argument("--data", type=Path, default=Path("~/.cache/vsn-train"), help="folder for the generated clips")
    parser.add_argument("--parallel", type=int, default=0, help="trainings at a time; 0: one per core, on CUDA one")
    parser.add_argument("--train-videos", type=int, default=960, help="training clips; default 960")
    parser.add_argument("--val-videos", type=int, default=360, help="validation clips; default 360")
    arguments = parser.parse_intermixed_args()
    run_script("attention", lambda: run_study(arguments))


def run_study(arguments: argparse.Namespace) -> None:
    counts = [f"dataset.train_videos={arguments.train_videos}", f"dataset.val_videos={arguments.val_videos}"]
    flow = arguments.folder / f"flow_{arguments.flow_method}"
    data = arguments.data.expanduser()
    clips = load_motion(data, "train", train_videos=arguments.train_videos, val_videos=arguments.val_videos).root
    extract = ["flow", str(clips), str(flow), "--method", arguments.flow_method]
    run_command(VSN_TOOLS, *extract, "--bound", FLOW_BOUND)
    on_flow = [
        # Flow is a custom data set, with the recipe and the flips of motion.
        "dataset=custom", f"dataset.root={flow}", "data.modality=flow", "experiment=motion",
        "dataset.flip_pairs=[[left,right],[clockwise,counterclockwise]]",
    ]  # fmt: skip
    parallel, threads = side_by_side(arguments.parallel, device_of(arguments.values))
    jobs, checkpoints, labels = [], [], []
    for seed in arguments.seeds:
        for name, p, source, label in RUNS:
            dataset = on_flow if source == "flow" else [f"dataset={source}", f"dataset.root={data}", *counts]
            sth = ["backbone=sth", "backbone.integration=attention", f"backbone.p={p}", f"seed={seed}"]
            run = arguments.folder / f"{name}_seed{seed}"
            values = [*dataset, *sth, "data.workers=0", f"runtime.threads={threads}", *VALUES, *arguments.values]
            jobs.append(training(run, values))
            checkpoints.append(run / "checkpoints" / "last.pt")
            labels.append(label)
    run_jobs(jobs, arguments.folder, parallel, float("inf"), lambda job: print(f"{job.name}: over", flush=True))
    study = [f"checkpoint=[{','.join(map(str, checkpoints))}]", f"label=[{','.join(labels)}]"]
    study += [f"document={arguments.document}"] if arguments.document else []
    run_command(VSN_TOOLS, "attention", *study, f"output={arguments.output}")


def training(run: Path, values: list[str]) -> Job:
    """The training with these values in the folder `run`, new or resumed.

    A finished one ends at once. vsn-train refuses a run that was started with other values.
    """
    resume = f"resume={str(is_begun(run)).lower()}"
    return Job(run.name, ((VSN_TRAIN, *values, f"hydra.run.dir={run}", resume),), run.with_suffix(".log"))


def run_command(*command: str) -> None:
    """Run a command. Raises SystemExit with its exit code if it fails; it has printed the reason."""
    print(" ".join(command), flush=True)
    if code := subprocess.run(command, check=False).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main()

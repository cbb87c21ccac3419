"""Measure all GPU figures of this project. Writes OUTPUT.md, OUTPUT.json and OUTPUT.png after every section.

    python scripts/gpu_report.py --clips /data/clips                         at most seven minutes on one GPU
    python scripts/gpu_report.py --clips /data/clips --minutes 4             at most four minutes
    python scripts/gpu_report.py --only operators loader --minutes 1         some sections
    python scripts/gpu_report.py --small --device cpu --output /tmp/trial    a trial of the script itself

The sections, in order of importance: training of the operators, compared with torchvision's ResNet on images, which is
the upper bound; training with the real loader; latency and throughput; precisions; more frames; a deeper network;
protocols; speed switches; reference forms; compiled networks. Everything that is compared runs in interleaved rounds. A
section gets its share of the minutes and the time left over by earlier ones; measurements that did not fit are named in
the document. If the script is stopped, the results of the finished sections are kept. Without --clips, it generates
videos.

Exit codes: 0 done, even if sections were cut short; 1 a section failed; 2 wrong input.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from scripts.gpu import networks, videos
from scripts.gpu.document import LABELS, write_report
from scripts.gpu.plan import GRACE, Budget, Clock, CutOff, Rows, Section, bounded, release
from vsn_train.bench.network import Workload
from vsn_train.bench.timing import hardware
from vsn_train.errors import InputError
from vsn_train.tools.bench import use_device

# Shares of the minutes, in the order of the sections. "clips" prepares videos for "loader" and "protocols".
WEIGHTS = {
    "operators": 40, "clips": 15, "loader": 60, "forward": 20, "precision": 25, "more_frames": 20, "deeper": 20,
    "protocols": 40, "switches": 20, "reference": 20, "compiled": 60,
}  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--minutes", type=float, default=7.0, help="for all sections together; default 7")
    parser.add_argument("--clips", type=Path, help="folder of videos; default: generate some")
    parser.add_argument("--batch", type=int, help="batch size in clips; default 32")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=tuple(LABELS),
        default=list(LABELS),
        metavar="SECTION",
        help=f"sections to run, of {', '.join(LABELS)}; default: all",
    )
    parser.add_argument("--small", action="store_true", help="tiny networks and clips, one round: tests the script")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    parser.add_argument(
        "--output",
        type=Path,
        help="output path without suffix; default: docs/results/gpu, for trials runs/benchmark/gpu",
    )
    arguments = parser.parse_args(words)
    try:
        return report(arguments)
    except InputError as error:
        print(f"gpu_report: {error}", file=sys.stderr)
        return 2


def report(arguments: argparse.Namespace) -> int:
    """Run the sections and write the report; returns the exit code. Raises InputError before anything is measured."""
    started = time.monotonic()
    if arguments.minutes <= 0 or (arguments.batch is not None and arguments.batch < 2):
        raise InputError("--minutes and --batch: expected a number above 0, and at least 2 clips")
    if arguments.clips is not None and not arguments.clips.is_dir():
        raise InputError(f"--clips {arguments.clips}: no such folder")
    use_device(arguments.device, arguments.threads)
    trial = arguments.small or arguments.device == "cpu"
    output = arguments.output or Path("runs/benchmark/gpu" if trial else "docs/results/gpu")
    sizes = sizes_of(arguments)
    rows: Rows = []
    facts = hardware(arguments.device) | driver(arguments.device)
    facts["minutes"] = f"{arguments.minutes:g}, of which sections get their shares"
    needed = [*arguments.only, *(["clips"] if {"loader", "protocols"} & set(arguments.only) else [])]
    budget = Budget(60 * arguments.minutes, {name: each for name, each in WEIGHTS.items() if name in needed}, started)
    with tempfile.TemporaryDirectory(prefix="gpu_report") as folder:
        work = Path(folder)
        found: list[videos.Clips] = []

        def clips() -> videos.Clips:
            if not found:
                raise InputError("there are no clips, because the section that prepares them failed")
            return found[0]

        def prepare(section: Section, sizes: networks.Sizes) -> None:
            found.append(videos.gather_clips(arguments.clips, work / "clips", arguments.small))
            facts.update(found[0].facts)

        actions: dict[str, Callable[[Section, networks.Sizes], None]] = {
            "operators": networks.operators,
            "clips": prepare,
            "loader": lambda section, sizes: videos.loader(section, sizes, clips(), work),
            "forward": networks.forward,
            "precision": networks.precision,
            "more_frames": networks.more_frames,
            "deeper": networks.deeper,
            "protocols": lambda section, sizes: videos.protocols(section, sizes, clips()),
            "switches": networks.switches,
            "reference": networks.reference,
            "compiled": networks.compiled,
        }
        states = []
        for name in list(budget.weights):
            states.append(run_section(name, actions[name], sizes, budget, rows))
            write_report(output, facts, rows)
    print(f"written: {output}.md, .json and .png, after {time.monotonic() - started:.0f} s")
    return int("failed" in states)


def sizes_of(arguments: argparse.Namespace) -> networks.Sizes:
    if arguments.small:
        work = Workload("resnet18", 2, 32, arguments.batch or 2, 10, arguments.device)
        base = networks.Setting("fp32", channels_last=True)
        return networks.Sizes(work, "mobilenet_v2", base, ("tsn", "tsm"), rounds=1, compile_s=10.0)
    return networks.Sizes(Workload("resnet50", 8, 224, arguments.batch or 32, 174, arguments.device))


def run_section(
    name: str,
    action: Callable[[Section, networks.Sizes], None],
    sizes: networks.Sizes,
    budget: Budget,
    rows: Rows,
) -> str:
    """Run a section within its share of time and add its results to the rows; returns its final state."""
    share = budget.share(name)
    began = time.monotonic()
    section = Section(name, Clock(began + share), sizes.work.device, [])
    state = "done"
    try:
        with bounded(min(share + GRACE, budget.left + GRACE / 2)):
            action(section, sizes)
    except CutOff:
        state = "cut"
        section.notes.append("cut off: it took longer than its share")
    except Exception as error:
        state = "failed"
        section.notes.append(f"failed: {type(error).__name__}: {error}".splitlines()[0])
        traceback.print_exc()
    release()
    if state == "done" and section.notes:
        state = "shortened"
    took = time.monotonic() - began
    rows += [row for row in section.rows if row.get("seconds") != []]
    rows.append({"mode": "section", "name": name, "state": state, "took_s": took, "share_s": share,
                 "notes": section.notes})  # fmt: skip
    print(f"{name}: {state} after {took:.1f} s of {share:.1f} s", flush=True)
    return state


def driver(device: str) -> dict[str, str]:
    """Clocks and power of the GPU as reported by its driver; empty if nvidia-smi is not available."""
    program = shutil.which("nvidia-smi")
    if device != "cuda" or not program:
        return {}
    keys = "driver_version,clocks.sm,clocks.max.sm,power.limit,temperature.gpu,memory.used"
    command = [program, f"--query-gpu={keys}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    return {"driver, clock, largest clock, power limit, °C, memory in use": done.stdout.strip().splitlines()[0]} if (
        done.returncode == 0 and done.stdout.strip()
    ) else {}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""Fuzz the commands: give them hundreds of crafted files, and check what they do.

    python scripts/fuzz.py --cases 1000                 at most twenty minutes on two cores
    python scripts/fuzz.py --seed 7 --minutes 10
    python scripts/fuzz.py --seed 7 --only lists:12 --keep /tmp/case      one case again, its folder kept

The files are checkpoints, score files, parts of evaluations, manifests, caches, fast-seek copies, lists, small state
files, images and file names. They are damaged, have other values, are of another kind, or would run code if they were
unpickled. Each goes through the installed commands or load_model: most in processes that have imported everything
already, one in fifty as a new process. A case passes with exit code 0, 1 or 2, one message for 2, no traceback, no file
written outside the named folder, no code of a file run, no environment variable printed, and less than 2 GB of memory.
A failed case is printed with the command that repeats it.

Exit codes: 0 all passed, 1 a case failed, 2 wrong input.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import connection
from pathlib import Path
from typing import Any

# One thread: forked processes are to compute, and the libraries' pools of threads do not survive a fork.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from scripts.fuzzing.cases import KINDS, Case
from scripts.fuzzing.doors import leaked, run_door, snapshot, verdict
from scripts.fuzzing.material import Material, make_material

LIMIT = 120.0  # seconds for one command
INSTALLED = 50  # every so many cases start the installed command itself
VERBS = ("attention", "check", "export", "flow", "prepare", "scan", "scores")
WARM = ("vsn_train.launch", "vsn_train.run.predict", "vsn_train.run.train", "matplotlib.pyplot", "scipy.stats",
        *(f"vsn_train.tools.{verb}" for verb in VERBS))  # fmt: skip


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--minutes", type=float, help="start no case after these")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", metavar="KIND[:NUMBER]", help=f"of {', '.join(KINDS)}; a number: this case alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="new folder for the cases that failed")
    arguments = parser.parse_args(words)
    kind, _, number = (arguments.only or "").partition(":")
    if (kind and kind not in KINDS) or (number and not number.isdecimal()):
        parser.error(f"--only {arguments.only}: expected one of {', '.join(KINDS)}, or KIND:NUMBER")
    if arguments.cases < 1 or arguments.processes < 1:
        parser.error("--cases and --processes: expected numbers above 0")
    if arguments.keep and arguments.keep.exists():
        parser.error(f"--keep {arguments.keep}: expected a folder that is not there yet")
    chosen = [(kind, int(number))] if number else schedule(arguments.cases, kind)
    started = time.monotonic()
    for module in WARM:
        importlib.import_module(module)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="fuzz"))
    folder = folder.absolute()
    try:
        material = make_material(folder / "material")
        prepared = time.monotonic()
        deadline = started + 60 * arguments.minutes if arguments.minutes else float("inf")
        found = list(results(material, folder, arguments.seed, chosen, arguments.processes, deadline, bool(number)))
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    failed = [each for each in found if each["problems"]]
    counts, bad = Counter(each["kind"] for each in found), Counter(each["kind"] for each in failed)
    codes = Counter(str(code) for each in found for code in each["codes"])
    for each in KINDS:
        if counts[each]:
            print(f"{each}: {counts[each]} cases, {bad[each]} failed")
    most = max((each["memory"] for each in found), default=0) / 2**30
    ended = ", ".join(f"{code}: {count}" for code, count in sorted(codes.items()))
    print(
        f"{len(found)} of {len(chosen)} cases in {(time.monotonic() - prepared) / 60:.1f} min, {len(failed)} failed; "
        f"exit codes {ended}; at most {most:.1f} GB"
    )
    return 1 if failed else 0


def schedule(cases: int, kind: str) -> list[tuple[str, int]]:
    """Kind and number of each case: every kind is among the first few, and has its share in the end."""
    if kind:
        return [(kind, number) for number in range(cases)]
    numbers = dict.fromkeys(KINDS, 0)
    chosen = []
    for done in range(cases):
        # The kind that is furthest behind its share.
        kind = max(KINDS, key=lambda each: KINDS[each][1] / 100 * (done + 1) - numbers[each])
        chosen.append((kind, numbers[kind]))
        numbers[kind] += 1
    return chosen


def results(
    material: Material,
    folder: Path,
    seed: int,
    chosen: list[tuple[str, int]],
    processes: int,
    deadline: float,
    keep: bool,
) -> Iterator[dict[str, Any]]:
    """What became of each case, in worker processes that stay; one that dies is a failure, and is replaced."""
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(list(enumerate(chosen))))
    at_work: dict[connection.Connection, tuple[Any, tuple[int, tuple[str, int]]]] = {}

    def start() -> tuple[Any, connection.Connection]:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, material, folder, seed, keep), daemon=False)
        process.start()
        theirs.close()
        return process, ours

    def ask(process: Any, pipe: connection.Connection) -> None:
        if waiting and time.monotonic() < deadline:
            task = waiting.pop()
            pipe.send(task)
            at_work[pipe] = process, task
        else:
            pipe.send(None)
            process.join()
            pipe.close()

    for _ in range(min(processes, len(chosen))):
        ask(*start())
    while at_work:
        for pipe in connection.wait(list(at_work)):
            assert isinstance(pipe, connection.Connection)
            process, (_, (kind, number)) = at_work.pop(pipe)
            try:
                result = pipe.recv()
            except EOFError:
                process.join()
                result = {"kind": kind, "number": number, "codes": [], "memory": 0, "doors": []}
                result["problems"] = [f"the fuzzer's own process died ({process.exitcode})"]
                process, pipe = start()
            if result["problems"]:
                print_failure(result, seed)
            yield result
            ask(process, pipe)


def print_failure(result: dict[str, Any], seed: int) -> None:
    name = f"{result['kind']}:{result['number']}"
    print(f"\nFAILED {name}: {'; '.join(result['problems'])}")
    for text in result["doors"]:
        print(f"  {text}")
    for line in result.get("said", []):
        print(f"  | {line[:400]}")
    print(f"  again: python scripts/fuzz.py --seed {seed} --only {name} --keep FOLDER", flush=True)


def work(pipe: connection.Connection, material: Material, folder: Path, seed: int, keep: bool) -> None:
    while (task := pipe.recv()) is not None:
        place, (kind, number) = task
        pipe.send(run_case(material, folder, seed, kind, number, place % INSTALLED == INSTALLED - 1, keep))


def run_case(
    material: Material, folder: Path, seed: int, kind: str, number: int, installed: bool, keep: bool
) -> dict[str, Any]:
    """One case from its making to its verdict. keep: its folder, also where all held."""
    place = folder / f"{kind}-{number}"
    case = Case(place, random.Random(f"{seed} {kind} {number}"))
    KINDS[kind][0](case, material)
    before, whole = snapshot(place, case.targets), snapshot(material.folder, [])
    problems, said, codes, memory = [], [], [], 0
    for door in case.doors:
        ran = run_door(door, place, LIMIT, installed)
        wrong = verdict(ran, LIMIT)
        if wrong or keep:
            said += [*ran.out.splitlines()[-3:], *ran.err.splitlines()[-12:]]
        problems += wrong
        codes.append(ran.code)
        memory = max(memory, ran.memory)
    after = snapshot(place, case.targets)
    if case.marker.exists():
        problems.append("code of the file was run")
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            problems.append(f"outside of the target: {json.dumps(name)} was {before.get(name)}, is {after.get(name)}")
    if snapshot(material.folder, []) != whole:
        problems.append("the material was changed")
    problems += [f"a secret of the environment is in {path}" for path in leaked(place)]
    if not (problems or keep):
        shutil.rmtree(place)
    return {
        "kind": kind, "number": number, "problems": problems, "doors": list(map(str, case.doors)), "said": said,
        "codes": codes, "memory": memory,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())

"""Find videos that are unreadable, hang or crash their decoder, or have fewer or more frames than listed.

    vsn-tools check /data/kinetics400
    vsn-tools check /data/kinetics400 --report check.csv --readers decord torchcodec
    vsn-tools check manifest.npz --report check.json --timeout 60
    vsn-tools check list.csv --root /data/mine

Checks every video and image folder below a folder, the videos of a manifest (Manifest.save), or the videos of a list in
the format of dataset=custom, including entries that training would refuse. Each file is decoded completely in its own
process. Then each reader reads a sample of frames in reverse order, and these are compared with the full decode. The
report has one line per file: the problem, and the number of frames that decode, that the header states, and that the
list states. A wrong header alone is not a problem: vsn-train does not use it. Exit code 0: nothing wrong, 1: problems
found, 2: wrong input.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from tqdm import tqdm

from vsn_train.atomic import atomic_path, json_text
from vsn_train.data.check import USUAL, FileReport, check_file
from vsn_train.data.datasets.listing import read_listing
from vsn_train.data.datasets.presence import find_videos
from vsn_train.data.isolated import Failure, usable_cores, work_isolated
from vsn_train.data.manifest import Manifest
from vsn_train.data.prepare import find_sources, take_shard
from vsn_train.data.video import DECODERS, MODALITIES, READERS
from vsn_train.errors import InputError

COLUMNS = ("path", "problem", "cause", "frames", "header", "listed", "width", "height", "fps", "compared", "readers")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="folder, manifest (.npz) or list (.csv, .txt)")
    parser.add_argument(
        "--root", type=Path, help="folder that a list's paths are relative to; default: the folder of the list"
    )
    parser.add_argument(
        "--report", type=Path, help="report file to write, .csv or .json; default: only print the problems"
    )
    parser.add_argument(
        "--readers", nargs="*", default=[], choices=DECODERS[1:], help="readers to compare with the default one"
    )
    parser.add_argument("--sample", type=int, default=8, help="frames to compare; default 8")
    parser.add_argument("--modality", default="rgb", choices=MODALITIES, help="flow: folders of flow images")
    parser.add_argument("--timeout", type=float, default=120, help="time limit in seconds for one file; default 120")
    parser.add_argument("--workers", type=int, default=usable_cores(), help="processes; default: one per core")
    parser.add_argument("--shard", default="1/1", metavar="i/n", help="the i-th of n parts of the work, i from 1")


def run(arguments: argparse.Namespace) -> int:
    for name in ("sample", "timeout", "workers"):
        if getattr(arguments, name) <= 0:
            raise InputError(f"--{name} {getattr(arguments, name)}: expected a number above 0")
    if arguments.report and arguments.report.suffix not in (".csv", ".json"):
        raise InputError(f"--report {arguments.report}: expected a name that ends with .csv or .json")
    for reader in arguments.readers:
        if reader in READERS:
            READERS[reader].library()  # raises InputError where it is not installed
    root, listed, of_list, note = files_of(arguments.source.expanduser(), arguments.root)
    mine = take_shard(list(listed), arguments.shard)
    work = partial(
        check_one,
        root=root,
        listed=listed,
        modality=arguments.modality,
        readers=tuple(arguments.readers),
        sample=arguments.sample,
    )
    rows = [row_of(name, failure) for name, failure in of_list.items()]
    for row in rows:
        print(f"{row['problem']}: {row['path']}: {row['cause']}", file=sys.stderr)
    with tqdm(total=len(mine), desc="check", unit="file", disable=None) as bar:
        for name, result in work_isolated(work, mine, arguments.workers, arguments.timeout):
            row = row_of(name, result)
            if row["problem"]:
                bar.write(f"{row['problem']}: {root / name}: {row['cause']}", file=sys.stderr)
            rows.append(row)
            bar.update()
    rows.sort(key=lambda row: str(row["path"]))
    if arguments.report:
        write_report(arguments.report, rows)
    wrong = Counter(str(row["problem"]) for row in rows if row["problem"])
    headers = sum(bool(row["header"]) and row["header"] != row["frames"] for row in rows)
    found = ", ".join(f"{count} {problem}" for problem, count in sorted(wrong.items())) or "nothing wrong"
    print(f"{len(rows)} files: {found}; {headers} headers with a wrong number of frames")
    if note:
        print(note)
    for reader in arguments.readers:
        compared = [row for row in rows if reader in dict(row["differing"])]  # type: ignore[call-overload]
        refused = sum(reader in row["refused"] for row in rows)  # type: ignore[operator]
        print(f"{reader}: {len(compared)} files compared, {refused} not readable with it")
    return 1 if wrong else 0


def check_one(
    name: str, root: Path, listed: dict[str, int | None], modality: str, readers: tuple[str, ...], sample: int
) -> FileReport:
    return check_file(root / name, modality, listed[name], readers, sample)


def row_of(name: str, result: FileReport | Failure) -> dict[str, object]:
    """One line of the report."""
    if isinstance(result, Failure):
        return dict.fromkeys(COLUMNS, "") | {
            "path": name, "problem": result.kind, "cause": result.cause, "differing": {}, "refused": {},
        }  # fmt: skip
    causes = [result.refused[USUAL]] if result.problem == "unreadable" else []
    causes += [f"{reader}: {count} of {result.compared} frames" for reader, count in result.differing.items() if count]
    if not causes and result.problem:
        causes = [f"{result.frames} frames decode, {result.listed} are listed"]
    readers = [f"{reader}: {count} differ" for reader, count in result.differing.items()]
    readers += [f"{reader}: {cause}" for reader, cause in result.refused.items()]
    return {
        "path": name,
        "problem": result.problem,
        "cause": "; ".join(causes),
        "frames": result.frames,
        "header": result.header,
        "listed": "" if result.listed is None else result.listed,
        "width": result.width,
        "height": result.height,
        "fps": round(result.fps, 3),
        "compared": result.compared,
        "readers": "; ".join(readers),
        "differing": result.differing,
        "refused": result.refused,
    }


def write_report(path: Path, rows: list[dict[str, object]]) -> None:
    path = path.expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name that is not UTF-8 is written as its bytes, in JSON as escapes.
    with atomic_path(path) as part, part.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        if path.suffix == ".json":
            file.write(json_text(rows, indent=1))
        else:
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)


def files_of(source: Path, root: Path | None) -> tuple[Path, dict[str, int | None], dict[str, Failure], str]:
    """The folder that names are relative to; name -> listed number of frames; name -> why training would refuse the
    entry; a line about the files that are left out."""
    if source.is_dir():
        names, note = find_sources(source)
        return source, dict.fromkeys(names), {}, note
    if not source.is_file():
        raise InputError(f"{source}: no such folder, manifest or list")
    if source.suffix == ".npz":
        manifest = Manifest.load(source)
        paths = [path.decode("utf-8", "surrogateescape") for path in manifest.paths.tolist()]
        return manifest.root, {path: manifest.known_frames(index) for index, path in enumerate(paths)}, {}, ""
    root = source.parent if root is None else root.expanduser()
    rows = read_listing(source, root).rows
    listed: dict[str, int | None] = {}
    refused: dict[str, Failure] = {}
    lines: dict[str, list[int]] = {}
    for row, found in zip(rows, find_videos(root, [row.path for row in rows]), strict=True):
        lines.setdefault(row.path, []).append(row.line)
        if found is None:
            refused[row.path] = Failure(f"not under {root} ({source} line {row.line})", "missing")
        else:
            listed[found] = row.num_frames if row.num_frames > 0 else None
    for path, numbers in lines.items():
        if len(numbers) > 1 and path not in refused:
            refused[path] = Failure(f"{source} lines {' and '.join(map(str, numbers))}", "repeated")
    return root, listed, refused, ""

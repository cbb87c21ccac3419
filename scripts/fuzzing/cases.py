"""The fuzzer's cases: a file that somebody else may have made, and the commands that are given it."""

from __future__ import annotations

import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.fuzzing import damage
from scripts.fuzzing.doors import Door
from scripts.fuzzing.material import (
    CLASSES,
    CLIP,
    SMALL,
    VIDEOS,
    Material,
    copy_run,
    facts_of,
    write_data,
    write_frames,
    write_video,
)
from vsn_train.data.datasets.custom import load_custom
from vsn_train.data.frame_counts import count_frames


@dataclass
class Case:
    """place: its folder: given/ holds the crafted files, target/ is where the commands are told to write, work/ where
    they start, outside/ what nobody may touch. targets: all that may be written. doors: commands, one after another.
    """

    place: Path
    rng: random.Random
    doors: list[Door] = field(default_factory=list)
    targets: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("given", "target", "work", "home", "tmp", "outside"):
            (self.place / name).mkdir(parents=True)
        (self.outside / "victim.json").write_text("whole")
        self.targets = [self.target, self.place / "tmp"]

    @property
    def given(self) -> Path:
        return self.place / "given"

    @property
    def target(self) -> Path:
        return self.place / "target"

    @property
    def outside(self) -> Path:
        return self.place / "outside"

    @property
    def marker(self) -> Path:
        """A folder that only code from a file would make."""
        return self.outside / "ran"

    def door(self, command: str, *words: str | Path) -> None:
        self.doors.append(Door(command, tuple(map(str, words))))


def checkpoints(case: Case, material: Material) -> None:
    """Checkpoints that are damaged, have other values, or are no checkpoints."""
    rng, path = case.rng, case.given / "best.pt"
    door = rng.choice(("eval", "eval", "predict", "export", "load", "weights", "resume", "attention"))
    content = dict(material.content) if door == "resume" else material.content | {"optimizer": {}, "scaler": {}}
    whole = case.place / "tmp" / "whole.pt"
    how = rng.choice(("bytes", "tree", "tree", "tree", "config", "config", "pickle", "zip", "other"))
    if how == "tree":
        torch.save(damage.tree_of(content, rng), path)
    elif how == "config":
        config = damage.tree_of(content["config"], rng, plain=True)
        if rng.random() < 0.3:
            group = rng.choice(("dataset", "backbone", "protocol", "data", "runtime"))
            key, text = rng.choice(list(config.get(group) or {"root": 0})), f"${{oc.env:{damage.SECRET}}}"
            odd = rng.choice(
                [text, "../../outside", "os.mkdir", "scripts.fuzzing.damage.odd_text", 10**9, str(case.outside)]
            )
            if isinstance(config.get(group), dict):
                config[group][key] = odd
        torch.save(content | {"config": config}, path)
    else:
        torch.save(content | {"optimizer": {}}, whole)
        data = whole.read_bytes()
        whole.unlink()
        if how == "bytes":
            path.write_bytes(damage.bytes_of(data, rng))
        elif how == "zip":
            path.write_bytes(damage.zipped(data, rng))
        elif how == "pickle":
            path.write_bytes(damage.pickled(case.marker, rng, data))
        else:
            path.write_bytes(
                rng.choice([b"", material.scores, material.copy, b"x" * 99, bytes(10_000), b"PK\x05\x06" + bytes(18)])
            )
    video = material.folder / "data" / "clips" / "0.mp4"
    run = f"hydra.run.dir={case.target}"
    if door == "eval":
        case.door("vsn-eval", f"checkpoint={path}", run, *_data(material), *CLIP)
    elif door == "predict":
        case.door("vsn-predict", f"checkpoint={path}", f"video={video}", run, *CLIP)
    elif door == "export":
        case.door("vsn-tools", "export", "--checkpoint", path, "--output", case.target / "model.pt2", "--size", "32")
    elif door == "load":
        case.door("load_model", path, video)
    elif door == "weights":
        case.door("vsn-train", "dataset=custom", *_data(material), run, *SMALL, "check=true", f"weights={path}")
    elif door == "attention":
        case.door("vsn-tools", "attention", f"checkpoint={path}", f"output={case.target}/a", *_data(material), *CLIP)
    else:
        copy_run(material, case.target)
        for each in (case.target / "checkpoints").iterdir():
            each.unlink()
        path.rename(case.target / "checkpoints" / "last.pt")
        case.door("vsn-train", "dataset=custom", *_data(material), run, *SMALL, "resume=true")


def scores(case: Case, material: Material) -> None:
    """Score files."""
    rng = case.rng
    paths = [case.given / "a.npz", case.given / "b.npz"]
    for path in paths:
        if path.name == "b.npz" and rng.random() < 0.5:
            path.write_bytes(material.scores)
        elif rng.random() < 0.25:
            path.write_bytes(damage.bytes_of(material.scores, rng))
        elif rng.random() < 0.1:
            path.write_bytes(damage.zipped(material.scores, rng))
        elif rng.random() < 0.1:
            path.write_bytes(damage.pickled(case.marker, rng, material.scores))
        else:
            path.write_bytes(damage.arrays_of(_arrays(material.scores), case.marker, rng))
    verb = rng.choice(("show", "per-class", "confused", "views", "compare", "fuse", "submit", "mean"))
    words: list[str | Path] = ["scores", verb, *(paths if verb in ("compare", "fuse", "mean") else paths[:1])]
    if verb in ("fuse", "submit"):
        words += ["--output", case.target / ("fused.npz" if verb == "fuse" else "out.csv")]
    case.door("vsn-tools", *words, "--json", case.target / "numbers.json")


def parts(case: Case, material: Material) -> None:
    """What an interrupted evaluation has left, and what lies in a folder of results."""
    rng = case.rng
    folder = case.target / "eval" / "best" / "center_1clip"
    (folder / "parts").mkdir(parents=True)
    whole = {
        "indices": np.array([0]),
        "rows": np.zeros((1, 1, len(CLASSES)), np.float32),
        "facts": np.array(json.dumps(facts_of(material), sort_keys=True)),
    }
    kind = rng.random()
    if kind < 0.7:
        content = damage.arrays_of(whole, case.marker, rng)
        (folder / "parts" / "00000000.npz").write_bytes(damage.bytes_of(content, rng) if kind < 0.2 else content)
    else:
        name = rng.choice(("metrics.json", "scores.npz", "report.html", "parts/x.npz", "missing_val.txt"))
        rng.choice([
            lambda path: path.write_bytes(rng.randbytes(40)),
            lambda path: path.write_text(damage.json_of({"checkpoint": "x", "protocol": {"name": "x"}}, rng)),
            lambda path: path.mkdir(),
            lambda path: path.symlink_to(case.outside / "victim.json"),
            lambda path: path.symlink_to(path),
        ])(folder / name)  # fmt: skip
    run = material.folder / "run" / "checkpoints" / "best.pt"
    case.door(
        "vsn-eval", f"checkpoint={run}", f"hydra.run.dir={case.target}", "resume=true", "keep_views=never",
        *_data(material), *CLIP,
    )  # fmt: skip


def manifests(case: Case, material: Material) -> None:
    """Manifests, in a command's hands and in a run folder."""
    rng = case.rng
    path = case.given / "m.npz"
    kind = rng.random()
    if kind < 0.2:
        path.write_bytes(damage.bytes_of(material.manifest, rng))
    elif kind < 0.3:
        path.write_bytes(damage.pickled(case.marker, rng, material.manifest))
    else:
        arrays = _arrays(material.manifest)
        if rng.random() < 0.3:
            odd = [
                b"../../outside/x.mp4",
                b"/etc/hostname",
                b"",
                b".",
                b"..",
                b"\xff",
                b"a\nb",
                b"x" * 300,
                b"clips/0.mp4",
            ]
            arrays["paths"] = np.array([rng.choice(odd) for _ in arrays["paths"]])
            _write_arrays(path, arrays)
        else:
            path.write_bytes(damage.arrays_of(arrays, case.marker, rng))
    door = rng.choice(("check", "flow", "resume"))
    if door == "check":
        case.door(
            "vsn-tools", "check", path, "--report", case.target / "check.json", "--workers", "1", "--timeout", "20"
        )
    elif door == "flow":
        case.door(
            "vsn-tools", "flow", path, case.target / "flow", "--method", "dis", "--workers", "1", "--timeout", "20"
        )
    else:
        copy_run(material, case.target)
        path.rename(case.target / "manifests" / rng.choice(("train.npz", "val.npz")))
        data = case.given / "data"
        write_data(data)
        if rng.random() < 0.7:  # a video less: the manifest is asked for
            (data / "clips" / "0.mp4").unlink()
            lines = (data / "train.csv").read_text().splitlines(keepends=True)
            (data / "train.csv").write_text("".join(line for line in lines if "/0.mp4" not in line))
        case.door(
            "vsn-train", "dataset=custom", f"dataset.root={data}", f"hydra.run.dir={case.target}", *SMALL, "resume=true"
        )


def caches(case: Case, material: Material) -> None:
    """The frame counts that are kept beside a data set, and the clips of a generated one."""
    rng = case.rng
    data = case.given / "data"
    if rng.random() < 0.3:
        case.targets.append(data)
        words = ["dataset=motion", f"dataset.root={data}", "dataset.train_videos=12", "dataset.val_videos=12",
                 "dataset.size=16", "dataset.num_frames=3"]  # fmt: skip
        folder = data / "motion-v2-seed0-16px-3f-12+12"
        for name in rng.sample(["finished", "listing.json", "train/left/00000.mp4", "val/right/00000.mp4"], 2):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(rng.choice([b"", b"{", rng.randbytes(100), material.copy]))
        case.door("vsn-tools", "scan", *words, "--workers", "1")
        return
    write_data(data)
    lists: dict[str, str | None] = {"train": None, "val": None, "test": None}
    counted, _ = count_frames(load_custom(data, "train", lists), workers=1, progress=False)
    (path,) = (data / ".vsn-train").glob("*.npz")
    kind = rng.random()
    if kind < 0.25:
        path.write_bytes(damage.bytes_of(path.read_bytes(), rng))
    elif kind < 0.6:
        path.write_bytes(damage.arrays_of({"counts": np.asarray(counted.num_frames)}, case.marker, rng))
    elif kind < 0.8:
        part = path.with_name(f"{path.stem}.host-1.part")
        part.write_bytes(
            np.array([[rng.choice((0, 1, 99, -1)), rng.choice((0, 9, -1, 2**31 - 1))]], np.int32).tobytes()
            + rng.randbytes(3)
        )
        path.unlink()
    else:
        path.unlink()
        how = rng.randrange(4)
        if how == 0:
            path.mkdir()
        elif how == 1:
            path.symlink_to(case.outside / "victim.json")
        else:
            shutil.rmtree(path.parent)
            if how == 2:
                path.parent.write_text("x")
            else:
                path.parent.symlink_to(case.outside)
    case.targets.append(data / ".vsn-train")
    case.targets.append(case.place / "home")  # where a folder of data cannot be written
    if rng.random() < 0.8:
        case.door("vsn-tools", "scan", "dataset=custom", f"dataset.root={data}", "--workers", "1", "--splits", "train")
    else:
        case.door(
            "vsn-train", "dataset=custom", f"dataset.root={data}", "dataset.count_frames=true",
            f"hydra.run.dir={case.target}",
            *SMALL, "check=true", "data.max_bad_share=1",
        )  # fmt: skip


def copies(case: Case, material: Material) -> None:
    """Fast-seek copies: their index, their pictures."""
    rng = case.rng
    data = material.copy
    kind = rng.random()
    if kind < 0.3:
        data = damage.bytes_of(data, rng)
    elif kind < 0.5:  # near the end, where the index is
        place = max(0, len(data) - rng.randrange(1, 700))
        data = data[:place] + damage.bytes_of(data[place:], rng)
    else:
        data = _other_index(data, rng)
    folder = case.given / "videos"
    folder.mkdir()
    path = folder / "a.mp4"
    path.write_bytes(data)
    door = rng.choice(("check", "predict", "predict", "prepare", "flow", "load", "train"))
    best = material.folder / "run" / "checkpoints" / "best.pt"
    run = f"hydra.run.dir={case.target}"
    if door == "check":
        case.door("vsn-tools", "check", folder, "--workers", "1", "--timeout", "20")
    elif door == "prepare":
        case.door("vsn-tools", "prepare", folder, case.target, "--workers", "1", "--timeout", "20")
    elif door == "flow":
        case.door("vsn-tools", "flow", folder, case.target, "--method", "dis", "--workers", "1", "--timeout", "20")
    elif door == "predict":
        times = [f"start={rng.choice((0, 0.1, 5))}", "end=0.3"] if rng.random() < 0.5 else []
        case.door("vsn-predict", f"checkpoint={best}", f"video={path}", run, *times, *CLIP)
    elif door == "load":
        case.door("load_model", best, path)
    else:
        shutil.copytree(material.folder / "data", case.given / "data")
        path.replace(case.given / "data" / "clips" / "0.mp4")
        case.door(
            "vsn-train", "dataset=custom", f"dataset.root={case.given}/data", run, *SMALL, "check=true",
            "data.max_bad_share=1",
        )  # fmt: skip


def lists(case: Case, material: Material) -> None:
    """Lists of videos and classes."""
    rng = case.rng
    data = case.given / "data"
    write_data(data)
    name = rng.choice(("train.csv", "val.csv", "train.csv", "train.txt", "classes.txt", "some.txt"))
    path = data / name
    whole = (data / "train.csv").read_text()
    if name == "train.txt":
        (data / "train.csv").unlink()
        whole = "".join(f"clips/{number}.mp4 {number % 2}\n" for number in range(4))
    elif name == "classes.txt":
        whole = "".join(f"{each}\n" for each in CLASSES)
    elif name == "some.txt":
        whole = "".join(f"clips/{number}.mp4\n" for number in range(VIDEOS))
    path.write_bytes(_odd_list(whole, rng))
    doors = ["check", "prepare", "scan", "train", "eval"]
    door = {"classes.txt": "scan", "some.txt": rng.choice(("check", "prepare"))}.get(name) or rng.choice(doors)
    options = ["dataset=custom", f"dataset.root={data}"]
    options += [f"dataset.classes={path.name}"] if name == "classes.txt" else []
    if rng.random() < 0.2:
        options.append(f"dataset.labels={rng.choice(('names', 'indices'))}")
    if door == "check":
        case.door(
            "vsn-tools",
            "check",
            path,
            "--root",
            data,
            "--report",
            case.target / "r.csv",
            "--workers",
            "1",
            "--timeout",
            "20",
        )
    elif door == "prepare":
        case.door("vsn-tools", "prepare", data, case.target, "--list", path, "--workers", "1", "--timeout", "20")
    elif door == "scan":
        case.targets.append(data / ".vsn-train")
        case.door("vsn-tools", "scan", *options, "--workers", "1", "--save", case.target)
    elif door == "train":
        case.door(
            "vsn-train", *options, f"hydra.run.dir={case.target}", *SMALL, "check=true", "dataset.max_missing_share=1"
        )
    else:
        case.door(
            "vsn-eval", f"checkpoint={material.folder}/run", f"hydra.run.dir={case.target}", *options, *CLIP,
            "dataset.max_missing_share=1", "on_bad_video=wrong",
        )  # fmt: skip


def names(case: Case, material: Material) -> None:
    """Files and folders that are called as nobody should call them, or are something else than they seem."""
    rng = case.rng
    data = case.given / "data"
    clip = (material.folder / "data" / "clips" / "0.mp4").read_bytes()
    for split in ("train", "val"):
        for number, label in enumerate(CLASSES):
            (data / split / label).mkdir(parents=True)
            write_video(data / split / label / f"{number}.mp4", 2 * number + (split == "val"))
    folder = data / rng.choice(("train", "val")) / rng.choice(CLASSES)
    for _ in range(rng.choice((1, 2, 3))):
        _odd_entry(folder, clip, case)
    if rng.random() < 0.3:
        folder.rename(folder.with_name(_file_name(rng)[:100] or "x"))
    door = rng.choice(("check", "prepare", "flow", "scan", "train", "predict", "predict", "eval"))
    run = f"hydra.run.dir={case.target}"
    if door in ("check", "prepare", "flow"):
        words: list[str | Path] = [door, data, *([case.target] if door != "check" else [])]
        words += ["--method", "dis"] if door == "flow" else []
        case.door("vsn-tools", *words, "--workers", "1", "--timeout", "5")
    elif door == "scan":
        case.targets.append(data / ".vsn-train")
        case.door("vsn-tools", "scan", "dataset=custom", f"dataset.root={data}", "--workers", "1")
    elif door == "train":
        case.door(
            "vsn-train", "dataset=custom", f"dataset.root={data}", run, *SMALL, "data.max_bad_share=1",
            "on_bad_video=wrong",
            "dataset.allow_overlap=true", "data.workers=1", "data.timeout=3",
        )  # fmt: skip
    elif door == "predict":
        best = material.folder / "run" / "checkpoints" / "best.pt"
        case.door("vsn-predict", f"checkpoint={best}", f"video={data}", run, *CLIP, "data.workers=1", "data.timeout=3")
    else:
        case.door(
            "vsn-eval", f"checkpoint={material.folder}/run", run, "dataset=custom", f"dataset.root={data}", *CLIP,
            "on_bad_video=wrong", "data.workers=1", "data.timeout=3",
        )  # fmt: skip


def states(case: Case, material: Material) -> None:
    """The small files of a run or a preparation, and links in a foreign run folder."""
    rng = case.rng
    door = rng.choice(("resume", "resume", "eval", "prepare", "flow", "predict"))
    if door in ("prepare", "flow"):
        name = rng.choice((f"{door}.json" if door == "flow" else "prepare.json", "failed.txt", "0.mp4", "0", ".0.part"))
        _odd_file(case.target / name, case, {"short_side": 256, "crf": 20, "modality": "rgb"})
        words = ["--method", "dis"] if door == "flow" else []
        source = material.folder / "data" / "clips"
        case.door("vsn-tools", door, source, case.target, *words, "--workers", "1", "--timeout", "20")
        return
    if door == "predict":
        write_frames(case.given / "frames", 6)
        name = rng.choice(("times.txt", "00003.jpg", "00007.jpg", "00001.png", "x.jpg"))
        _odd_file(case.given / "frames" / name, case, {"a": 1})
        best = material.folder / "run" / "checkpoints" / "best.pt"
        case.door(
            "vsn-predict",
            f"checkpoint={best}",
            f"video={case.given}/frames",
            f"hydra.run.dir={case.target}",
            "start=0.1",
            *CLIP,
        )
        return
    copy_run(material, case.target)
    name = rng.choice(
        ("config.yaml", "environment.json", "metrics.jsonl", "quarantine.txt", "log.txt", "checkpoints/best.pt",
        ".lock",
         "manifests", "tensorboard", "eval", "eval/best", "eval/best/center_1clip/metrics.json",
         "eval/best/.center_1clip/.lock",
         "missing_train.txt", "checkpoints/epoch_1.pt", "log_rank0.txt")
    )  # fmt: skip
    _odd_file(case.target / name, case, {"launch": "x", "seed": 0})
    if door == "resume":
        case.door(
            "vsn-train", "dataset=custom", *_data(material), f"hydra.run.dir={case.target}", *SMALL,
            "schedule.epochs=2",
            "resume=true",
        )  # fmt: skip
    else:
        case.door("vsn-eval", f"checkpoint={case.target}", *_data(material), *CLIP)


def pictures(case: Case, material: Material) -> None:
    """Folders of frames with pictures that are damaged, huge or of other sizes; videos with damage."""
    rng = case.rng
    folder = case.given / "videos"
    folder.mkdir()
    if rng.random() < 0.6:
        frames = folder / "a"
        write_frames(frames, 6)
        (frames / "times.txt").unlink()
        path = frames / f"{rng.randrange(1, 7):05d}.jpg"
        kind = rng.choice(("bytes", "bytes", "png", "png16", "huge", "size", "jpeg_size"))
        if kind == "bytes":
            path.write_bytes(damage.bytes_of(path.read_bytes(), rng))
        elif kind == "jpeg_size":
            data = bytearray(path.read_bytes())
            place = data.find(b"\xff\xc0")
            data[place + 5 : place + 9] = struct.pack(">HH", rng.choice((0, 1, 65535)), rng.choice((0, 1, 65535)))
            path.write_bytes(data)
        else:
            sizes = {"huge": (20_000, 20_000), "size": (rng.choice((0, 1, 47, 9000)), rng.choice((0, 1, 35, 7000)))}
            width, height = sizes.get(kind, (48, 36))
            path.write_bytes(png(width, height, 16 if kind == "png16" else 8))
    else:
        clip = (material.folder / "data" / "clips" / "0.mp4").read_bytes()
        (folder / "a.mp4").write_bytes(damage.bytes_of(clip, rng))
    door = rng.choice(("check", "prepare", "flow", "predict"))
    if door == "predict":
        best = material.folder / "run" / "checkpoints" / "best.pt"
        case.door("vsn-predict", f"checkpoint={best}", f"video={folder}", f"hydra.run.dir={case.target}", *CLIP)
        return
    words: list[str | Path] = [door, folder, *([case.target] if door != "check" else [])]
    words += ["--method", "dis"] if door == "flow" else []
    case.door("vsn-tools", *words, "--workers", "1", "--timeout", "20")


Maker = Callable[[Case, Material], None]
KINDS: dict[str, tuple[Maker, int]] = {  # how to make one, and how many of a hundred
    "checkpoints": (checkpoints, 18),
    "scores": (scores, 20),
    "parts": (parts, 6),
    "manifests": (manifests, 9),
    "caches": (caches, 8),
    "copies": (copies, 11),
    "lists": (lists, 11),
    "names": (names, 8),
    "states": (states, 6),
    "pictures": (pictures, 3),
}


# ---- Pieces ----------------------------------------------------------------------------------------------------------


def _data(material: Material) -> list[str]:
    return [f"dataset.root={material.folder}/data"]


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    import io

    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]


def _other_index(data: bytes, rng: random.Random) -> bytes:
    """The copy with an index that says something else, in its right form."""
    mark = b"vsn-train seek 1"
    tail = 8 + len(mark)
    length = int(data[-tail : -len(mark)])
    body = data[-tail - length : -tail]
    head, _, places = body.partition(b"\n")
    values = json.loads(head)
    if rng.random() < 0.9:  # as older copies, or whoever wants it to be read: no checksum of the rest
        del values["crc32"]
    if rng.random() < 0.7:
        key = rng.choice(list(values))
        values[key] = rng.choice([damage.odd_number(rng), damage.odd_value(rng, plain=True)])
        if rng.random() < 0.1:
            del values[key]
    if rng.random() < 0.5:
        numbers = bytearray(places)
        for _ in range(rng.choice((1, 5))):
            place = 8 * rng.randrange(max(1, len(numbers) // 8))
            odd = rng.choice(
                [0, -1, 1, 2**62, -(2**62), 10**6, len(data), struct.unpack("<q", struct.pack("<d", float("nan")))[0]]
            )
            numbers[place : place + 8] = struct.pack("<q", odd)
        places = bytes(numbers)
    if rng.random() < 0.1:
        places = places[: rng.randrange(len(places))]
    body = json.dumps(values).encode() + b"\n" + places
    return data[: -tail - length] + body + b"%08d" % len(body) + mark


def _odd_list(whole: str, rng: random.Random) -> bytes:
    lines = whole.splitlines()
    for _ in range(rng.choice((1, 1, 2, 3))):
        place = rng.randrange(len(lines))
        cells = lines[place].split(",")
        how = rng.randrange(9)
        if how == 0:
            cells[rng.randrange(len(cells))] = damage.odd_text(rng)
            lines[place] = ",".join(cells)
        elif how == 1:
            lines[place] = damage.odd_text(rng)
        elif how == 2:
            lines.insert(place, lines[place])
        elif how == 3:
            lines[place] += rng.choice([",", ",9", ",-1", ",1e9", ",99999999999", ",²", " 3", "\t", ";x", ',"', " "])
        elif how == 4:
            lines[place] = rng.choice(["../../outside/x.mp4,jump", "/etc/hostname,run", "clips/../clips/1.mp4,jump",
                                       "clips,jump", ".,run", "clips/1.mp4/,jump", "frames,jump",
                                       "frames,run,7"])  # fmt: skip
        elif how == 5:
            lines[place] = lines[place].replace(",", rng.choice([";", "\t", " ", ",,", ", "]))
        elif how == 6:
            lines[place] = '"' + lines[place]
        elif how == 7:
            lines[place] = "x" * rng.choice((200, 140_000)) + ",jump"
        else:
            lines = [*lines[:place], *lines[place + 1 :]] or ["x"]
    data = (rng.choice(["\n", "\n", "\r\n", "\r", "\n\n"]).join(lines) + "\n").encode("utf-8", "surrogatepass")
    coding = rng.randrange(12)
    if coding == 0:
        return damage.bytes_of(data, rng)
    if coding == 1:
        return data.decode("utf-8", "replace").encode("utf-16")
    if coding == 2:
        return b"\xef\xbb\xbf" + data
    if coding == 3:
        return b""
    return data


def _file_name(rng: random.Random) -> str:
    """A name that a file system takes."""
    text = damage.odd_text(rng).replace("/", "_").replace("\x00", "")
    text = text.encode()[:240].decode("utf-8", "ignore")
    return text if text not in ("", ".", "..") else "odd"


def _odd_entry(folder: Path, clip: bytes, case: Case) -> None:
    rng = case.rng
    how = rng.randrange(13)
    path = folder / f"{_file_name(rng)}.mp4"
    if how < 4:
        path.write_bytes(clip)
    elif how == 4:
        (folder / _file_name(rng)).write_bytes(rng.randbytes(30))
    elif how == 5:
        write_picture(folder / rng.choice(("1.jpg", "thumb.jpg", "00001.png", "cover.png", "0.mp4.jpg")))
    elif how == 6:
        (folder / rng.choice(("._0.mp4", ".DS_Store", "Thumbs.db", "@eaDir", ".vsn-train"))).write_bytes(b"x")
    elif how == 7:
        _link(folder / "loop", folder)
    elif how == 8:
        _link(folder / "gone.mp4", case.outside / "none")
    elif how == 9:
        _link(folder / "away.mp4", case.outside / "victim.json")
    elif how == 10:
        raw = os.fsencode(folder) + b"/" + rng.choice([b"\xff.mp4", b"caf\xe9.mp4", b"\x80\x81.mp4"])
        with open(raw, "wb") as file:
            file.write(clip)
    elif how == 11:
        os.mkfifo(folder / "pipe.mp4")
    else:
        path.mkdir()


def _link(path: Path, to: Path) -> None:
    if not path.is_symlink():
        path.symlink_to(to)


def _odd_file(path: Path, case: Case, like: dict[str, Any]) -> None:
    """Something else in the place of a small file."""
    rng = case.rng
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    how = rng.randrange(6)
    if how == 0:
        path.mkdir()
    elif how == 1:
        path.symlink_to(case.outside / "victim.json")
    elif how == 2:
        path.symlink_to(case.outside)
    elif how == 3:
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 400))))
    elif how == 4:
        path.write_text(damage.json_of(like, rng))
    else:
        text = rng.choice(
            ["a: !!python/object/apply:os.mkdir [../outside/ran]", "a: &a [*a]", "a: *b", damage.odd_text(rng)]
        )
        path.write_bytes(text.encode("utf-8", "surrogatepass"))


def write_picture(path: Path) -> None:
    path.write_bytes(png(48, 36, 8))


def png(width: int, height: int, depth: int) -> bytes:
    """One colour; a giant one is a small file. Its last checksum is wrong where there are many rows."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = bytes(1 + width * 3 * depth // 8)
    packer = zlib.compressobj(9)
    if height > 1000:  # a row that is packed by itself can be repeated
        first = packer.compress(row) + packer.flush(zlib.Z_FULL_FLUSH)
        body = first + first[2:] * (height - 1) + packer.flush()
    else:
        body = packer.compress(row * height) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")

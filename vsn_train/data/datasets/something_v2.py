"""Something-Something V2: Goyal et al., 2018. Official lists; videos are VP9 in WebM.

    <root>/<id>.webm                              root: 20bn-something-something-v2, or the folder that holds it
    something-something-v2-labels.json            {"Approaching something with your camera": "0", …}
    something-something-v2-train.json             [{"id": "78687", "template": "Holding [something] next to …"}, …]
    something-something-v2-validation.json
    something-something-v2-test.json              [{"id": "1420"}, …]

The later distribution names the same files labels.json, train.json, validation.json and test.json, and adds
test-answers.csv with lines `1420;Throwing something`. The class is the template without brackets; "label" is free text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vsn_train.data.datasets.annotations import (
    class_indices,
    find_file,
    index_of,
    numbered_lines,
    read_text,
    search_places,
    video_root,
)
from vsn_train.data.datasets.labelled_ids import FILE_NAMES, flip_pairs_of
from vsn_train.data.datasets.presence import find_videos, make_present_manifest
from vsn_train.data.datasets.something_v1 import FLIP_CLASSES
from vsn_train.data.manifest import UNLABELLED, Manifest
from vsn_train.errors import InputError

PREFIX = "something-something-v2-"


def load_something_v2(
    root: Path, split: str, annotations: Path | None = None, max_missing_share: float = 0.0
) -> Manifest:
    """Load a split: "train", "val" or "test"; "test" has labels if there is a test-answers.csv.

    root: folder of the videos, with any suffix, or of frame folders. annotations: folder of the JSON files; None: in or
    next to the root. Raises InputError for missing folders or files, for more than max_missing_share missing videos,
    and for an invalid entry, with file and line.
    """
    videos = video_root(root, ["20bn-something-something-v2"], "the folder of Something-Something V2's <id>.webm")
    places = search_places(root, annotations, "labels", "annotations")
    labels_file, classes = _read_classes(places)
    name = f"{FILE_NAMES[split]}.json"
    listing = find_file(places, [PREFIX + name, name])
    answers = _read_answers(places, classes, labels_file) if split == "test" else {}
    text = read_text(listing)
    ids, labels = [], []
    for number, entry in enumerate(_parse(text, listing, list, "a list of videos"), 1):
        video = str(entry.get("id", "")) if isinstance(entry, dict) else ""
        if not video.isdigit():
            shown = json.dumps(entry, ensure_ascii=False)[:80]
            place = f"{listing} line {_line_of_entry(text, number)}"
            raise InputError(f'{place}: found {shown}, expected {{"id":"<number>",…}}; correct the entry')
        ids.append(video)
        if split == "test":
            labels.append(answers.get(video, UNLABELLED))
            continue
        class_name = str(entry.get("template", "")).replace("[", "").replace("]", "")
        if class_name not in classes:  # checked here first: finding the line takes a while
            place = f"{listing} line {_line_of_entry(text, number)}"
            if not class_name:
                raise InputError(f'{place}: video {video} has no "template" with its class; correct the entry')
            index_of(class_name, classes, place, labels_file.name)
        labels.append(classes[class_name])
    if answers and UNLABELLED in labels:
        raise InputError(f"{listing}: test-answers.csv has no answer for video {ids[labels.index(UNLABELLED)]}")
    pairs, flips_allowed = flip_pairs_of(list(classes), FLIP_CLASSES)
    return make_present_manifest(
        "something_v2", split, videos, ids, find_videos(videos, [f"{video}.webm" for video in ids]), labels,
        list(classes), pairs, listing=listing, max_missing_share=max_missing_share, flips_allowed=flips_allowed,
    )  # fmt: skip


def _read_classes(places: Sequence[Path]) -> tuple[Path, dict[str, int]]:
    path = find_file(places, [PREFIX + "labels.json", "labels.json"])
    text = read_text(path)
    index = _parse(text, path, dict, "class names with their indices")
    names = {str(label): name for name, label in index.items()}
    for label in range(len(index)):
        if str(label) not in names:
            raise InputError(f"{path}: no class has the index {label}; expected 0 to {len(index) - 1}, each once")
    return path, class_indices([(0, names[str(label)]) for label in range(len(index))], path)


def _read_answers(places: Sequence[Path], classes: dict[str, int], labels_file: Path) -> dict[str, int]:
    """Video id -> label; empty if there is no such file."""
    names = [PREFIX + "test-answers.csv", "test-answers.csv"]
    if not any((place / name).is_file() for place in places for name in names):
        return {}
    path = find_file(places, names)
    answers = {}
    for number, line in numbered_lines(path):
        video, _, name = line.partition(";")
        if not video.isdigit() or not name:
            raise InputError(f"{path} line {number}: found {line[:80]!r}, expected '<id>;<class name>'")
        answers[video] = index_of(name.strip(), classes, f"{path} line {number}", labels_file.name)
    return answers


def _parse(text: str, path: Path, kind: type, expected: str) -> Any:
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} line {error.lineno}: not JSON ({error.msg}); expected {expected}: unpack the file again"
        ) from error
    except (ValueError, RecursionError) as error:  # a number or a nesting without end
        raise InputError(f"{path}: not read as JSON ({error}); expected {expected}: unpack the file again") from error
    if not isinstance(content, kind) or not content:
        raise InputError(f"{path} line 1: found {text.strip()[:60]!r}, expected {expected}")
    return content


def _line_of_entry(text: str, number: int) -> int:
    """The line, from 1, on which the number-th entry of a JSON list starts."""
    decoder, between, position = json.JSONDecoder(), re.compile(r"[\s,]*"), text.index("[") + 1
    while True:
        position += len(between.match(text, position)[0])  # type: ignore[index]
        if number == 1:
            return text.count("\n", 0, position) + 1
        _, position = decoder.raw_decode(text, position)
        number -= 1

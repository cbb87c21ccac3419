"""The table of a split's videos: sample id, path, label, number of frames.

Columns are NumPy arrays, not lists of objects: worker processes share them without copying, and 300,000 videos stay
small (300,000 Kinetics rows: 40 bytes of path and 28 of id each).
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from vsn_train.array_files import check_column, read_arrays, read_facts
from vsn_train.atomic import write_atomic
from vsn_train.data.direction import undecided
from vsn_train.errors import InputError
from vsn_train.typed_values import misfit

FACTS: dict[str, Any] = {  # in a file, beside the columns
    "name": str, "split": str, "root": str, "class_names": list[str], "flip_pairs": list[list[int]],
    "flips_allowed": bool, "missing": list[str],
}  # fmt: skip
UNLABELLED = -1  # label of every video of a test split whose answers are not public


@dataclass(frozen=True)
class Manifest:
    """One split of one data set. Row i of every column is video i.

    root: folder that `paths` are relative to.
    ids: (N,) UTF-8 bytes, the videos' names in the official lists. Files, frame folders, optical flow and fast copies
        of a video share its id, so their scores can be fused. The same array as `paths` where there is no other name.
    paths: (N,) UTF-8 bytes, what was found under `root`: a file, or a folder of frames.
    labels: (N,) int64 class indices; all UNLABELLED in a test split without labels.
    class_names: K names; the index is the label.
    flip_pairs: pairs of labels that a horizontal flip exchanges. A class in no pair keeps its label.
    flips_allowed: False where a flipped clip would need a label that is not known.
    num_frames: (N,) int32, -1 where it is not known; None where it is not known of any video.
    missing: ids that the official list names and the folder does not hold. They are not in the columns.
    notes: lines on how the table came about, for the log; files do not keep them.
    """

    name: str
    split: str
    root: Path
    ids: np.ndarray
    paths: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    flips_allowed: bool = True
    num_frames: np.ndarray | None = None
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def sample_id(self, index: int) -> str:
        """The video's name in score files, logs and messages."""
        return self.ids[index].decode("utf-8", "surrogateescape")

    def path(self, index: int) -> Path:
        return self.root / self.paths[index].decode("utf-8", "surrogateescape")

    def known_frames(self, index: int) -> int | None:
        """The video's number of frames as a list or a scan gave it; None where neither did."""
        count = -1 if self.num_frames is None else int(self.num_frames[index])
        return None if count < 0 else count

    @property
    def is_labelled(self) -> bool:
        return bool(self.labels[0] != UNLABELLED)

    def classes_without_videos(self) -> list[str]:
        """Their names, in the order of the labels; none where no video has a label."""
        present = set(np.unique(self.labels).tolist())
        return [name for label, name in enumerate(self.class_names) if self.is_labelled and label not in present]

    def flipped_labels(self) -> np.ndarray:
        """(K,) int64: the label that a clip of class k has after a horizontal flip."""
        return flipped_labels(len(self.class_names), self.flip_pairs)

    def content_hash(self) -> str:
        """First 16 hex digits of the SHA-256 over ids, labels and class names: equal hash, equal test set."""
        rows = zip(self.ids.tolist(), self.labels.tolist(), strict=True)
        digest = hashlib.sha256(b"".join(b"%b\0%d\n" % row for row in rows))
        digest.update("\0".join(self.class_names).encode())
        return digest.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write an .npz without pickled objects; the same manifest gives the same bytes."""
        facts = {
            "name": self.name,
            "split": self.split,
            "root": str(self.root),
            "class_names": self.class_names,
            "flip_pairs": self.flip_pairs,
            "flips_allowed": self.flips_allowed,
            "missing": self.missing,
        }
        columns = {"ids": self.ids, "paths": self.paths, "labels": self.labels}
        if self.num_frames is not None:
            columns["num_frames"] = self.num_frames
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **columns, facts=np.array(json.dumps(facts)))
        write_atomic(path, buffer.getvalue())

    @staticmethod
    def load(path: str | Path) -> Manifest:
        """Raises InputError for a file that is missing, damaged or no manifest."""
        what, advice = "manifest", "Manifest.save writes one"
        columns = read_arrays(Path(path), ("ids", "paths", "labels", "facts"), what, advice, optional=("num_frames",))
        try:
            facts = read_facts(columns["facts"])
            for key, kind in FACTS.items():
                if bad := misfit(facts.get(key), kind, key):
                    raise ValueError(bad)
            found = Manifest(
                facts["name"],
                facts["split"],
                Path(facts["root"]),
                columns["ids"],
                columns["paths"],
                columns["labels"],
                tuple(facts["class_names"]),
                tuple((left, right) for left, right in facts["flip_pairs"]),
                facts["flips_allowed"],
                columns.get("num_frames"),
                tuple(facts["missing"]),
            )
            found._check()
        except ValueError as error:
            raise InputError(f"{path}: not a {what}, or damaged ({error}); {advice}") from error
        return found

    def _check(self) -> None:
        """Raise ValueError where a file's content is not what `save` writes."""
        check_column(self.ids, "ids", "S", (None,))
        videos, classes = len(self.ids), len(self.class_names)
        if not videos:
            raise ValueError("no videos")
        check_column(self.paths, "paths", "S", (videos,))
        check_column(self.labels, "labels", "i", (videos,))
        if not UNLABELLED <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"labels are {self.labels.min()} to {self.labels.max()}, for {classes} classes")
        if self.num_frames is not None:
            check_column(self.num_frames, "num_frames", "i", (videos,))
        if not all(0 <= label < classes for pair in self.flip_pairs for label in pair):
            raise ValueError(f"flip_pairs name others than its {classes} classes")
        for text in (self.name, self.split, str(self.root), *self.class_names):
            text.encode("utf-8", "surrogateescape")
            if "\0" in text:
                raise ValueError(f"the name {text!r}")


def flipped_labels(classes: int, flip_pairs: Iterable[Sequence[int]]) -> np.ndarray:
    """(classes,) int64: every label, with the two of each pair exchanged."""
    flipped = np.arange(classes)
    for left, right in flip_pairs:
        flipped[left], flipped[right] = right, left
    return flipped


def make_manifest(
    name: str,
    split: str,
    root: Path,
    paths: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    flip_pairs: Sequence[tuple[int, int]] = (),
    *,
    ids: Sequence[str] | None = None,
    flips_allowed: bool | None = None,
    num_frames: Sequence[int] | None = None,
    missing: Sequence[str] = (),
) -> Manifest:
    """Check the columns and pack them; see `Manifest` for what they are. ids: None takes the paths. flips_allowed: None
    allows flips unless a class name in none of the pairs speaks of a direction.

    Raises InputError when the split is empty, a label is outside 0..K-1 (UNLABELLED is allowed for all videos of
    "test" together), or a video is listed twice.
    """
    if not len(paths):
        raise InputError(f"{name} {split}: found no videos under {root}; expected at least one: check dataset.root")
    classes, names = len(class_names), paths if ids is None else ids
    label_column = _whole_numbers(labels, np.int64, names, f"{name} {split}: label")
    unlabelled = split == "test" and bool((label_column == UNLABELLED).all())
    for index in np.flatnonzero((label_column < 0) | (label_column >= classes)) if not unlabelled else ():
        raise InputError(
            f"{name} {split}: label {label_column[index]} of {names[int(index)]} is out of range: {classes} classes "
            f"have labels 0 to {classes - 1}; correct the list"
        )
    if twice := first_repeated(names):
        raise listed_twice(f"{name} {split}", twice)
    for each in class_names:  # a video's name may be any bytes; a class is named in checkpoints, tables and reports
        try:
            each.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{name} {split}: the class name {each!r} is not UTF-8; rename it") from error
    path_column = id_column = np.array([path.encode("utf-8", "surrogateescape") for path in paths])
    if list(names) != list(paths):
        id_column = np.array([each.encode("utf-8", "surrogateescape") for each in names])
    return Manifest(
        name,
        split,
        root,
        id_column,
        path_column,
        label_column,
        tuple(class_names),
        tuple(flip_pairs),
        not undecided(class_names, flip_pairs) if flips_allowed is None else flips_allowed,
        None if num_frames is None else _whole_numbers(num_frames, np.int32, names, f"{name} {split}: num_frames"),
        tuple(missing),
    )


def _whole_numbers(values: Sequence[int], kind: type[np.signedinteger], names: Sequence[str], what: str) -> np.ndarray:
    """(N,) of this kind. Raises InputError for what it cannot hold, which NumPy would round or give a traceback for."""
    limits, given = np.iinfo(kind), np.asarray(values)
    if given.dtype.kind == "i" and (not given.size or limits.min <= given.min() <= given.max() <= limits.max):
        return given.astype(kind)
    for name, value in zip(names, values, strict=True):
        try:
            fits = limits.min <= value <= limits.max and int(value) == value
        except TypeError:
            fits = False
        if not fits:
            raise InputError(f"{what} {value!r} of {name}; expected a whole number up to {limits.max}")
    return np.array(values, kind)


def listed_twice(place: str, name: str) -> InputError:
    """The refusal of a list that names a video more than once. place: the list, with its lines where they are known."""
    return InputError(
        f"{place}: {name} is listed more than once; remove the repeated line: rare classes are trained on more often "
        "with data.balance=classes"
    )


def first_repeated(names: Sequence[str]) -> str | None:
    """The first name that is there twice."""
    if len(set(names)) == len(names):
        return None
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def sort_classes(manifest: Manifest) -> Manifest:
    """The same videos with the classes in the order of their sorted names (by code point, as Python sorts).

    Some published checkpoints were trained on lists made that way; labels and flip pairs move along.
    """
    order = sorted(range(len(manifest.class_names)), key=manifest.class_names.__getitem__)
    new_label = np.argsort(np.array(order))
    return replace(
        manifest,
        labels=np.where(manifest.labels == UNLABELLED, UNLABELLED, new_label[manifest.labels]),
        class_names=tuple(manifest.class_names[label] for label in order),
        flip_pairs=tuple((int(new_label[left]), int(new_label[right])) for left, right in manifest.flip_pairs),
    )

"""The table of a split's videos: sample id, path, label, number of frames.

Columns are NumPy arrays, not lists of objects: worker processes share them without copying, and they stay small (per
Kinetics video 40 bytes of path and 28 of id).
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

FACTS: dict[str, Any] = {  # in a file, in addition to the columns
    "name": str, "split": str, "root": str, "class_names": list[str], "flip_pairs": list[list[int]],
    "flips_allowed": bool, "missing": list[str],
}  # fmt: skip
UNLABELLED = -1  # label of every video of a test split whose labels are not public


@dataclass(frozen=True)
class Manifest:
    """One split of one data set. Row i of every column is video i.

    root: folder that `paths` are relative to.
    ids: (N,) UTF-8 bytes, the videos' names in the official lists. Files, frame folders, optical flow and fast-seek
        copies of a video share its id, so their scores can be fused. The same array as `paths` if there are no names.
    paths: (N,) UTF-8 bytes, the file or folder of frames found under `root`.
    labels: (N,) int64 class indices; all UNLABELLED in a test split without labels.
    class_names: K names; the index is the label.
    flip_pairs: pairs of labels that a horizontal flip exchanges. A class in no pair keeps its label.
    flips_allowed: False if the label of a flipped clip may be unknown.
    num_frames: (N,) int32, -1 where unknown; None if unknown for all videos.
    missing: ids that are listed, but do not exist in the folder. They are not in the columns.
    notes: lines for the log about how the table was made; not saved to files.
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
        """The video's number of frames from a list or a scan; None if unknown."""
        count = -1 if self.num_frames is None else int(self.num_frames[index])
        return None if count < 0 else count

    @property
    def is_labelled(self) -> bool:
        return bool(self.labels[0] != UNLABELLED)

    def classes_without_videos(self) -> list[str]:
        """The names of the classes without videos, in label order; empty for a split without labels."""
        present = set(np.unique(self.labels).tolist())
        return [name for label, name in enumerate(self.class_names) if self.is_labelled and label not in present]

    def flipped_labels(self) -> np.ndarray:
        """(K,) int64: the label that a clip of class k has after a horizontal flip."""
        return flipped_labels(len(self.class_names), self.flip_pairs)

    def content_hash(self) -> str:
        """First 16 hex digits of the SHA-256 of ids, labels and class names: equal hashes mean equal test sets."""
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
        """Read a manifest. Raises InputError for a file that is missing, damaged or of another kind."""
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
        """Raise ValueError for content that `save` does not write."""
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
            raise ValueError(f"flip_pairs has labels outside the {classes} classes")
        for text in (self.name, self.split, str(self.root), *self.class_names):
            text.encode("utf-8", "surrogateescape")
            if "\0" in text:
                raise ValueError(f"the name {text!r} contains a null byte")


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
    """Check the columns and build a `Manifest`, which describes them. ids: None: the paths. flips_allowed: None: allow
    flips unless a class name that is in no pair contains a direction.

    Raises InputError if the split is empty, a label is outside 0..K-1 (except that all videos of "test" may be
    UNLABELLED), or a video is listed twice.
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
    for each in class_names:  # paths may be any bytes, but class names appear in checkpoints, tables and reports
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
    """Convert to (N,) of this type. Raises InputError for values that do not fit, instead of rounding them."""
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
    """The error for a list that names a video more than once. place: the list, with its lines if known."""
    return InputError(
        f"{place}: {name} is listed more than once; remove the repeated line (to train on rare classes more often, use "
        "data.balance=classes)"
    )


def first_repeated(names: Sequence[str]) -> str | None:
    """The first name that occurs twice, or None."""
    if len(set(names)) == len(names):
        return None
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def sort_classes(manifest: Manifest) -> Manifest:
    """The same videos with the classes sorted by name (by code point, as Python sorts).

    Some published checkpoints were trained with this class order. Labels and flip pairs are converted.
    """
    order = sorted(range(len(manifest.class_names)), key=manifest.class_names.__getitem__)
    new_label = np.argsort(np.array(order))
    return replace(
        manifest,
        labels=np.where(manifest.labels == UNLABELLED, UNLABELLED, new_label[manifest.labels]),
        class_names=tuple(manifest.class_names[label] for label in order),
        flip_pairs=tuple((int(new_label[left]), int(new_label[right])) for left, right in manifest.flip_pairs),
    )

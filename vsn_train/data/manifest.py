"""The table of a split's videos: path, label, number of frames.

Columns are NumPy arrays, not lists of objects: worker processes share them without copying, and 300,000 videos stay
small.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vsn_train.errors import InputError


@dataclass(frozen=True)
class Manifest:
    """One split of one data set. Row i of every column is video i.

    root: folder that `paths` are relative to.
    paths: (N,) UTF-8 bytes; a path relative to `root` is also the video's sample id.
    labels: (N,) int64 class indices.
    class_names: K names; the index is the label.
    flip_pairs: pairs of labels that a horizontal mirror exchanges. A class in no pair keeps its label.
    flips_allowed: False where a mirror image would need a label that is not known.
    """

    name: str
    split: str
    root: Path
    paths: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    flip_pairs: tuple[tuple[int, int], ...] = ()
    flips_allowed: bool = True

    def __len__(self) -> int:
        return len(self.paths)

    def sample_id(self, index: int) -> str:
        """The video's name in score files, logs and messages: its path relative to the root."""
        return self.paths[index].decode()

    def path(self, index: int) -> Path:
        return self.root / self.sample_id(index)

    def mirrored_labels(self) -> np.ndarray:
        """(K,) int64: the label that a clip of class k has after a horizontal mirror."""
        return mirrored_labels(len(self.class_names), self.flip_pairs)

    def content_hash(self) -> str:
        """First 16 hex digits of the SHA-256 over ids, labels and class names: equal hash, equal test set."""
        digest = hashlib.sha256()
        for path, label in zip(self.paths, self.labels, strict=True):
            digest.update(path + b"\0" + str(int(label)).encode() + b"\n")
        digest.update("\0".join(self.class_names).encode())
        return digest.hexdigest()[:16]


def mirrored_labels(classes: int, flip_pairs: Iterable[Sequence[int]]) -> np.ndarray:
    """(classes,) int64: every label, with the two of each pair exchanged."""
    mirrored = np.arange(classes)
    for left, right in flip_pairs:
        mirrored[left], mirrored[right] = right, left
    return mirrored


def make_manifest(
    name: str,
    split: str,
    root: Path,
    paths: Sequence[str],
    labels: Sequence[int],
    class_names: Sequence[str],
    flip_pairs: Sequence[tuple[int, int]] = (),
) -> Manifest:
    """Check the columns and pack them.

    Raises InputError when the split is empty, a label is outside 0..K-1, or a video is listed twice.
    """
    if not len(paths):
        raise InputError(f"{name} {split}: found no videos under {root}; expected at least one: check dataset.root")
    classes = len(class_names)
    for path, label in zip(paths, labels, strict=True):
        if not 0 <= label < classes:
            raise InputError(
                f"{name} {split}: label {label} of {path} is out of range: {classes} classes have labels 0 to "
                f"{classes - 1}; correct the list"
            )
    columns = np.array([path.encode() for path in paths])
    unique, counts = np.unique(columns, return_counts=True)
    if len(unique) < len(columns):
        twice = unique[counts > 1][0].decode()
        raise InputError(f"{name} {split}: {twice} is listed more than once; remove the repeated line from the list")
    return Manifest(name, split, root, columns, np.array(labels, np.int64), tuple(class_names), tuple(flip_pairs))

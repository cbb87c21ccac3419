"""Score files: what a model said of every video, and the numbers that follow from it. No model, no GPU."""

from __future__ import annotations

import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vsn_train.errors import InputError


@dataclass(frozen=True)
class Scores:
    """ids: (N,) sample ids; labels: (N,) int64; scores: (N, K) float32, means over a video's views; class_names: (K,).

    facts: what the number stands on: protocol, manifest hash, checkpoint hash, versions. Plain types only.
    """

    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    class_names: np.ndarray
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write an .npz without pickled objects; the same scores give the same bytes."""
        buffer = io.BytesIO()
        arrays = {"ids": self.ids, "labels": self.labels, "scores": self.scores, "class_names": self.class_names}
        np.savez(buffer, allow_pickle=False, **arrays, facts=np.array(json.dumps(self.facts, sort_keys=True)))
        aside = path.with_name(f".{path.name}.{os.getpid()}")
        aside.write_bytes(buffer.getvalue())
        os.replace(aside, path)

    @staticmethod
    def load(path: str | Path) -> Scores:
        """Raises InputError for a file that is missing, damaged or not a score file."""
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ("ids", "labels", "scores", "class_names")}
                return Scores(**arrays, facts=json.loads(str(file["facts"])))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: not a score file, or damaged ({error}); vsn-eval writes scores.npz") from error

    def top1(self) -> float:
        """Share of videos, in percent, whose label has the highest score."""
        return self.top_k(1)

    def top5(self) -> float:
        return self.top_k(5)

    def top_k(self, k: int) -> float:
        """Percent of videos whose label is among the k highest scores. Of equal scores the lower class index wins."""
        best = np.argsort(-self.scores, axis=1, kind="stable")[:, :k]
        return 100 * float((best == self.labels[:, None]).any(axis=1).mean())

    def confusion(self) -> np.ndarray:
        """(K, K) int64: how many videos of class i (row) were taken for class j (column)."""
        counts = np.zeros((len(self.class_names),) * 2, dtype=np.int64)
        np.add.at(counts, (self.labels, self.scores.argmax(axis=1)), 1)
        return counts

    def per_class(self) -> np.ndarray:
        """(K,) top-1 in percent over each class's own videos; NaN for a class without videos."""
        counts = self.confusion()
        with np.errstate(invalid="ignore"):
            return 100 * counts.diagonal() / counts.sum(axis=1)

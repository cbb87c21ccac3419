"""Feature files: the classifier's input for every video, for classifiers or retrieval of your own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vsn_train.array_files import read_arrays, read_facts, write_arrays
from vsn_train.errors import InputError


@dataclass(frozen=True)
class Features:
    """ids: (N,) sample ids; labels: (N,) int64, -1 where unknown; features: (N, D) float32, means over frames and
    views, NaN for a video that could not be read. class_names, facts: as of `Scores`, from the same evaluation."""

    ids: np.ndarray
    labels: np.ndarray
    features: np.ndarray
    class_names: np.ndarray
    facts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.ids)

    def save(self, path: Path) -> None:
        """Write an .npz without pickled objects; the same features give the same bytes."""
        facts = np.array(json.dumps(self.facts, sort_keys=True))
        write_arrays(path, vars(self) | {"facts": facts})

    @staticmethod
    def load(path: str | Path) -> Features:
        """Read a feature file. Raises InputError for a file that is missing, damaged or of another kind."""
        names = ("ids", "labels", "features", "class_names", "facts")
        advice = "vsn-eval features=true writes features.npz"
        arrays = read_arrays(Path(path), names, "feature file", advice)
        if arrays["features"].ndim != 2 or not len(arrays["features"]) == len(arrays["ids"]) == len(arrays["labels"]):
            raise InputError(f"{path}: not a feature file, or damaged; {advice}")
        try:
            facts = read_facts(arrays["facts"])
        except ValueError as error:
            raise InputError(f"{path}: not a feature file, or damaged ({error}); {advice}") from error
        return Features(arrays["ids"], arrays["labels"], arrays["features"], arrays["class_names"], facts)

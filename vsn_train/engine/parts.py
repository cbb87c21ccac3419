"""Score parts: the scores of an unfinished evaluation on disk, from which it can be resumed."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from vsn_train.array_files import check_column, read_arrays, read_facts, write_arrays
from vsn_train.data.loader import BadVideo
from vsn_train.engine.evaluate import Found
from vsn_train.errors import InputError

SECONDS = 1.0  # least time between two parts of one process, so that small groups share a file


class ScoreParts:
    """The parts of one evaluation in one folder, where each process writes files of its own.

    facts: the inputs that determine the scores; parts with other facts are refused. videos: number in the split. shape:
    of the scores kept per video, (V, K) or (1, K).
    """

    def __init__(self, folder: Path, facts: dict[str, Any], videos: int, shape: tuple[int, int]) -> None:
        self.folder, self.facts, self.videos, self.shape = folder, facts, videos, shape
        self.waiting: dict[int, np.ndarray] = {}
        self.written = float("-inf")  # the first group's part is written at once

    def read(self) -> dict[int, np.ndarray]:
        """Index -> scores (V, K) or (1, K) of every finished video. Raises InputError for parts with other facts."""
        found: dict[int, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.npz")):
            what = "part of an interrupted evaluation"
            arrays = read_arrays(path, ("indices", "rows", "facts"), what, "remove it")
            try:
                facts = read_facts(arrays["facts"])
                self._check(arrays["indices"], arrays["rows"], facts)
            except ValueError as error:
                raise InputError(f"{path}: not a {what}, or damaged ({error}); remove it") from error
            if differing := [key for key in self.facts if facts.get(key) != self.facts[key]]:
                raise InputError(
                    f"resume=true, but {self.folder} holds parts of another evaluation: {', '.join(differing)} differ; "
                    "restore it, or restart the evaluation without resume=true"
                )
            found |= zip(arrays["indices"].tolist(), arrays["rows"], strict=True)
        return found

    def _check(self, indices: np.ndarray, rows: np.ndarray, facts: dict[str, Any]) -> None:
        """Raise ValueError for content that `flush` does not write; a part with other facts may have any shape."""
        check_column(indices, "indices", "iu", (None,))
        check_column(rows, "rows", "f", (len(indices), None, None))
        if not np.isfinite(rows).all():
            raise ValueError("rows are not finite")
        if any(facts.get(key) != value for key, value in self.facts.items()):
            return
        check_column(rows, "rows", "f", (len(indices), *self.shape))
        if len(indices) and not 0 <= indices.min() <= indices.max() < self.videos:
            raise ValueError(f"indices are {indices.min()} to {indices.max()}, of {self.videos} videos")

    def add(self, results: Found) -> None:
        """Add one group's results. A group with an unreadable video is not kept, so a resumed run reads it again."""
        rows = {index: rows for index, rows in results.items() if not isinstance(rows, BadVideo)}
        if len(rows) == len(results):
            self.waiting |= rows
        if time.monotonic() - self.written >= SECONDS:
            self.flush()

    def flush(self) -> None:
        if self.waiting:
            indices = np.array(list(self.waiting), dtype=np.int64)
            arrays = {"indices": indices, "rows": np.stack(list(self.waiting.values()))}
            self.folder.mkdir(parents=True, exist_ok=True)
            facts = np.array(json.dumps(self.facts, sort_keys=True))
            write_arrays(self.folder / f"{indices[0]:08d}.npz", arrays | {"facts": facts})
        self.waiting = {}
        self.written = time.monotonic()

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

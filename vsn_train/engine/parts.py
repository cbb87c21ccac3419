"""Score parts: the scores of an evaluation so far, on disk, so that a killed evaluation can be resumed."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from vsn_train.analysis.scores import read_arrays, write_arrays
from vsn_train.data.loader import BadVideo
from vsn_train.engine.evaluate import Found
from vsn_train.errors import InputError

SECONDS = 1.0  # at least, between two parts of one process: many small groups share a file


class ScoreParts:
    """The parts of one evaluation in one folder; several processes write into it, each its own files.

    facts: what the scores stand on; parts of an evaluation with other facts are refused.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder = folder
        self.facts = facts
        self.waiting: dict[int, np.ndarray] = {}
        self.written = float("-inf")  # the first group's part is written at once

    def read(self) -> dict[int, np.ndarray]:
        """Index -> (V, K) or (1, K) of every video that is done. Raises InputError for parts of another evaluation."""
        found: dict[int, np.ndarray] = {}
        for path in sorted(self.folder.glob("*.npz")):
            arrays = read_arrays(path, ("indices", "rows", "facts"), "part of an interrupted evaluation")
            facts = json.loads(str(arrays["facts"]))
            if differing := [key for key in self.facts if facts.get(key) != self.facts[key]]:
                raise InputError(
                    f"resume=true, but {self.folder} holds parts of another evaluation: {', '.join(differing)} differ; "
                    "restore it, or restart the evaluation without resume=true"
                )
            found |= zip(arrays["indices"].tolist(), arrays["rows"], strict=True)
        return found

    def add(self, results: Found) -> None:
        """Take one group's results. A group with an unreadable video is not kept: it is read again on resume."""
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

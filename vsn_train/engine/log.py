"""What a run says: the terminal, log.txt for grep, metrics.jsonl for machines, TensorBoard for eyes."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

Item = TypeVar("Item")


class RunLog:
    """Writes into a run folder; without one (processes other than the main one) it keeps silent."""

    def __init__(self, folder: Path | None, first_step: int = 0) -> None:
        """first_step: where a resumed run goes on; what an earlier launch logged from there on is dropped."""
        self.folder = folder
        self.board: SummaryWriter | None = None
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._drop_metrics(folder / "metrics.jsonl", first_step)
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)

    @staticmethod
    def _drop_metrics(path: Path, first_step: int) -> None:
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            # A line that a crash cut short has no line end and belongs to what is done again.
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= first_step]
            path.write_text("".join(kept))

    def line(self, text: str) -> None:
        """One line on the terminal and, with the time, in log.txt."""
        if self.folder is None:
            return
        tqdm.write(text)
        with open(self.folder / "log.txt", "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def metrics(self, split: str, epoch: int, step: int, **values: Any) -> None:
        """One line of metrics.jsonl; the numbers go to TensorBoard as <split>/<name>. Accuracies are in percent."""
        if self.folder is None or self.board is None:
            return
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"split": split, "epoch": epoch, "step": step} | values) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self.board.add_scalar(f"{split}/{name}", value, step)

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


class Progress:
    """A bar over batches that also measures the share of time spent waiting for them."""

    def __init__(self, title: str, shown: bool) -> None:
        self.title = title
        # None: no bar either where the output is a file or a pipe.
        self.disable = None if shown else True
        self.waited = 0.0
        self.started = 0.0

    def over(self, items: Iterable[Item], total: int) -> Iterator[Item]:
        self.started = time.perf_counter()
        self.waited = 0.0
        iterator = iter(items)
        with tqdm(total=total, desc=self.title, disable=self.disable, leave=False, dynamic_ncols=True) as self.bar:
            while True:
                asked = time.perf_counter()
                item = next(iterator, None)
                self.waited += time.perf_counter() - asked
                if item is None:
                    return
                yield item
                self.bar.update()

    def show(self, text: str) -> None:
        self.bar.set_postfix_str(text, refresh=False)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def waiting_share(self) -> float:
        """Of the time since the first batch was asked for, 0 to 1."""
        return self.waited / max(self.seconds, 1e-9)

"""What a run says: the terminal, log.txt for grep, metrics.jsonl for machines, TensorBoard for eyes."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from vsn_train.errors import InputError

Item = TypeVar("Item")

QUARANTINE = "quarantine.txt"


class RunLog:
    """Writes into a run folder; without one (processes other than the main one) it keeps silent.

    rank_file: where such a process writes its lines all the same.
    """

    def __init__(
        self, folder: Path | None, first_step: int = 0, metrics_bytes: int = 0, rank_file: Path | None = None
    ) -> None:
        """first_step: optimizer steps done when a resumed run goes on. metrics_bytes: what metrics.jsonl held then.

        What an earlier launch logged from there on is dropped. Raises InputError when another process writes there.
        """
        self.folder = folder
        self.quarantined: set[int] = set()  # indices in quarantine.txt
        self.board: SummaryWriter | None = None
        self.file: TextIO | None = None
        if folder is None:
            if rank_file is not None:
                self.file = rank_file.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
            return
        folder.mkdir(parents=True, exist_ok=True)
        self.file = (folder / "log.txt").open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        _lock(self.file, folder)
        metrics = folder / "metrics.jsonl"
        if metrics.exists():
            os.truncate(metrics, min(metrics_bytes, metrics.stat().st_size))
        # TensorBoard forgets what an earlier launch wrote for this step and later ones; the step before it is done.
        self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else 0)

    def line(self, text: str) -> None:
        """One line on the terminal and, with the time, in log.txt."""
        if self.folder is not None:
            tqdm.write(text)
        if self.file is not None:
            self.file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def metrics(self, split: str, epoch: int, step: int, **values: Any) -> None:
        """One line of metrics.jsonl; the numbers go to TensorBoard as <split>/<name>. Accuracies are in percent."""
        if self.folder is None or self.board is None:
            return
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"split": split, "epoch": epoch, "step": step} | values) + "\n")
        flat = {f"{split}/{name}": value for name, value in values.items() if not isinstance(value, dict)}
        for name, value in values.items():
            if isinstance(value, dict):
                flat |= {f"{name}/{part}": each for part, each in value.items()}
        for name, value in flat.items():
            if isinstance(value, int | float) and math.isfinite(value):
                self.board.add_scalar(name, value, step)

    def figure(self, name: str, step: int, image: Any) -> None:
        """To TensorBoard. image: uint8 (3, H, W)."""
        if self.board is not None:
            self.board.add_image(name, image, step)

    def settings(self, config: dict[str, Any]) -> None:
        """To TensorBoard's table of runs: what was asked for, beside the validation's scalars."""
        if self.board is None:
            return
        plain = {key: value for key, value in config.items() if isinstance(value, bool | int | float | str)}
        experiment, start, _ = hparams(
            plain, dict.fromkeys(("val/top1", "val/top5", "val/mean_class", "val/loss"), 0.0)
        )
        for each in (experiment, start):
            self.board._get_file_writer().add_summary(each)

    def quarantine(self, index: int, sample_id: str, cause: str) -> None:
        """One line of quarantine.txt, which later launches of the run read: this clip is not to be touched again."""
        self.quarantined.add(index)
        if self.folder is not None:
            with open(self.folder / QUARANTINE, "a", encoding="utf-8") as file:
                file.write(f"{quarantine_name(sample_id)}\t{' '.join(cause.split())}\n")

    def flush(self) -> int:
        """Hand everything to the system, so that a checkpoint does not know of more; bytes in metrics.jsonl."""
        if self.folder is None or self.board is None:
            return 0
        self.board.flush()
        path = self.folder / "metrics.jsonl"
        return path.stat().st_size if path.exists() else 0

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
        if self.file is not None:
            self.file.close()


def quarantine_name(sample_id: str) -> str:
    """A sample's name on one line of quarantine.txt; in quotes, as JSON has it, where it would not stay on one."""
    return sample_id if sample_id.isprintable() and not sample_id.startswith('"') else json.dumps(sample_id)


def _lock(file: TextIO, folder: Path) -> None:
    """Hold the run folder for as long as the file is open. Raises InputError when another process does."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    for _ in range(20):  # a killed launch takes a moment to go
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.5)
        except OSError:  # a file system without locks
            return
    raise InputError(f"{folder}: another vsn-train is writing into this run folder; wait for it, or end it")


class Progress:
    """A bar over batches that also measures the share of time spent waiting for them."""

    def __init__(self, title: str, shown: bool) -> None:
        self.title = title
        # None: no bar either where the output is a file or a pipe.
        self.disable = None if shown else True
        self.waited = 0.0
        self.started = 0.0

    def over(self, items: Iterable[Item], total: int, done: int = 0) -> Iterator[Item]:
        """Pass the items on. total: how many there are, with the `done` ones that an earlier launch has seen."""
        self.started = time.perf_counter()
        self.waited = 0.0
        iterator = iter(items)
        with tqdm(
            total=total, initial=done, desc=self.title, disable=self.disable, leave=False, dynamic_ncols=True
        ) as self.bar:
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

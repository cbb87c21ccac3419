"""The output of a run: the terminal, log.txt, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams
from tqdm import tqdm

from vsn_train.errors import InputError

Item = TypeVar("Item")

QUARANTINE = "quarantine.txt"


class RunLog:
    """Writes the log of a run into its folder; without a folder (ranks other than 0) only into rank_file, if any."""

    def __init__(
        self, folder: Path | None, first_step: int = 0, metrics_bytes: int = 0, rank_file: Path | None = None
    ) -> None:
        """first_step, metrics_bytes: optimizer steps done and size of metrics.jsonl at the checkpoint to resume from.

        Drops the entries after that checkpoint. Raises InputError if another process writes into the folder.
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
        try:
            _lock(self.file, folder)
            metrics = folder / "metrics.jsonl"
            if metrics.exists():
                os.truncate(metrics, min(metrics_bytes, metrics.stat().st_size))
            # purge_step: TensorBoard ignores entries of an earlier launch for this and later steps.
            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step + 1 if first_step else 0)
        except BaseException:
            self.file.close()
            raise

    def line(self, text: str) -> None:
        """One line on the terminal and, with a time stamp, in log.txt."""
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
        """Write an image to TensorBoard. image: uint8 (3, H, W)."""
        if self.board is not None:
            self.board.add_image(name, image, step)

    def settings(self, config: dict[str, Any]) -> None:
        """Write the config to TensorBoard's table of runs (HParams), next to the validation metrics."""
        if self.board is None:
            return
        plain = {key: value for key, value in config.items() if isinstance(value, bool | int | float | str)}
        experiment, start, _ = hparams(
            plain, dict.fromkeys(("val/top1", "val/top5", "val/mean_class", "val/loss"), 0.0)
        )
        for each in (experiment, start):
            self.board._get_file_writer().add_summary(each)

    def quarantine(self, index: int, sample_id: str, cause: str) -> None:
        """Add a video to quarantine.txt, which later launches of the run read: it is not decoded again."""
        self.quarantined.add(index)
        if self.folder is not None:
            with open(self.folder / QUARANTINE, "a", encoding="utf-8") as file:
                file.write(f"{quarantine_name(sample_id)}\t{' '.join(cause.split())}\n")

    def flush(self) -> int:
        """Flush everything, so that no checkpoint is ahead of the log. Returns the size of metrics.jsonl in bytes."""
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
    """The name of a sample on one line of quarantine.txt; as a JSON string if it has unprintable characters."""
    return sample_id if sample_id.isprintable() and not sample_id.startswith('"') else json.dumps(sample_id)


def _lock(file: TextIO, folder: Path) -> None:
    """Lock the run folder while the file is open. Raises InputError if another process holds it."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    for _ in range(20):  # a killed launch takes a moment to end
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            time.sleep(0.5)
        except OSError:  # a file system without locks
            return
    raise InputError(f"{folder}: another vsn-train is writing into this run folder; wait for it, or stop it")


class Progress:
    """A progress bar over batches that also measures the share of time spent waiting for them."""

    def __init__(self, title: str, shown: bool) -> None:
        self.title = title
        # None: tqdm also shows no bar if the output is a file or a pipe.
        self.disable = None if shown else True
        self.waited = 0.0
        self.started = 0.0
        self.passed = 0  # items of this launch

    def over(self, items: Iterable[Item], total: int, done: int = 0) -> Iterator[Item]:
        """Iterate over the items. total: their number, including the `done` ones of an earlier launch."""
        self.started = time.perf_counter()
        self.waited, self.passed = 0.0, 0
        iterator = iter(items)
        with _Bar(
            total=total, initial=done, desc=self.title, disable=self.disable, leave=False, dynamic_ncols=True
        ) as self.bar:
            while True:
                asked = time.perf_counter()
                item = next(iterator, None)
                self.waited += time.perf_counter() - asked
                if item is None:
                    return
                yield item
                self.passed += 1
                self.bar.update()

    def show(self, parts: Sequence[str]) -> None:
        """Set the texts at the end of the bar, most important first. A text that does not fit is left out."""
        self.bar.parts = list(parts)

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    @property
    def waiting_share(self) -> float:
        """Share of the time since the first batch was requested that was spent waiting, 0 to 1."""
        return self.waited / max(self.seconds, 1e-9)


class _Bar(tqdm):
    """A bar of tqdm that drops whole parts if the line is too long; tqdm would cut `lr 5.4e-06` to `lr 5.4`."""

    parts: Sequence[str] = ()

    @property
    def format_dict(self) -> dict[str, Any]:
        facts = super().format_dict
        ascii_bar = " #" if facts["ascii"] is True else facts["ascii"]  # tqdm's own has digits that look like a count
        return facts | {"bar_format": bar_format(facts, self.parts), "ascii": ascii_bar}


def bar_format(facts: dict[str, Any], parts: Sequence[str]) -> str:
    """A format string for tqdm whose line fits the terminal. facts: `tqdm.format_dict`; its ncols may be None."""
    width = facts["ncols"] or 80
    done, total = facts["n"], facts["total"]
    speed = (done - facts["initial"]) / max(facts["elapsed"], 1e-9)
    left = duration((total - done) / speed) if speed else "?"
    title = [str(facts["prefix"]).removesuffix(": "), f"{done}/{total}"]
    text = _joined([*title, f"{left} left"])
    if len(text) > width:  # narrower than anything useful
        return _joined(title).replace("{", "{{").replace("}", "}}") if len(_joined(title)) <= width else " "
    for part in parts:
        if len(longer := f"{text}  {part}") > width:
            break
        text = longer
    room = width - len(text) - 4  # two blanks and the marks at both ends
    text = text.replace("{", "{{").replace("}", "}}")
    return f"{text}  |{{bar:{min(room, 30)}}}|" if room >= 5 else text


def _joined(parts: Sequence[str]) -> str:
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """59 s, 12:05 (minutes), 3:07:09 (hours), 2 d 3 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d}"
    if whole < 2 * 86400:
        return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 86400} d {whole // 3600 % 24} h"

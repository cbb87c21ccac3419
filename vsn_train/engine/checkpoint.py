"""Checkpoints: when a run is saved, which files are kept, and which one to resume from.

A half-written file is never read (atomic.py). Training waits only while the tensors are copied; a thread writes them.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import time
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vsn_train.atomic import atomic_path, remove_parts
from vsn_train.engine.checkpoint_fields import check_content
from vsn_train.engine.state import Checkpoint
from vsn_train.errors import InputError, StoppedError
from vsn_train.models.model_folder import files_of, is_model_folder
from vsn_train.models.weights import read_tensors
from vsn_train.typed_paths import paste


class Checkpoints:
    """The checkpoints folder of a run: last.pt, best.pt, and epoch_<n>.pt of milestones and of the other best ones.

    current: returns the checkpoint to save. writes: whether this process writes; only rank 0 does. every_steps,
    every_minutes: intervals of saving within an epoch; 0: off. keep_best: number of best validations to keep.
    milestones: epochs whose checkpoints are kept.
    """

    def __init__(
        self,
        folder: Path,
        current: Callable[[], Checkpoint],
        writes: bool,
        every_steps: int = 0,
        every_minutes: float = 0.0,
        keep_best: int = 1,
        milestones: Sequence[int] = (),
    ) -> None:
        self.folder, self.current, self.writes = folder, current, writes
        self.every_steps, self.every_minutes = every_steps, every_minutes
        self.keep_best, self.milestones = keep_best, milestones
        self.last = folder / "last.pt"
        self.saved_at = time.monotonic()
        self.writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self.pending: Future[None] | None = None
        if writes:
            folder.mkdir(parents=True, exist_ok=True)
            remove_parts(folder)

    def due(self, step: int) -> bool:
        """Whether to save after the step that follows `step`. For every_minutes the clock of rank 0 decides."""
        if self.every_steps and (step + 1) % self.every_steps == 0:
            return True
        return self.writes and 0 < 60 * self.every_minutes <= time.monotonic() - self.saved_at

    def save(self) -> None:
        """Write last.pt in the background; after a validation also best.pt and epoch_<n>.pt where they are due.

        Raises StoppedError if weights are not finite, and if the previous save failed; existing files stay intact.
        """
        self.saved_at = time.monotonic()
        if not self.writes:
            return
        self.wait()
        checkpoint = self.current()
        if broken := not_finite(checkpoint.model):
            left = f"; resume from {self.how_to_resume()}" if self.last.exists() else ""
            raise StoppedError(
                f"after step {checkpoint.step} {broken} has values that are not finite: the training has diverged, and "
                f"nothing was saved; lower optimizer.lr, or check the data{left}"
            )
        best = [int(epoch) for _, epoch in checkpoint.best]
        kept = {*self.milestones, *(best[: self.keep_best] if self.keep_best > 1 else [])}
        copies = []
        if checkpoint.epoch and checkpoint.videos == 0:  # right after a validation
            copies += ["best.pt"] if best[0] == checkpoint.epoch else []
            copies += [f"epoch_{checkpoint.epoch}.pt"] if checkpoint.epoch in kept else []
        content = _copy(checkpoint.content())
        self.pending = self.writer.submit(self._write, content, copies, {f"epoch_{epoch}.pt" for epoch in kept})

    def _write(self, content: dict[str, Any], copies: list[str], kept: set[str]) -> None:
        with atomic_path(self.last) as written:
            _write_content(written, content)
            # The copies first: a run that resumes from the new last.pt relies on them.
            for name in copies:
                with atomic_path(self.folder / name) as copy:
                    try:
                        os.link(written, copy)
                    except OSError:  # a file system without hard links
                        shutil.copyfile(written, copy)
        for path in self.folder.glob("epoch_*.pt"):
            if path.name not in kept:
                path.unlink()

    def wait(self) -> None:
        """Wait for the pending write. Raises StoppedError if it failed."""
        if self.pending is None:
            return
        try:
            self.pending.result()
        except OSError as error:
            if self.last.exists():
                left = f"the previous checkpoint is intact: make room, then resume from {self.how_to_resume()}"
            else:
                left = "there is no checkpoint yet: make room or choose another hydra.run.dir"
            raise StoppedError(f"cannot save {self.last}: {error.strerror or error}; {left}") from error
        finally:
            self.pending = None

    def how_to_resume(self) -> str:
        return f"{self.last} (to resume: {paste('resume=true', hydra__run__dir=self.folder.parent)})"


def _copy(value: Any) -> Any:
    """Copy every tensor to the CPU, so that training can change the originals meanwhile."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(each) for each in value]
    return value


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write atomically: a crash leaves the previous file or the new one, intact."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as written:
        _write_content(written, checkpoint.content())


def _write_content(path: Path, content: dict[str, Any]) -> None:
    """Raises OSError."""
    with open(path, "wb") as file:
        watched = _Watched(file.write)
        try:
            torch.save(content, watched)  # type: ignore[arg-type]
        except RuntimeError:
            # torch hides the file's own error behind one of its zip writer.
            raise (watched.error or OSError("torch could not write it")) from None


class _Watched:
    """A writer that remembers the OSError of a failed write."""

    def __init__(self, write: Callable[[bytes], int]) -> None:
        self._write = write
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        pass


@dataclass(frozen=True)
class OpenedCheckpoint:
    """A checkpoint that was read once: its content, path and hash.

    hash: see `file_hash`. checkpoint: without the optimizer's tensors, which only a training needs.
    """

    path: Path
    hash: str
    checkpoint: Checkpoint

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as bytes: torch would send tensors through shared memory, which may be small."""
        content = io.BytesIO()
        torch.save(self.checkpoint.content(), content)
        return _unpacked, (self.path, self.hash, content.getvalue())


def _unpacked(path: Path, hash: str, content: bytes) -> OpenedCheckpoint:
    checkpoint = Checkpoint.of(torch.load(io.BytesIO(content), weights_only=True))
    assert checkpoint is not None
    return OpenedCheckpoint(path, hash, checkpoint)


def open_checkpoint(path: Path) -> OpenedCheckpoint:
    """Read a checkpoint for inference. Raises InputError as `load_checkpoint`, and for weights that are not finite.

    The hash belongs to the bytes that were read, even if a training replaces the file meanwhile.
    """
    for _ in range(10):
        before = _identity(path)
        checkpoint = load_checkpoint(path)
        if broken := not_finite(checkpoint.average or checkpoint.model):
            raise InputError(
                f"{path}: {broken} has values that are not finite: scores would be meaningless; use an earlier one"
            )
        found = OpenedCheckpoint(path, file_hash(path), replace(checkpoint, optimizer={}, scaler={}))
        if before == _identity(path):
            return found
    raise InputError(f"{path}: the file keeps being replaced while it is read; use a copy of it")


def checkpoint_in(path: Path) -> Path:
    """The checkpoint of a path: the file itself, best.pt of a run folder, or an exported folder (model_folder.py)."""
    for folder in (path / "checkpoints", path):
        for name in ("best.pt", "last.pt"):
            if path.is_dir() and (folder / name).is_file():
                return folder / name
    if is_model_folder(path):
        return path.resolve()  # results are named after the folder: "." would be no name
    if path.is_dir():
        raise InputError(
            f"checkpoint={path}: a folder without checkpoints; expected a run folder or a .pt file, or a folder that "
            "vsn-tools export format=folder has written"
        )
    return path


def _identity(path: Path) -> list[tuple[int, ...]]:
    try:
        found = [each.stat() for each in files_of(path)]
    except OSError:
        return []
    return [(each.st_dev, each.st_ino, each.st_size, each.st_mtime_ns) for each in found]


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint of vsn-train; tensors are memory-mapped. Raises InputError for any other or a damaged file."""
    check_sums(path)
    content = read_tensors(path, mmap=True)
    try:
        check_content(content)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    checkpoint = Checkpoint.of(content)
    assert checkpoint is not None
    return checkpoint


# What zipfile raises for damage, wherever it lies: a name that is no text is a ValueError.
DAMAGED = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError, LookupError,
    OverflowError,
)  # fmt: skip


def check_sums(path: Path) -> None:
    """Raise InputError for a damaged file: torch.save stores checksums, which torch.load does not verify."""
    if not zipfile.is_zipfile(path):
        return  # read_tensors raises the error
    try:
        with zipfile.ZipFile(path) as archive:
            if packed := [each.filename for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED]:
                # A few kilobytes can unpack to more than the memory.
                raise InputError(
                    f"{path}: {packed[0]} in it is compressed, which torch.save does not do; write it again"
                )
            damaged = archive.testzip()
    except DAMAGED as error:
        raise InputError(f"{path}: damaged ({error}); copy or write it again") from error
    if damaged:
        raise InputError(f"{path}: damaged: the checksum of {damaged} does not match; copy or write it again")


def not_finite(tensors: Mapping[str, Tensor]) -> str | None:
    """The name of the first tensor with a value that is not finite, or None."""
    broken = (name for name, each in tensors.items() if each.is_floating_point() and not torch.isfinite(each).all())
    return next(broken, None)


def newest_checkpoint(folder: Path) -> tuple[Path, Checkpoint, list[str]]:
    """The newest intact checkpoint of a run, and why newer ones were not used.

    Raises InputError if last.pt is missing or no file is intact.
    """
    last = folder / "last.pt"
    if not last.exists():
        load_checkpoint(last)  # raises the error
    others = sorted(folder.glob("*.pt"), key=lambda path: (path != last, -path.stat().st_mtime, path.name))
    passed_over: list[str] = []
    for path in others:
        try:
            found = load_checkpoint(path)
            if broken := not_finite(found.model):
                raise InputError(f"{path}: {broken} has values that are not finite; a training cannot resume from it")
            return path, found, passed_over
        except InputError as error:
            passed_over.append(str(error))
    raise InputError(
        f"{passed_over[0]}. No other checkpoint in {folder} is intact either; start a new run in another hydra.run.dir"
    )


def file_hash(path: Path) -> str:
    """First 16 hex digits of the file's SHA-256; of an exported folder: of its two files, one after the other."""
    digest = hashlib.sha256()
    for each in files_of(path):
        with open(each, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]

"""Count the frames of each video of a manifest: once, in parallel, resumable, stored next to the data.

A folder of frames with a known count need not be listed on every read, which relieves file servers. A scan also finds
damaged folders and files before a training does.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vsn_train.array_files import check_column, read_arrays, write_arrays
from vsn_train.data.manifest import Manifest
from vsn_train.data.video import open_video
from vsn_train.errors import InputError, VideoError

UNKNOWN = -1
CHUNK = 64  # videos per task of a worker


def count_frames(
    manifest: Manifest, modality: str = "rgb", workers: int = 1, progress: bool = True
) -> tuple[Manifest, list[str]]:
    """Count the frames. Returns the manifest with `num_frames`, and a line "path: cause" per unreadable video (-1).

    Counts are stored in .vsn-train in the manifest's root, or in ~/.cache/vsn-train if the root is read-only. The next
    scan reuses the counts of a killed one; unreadable videos are tried again. Raises InputError if a video crashes its
    worker process.
    """
    folder, key = _cache(manifest, modality)
    finished = folder / f"frames-{key}.npz"
    kept = _read_finished(finished, len(manifest))
    if kept is not None:
        counts, parts = kept, []
    else:
        counts = np.full(len(manifest), UNKNOWN, np.int32)
        parts = sorted(folder.glob(f"frames-{key}.*.part"))
        for part in parts:
            _read_part(part, counts)
    unread = np.flatnonzero(counts == UNKNOWN)
    if not len(unread):
        return replace(manifest, num_frames=counts), []
    # Each scan has its own file: two concurrent scans may do the same work twice, but do not mix their records.
    own = folder / f"frames-{key}.{socket.gethostname()}-{os.getpid()}.part"
    reasons = []
    with own.open("wb") as file:
        bar = tqdm(total=len(manifest), initial=len(manifest) - len(unread), unit="video", disable=not progress or None)
        bar.set_description(f"counting frames, {manifest.split}")
        flushed = time.monotonic()
        for index, count, cause in _count_all(manifest, unread.tolist(), modality, workers):
            if cause:
                reasons.append(f"{manifest.path(index)}: {cause}")
            else:
                counts[index] = count
                file.write(np.array([index, count], np.int32).tobytes())
            bar.update()
            if time.monotonic() - flushed > 1:
                file.flush()
                flushed = time.monotonic()
        bar.close()
    write_arrays(finished, {"counts": counts})
    for part in (*parts, own):
        part.unlink(missing_ok=True)
    return replace(manifest, num_frames=counts), sorted(reasons)


def _cache(manifest: Manifest, modality: str) -> tuple[Path, str]:
    """A writable folder for the counts, and the key of this list of files in it."""
    root = str(manifest.root.resolve())
    listing = b"\n".join([modality.encode(), os.fsencode(root), *manifest.paths.tolist()])
    key = hashlib.sha256(listing).hexdigest()[:16]
    for folder in (manifest.root / ".vsn-train", Path.home() / ".cache" / "vsn-train" / "frames"):
        try:
            if folder.is_symlink():  # the author of the data could choose where we write
                continue
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder, key
    raise InputError(f"can write neither into {manifest.root} nor into {folder}; set dataset.count_frames=false")


def _read_finished(path: Path, videos: int) -> np.ndarray | None:
    """The counts of a finished scan; None if there are none or the file is damaged, to count again."""
    if not path.is_file():
        return None
    try:
        counts = read_arrays(path, ("counts",), "file of frame counts", "remove it")["counts"]
        check_column(counts, "counts", "i", (videos,))
    except (InputError, ValueError):
        return None
    return np.where(counts > 0, counts, UNKNOWN).astype(np.int32)


def _read_part(path: Path, counts: np.ndarray) -> None:
    """Read the records of an earlier scan into `counts`: pairs of int32, of which a kill may have cut the last one."""
    try:
        data = path.read_bytes()
    except OSError:
        return
    records = np.frombuffer(data[: len(data) // 8 * 8], np.int32).reshape(-1, 2)
    records = records[(records[:, 0] >= 0) & (records[:, 0] < len(counts)) & (records[:, 1] > 0)]
    counts[records[:, 0]] = records[:, 1]


def _count_all(
    manifest: Manifest, indices: Sequence[int], modality: str, workers: int
) -> Iterator[tuple[int, int, str]]:
    """(index, count, "") or (index, -1, cause) of each, as they come."""
    chunks = [list(indices[start : start + CHUNK]) for start in range(0, len(indices), CHUNK)]
    with ProcessPoolExecutor(max(1, min(workers, len(chunks)))) as pool:
        tasks = [pool.submit(_count_chunk, chunk, [str(manifest.path(i)) for i in chunk], modality) for chunk in chunks]
        try:
            for task in as_completed(tasks):
                yield from task.result()
        except BrokenProcessPool as error:
            raise InputError(
                f"a process died while counting the frames of {manifest.root}; the counts so far are kept. Find the "
                "video that crashes it with `vsn-tools check`"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _count_chunk(indices: list[int], paths: list[str], modality: str) -> list[tuple[int, int, str]]:
    results = []
    for index, path in zip(indices, paths, strict=True):
        try:
            with open_video(path, modality=modality) as video:
                results.append((index, video.num_frames, ""))
        except VideoError as error:
            results.append((index, UNKNOWN, error.cause))
    return results

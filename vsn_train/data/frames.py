"""The frames of a video stored as a folder of images: RGB, or optical flow as pairs of grey images.

    00001.jpg            Something-Something V1, Jester
    000001.jpg           Something-Something V2 as TSM extracts it
    img_00001.jpg        UCF101, HMDB51, Kinetics as TSM and mmaction2 extract them; also image_, frame_, any one prefix
    flow_x_00001.jpg, flow_y_00001.jpg       optical flow, TSM; x_00001.jpg, y_00001.jpg: mmaction2

    times.txt                                optional: the time of each frame in seconds, one line per frame

Frame 0 is the image with the lowest number, which may be any; no number between the lowest and the highest may be
missing. Formats: JPEG and PNG.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vsn_train.data.times import even_times, read_times
from vsn_train.errors import VideoError

# (prefix, digits) of the usual names, tried in this order if the number of frames is known, to avoid a listing.
RGB_NAMES = (("", 5), ("", 6), ("img_", 5), ("image_", 5), ("frame_", 5), ("frame_", 6))
FLOW_NAMES = (("flow_", 5), ("", 5))  # before x_ and y_

# Larger images are refused before decoding: a file of a megabyte can expand to gigabytes. Twice the size of 8K video.
MAX_PIXELS = 1 << 26

_IMAGE = re.compile(r"(?P<prefix>.*?)(?P<number>\d+)\.(?P<suffix>jpe?g|png)", re.IGNORECASE | re.DOTALL)
_FLOW_PREFIX = re.compile(r"(?P<head>(?:.*[_-])?)[xy]_", re.DOTALL)


@dataclass(frozen=True)
class _Names:
    """The naming scheme of the images. prefixes: one, or those of x and y. first: number of frame 0."""

    prefixes: tuple[str, ...]
    digits: int
    suffix: str = "jpg"
    first: int = 1

    def __call__(self, frame: int) -> tuple[str, ...]:
        """The file of a frame, or its two files."""
        number = str(self.first + frame).zfill(self.digits)
        return tuple(f"{prefix}{number}.{self.suffix}" for prefix in self.prefixes)


class FrameFolder:
    """One open folder of frames, with the interface of `Video`; made by `open_video`.

    num_frames: number of images, or of pairs. fps: 0.0, as it is unknown; may be set. times: seconds after the first
    frame, float64 (num_frames,), from times.txt next to the images if there is one; else i / fps, or None without fps.
    height, width: pixels of the first image, by its header.
    """

    def __init__(self, path: str, modality: str = "rgb", num_frames: int | None = None) -> None:
        """num_frames: if known from a list; avoids listing the folder if the first and the last image exist."""
        self.path = path
        self.fps = 0.0
        self.channels = 2 if modality == "flow" else 3
        self._closed = False
        self._size: tuple[int, ...] | None = None
        known = _probe(path, modality, num_frames) if num_frames else None
        self._names, self.num_frames = known or _list_frames(path, modality)

    @property
    def height(self) -> int:
        return self._first_size()[0]

    @property
    def width(self) -> int:
        return self._first_size()[1]

    def _first_size(self) -> tuple[int, ...]:
        if self._size is None:
            size = picture_size(self.images(0)[0])
            return size if all(size) else tuple(self.read([0]).shape[-2:])
        return self._size

    @property
    def times(self) -> np.ndarray | None:
        times = read_times(Path(self.path), self.num_frames)
        return even_times(self.num_frames, self.fps) if times is None else times

    def read(self, frames: Sequence[int] | np.ndarray | torch.Tensor) -> torch.Tensor:
        """Read the given frames, in the given order; they may repeat. Opens only their files.

        Returns uint8 (N, 3, H, W), RGB, or (N, 2, H, W), flow in x and y with 128 for no motion; a view of memory laid
        out as (N, H, W, C) ("channels last"). Raises IndexError outside 0..num_frames-1, VideoError for an image that
        cannot be decoded or differs in size.
        """
        if self._closed:
            raise ValueError(f"{self.path} is closed")
        rows = rows_of_frames(self.path, self.num_frames, frames)
        images: np.ndarray | None = None
        for frame in sorted(rows):
            image = self._image(frame)
            if images is None:
                self._size = self._size or image.shape[:2]
                images = np.empty((len(frames), *self._size, self.channels), np.uint8)
            if image.shape[:2] != self._size:
                sizes = [f"{width}x{height}" for height, width in (image.shape[:2], images.shape[1:3])]
                raise VideoError(self.path, f"{self._names(frame)[0]} is {sizes[0]}, others are {sizes[1]}")
            images[rows[frame]] = image
        if images is None:
            images = np.empty((0, self.height, self.width, self.channels), np.uint8)
        return torch.from_numpy(images).permute(0, 3, 1, 2)

    def images(self, frame: int) -> list[bytes]:
        """The content of a frame's file, or of its two files of x and y."""
        found = []
        for name in self._names(frame):
            try:
                with open(os.path.join(self.path, name), "rb") as file:
                    found.append(file.read())
            except FileNotFoundError:
                raise VideoError(self.path, f"{name} is missing") from None
            except OSError as error:
                raise VideoError(self.path, f"{name}: {error.strerror}") from error
        return found

    def _image(self, frame: int) -> np.ndarray:
        """(H, W, C) uint8."""
        parts = []
        for name, data in zip(self._names(frame), self.images(frame), strict=True):
            try:
                image = decode_image_bytes(data, grey=self.channels == 2)
            except ValueError as error:
                raise VideoError(self.path, f"{name} {error}") from error
            parts.append(image)
        if len({part.shape for part in parts}) > 1:
            raise VideoError(self.path, f"{' and '.join(self._names(frame))} differ in size")
        return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]

    def close(self) -> None:
        self._closed = True

    def __enter__(self) -> FrameFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def decode_image_bytes(data: bytes, grey: bool = False) -> np.ndarray:
    """Decode the bytes of a JPEG or PNG file to (H, W, 3) uint8 RGB, or grey (H, W, 1). Raises ValueError (cause)."""
    if not data:
        raise ValueError("is empty")
    height, width = picture_size(data)
    if height * width > MAX_PIXELS:
        raise ValueError(f"is {width}x{height}; the limit is {MAX_PIXELS} pixels")
    try:
        from torchvision.io import ImageReadMode, decode_image
    except ImportError:  # torchvision 0.29 announced its removal
        return _decode_with_pillow(data, grey)
    try:
        mode = ImageReadMode.GRAY if grey else ImageReadMode.RGB
        image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"cannot be decoded ({str(error).splitlines()[0].strip()})") from error
    if image.dtype != torch.uint8:
        raise ValueError(f"has {image.dtype} pixels; expected 8 bits per channel")
    return image.permute(1, 2, 0).numpy()


def picture_size(data: bytes) -> tuple[int, int]:
    """(height, width) by the header of a JPEG or PNG file; (0, 0) if there is no valid header."""
    if data.startswith(b"\x89PNG"):
        return int.from_bytes(data[20:24], "big"), int.from_bytes(data[16:20], "big")
    position = 2
    while data.startswith(b"\xff\xd8") and position + 9 < len(data):
        if data[position] != 0xFF:
            break
        marker = data[position + 1]
        # Start of frame: C0 to CF but for three that are tables.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = data[position + 5 : position + 7], data[position + 7 : position + 9]
            return int.from_bytes(height, "big"), int.from_bytes(width, "big")
        # 0xFF may be repeated before a marker; restart markers and TEM have no length.
        alone = marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8
        size = (1 if marker == 0xFF else 2) if alone else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        position += size
    return 0, 0


def _decode_with_pillow(data: bytes, grey: bool) -> np.ndarray:
    """The same pixels as `decode_image`, in a third more time."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            pixels = np.asarray(image.convert("L" if grey else "RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot be decoded ({str(error).splitlines()[0].strip()})") from error
    return pixels[:, :, None] if grey else pixels


def rows_of_frames(
    path: str, num_frames: int, frames: Sequence[int] | np.ndarray | torch.Tensor
) -> dict[int, list[int]]:
    """Frame -> the rows of the result that hold it. Raises IndexError; TypeError if frames is no list of integers."""
    wanted = np.asarray(frames)
    if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
        raise TypeError(f"frames must be a list of integers, not {wanted.dtype} of shape {wanted.shape}")
    rows: dict[int, list[int]] = {}
    for row, frame in enumerate(wanted.tolist()):
        if not 0 <= frame < num_frames:
            raise IndexError(f"frame {frame} of {path}: it has {num_frames} frames, counted from 0")
        rows.setdefault(frame, []).append(row)
    return rows


def _probe(path: str, modality: str, num_frames: int) -> tuple[_Names, int] | None:
    """The usual names whose first and last image exist and whose next one does not; None: list the folder."""
    for head, digits in FLOW_NAMES if modality == "flow" else RGB_NAMES:
        names = _Names((f"{head}x_", f"{head}y_") if modality == "flow" else (head,), digits)
        there = [os.path.exists(os.path.join(path, names(frame)[-1])) for frame in (0, num_frames - 1, num_frames)]
        if there[0]:
            return (names, num_frames) if there[1] and not there[2] else None
    return None


def _list_frames(path: str, modality: str) -> tuple[_Names, int]:
    """Read the names in the folder. Raises VideoError if they are not the images of one video."""
    try:
        entries = os.listdir(path)
    except OSError as error:
        raise VideoError(path, error.strerror or str(error)) from error
    groups: dict[str, list[str]] = {}  # by prefix
    for name in entries:
        if match := _IMAGE.fullmatch(name):
            groups.setdefault(match["prefix"], []).append(name)
    if not groups:
        found = f"but {len(entries)} other files" if entries else "it is empty"
        raise VideoError(path, f"no numbered images (00001.jpg, img_00001.jpg, …) in this folder, {found}")
    flow = {match["head"] for prefix in groups if (match := _FLOW_PREFIX.fullmatch(prefix))}
    if modality == "flow":
        return _flow_names(path, groups, sorted(flow))
    rgb = [prefix for prefix in groups if not _FLOW_PREFIX.fullmatch(prefix)]
    if not rgb:
        raise VideoError(path, "only optical flow in this folder, no RGB images: set data.modality=flow")
    if len(rgb) > 1:
        examples = ", ".join(min(groups[prefix]) for prefix in sorted(rgb)[:4])
        raise VideoError(path, f"images with {len(rgb)} prefixes in this folder ({examples}): keep those of one video")
    return _numbering(path, rgb[0], groups[rgb[0]])


def _flow_names(path: str, groups: dict[str, list[str]], heads: list[str]) -> tuple[_Names, int]:
    """The names of the pairs of x and y images, and their number. Raises VideoError for other names."""
    if len(heads) != 1:
        found = f"pairs of {len(heads)} kinds" if heads else "none"
        raise VideoError(
            path,
            f"expected one kind of pairs flow_x_00001.jpg, flow_y_00001.jpg in this folder, found {found}; "
            "`vsn-tools flow` makes them",
        )
    x, y = f"{heads[0]}x_", f"{heads[0]}y_"
    for axis, partner in ((x, y), (y, x)):
        if axis not in groups:
            raise VideoError(path, f"{partner} images without {axis} ones: optical flow needs both")
    names, count = _numbering(path, x, groups[x])
    other, other_count = _numbering(path, y, groups[y])
    if (names.first, count, names.digits, names.suffix) != (other.first, other_count, other.digits, other.suffix):
        lone = sorted({name[len(x) :] for name in groups[x]} ^ {name[len(y) :] for name in groups[y]})[0]
        raise VideoError(path, f"only one of {x}{lone} and {y}{lone} exists: optical flow needs both")
    return replace(names, prefixes=(x, y)), count


def _numbering(path: str, prefix: str, names: list[str]) -> tuple[_Names, int]:
    """The numbering of the images with one prefix, and their number. Raises VideoError if one is missing."""
    images = {int(match["number"]): match for name in names if (match := _IMAGE.fullmatch(name))}
    if len(images) < len(names):
        raise VideoError(path, "two images have the same number, as 1.jpg and 00001.jpg: keep one")
    first, last = min(images), max(images)
    digits = len(images[first]["number"])  # no leading zeros: 1.jpg, …, 10.jpg
    named = _Names((prefix,), digits, images[first]["suffix"], first)
    for frame in range(last - first + 1):
        (name,) = named(frame)
        if first + frame not in images or images[first + frame].group() != name:
            raise VideoError(
                path, f"{name} is missing; the images go from {images[first].group()} to {images[last].group()}"
            )
    return named, len(images)

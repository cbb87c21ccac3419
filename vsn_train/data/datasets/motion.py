"""The built-in data set: short clips whose class is the direction of time, generated and stored as H.264 MP4 files.

`direction` (data set "motion"): six pairs of classes. Both classes of a pair are drawn by the same random process; for
the second one the frames are reversed before encoding. Every frame is an intra frame of the same quality, so encoding
commutes with the reversal: only the order of the frames distinguishes the two classes.

`appearance` (data set "motion_static"): similar clips labelled by their shape; the motion is random.

`order` (data set "motion_order"): a still shape lights up in two of three colours, one in the first half of the clip
and one in the second; the class is the order of the colours. Again the second class of a pair is the first one
reversed. At least three eighths of the clip between the two colours are the same in all classes, so no two neighbouring
frames show the order: a network must carry information over that gap.
"""

from __future__ import annotations

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from vsn_train.atomic import atomic_path, write_atomic
from vsn_train.data.manifest import Manifest, make_manifest
from vsn_train.errors import InputError

GENERATOR_VERSION = 2  # part of the cache's name: increase it if any pixel of any clip changes
FRAMES_PER_SECOND = 12
# (motion as drawn, the same motion with time reversed)
PAIRS = (
    ("left", "right"),
    ("up", "down"),
    ("approach", "recede"),
    ("clockwise", "counterclockwise"),
    ("appear", "vanish"),
    ("open", "close"),
)
# (first colour, then the other, the same reversed)
ORDER_PAIRS = (
    ("red_then_green", "green_then_red"),
    ("red_then_blue", "blue_then_red"),
    ("green_then_blue", "blue_then_green"),
)
LIGHTS = {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 240)}  # RGB
TEXTURES = ("stripes", "checker", "rings", "dots", "noise", "plain")
SHAPES = ("square", "disc", "triangle", "cross", "bar", "hollow")
CLASS_NAMES = {
    "direction": tuple(name for pair in PAIRS for name in pair),
    "appearance": SHAPES,
    "order": tuple(name for pair in ORDER_PAIRS for name in pair),
}
FLIP_PAIRS: dict[str, tuple[tuple[int, int], ...]] = {"direction": ((0, 1), (6, 7)), "appearance": (), "order": ()}
DATASET_NAMES = {"direction": "motion", "appearance": "motion_static", "order": "motion_order"}
TEXTURE_SIDE = 128  # pixels; about four times the usual size of a shape, so nearest-neighbour look-up is smooth enough


@dataclass(frozen=True)
class ClipSpec:
    """Everything that determines the pixels of one clip, except its size and its number of frames.

    texture_seed: unique number of the clip: even in train, odd in val, so the splits share none.
    """

    seed: int
    texture_seed: int
    motion: str
    reverse: bool
    shape: str


def clip_spec(variant: str, split: str, seed: int, label: int, index: int) -> ClipSpec:
    """The spec of video `index` of class `label`, independent of the number of videos and the order of generation."""
    classes = len(CLASS_NAMES[variant])
    texture_seed = 2 * (index * classes + label) + (split == "val")
    draw = np.random.default_rng([seed, texture_seed])
    if variant == "appearance":
        pair, reverse = divmod(int(draw.integers(2 * len(PAIRS))), 2)
        return ClipSpec(seed, texture_seed, PAIRS[pair][0], reverse == 1, SHAPES[label])
    pairs = ORDER_PAIRS if variant == "order" else PAIRS
    motion, shape = pairs[label // 2][0], SHAPES[draw.integers(len(SHAPES))]
    if motion == "clockwise":
        shape = "bar"  # only the rotation of a long shape can be learned in minutes from random weights
    return ClipSpec(seed, texture_seed, motion, label % 2 == 1, shape)


def render_clip(spec: ClipSpec, size: int, num_frames: int) -> np.ndarray:
    """Render a clip: uint8 (num_frames, size, size, 3) RGB, identical on every machine.

    Pixels are computed only with correctly rounded operations (+ - * / sqrt), since sin and exp differ in the last bit
    between processors.
    """
    look, move = (np.random.default_rng([spec.seed, spec.texture_seed, stream]) for stream in (1, 2))
    path = _trajectory(spec.motion, move, num_frames)
    background, color_a, color_b = _palette_and_background(look, size)
    margin = (len(background) - size) // 2
    jitter = look.integers(-margin, margin + 1, (num_frames, 2))

    pixel = np.float32(2 / size)  # frame coordinates run from -1 to 1
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * pixel - 1
    shift_y, shift_x = (jitter * pixel).astype(np.float32).T[:, :, None, None]
    dx = axis[None, None, :] - path["x"] + shift_x
    dy = axis[None, :, None] - path["y"] + shift_y
    u = (path["cos"] * dx + path["sin"] * dy) / path["scale"]  # shape coordinates, -1 to 1 inside the shape
    v = (path["cos"] * dy - path["sin"] * dx) / path["scale"]
    inside = np.float32(1)
    if spec.motion == "open":
        inside = np.abs(u) - path["gap"]  # two halves slide apart along u
        u = np.where(u < 0, -inside, inside)
    inside = np.minimum(inside, _shape(spec.shape, u, v))
    cover = np.clip(inside * path["scale"] / pixel + np.float32(0.5), 0, 1) * path["alpha"]

    # Shading from one side to the other makes rotation visible on round shapes with round textures.
    texture = (3 * _texture(look, TEXTURE_SIDE) + _texture(look, TEXTURE_SIDE, "plain")) / 4
    cells = [np.clip((w + 1) * (TEXTURE_SIDE // 2), 0, TEXTURE_SIDE - 1).astype(np.intp) for w in (v, u)]
    value = texture[cells[0], cells[1]][..., None]
    paint = color_a + value * (color_b - color_a)
    for light, shown in light_frames(spec, num_frames):
        paint[shown] = (np.float32(0.7) + np.float32(0.3) * value[shown]) * np.array(LIGHTS[light], np.float32)
    scene = np.stack([background[margin + y :, margin + x :][:size, :size] for y, x in jitter])
    frames = (scene + cover[..., None] * (paint - scene) + np.float32(0.5)).astype(np.uint8)
    return np.ascontiguousarray(frames[::-1]) if spec.reverse else frames


def light_frames(spec: ClipSpec, num_frames: int) -> list[tuple[str, slice]]:
    """The colours in which the shape lights up and their frames, before a reversal; empty for the other variants.

    Each lasts an eighth of the clip of N frames. Their starts are N/2 to 3/4 N frames apart, at a random position. The
    distribution is symmetric: the reversed clip is equally likely.
    """
    if spec.motion not in (first for first, _ in ORDER_PAIRS):
        return []
    draw = np.random.default_rng([spec.seed, spec.texture_seed, 3])
    length = max(num_frames // 8, 1)
    distance = int(draw.integers(num_frames // 2, 3 * num_frames // 4 + 1))
    start = int(draw.integers(num_frames - distance - length + 1))
    lights = spec.motion.split("_then_")
    return [(lights[0], slice(start, start + length)), (lights[1], slice(start + distance, start + distance + length))]


def _trajectory(motion: str, rng: np.random.Generator, num_frames: int) -> dict[str, np.ndarray]:
    """State of the shape in each frame, float32 (num_frames, 1, 1) each.

    x, y, scale: centre and half side in units of half the frame; cos, sin of the rotation angle (positive: clockwise);
    alpha 0 to 1; gap in units of the half side.
    """
    time = np.arange(num_frames) / max(num_frames - 1, 1)
    # Speeds up or slows down equally often, so that the speed profile does not reveal a reversal.
    progress = time + rng.uniform(-0.6, 0.6) * time * (1 - time)
    still = np.ones(num_frames)
    x, y = rng.uniform(-0.3, 0.3, (2, 1)) * still
    scale = rng.uniform(0.4, 0.6) * still
    turn = rng.uniform(0, 2 * np.pi) * still
    alpha, gap = still, 0 * still
    if motion == "left":
        x = x / 2 + rng.uniform(0.45, 0.75) * (1 - 2 * progress)
    elif motion == "up":
        y = y / 2 + rng.uniform(0.45, 0.75) * (1 - 2 * progress)
    elif motion == "approach":
        scale = scale * (0.5 + rng.uniform(0.8, 1.2) * progress)
    elif motion == "clockwise":
        scale = scale * 1.4
        turn = turn + rng.uniform(1.6, 3.0) * progress
    elif motion == "appear":
        alpha = progress
    elif motion == "open":
        gap = rng.uniform(0.4, 0.7) * progress
    # Rounding removes the last bits of cos and sin, which differ between C libraries.
    state = {"x": x, "y": y, "scale": scale, "cos": np.cos(turn), "sin": np.sin(turn), "alpha": alpha, "gap": gap}
    return {name: np.round(values, 6).astype(np.float32)[:, None, None] for name, values in state.items()}


def _palette_and_background(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float32 (side, side, 3) background with room for the camera's jitter, and the shape's two colours (3,)."""
    side = size + 2 * max(size // 48, 1)
    # Bright shapes on dark ground: with random contrast, training from random weights takes more than a few minutes.
    base = rng.uniform(0, 80, 3)
    accent = np.clip(base + rng.uniform(-50, 50, 3), 0, 255)
    field = (_noise(rng, int(rng.integers(3, 9)), side) + _texture(rng, side)) / 2
    background = (base + field[..., None] * (accent - base)).astype(np.float32)
    color_a, color_b = rng.uniform((180, 80), (255, 180), (3, 2)).astype(np.float32).T
    return background, color_a, color_b


def _texture(rng: np.random.Generator, side: int, family: str = "") -> np.ndarray:
    """A texture, float32 (side, side), values 0 to 1. family: empty: a random one."""
    family = family or TEXTURES[rng.integers(len(TEXTURES))]
    axis = (np.arange(side, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / side) - 1
    u, v = axis[None, :], axis[:, None]
    frequency = np.float32(rng.uniform(1.2, 2.2))
    phase = rng.uniform(0, 1, 2).astype(np.float32)
    slope = np.float32(rng.uniform(-1, 1))
    if family == "stripes":
        return _wave((u + slope * v) * frequency + phase[0])
    if family == "checker":
        return ((_wave(u * frequency + phase[0]) > 0.5) ^ (_wave(v * frequency + phase[1]) > 0.5)).astype(np.float32)
    if family == "rings":
        return _wave(np.sqrt(u * u + v * v) * frequency * np.float32(1.3) + phase[0])
    if family == "dots":
        a, b = _wave(u * frequency + phase[0]) - 1, _wave(v * frequency + phase[1]) - 1
        return np.clip(3 - 4 * np.sqrt(a * a + b * b), 0, 1)
    if family == "noise":
        return np.clip(2 * _noise(rng, 8, side) - np.float32(0.5), 0, 1)
    return (u + slope * v + 2) / 4  # plain: shaded from one side to the other


def _wave(phase: np.ndarray) -> np.ndarray:
    """Triangle wave of period 1 between 0 and 1."""
    return np.abs(2 * (phase - np.floor(phase)) - 1)


def _noise(rng: np.random.Generator, cells: int, side: int) -> np.ndarray:
    """float32 (side, side): random values on a grid of `cells`, interpolated linearly."""
    grid = rng.uniform(0, 1, (cells + 1, cells + 1)).astype(np.float32)
    position = np.arange(side, dtype=np.float32) * np.float32(cells / side)
    low = position.astype(np.intp)
    part = (position - low).astype(np.float32)
    rows = grid[low] + part[:, None] * (grid[low + 1] - grid[low])
    return rows[:, low] + part * (rows[:, low + 1] - rows[:, low])


def _shape(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Distance of each point from the shape's edge, in shape coordinates; negative outside."""
    across, along = np.abs(u), np.abs(v)
    if name == "square":
        return np.float32(0.85) - np.maximum(across, along)
    if name == "disc":
        return np.float32(0.95) - np.sqrt(u * u + v * v)
    if name == "triangle":
        return np.minimum(np.float32(0.7) - v, np.float32(0.45) * (v + 1) - across * np.float32(0.9))
    if name == "cross":
        thin, long = np.float32(0.4), np.float32(1)
        return np.maximum(np.minimum(thin - across, long - along), np.minimum(long - across, thin - along))
    if name == "bar":
        return np.minimum(1 - across, np.float32(0.4) - along)
    return np.float32(0.28) - np.abs(np.maximum(across, along) - np.float32(0.6))  # hollow: a square with a hole


def encode_clip(frames: np.ndarray) -> bytes:
    """Encode as H.264 in MP4, all key frames of the same quality, so that the codec does not reveal the order."""
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES_PER_SECOND)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.gop_size, stream.thread_count = 1, 1
        stream.options = {"preset": "veryfast", "qp": "20"}
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return target.getvalue()


def load_motion(
    root: Path,
    split: str,
    variant: str = "direction",
    seed: int = 0,
    train_videos: int = 960,
    val_videos: int = 360,
    size: int = 64,
    num_frames: int = 24,
    progress: bool = True,
) -> Manifest:
    """Load a split; first generates the clips of both splits that are not in the cache.

    root: cache folder; each choice of parameters has its own folder in it.
    train_videos, val_videos: clips over all classes; multiples of the number of classes. size: side in pixels, even.
    Any number of processes may call this concurrently; a call continues the work of an interrupted one.
    Raises InputError for parameters out of range and for a root that cannot be written.
    """
    videos = {"train": train_videos, "val": val_videos}
    _check(split, variant, seed, videos, size, num_frames)
    root = Path(root)
    name, classes = DATASET_NAMES[variant], CLASS_NAMES[variant]
    folder = root / f"{name}-v{GENERATOR_VERSION}-seed{seed}-{size}px-{num_frames}f-{train_videos}+{val_videos}"
    listing = {
        part: {
            f"{part}/{classes[number % len(classes)]}/{number // len(classes):05d}.mp4": number % len(classes)
            for number in range(count)
        }
        for part, count in videos.items()
    }
    specs = {
        path: clip_spec(variant, part, seed, label, number // len(classes))
        for part, labels in listing.items()
        for number, (path, label) in enumerate(labels.items())
    }
    try:
        missing = {path: spec for path, spec in specs.items() if not _is_complete(folder / path)}
        if missing or not (folder / "finished").exists():
            parameters = {"version": GENERATOR_VERSION, "variant": variant, "seed": seed, **videos}
            parameters |= {"size": size, "num_frames": num_frames}
            _generate(folder, missing, size, num_frames, progress)
            content = {"parameters": parameters, "classes": classes, "files": {k: list(v) for k, v in listing.items()}}
            write_atomic(folder / "listing.json", json.dumps(content, indent=1))
            write_atomic(folder / "finished", b"")
    except OSError as error:
        raise InputError(
            f"{name}: cannot write clips under {root} ({error.strerror or error}); set dataset.root to a writable "
            "folder with about 20 kB of space per clip"
        ) from error
    labels = listing[split]
    return make_manifest(name, split, folder, list(labels), list(labels.values()), classes, FLIP_PAIRS[variant])


def _check(split: str, variant: str, seed: int, videos: dict[str, int], size: int, num_frames: int) -> None:
    if variant not in CLASS_NAMES:
        raise InputError(f"motion: unknown variant {variant!r}; expected one of {', '.join(CLASS_NAMES)}")
    if split not in videos:
        raise InputError(f"motion: unknown split {split!r}; expected one of {', '.join(videos)}")
    classes = len(CLASS_NAMES[variant])
    for part, count in videos.items():
        if count < classes or count % classes:
            raise InputError(
                f"motion: {part}_videos={count} cannot be divided evenly; expected a positive multiple of the "
                f"{classes} classes, for example {max(round(count / classes), 1) * classes}"
            )
    if seed < 0:
        raise InputError(f"motion: seed={seed}; expected 0 or more")
    if size < 16 or size % 2:
        raise InputError(f"motion: size={size} pixels; H.264 needs an even side, and shapes at least 16 pixels")
    if num_frames < 2:
        raise InputError(f"motion: num_frames={num_frames}; a direction of time needs at least 2 frames")


def _is_complete(path: Path) -> bool:
    # A power cut can leave an empty file behind a rename.
    return path.is_file() and path.stat().st_size > 0


def _generate(folder: Path, specs: dict[str, ClipSpec], size: int, num_frames: int, progress: bool) -> None:
    """Render and write the clips, in threads: NumPy and x264 release the GIL, and any process may start threads."""
    if "libx264" not in av.codecs_available:
        raise InputError("motion: this PyAV has no H.264 encoder (libx264); install it with pip install --upgrade av")
    for parent in {folder / Path(path).parent for path in specs} | {folder}:
        parent.mkdir(parents=True, exist_ok=True)
    paths = list(specs)
    start = os.getpid() % max(len(paths), 1)  # concurrent processes start at different clips

    def draw(path: str) -> None:
        if not _is_complete(folder / path):
            # Not flushed one by one: a clip that a power cut leaves empty is rendered again.
            with atomic_path(folder / path, flush=False) as written:
                written.write_bytes(encode_clip(render_clip(specs[path], size, num_frames)))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        clips = pool.map(draw, paths[start:] + paths[:start])
        for _ in tqdm(clips, "drawing motion clips", len(paths), unit="clip", disable=None if progress else True):
            pass

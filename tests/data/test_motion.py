"""The embedded data set: reproducible, balanced, and told apart by nothing but the order of the frames."""

from __future__ import annotations

import multiprocessing
import os
import zlib
from pathlib import Path

import av
import numpy as np
import pytest

from vsn_train.data.datasets import motion
from vsn_train.data.datasets.motion import CLASS_NAMES, clip_spec, encode_clip, load_motion, render_clip
from vsn_train.data.manifest import Manifest
from vsn_train.errors import InputError

SIZE, FRAMES = 32, 8
VARIANTS = ("direction", "appearance", "order")


def small(root: Path, split: str = "train", variant: str = "direction", train_videos: int = 12) -> Manifest:
    return load_motion(root, split, variant, 0, train_videos, 12, SIZE, FRAMES, progress=False)


def decode(source: Path) -> np.ndarray:
    """uint8 (N, H, W, 3)."""
    with av.open(str(source)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def files(manifest: Manifest) -> dict[str, bytes]:
    return {manifest.sample_id(i): manifest.path(i).read_bytes() for i in range(len(manifest))}


def draw(
    label: int, index: int, split: str = "train", size: int = SIZE, num_frames: int = FRAMES, variant: str = "direction"
) -> np.ndarray:
    return render_clip(clip_spec(variant, split, 0, label, index), size, num_frames)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return small(tmp_path_factory.mktemp("motion"))


def test_files_are_h264_of_the_asked_size(drawn: Manifest) -> None:
    with av.open(str(drawn.path(0))) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert (stream.width, stream.height) == (SIZE, SIZE)
    frames = decode(drawn.path(0))
    assert frames.shape == (FRAMES, SIZE, SIZE, 3)
    original = draw(int(drawn.labels[0]), 0)
    assert np.abs(frames.astype(int) - original.astype(int)).mean() < 10


def test_same_seed_same_files_whatever_the_number_of_videos(drawn: Manifest, tmp_path: Path) -> None:
    more = files(small(tmp_path, train_videos=24))
    assert {name: more[name] for name in files(drawn)} == files(drawn)


def test_another_seed_gives_other_pixels() -> None:
    first, second = (render_clip(clip_spec("direction", "train", seed, 0, 0), SIZE, FRAMES) for seed in (0, 1))
    assert not np.array_equal(first, second)


def test_pixels_are_the_ones_of_this_generator_version() -> None:
    # Fails when an edit changes the pixels: raise GENERATOR_VERSION, then correct the checksum.
    clips = b"".join(draw(label, 3, size=48, num_frames=5).tobytes() for label in range(12))
    assert (motion.GENERATOR_VERSION, zlib.crc32(clips)) == (2, 2524098955)
    clips = b"".join(draw(label, 3, size=48, num_frames=16, variant="order").tobytes() for label in range(6))
    assert zlib.crc32(clips) == 2285237369


@pytest.mark.parametrize("variant", VARIANTS)
def test_train_and_val_share_no_texture_seed(variant: str) -> None:
    seeds = {
        split: [
            clip_spec(variant, split, 0, k, i).texture_seed for k in range(len(CLASS_NAMES[variant])) for i in range(50)
        ]
        for split in ("train", "val")
    }
    assert not set(seeds["train"]) & set(seeds["val"])
    assert all(len(set(each)) == len(each) for each in seeds.values()), "two clips of a split share a texture"


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("split", ["train", "val"])
def test_classes_are_balanced(tmp_path: Path, variant: str, split: str) -> None:
    manifest = small(tmp_path, split, variant)
    counts = np.bincount(manifest.labels, minlength=len(manifest.class_names))
    assert manifest.name == {"direction": "motion", "appearance": "motion_static", "order": "motion_order"}[variant]
    assert manifest.class_names == CLASS_NAMES[variant]
    assert (counts == 12 // len(manifest.class_names)).all()


@pytest.mark.parametrize("variant", ["direction", "order"])
def test_second_class_of_a_pair_is_the_first_one_reversed(variant: str) -> None:
    for label in range(1, len(CLASS_NAMES[variant]), 2):
        spec = clip_spec(variant, "train", 0, label, 0)
        assert spec.reverse
        assert not clip_spec(variant, "train", 0, label - 1, 0).reverse
        forward = motion.ClipSpec(spec.seed, spec.texture_seed, spec.motion, False, spec.shape)
        np.testing.assert_array_equal(render_clip(spec, SIZE, FRAMES), render_clip(forward, SIZE, FRAMES)[::-1])


def test_encoding_does_not_know_the_direction(tmp_path: Path) -> None:
    # Encode and reverse in either order: the same frames. So the codec's artefacts are no clue either.
    frames = draw(0, 0)
    decoded = []
    for name, clip in (("forward", frames), ("backward", np.ascontiguousarray(frames[::-1]))):
        (tmp_path / name).write_bytes(encode_clip(clip))
        decoded.append(decode(tmp_path / name))
    np.testing.assert_array_equal(decoded[0], decoded[1][::-1])


@pytest.mark.parametrize("variant", ["direction", "order"])
def test_frames_without_their_order_do_not_separate_a_pair(variant: str) -> None:
    # Mean and spread of the pixels, and how far the frames lie apart, over 60 clips of each class.
    for label in range(0, len(CLASS_NAMES[variant]), 2):
        a, b = (
            np.array([[c.mean(), c.std(), np.abs(np.diff(c.astype(float), axis=0)).mean()] for c in clips])
            for clips in ([draw(k, i, size=16, variant=variant) for i in range(60)] for k in (label, label + 1))
        )
        t = (a.mean(0) - b.mean(0)) / np.sqrt(a.var(0) / len(a) + b.var(0) / len(b))
        assert (np.abs(t) < 4).all(), CLASS_NAMES[variant][label]


def lit(frames: np.ndarray) -> np.ndarray:
    """Of each frame the colour in which the shape lights up, 0 red, 1 green, 2 blue; -1: in none."""
    found = []
    for frame in frames.astype(int):
        strong = [(2 * frame[..., c] - frame.sum(axis=2) > 40) & (frame[..., c] > 130) for c in range(3)]
        areas = [each.sum() for each in strong]
        found.append(int(np.argmax(areas)) if max(areas) > 20 else -1)
    return np.array(found)


def test_the_two_colours_come_in_the_named_order_and_far_apart() -> None:
    colours = list(motion.LIGHTS)
    for label, name in enumerate(CLASS_NAMES["order"]):
        for index in range(6):
            seen = lit(draw(label, index, "val", 48, 24, "order"))
            shown = np.flatnonzero(seen >= 0)
            assert [colours[seen[i]] for i in (shown[0], shown[-1])] == name.split("_then_")
            assert len(shown) == 6, "each colour lasts an eighth of the clip"
            assert shown[2] < 12 <= shown[3], "one in each half"
            assert shown[3] - shown[2] > 9, "more than three eighths of the clip lie between them"


def test_between_the_colours_all_classes_look_alike() -> None:
    # The same spec under another class's name: but for the lit frames the same pixels.
    for index in range(4):
        spec = clip_spec("order", "train", 0, 0, index)
        clips = [
            render_clip(motion.ClipSpec(spec.seed, spec.texture_seed, name, False, spec.shape), SIZE, 24)
            for name, _ in motion.ORDER_PAIRS
        ]
        dark = np.ones(24, bool)
        for _, shown in motion.light_frames(spec, 24):
            dark[shown] = False
        for clip in clips[1:]:
            np.testing.assert_array_equal(clip[dark], clips[0][dark])
            assert not np.array_equal(clip[~dark], clips[0][~dark])


def test_when_the_colours_come_does_not_tell_a_clip_from_its_reversal() -> None:
    # First and last lit frame over many clips, forwards and backwards: the same distribution.
    starts, ends = [], []
    for index in range(400):
        (_, first), (_, last) = motion.light_frames(clip_spec("order", "train", 0, 0, index), 24)
        starts.append(first.start)
        ends.append(24 - last.stop)
    assert set(starts) == set(ends)
    t = (np.mean(starts) - np.mean(ends)) / np.sqrt((np.var(starts) + np.var(ends)) / 400)
    assert abs(t) < 4


def shape_mask(frames: np.ndarray) -> np.ndarray:
    """bool (N, H, W): pixels far from their median over time, that is the moving shape, roughly."""
    return np.abs(frames - np.median(frames, axis=0)).max(axis=3) > 60


def travel(frames: np.ndarray) -> tuple[float, float]:
    """Pixels that the shape's centre moves right and down from the first to the last frame."""
    first, last = (np.argwhere(mask).mean(axis=0) for mask in shape_mask(frames.astype(float))[[0, -1]])
    return last[1] - first[1], last[0] - first[0]


def test_classes_move_as_they_are_named() -> None:
    expected = {"left": (0, -1), "right": (0, 1), "up": (1, -1), "down": (1, 1)}
    for name, (axis, sign) in expected.items():
        moves = [travel(draw(CLASS_NAMES["direction"].index(name), i, size=64))[axis] for i in range(8)]
        assert np.median(moves) * sign > 15, f"{name} moves by {moves}"


def test_flip_pairs_are_each_others_flip(drawn: Manifest) -> None:
    names = drawn.class_names
    assert {frozenset((names[a], names[b])) for a, b in drawn.flip_pairs} == {
        frozenset(("left", "right")),
        frozenset(("clockwise", "counterclockwise")),
    }
    left, right = names.index("left"), names.index("right")
    flipped = [travel(draw(left, i, size=64)[:, :, ::-1])[0] for i in range(8)]
    assert np.sign(np.median(flipped)) == np.sign(np.median([travel(draw(right, i, size=64))[0] for i in range(8)]))
    assert turn_direction(names.index("clockwise")) == 1
    assert turn_direction(names.index("counterclockwise")) == -1
    assert turn_direction(names.index("clockwise"), flip=True) == -1
    assert turn_direction(names.index("open"), flip=True) == turn_direction(names.index("open")) == 0


def turn_direction(label: int, flip: bool = False) -> int:
    """1 clockwise, -1 counterclockwise, 0 neither: which turn about the shape's centre explains the change."""
    votes = []
    for index in range(6):
        frames = draw(label, index, size=64, num_frames=16).astype(float).mean(axis=3)
        if flip:
            frames = frames[:, :, ::-1]
        spread = np.abs(frames - np.median(frames, axis=0)).mean(axis=0)
        y, x = np.mgrid[:64, :64]
        cy, cx = (spread * y).sum() / spread.sum(), (spread * x).sum() / spread.sum()
        # Brightness change explained by a turn: d/dt + (angular speed) * d/d(angle) = 0.
        by_angle = (x - cx) * np.gradient(frames, axis=1) - (y - cy) * np.gradient(frames, axis=2)
        change = np.gradient(frames, axis=0)
        weight = spread > np.quantile(spread, 0.8)
        correlation = np.corrcoef(change[:, weight].ravel(), by_angle[:, weight].ravel())[0, 1]
        votes.append(-np.sign(correlation) if abs(correlation) > 0.1 else 0)
    return int(np.sign(np.sum(votes))) if abs(np.sum(votes)) >= 4 else 0


def test_deleted_and_empty_files_are_drawn_again(tmp_path: Path) -> None:
    manifest = small(tmp_path)
    before = files(manifest)
    manifest.path(0).unlink()
    manifest.path(5).write_bytes(b"")
    assert files(small(tmp_path)) == before
    assert sorted(path.name for path in manifest.root.iterdir()) == ["finished", "listing.json", "train", "val"]


def test_finished_cache_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(tmp_path)
    monkeypatch.setattr(motion, "render_clip", None)
    assert len(small(tmp_path, "val")) == 12


def test_two_processes_at_once_give_one_complete_set(drawn: Manifest, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=small, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert files(small(tmp_path)) == files(drawn)
    assert not list(tmp_path.glob("*/.partial-*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variant": "speed"}, "unknown variant 'speed'; expected one of direction, appearance, order"),
        ({"split": "test"}, "unknown split 'test'; expected one of train, val"),
        ({"train_videos": 100}, "train_videos=100 .* positive multiple of the 12 classes, for example 96"),
        ({"val_videos": 0}, "val_videos=0 .* for example 12"),
        ({"size": 33}, "size=33 pixels; H.264 needs an even side"),
        ({"num_frames": 1}, "num_frames=1; .* at least 2"),
        ({"seed": -1}, "seed=-1; expected 0 or more"),
    ],
)
def test_wrong_parameters_are_named(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_motion(tmp_path, **{"split": "train", "progress": False, **change})
    assert not list(tmp_path.iterdir())


def test_root_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write clips under .*file .*set dataset\.root"):
        small(tmp_path / "file")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_root_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match=r"cannot write clips under .*Permission denied"):
        small(tmp_path)

import numpy as np
import pytest
import torch

from tests.media import read_counter, write_counting_video
from vsn_train.data.augment import Augmentation
from vsn_train.data.loader import (
    IGNORED,
    BadVideo,
    EpochBatches,
    TestVideos,
    TrainingClips,
    read_test_video,
    test_loader,
    training_loader,
)
from vsn_train.data.manifest import make_manifest
from vsn_train.data.sampling import sample_indices

test_loader.__test__ = False  # type: ignore[attr-defined]  # a function of the library, not a test


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Four videos of 12 to 24 frames in two classes that are each other's mirror image, and one that is no video."""
    root = tmp_path_factory.mktemp("videos")
    names = [f"{index}.mp4" for index in range(5)]
    for index, name in enumerate(names[:4]):
        write_counting_video(root / name, 12 + 4 * index, width=64, height=64)
    (root / names[4]).write_bytes(b"not a video")
    return make_manifest("made", "train", root, names, [0, 1, 0, 1, 0], ["left", "right"], [(0, 1)])


def clips_of(manifest, **change):
    """change: fields of Augmentation, or seed."""
    seed = change.pop("seed", 3)
    how = Augmentation(**({"crop_size": 64, "scales": [1.0], "flip": False} | change))
    return TrainingClips(manifest, 4, "uniform", how, "auto", seed)


def test_a_clip_holds_the_frames_that_the_sampler_chose(manifest):
    clips = clips_of(manifest)
    for index in range(4):
        clip, label = clips[7, index]
        assert clip.dtype == torch.uint8
        assert label == index % 2
        wanted = sample_indices(12 + 4 * index, 4, 1, "uniform", np.random.default_rng((3, 7, index)))[0]
        assert [read_counter(frame) for frame in clip] == wanted.tolist()


def test_a_test_video_holds_the_frames_of_its_clips(manifest):
    video = read_test_video(manifest.path(2), 4, 2, "uniform", 64, "auto")
    shown = np.array([read_counter(frame) for frame in video.frames])
    assert shown[video.clips].tolist() == sample_indices(20, 4, 2).tolist()
    assert len(shown) == len(set(shown))


def test_a_sample_depends_on_seed_epoch_and_index_alone(manifest):
    first, _ = clips_of(manifest)[0, 3]
    assert torch.equal(clips_of(manifest)[0, 3][0], first)
    others = [clips_of(manifest)[1, 3][0], clips_of(manifest, seed=4)[0, 3][0]]
    assert not any(torch.equal(first, other) for other in others)


def test_a_mirrored_clip_has_the_mirrored_label(manifest):
    plain, flipped = clips_of(manifest), clips_of(manifest, flip=True)
    seen = set()
    for epoch in range(20):
        clip, label = plain[epoch, 0]
        other, other_label = flipped[epoch, 0]
        mirrored = not torch.equal(clip, other)
        assert torch.equal(clip.flip(-1) if mirrored else clip, other)
        assert (label, other_label) == (0, int(mirrored))
        seen.add(mirrored)
    assert seen == {True, False}


def test_unreadable_video_is_named_and_left_out(manifest):
    clips = clips_of(manifest)
    bad = clips[0, 4]
    assert isinstance(bad, BadVideo)
    assert bad.path == str(manifest.path(4))
    batches = EpochBatches(5, 5, 0, 1, seed=0)
    (batch,) = training_loader(clips, batches, 0, 0)
    assert batch.size == 4
    assert [video.index for video in batch.bad] == [4]
    alone = EpochBatches(5, 1, 0, 1, seed=0)
    sizes = {batch.size: (batch.video.shape[0], batch.label.tolist()) for batch in training_loader(clips, alone, 0, 0)}
    assert sizes[0] == (1, [IGNORED])  # a black clip keeps every process in step


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_video_once_an_epoch_and_the_same_videos_a_step(world_size):
    steps = []
    for rank in range(world_size):
        batches = EpochBatches(23, 6 // world_size, rank, world_size, seed=1)
        batches.epoch = 5
        mine = list(batches)
        assert len(mine) == len(batches) == 4
        steps.append(mine)
    together = [sorted(key for mine in steps for key in mine[step]) for step in range(4)]
    alone = EpochBatches(23, 6, 0, 1, seed=1)
    alone.epoch = 5
    assert together == [sorted(step) for step in alone]
    assert sorted(index for step in together for _, index in step) == list(range(23))
    alone.epoch = 6
    assert together != [sorted(step) for step in alone]


def test_workers_change_nothing(manifest):
    clips = clips_of(manifest, flip=True, scales=[1.0, 0.75])
    batches = EpochBatches(5, 2, 0, 1, seed=0)
    alone = [batch.video for batch in training_loader(clips, batches, 0, 0)]
    shared = [batch.video for batch in training_loader(clips, batches, 2, 0)]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_test_videos_decode_each_frame_once(manifest):
    videos = TestVideos(manifest, 8, 10, "dense", 32, "auto")
    groups = [[0, 1], [2], [4]]
    first, second, third = list(test_loader(videos, groups, 0, 0))
    assert [video.index for video in first] == [0, 1]
    assert first[0].frames.shape == (3, 3, 32, 32)  # of 12 frames: 0, 8 and 16 - 12 = 4
    assert first[0].clips.shape == (10, 8)
    assert (second[0].clips < len(second[0].frames)).all()
    assert isinstance(third[0], BadVideo)

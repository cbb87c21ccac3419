from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.media import read_counter, write_counting_folder, write_counting_video
from vsn_train.data.augment import Augmentation
from vsn_train.data.loader import (
    IGNORED,
    BadVideo,
    EpochBatches,
    EvalVideos,
    TrainingClips,
    eval_loader,
    read_eval_video,
    training_loader,
)
from vsn_train.data.manifest import make_manifest
from vsn_train.data.protocol import Protocol
from vsn_train.data.sampling import flow_stacks, sample_indices
from vsn_train.data.transforms import take_clip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Four videos of 12 to 24 frames in two classes that a horizontal flip exchanges, and one that is no video."""
    root = tmp_path_factory.mktemp("videos")
    names = [f"{index}.mp4" for index in range(5)]
    for index, name in enumerate(names[:4]):
        write_counting_video(root / name, 12 + 4 * index, width=64, height=64)
    (root / names[4]).write_bytes(b"not a video")
    return make_manifest("made", "train", root, names, [0, 1, 0, 1, 0], ["left", "right"], [(0, 1)])


def clips_of(manifest, **change):
    """change: fields of Augmentation, seed or modality."""
    seed, modality = change.pop("seed", 3), change.pop("modality", "rgb")
    how = Augmentation(**({"crop_size": 64, "scales": [1.0], "flip": False} | change))
    return TrainingClips(manifest, 4, "uniform", how, "auto", seed, modality)


def test_a_clip_holds_the_frames_that_the_sampler_chose(manifest):
    clips = clips_of(manifest)
    for index in range(4):
        clip, label = clips[7, index]
        assert clip.dtype == torch.uint8
        assert label == index % 2
        wanted = sample_indices(12 + 4 * index, 4, 1, "uniform", np.random.default_rng((3, 7, index)))[0]
        assert [read_counter(frame) for frame in clip] == wanted.tolist()


def test_a_test_video_holds_the_frames_of_its_clips(manifest):
    video = read_eval_video(manifest.path(2), 4, Protocol(2, "uniform", 1, 64, 64), "auto")
    shown = np.array([read_counter(frame) for frame in video.frames])
    assert shown[video.clips].tolist() == sample_indices(20, 4, 2).tolist()
    assert len(shown) == len(set(shown))


def test_a_sample_depends_on_seed_epoch_and_index_alone(manifest):
    first, _ = clips_of(manifest)[0, 3]
    assert torch.equal(clips_of(manifest)[0, 3][0], first)
    others = [clips_of(manifest)[1, 3][0], clips_of(manifest, seed=4)[0, 3][0]]
    assert not any(torch.equal(first, other) for other in others)


def test_a_flipped_clip_has_the_flipped_label(manifest):
    plain, flipped = clips_of(manifest), clips_of(manifest, flip=True)
    seen = set()
    for epoch in range(20):
        clip, label = plain[epoch, 0]
        other, other_label = flipped[epoch, 0]
        is_flipped = not torch.equal(clip, other)
        assert torch.equal(clip.flip(-1) if is_flipped else clip, other)
        assert (label, other_label) == (0, int(is_flipped))
        seen.add(is_flipped)
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


CLASSES = np.array([0] * 100 + [1] * 5 + [3] * 20)  # class 2 has no video


def balanced(rank=0, world_size=1, epoch=0, done=0):
    batches = EpochBatches(125, 6 // world_size, rank, world_size, seed=1, classes=CLASSES)
    batches.epoch, batches.done = epoch, done
    return list(batches)


def test_with_balance_every_class_is_there_equally_often_in_an_epoch():
    keys = [key for batch in balanced() for key in batch]
    assert len(keys) == len(set(keys)) == 125
    assert sorted(np.bincount(CLASSES[[key[1] for key in keys]])) == [0, 41, 42, 42]
    often = np.bincount([key[1] for key in keys], minlength=125)
    assert often[:100].max() == 1  # of the frequent class some, each once
    assert set(often[100:105]) <= {8, 9}  # of the rare one every video, as often as any other
    assert set(often[105:]) <= {2, 3}
    frequent = {key[1] for key in keys if key[1] < 100}
    seen = frequent.union(*({key[1] for batch in balanced(epoch=each) for key in batch} for each in range(1, 12)))
    assert len(seen) == 125  # over epochs all come
    assert balanced(epoch=1) != balanced()


@pytest.mark.parametrize("world_size", [2, 3])
def test_with_balance_the_videos_of_a_step_do_not_depend_on_processes_or_a_restart(world_size):
    ranks = [balanced(rank, world_size, epoch=4) for rank in range(world_size)]
    together = [sorted(key for mine in ranks for key in mine[step]) for step in range(len(ranks[0]))]
    whole = balanced(epoch=4)
    assert together == [sorted(step) for step in whole]
    assert balanced(epoch=4, done=42) == whole[7:]


def test_a_video_that_is_repeated_gives_another_clip(manifest):
    clips = clips_of(manifest)
    first, again = clips[0, 3][0], clips[0, 3, 1][0]
    assert torch.equal(clips[0, 3, 1][0], again)
    assert not torch.equal(first, again)
    assert clips.video_of((0, 3, 1)) == clips.video_of((0, 3))


def test_workers_change_nothing(manifest):
    clips = clips_of(manifest, flip=True, scales=[1.0, 0.75])
    batches = EpochBatches(5, 2, 0, 1, seed=0)
    alone = [batch.video for batch in training_loader(clips, batches, 0, 0)]
    shared = [batch.video for batch in training_loader(clips, batches, 2, 0)]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_eval_videos_decode_each_frame_once(manifest):
    videos = EvalVideos(manifest, 8, Protocol(10, "dense", 1, 32, 32), "auto")
    groups = [[0, 1], [2], [4]]
    first, second, third = list(eval_loader(videos, groups, 0, 0))
    assert [video.index for video in first] == [0, 1]
    assert first[0].frames.shape == (3, 3, 32, 32)  # of 12 frames: 0, 8 and 16 - 12 = 4
    assert first[0].clips.shape == (10, 8)
    assert (second[0].clips < len(second[0].frames)).all()
    assert isinstance(third[0], BadVideo)


@pytest.fixture(scope="module")
def flow_manifest(tmp_path_factory):
    """Two folders of optical flow, of 30 and of 7 fields; x shows the number of the field, y 100 more."""
    root = tmp_path_factory.mktemp("flow")
    for name, fields in {"a": 30, "b": 7}.items():
        write_counting_folder(root / name, fields, "flow_x_{:05d}.jpg", width=64, height=64)
        write_counting_folder(root / name, fields, "flow_y_{:05d}.jpg", offset=100, width=64, height=64)
    return make_manifest("made", "train", root, ["a", "b"], [0, 1], ["left", "right"], [(0, 1)])


def counters(clip):
    """(T, 10) of a flow clip."""
    return [[read_counter(channel[None]) for channel in frame] for frame in clip]


def expected_counters(indices, num_frames):
    return [[n + 100 * axis for n in stack for axis in (0, 1)] for stack in flow_stacks(indices, num_frames).tolist()]


@pytest.mark.parametrize(("index", "fields"), [(0, 30), (1, 7)])
def test_a_flow_clip_holds_stacks_of_five_fields(flow_manifest, index, fields):
    clips = clips_of(flow_manifest, modality="flow")
    clip, _ = clips[2, index]
    assert clip.shape == (4, 10, 64, 64)
    wanted = sample_indices(fields, 4, 1, "uniform", np.random.default_rng((3, 2, index)), length=5)[0]
    assert counters(clip) == expected_counters(wanted, fields)

    video = read_eval_video(flow_manifest.path(index), 4, Protocol(2, "uniform", 1, 64, 64), "auto", "flow")
    assert video.frames.shape[1:] == (2, 64, 64)
    for clip_of, wanted in zip(video.clips, sample_indices(fields, 4, 2, length=5), strict=True):
        assert counters(take_clip(video.frames, torch.as_tensor(clip_of))) == expected_counters(wanted, fields)


def test_flow_that_cannot_be_read_leaves_a_filler_of_ten_channels(flow_manifest):
    manifest = replace(flow_manifest, paths=np.array([b"missing", b"missing"]))
    (batch,) = training_loader(clips_of(manifest, modality="flow"), EpochBatches(2, 2, 0, 1, seed=0), 0)
    assert batch.video.shape == (1, 4, 10, 64, 64)
    assert [video.cause for video in batch.bad] == ["no such file or folder"] * 2

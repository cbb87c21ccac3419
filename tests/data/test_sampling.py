import numpy as np
import pytest

from vsn_train.data.sampling import flow_stacks, sample_indices


@pytest.mark.parametrize(
    ("num_frames", "T", "clips", "mode", "expected"),
    [
        # One clip takes the middle of each segment, rounded down: floor(F / T * (k + 1/2)).
        (80, 8, 1, "uniform", [[5, 15, 25, 35, 45, 55, 65, 75]]),
        (49, 8, 1, "uniform", [[3, 9, 15, 21, 27, 33, 39, 45]]),
        (8, 8, 1, "uniform", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        # Two clips: the middles, then the first frames (TSM's "twice_sample").
        (80, 8, 2, "uniform", [[5, 15, 25, 35, 45, 55, 65, 75], [0, 10, 20, 30, 40, 50, 60, 70]]),
        (60, 2, 3, "uniform", [[15, 45], [0, 30], [20, 50]]),
        # Shorter than T: stretched evenly, never the first frame eight times.
        (3, 8, 1, "uniform", [[0, 0, 0, 1, 1, 2, 2, 2]]),
        (1, 4, 1, "uniform", [[0, 0, 0, 0]]),
        # Windows of 64 frames, every 8th frame, evenly spread starts.
        (64, 8, 1, "dense", [[0, 8, 16, 24, 32, 40, 48, 56]]),
        (84, 8, 1, "dense", [[10, 18, 26, 34, 42, 50, 58, 66]]),
        (84, 4, 3, "dense", [[0, 16, 32, 48], [10, 26, 42, 58], [20, 36, 52, 68]]),
        # Shorter than the window: wraps round.
        (20, 8, 1, "dense", [[0, 8, 16, 4, 12, 0, 8, 16]]),
        (40, 4, 2, "dense", [[0, 16, 32, 8], [0, 16, 32, 8]]),
        # Shorter than T, or so short that a window would show one frame T times: stretched evenly.
        (3, 8, 2, "dense", [[0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 2, 2, 2]]),
        (8, 8, 1, "dense", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        (16, 4, 1, "dense", [[2, 6, 10, 14]]),
        (1, 4, 3, "dense", [[0, 0, 0, 0]] * 3),
    ],
)
def test_test_clips(num_frames, T, clips, mode, expected):
    found = sample_indices(num_frames, T, clips, mode)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_ten_dense_clips_spread_from_first_to_last_window():
    clips = sample_indices(300, 8, 10, "dense")
    assert clips.shape == (10, 8)
    assert clips[:, 0].tolist() == [0, 26, 52, 78, 104, 131, 157, 183, 209, 236]
    assert (np.diff(clips, axis=1) == 8).all()
    assert clips[-1, -1] == 292


def test_uniform_training_draws_each_frame_of_each_segment_equally_often():
    generator = np.random.default_rng(0)
    drawn = np.concatenate([sample_indices(32, 8, 1, "uniform", generator) for _ in range(4000)])
    assert (drawn // 4 == np.arange(8)).all()
    counts = np.bincount(drawn.ravel(), minlength=32)
    assert counts.min() > 850
    assert counts.max() < 1150


@pytest.mark.parametrize("num_frames", [1, 3, 7, 8, 9, 15, 64, 65, 300])
@pytest.mark.parametrize("mode", ["uniform", "dense"])
def test_training_stays_inside_the_video_and_follows_its_generator(num_frames, mode):
    first = [sample_indices(num_frames, 8, 1, mode, np.random.default_rng(seed)) for seed in range(50)]
    again = [sample_indices(num_frames, 8, 1, mode, np.random.default_rng(seed)) for seed in range(50)]
    assert np.array_equal(first, again)
    assert 0 <= np.min(first) <= np.max(first) < num_frames
    if mode == "uniform":
        assert (np.diff(np.array(first), axis=-1) >= 0).all()
        if num_frames < 9:
            assert set(np.unique(first)) == set(range(num_frames))


@pytest.mark.parametrize("arguments", [(0, 8), (8, 0), (8, 8, 0), (8, 8, 1, "random")])
def test_wrong_arguments(arguments):
    with pytest.raises(ValueError, match="expected"):
        sample_indices(*arguments)


def tsm_offsets(num_frames, segments, mode, length=1):
    """What the TSM repository's dataset.py and its tests take, counted from 0, written from its formulas."""
    if mode == "dense":
        starts = np.linspace(0, max(1, 1 + num_frames - 64) - 1, num=10, dtype=int)
        return [[int((64 // segments) * k + start) % num_frames for k in range(segments)] for start in starts]
    tick = (num_frames - length + 1) / float(segments)
    middles = [int(tick / 2.0 + tick * k) for k in range(segments)]
    return [middles, [int(tick * k) for k in range(segments)]] if mode == "twice" else [middles]


@pytest.mark.parametrize("segments", [8, 16])
def test_test_clips_are_tsms(segments):
    for num_frames in range(segments + 1, 400):
        one = sample_indices(num_frames, segments, 1, "uniform")
        assert one.tolist() == tsm_offsets(num_frames, segments, "test")
        two = sample_indices(num_frames, segments, 2, "uniform")
        assert two.tolist() == tsm_offsets(num_frames, segments, "twice")
        ten = sample_indices(num_frames, segments, 10, "dense")
        assert ten.tolist() == tsm_offsets(num_frames, segments, "dense")
        if num_frames >= segments + 4:
            flow = sample_indices(num_frames, segments, 1, "uniform", length=5)
            assert flow.tolist() == tsm_offsets(num_frames, segments, "test", length=5)


@pytest.mark.parametrize(
    ("num_frames", "T", "expected"),
    [
        # Stacks of five: the first frames are spread over the F - 4 that have a whole stack.
        (84, 8, [5, 15, 25, 35, 45, 55, 65, 75]),
        (12, 8, [0, 1, 2, 3, 4, 5, 6, 7]),
        # No room for T whole stacks: spread over all frames; the last stacks repeat the last field.
        (11, 8, [0, 2, 3, 4, 6, 7, 8, 10]),
        (3, 8, [0, 0, 0, 1, 1, 2, 2, 2]),
    ],
)
def test_first_fields_of_flow_stacks(num_frames, T, expected):
    assert sample_indices(num_frames, T, 1, "uniform", length=5).tolist() == [expected]
    for seed in range(20):
        drawn = sample_indices(num_frames, T, 1, "uniform", np.random.default_rng(seed), length=5)
        assert drawn.max() < (num_frames - 4 if num_frames - 4 >= T else num_frames)


@pytest.mark.parametrize(
    ("indices", "num_frames", "length", "expected"),
    [
        ([[0, 7]], 20, 5, [[[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]]]),
        ([[5, 8], [9, 0]], 10, 5, [[[5, 6, 7, 8, 9], [8, 9, 9, 9, 9]], [[9] * 5, [0, 1, 2, 3, 4]]]),
        ([[0, 2]], 3, 2, [[[0, 1], [2, 2]]]),
        ([[0, 0]], 1, 5, [[[0] * 5, [0] * 5]]),
    ],
)
def test_flow_stacks(indices, num_frames, length, expected):
    found = flow_stacks(np.array(indices), num_frames, length)
    assert found.dtype == np.int64
    assert found.tolist() == expected

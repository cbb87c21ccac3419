import numpy as np
import pytest
import torch

from vsn_train.data.augment import Augmentation, augment, random_crop
from vsn_train.data.mixing import mix_clips
from vsn_train.data.transforms import center_crop

LOOKS = [
    {"rand_augment": 2},
    {"rand_augment": 3, "magnitude": 30},
    {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
]
CROPS = [{"crop": "multiscale"}, {"crop": "random_resized"}, {"crop": "center"}]


@pytest.fixture(scope="module")
def clip():
    """Three equal frames of noise and gradients, in memory as a reader delivers them."""
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (60, 90, 3), dtype=np.uint8)
    image[20:40] = np.arange(90, dtype=np.uint8)[None, :, None] * 2
    return torch.from_numpy(np.stack([image] * 3)).permute(0, 3, 1, 2)


def made(clip, seed, **how):
    return augment(clip, Augmentation(**{"crop_size": 48, "short_side": 56, **how}), np.random.default_rng(seed))


@pytest.mark.parametrize("how", LOOKS + CROPS)
def test_one_draw_for_all_frames_and_from_the_generator_alone(clip, how):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    seen = set()
    for seed in range(12):
        result, flipped = made(clip, seed, **how)
        assert result.shape == (3, 3, 48, 48)
        assert result.dtype == torch.uint8
        assert torch.equal(result[0], result[1])
        assert torch.equal(result[0], result[2])
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(seed)  # what else draws from torch's generator changes nothing
        again, flipped_again = made(clip, seed, **how)
        assert torch.equal(result, again)
        assert flipped == flipped_again
        torch.set_rng_state(state)
        seen.add(result.numpy().tobytes())
    assert len(seen) >= (2 if how.get("crop") == "center" else 8)


def test_none_is_the_crop_of_the_test(clip):
    result, flipped = made(clip, 0, crop="center", flip=False)
    assert not flipped
    assert torch.equal(result, center_crop(clip, 56, 48))


def test_random_resized_crop_keeps_to_area_and_aspect():
    rows = torch.arange(100, dtype=torch.uint8)[:, None].expand(100, 100)
    ramp = torch.stack([rows, rows.T, rows])[None]
    how = Augmentation(crop_size=100, crop="random_resized", area=(0.25, 0.5), aspect=(0.8, 1.25), flip=False)
    for seed in range(60):
        window = random_crop(ramp, how, np.random.default_rng(seed))[0].float()
        height, width = ((window[channel].max() - window[channel].min()).item() + 1 for channel in (0, 1))
        assert 0.22 <= height * width / 100**2 <= 0.54
        assert 0.75 <= width / height <= 1.33


def test_flip_is_told_and_happens_in_half_of_the_clips(clip):
    flips = 0
    for seed in range(200):
        result, flipped = made(clip, seed, crop="center")
        expected = center_crop(clip, 56, 48)
        assert torch.equal(result, expected.flip(-1) if flipped else expected)
        flips += flipped
    assert 70 < flips < 130


# ---- Mixup and CutMix ------------------------------------------------------------------------------------------------


def constant_clips(*values):
    """(B, 2, 3, 20, 20): clip i is values[i] everywhere, and its label."""
    video = torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1, 1).expand(-1, 2, 3, 20, 20)
    return video, torch.tensor(values)


def test_mixup_is_the_weighted_sum_and_has_two_labels():
    video, label = constant_clips(0, 10, 20, 30)
    shares = []
    for step in range(200):
        mixed, partner, share = mix_clips(video, label, 0.8, 0.0, np.random.default_rng((3, step)))
        assert partner.tolist() == [20, 30, 0, 10]
        expected = share * video + (1 - share) * video[[2, 3, 0, 1]]
        torch.testing.assert_close(mixed, expected)
        shares.append(share)
    assert abs(np.mean(shares) - 0.5) < 0.1  # Beta(0.8, 0.8)
    assert np.std(shares) == pytest.approx(np.sqrt(1 / (4 * 2.6)), abs=0.04)


def test_cutmix_pastes_one_box_and_weighs_by_its_area():
    video, label = constant_clips(0, 1)
    areas = []
    for step in range(200):
        mixed, _, share = mix_clips(video, label, 0.0, 1.0, np.random.default_rng(step))
        pasted = mixed[0] == 1
        assert torch.equal(pasted, pasted[:1, :1].expand_as(pasted))  # the same box in all frames and channels
        rows, columns = pasted[0, 0].any(1), pasted[0, 0].any(0)
        assert torch.equal(pasted[0, 0], rows[:, None] & columns[None])
        assert share == pytest.approx(1 - pasted.float().mean().item())
        areas.append(1 - share)
    assert min(areas) < 0.05
    assert max(areas) > 0.6


def test_both_take_turns_and_none_changes_nothing():
    video, label = constant_clips(0, 1)
    mixed = [mix_clips(video, label, 1.0, 1.0, np.random.default_rng(seed))[0] for seed in range(60)]
    pasted = sum(bool(((each == 0) | (each == 1)).all()) for each in mixed)
    assert 15 < pasted < 45
    for batch in (video, video[:1]):
        mixed, _, share = mix_clips(batch, label[: len(batch)], 0.0, 0.0, np.random.default_rng(0))
        assert torch.equal(mixed, batch)
        assert share == 1.0
    alone, _, share = mix_clips(video[:1], label[:1], 1.0, 1.0, np.random.default_rng(0))
    assert torch.equal(alone, video[:1])
    assert share == 1.0


@pytest.mark.parametrize("cutmix", [0.0, 1.0])
def test_the_number_of_processes_changes_nothing(cutmix):
    generator = torch.Generator().manual_seed(0)
    video, label = torch.rand(8, 2, 3, 20, 20, generator=generator), torch.arange(8)
    mixed, partner, share = mix_clips(video, label, 0.8, cutmix, np.random.default_rng((0, 7)))
    for processes in (2, 4):
        for rank in range(processes):
            mine = slice(rank, None, processes)  # as EpochBatches deals a step's videos out
            own = mix_clips(video[mine], label[mine], 0.8, cutmix, np.random.default_rng((0, 7)))
            assert torch.equal(own[0], mixed[mine])
            assert torch.equal(own[1], partner[mine])
            assert own[2] == share

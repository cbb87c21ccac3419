"""The evaluation loop against a plain one that takes every view by itself, and its groups and parts."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms.v2 import functional as F

from tests.conftest import CLIPS
from tests.media import write_counting_video
from vsn_train.analysis.scores import softmax
from vsn_train.array_files import write_arrays
from vsn_train.data.loader import BadVideo, EvalVideos, eval_loader
from vsn_train.data.manifest import make_manifest
from vsn_train.data.protocol import Protocol
from vsn_train.data.sampling import sample_indices
from vsn_train.data.transforms import normalize
from vsn_train.data.video import VideoError, open_video
from vsn_train.engine.distributed import Process
from vsn_train.engine.evaluate import Scoring, mean_of_views, score_videos, video_groups
from vsn_train.engine.parts import ScoreParts
from vsn_train.errors import InputError
from vsn_train.run.data import check_flips

REAL = ["ucf101/eye_makeup_test.avi", "hmdb51/wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi", "odd/video_90.mov"]
ALONE = Process(0, 1, torch.device("cpu"))
FRAMES, CLASSES = 4, 5


class Net(nn.Module):
    """Sees time, place and colour: (B, T, C, H, W) -> (B, 5)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv3d(3, 8, (3, 5, 5), stride=(1, 3, 3)), nn.ReLU(), nn.AdaptiveAvgPool3d(2))
        self.head = nn.Linear(64, CLASSES)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(video.transpose(1, 2)).flatten(1))


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """Three real clips, one of them upright, where they are at hand; else made here. Classes 0 and 1 are flipped."""
    root = CLIPS
    if not CLIPS.is_dir():
        root = tmp_path_factory.mktemp("clips")
        for number, name in enumerate(REAL):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            size = {"width": 48, "height": 80} if "odd" in name else {"width": 96, "height": 64}
            write_counting_video(root / name, (90, 48, 3)[number], codec="mpeg4", **size)
    return make_manifest("made", "val", root, REAL, [0, 1, 2], list("abcde"), [(0, 1)])


def scores_of(manifest, protocol, views_per_batch=16, workers=0, model=None, **change):
    groups = video_groups(len(manifest), protocol.views, views_per_batch, ALONE)
    videos = EvalVideos(manifest, FRAMES, protocol, "auto")
    fp32 = torch.autocast("cpu", enabled=False)
    scoring = Scoring(protocol, manifest.flipped_labels(), views_per_batch, fp32, keep_views=True)
    loader = eval_loader(videos, groups, workers)
    scoring = replace(scoring, **change)
    found = score_videos(model or Net(), loader, len(groups), ALONE, lambda results: None, scoring)
    return [found[index] for index in range(len(manifest))]


@torch.inference_mode()
def plain_scores(path, protocol):
    """(V, K): every view decoded, resized, cropped and flipped by itself, one at a time."""
    model, views = Net().eval(), []
    with open_video(path) as video:
        clips = sample_indices(video.num_frames, FRAMES, protocol.clips, protocol.placement)
        for clip in clips:
            for crop in range(protocol.crops):
                frames = []
                for index in clip:
                    frame = video.read([int(index)])
                    height, width = frame.shape[-2:]
                    scale = protocol.short_side / min(height, width)
                    frame = F.resize(frame, [max(protocol.short_side, int(side * scale)) for side in (height, width)])
                    frames.append(frame)
                clip_frames = torch.cat(frames)
                size, flipped = protocol.crop_size, protocol.crops == 10 and crop >= 5
                height, width = clip_frames.shape[-2:]
                low, left = height - size, width - size
                if protocol.crops == 3:
                    share = crop / 2
                    top, side = (low // 2, int(left * share)) if width >= height else (int(low * share), left // 2)
                else:
                    corners = [(0, 0), (0, left), (low, 0), (low, left), (low // 2, left // 2)]
                    top, side = corners[-1] if protocol.crops == 1 else corners[crop % 5]
                view = F.crop(clip_frames, top, side, size, size)
                view = F.horizontal_flip(view) if flipped else view
                logits = model(normalize(view)[None])[0]
                logits = logits[[1, 0, 2, 3, 4]] if flipped else logits
                views.append(logits.softmax(0) if protocol.average == "probabilities" else logits)
    return torch.stack(views).numpy()


@pytest.mark.parametrize(
    "protocol",
    [
        Protocol(1, "uniform", 1, 72, 64),
        Protocol(2, "uniform", 3, 64, 64),
        Protocol(3, "dense", 5, 72, 64),
        Protocol(2, "dense", 10, 72, 64),
        Protocol(2, "dense", 10, 72, 64, "probabilities"),
    ],
    ids=lambda protocol: protocol.name(72, 64),
)
def test_views_are_those_of_a_plain_loop_over_views(manifest, protocol):
    for index, views in enumerate(scores_of(manifest, protocol)):
        np.testing.assert_allclose(views, plain_scores(manifest.path(index), protocol), atol=1e-5)


def test_chunk_sizes_and_workers_do_not_change_the_scores(manifest):
    protocol = Protocol(3, "dense", 10, 72, 64)
    whole = scores_of(manifest, protocol, views_per_batch=100)
    for views_per_batch in (1, 7, 30):
        for a, b in zip(scores_of(manifest, protocol, views_per_batch), whole, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    again = scores_of(manifest, protocol, views_per_batch=100, workers=2)
    assert all((a == b).all() for a, b in zip(again, whole, strict=True))


def test_no_more_views_than_asked_for_go_through_the_network_together(manifest):
    seen = []

    class Counting(Net):
        def forward(self, video):
            seen.append(len(video))
            return super().forward(video)

    scores_of(manifest, Protocol(3, "dense", 10, 72, 64), views_per_batch=16, model=Counting())
    assert seen == [16, 14, 10, 10]  # two videos are shorter than a window: their three clips are the same
    seen.clear()
    scores_of(manifest, Protocol(1, "uniform", 1, 72, 64), views_per_batch=2, model=Counting())
    assert seen == [2, 1]


def test_only_the_mean_is_kept_where_the_views_are_not(manifest):
    protocol = Protocol(2, "dense", 5, 72, 64)
    views, means = scores_of(manifest, protocol), scores_of(manifest, protocol, keep_views=False)
    for all_views, mean in zip(views, means, strict=True):
        assert (mean_of_views(all_views) == mean[0]).all()
        assert (mean_of_views(mean) == mean[0]).all()


def test_unreadable_videos_are_an_error_or_stay_what_they_are(tmp_path):
    for name in ("a.mp4", "c.mp4"):
        write_counting_video(tmp_path / name, 20, width=96, height=72)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    manifest = make_manifest("made", "val", tmp_path, ["a.mp4", "b.mp4", "c.mp4"], [0, 1, 0], list("abcde"))
    protocol = Protocol(1, "uniform", 1, 72, 64)
    with pytest.raises(VideoError, match=r"b\.mp4"):
        scores_of(manifest, protocol)
    first, bad, last = scores_of(manifest, protocol, on_bad_video="wrong")
    assert isinstance(bad, BadVideo)
    assert first.shape == last.shape == (1, CLASSES)


def test_groups_depend_neither_on_the_processes_nor_on_what_is_done():
    alone = video_groups(23, 3, 12, ALONE)
    assert [len(group) for group in alone] == [4] * 5 + [3]
    for world_size in (2, 3):
        shares = [video_groups(23, 3, 12, Process(r, world_size, torch.device("cpu"))) for r in range(world_size)]
        assert sorted(group for share in shares for group in share) == alone
    assert video_groups(23, 3, 12, ALONE, done=[*range(9), 20]) == alone[2:]
    assert video_groups(3, 100, 16, ALONE) == [[0], [1], [2]]


def test_parts_are_read_back_and_those_of_another_evaluation_refused(tmp_path):
    rows = {index: np.full((2, 3), index, np.float32) for index in range(6)}
    for share in ([0, 1, 4], [2, 3]):
        parts = ScoreParts(tmp_path / "parts", {"checkpoint": "abc", "manifest": "m"}, 9, (2, 3))
        parts.add({index: rows[index] for index in share})
        parts.flush()
    parts.add({5: rows[5], 6: BadVideo(6, "6.mp4", "damaged")})  # read again on resume, with its whole group
    parts.flush()
    found = parts.read()
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert all((found[index] == rows[index]).all() for index in found)
    with pytest.raises(InputError, match="parts of another evaluation: checkpoint differ"):
        ScoreParts(tmp_path / "parts", {"checkpoint": "xyz", "manifest": "m"}, 9, (2, 3)).read()
    for indices, shape, what in (([7], (1, 2, 2), "rows is"), ([9], (1, 2, 3), "indices are 9 to 9")):
        odd = {"indices": np.array(indices), "rows": np.zeros(shape, np.float32)}
        path = tmp_path / "parts" / "odd.npz"
        write_arrays(path, odd | {"facts": np.array(json.dumps(parts.facts))})
        with pytest.raises(InputError, match=f"odd.npz: not a part of an interrupted evaluation, or damaged .{what}"):
            parts.read()
    parts.remove()
    assert not (tmp_path / "parts").exists()
    assert parts.read() == {}


def test_probabilities_are_averaged_where_the_protocol_says_so(manifest):
    logits = scores_of(manifest, Protocol(2, "dense", 5, 72, 64))
    shares = scores_of(manifest, Protocol(2, "dense", 5, 72, 64, "probabilities"))
    for a, b in zip(logits, shares, strict=True):
        np.testing.assert_allclose(softmax(a), b, atol=1e-5)


class NetAndFeatures(Net):
    def forward(self, video: torch.Tensor) -> torch.Tensor:
        features = self.layers(video.transpose(1, 2)).flatten(1)
        return torch.cat([self.head(features), features], dim=1)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_features_beside_the_scores_change_nothing_and_are_not_flipped(manifest, average):
    protocol = Protocol(2, "dense", 10, 72, 64, average)
    labels = np.concatenate([manifest.flipped_labels(), np.arange(CLASSES, CLASSES + 64)])
    both = scores_of(manifest, protocol, model=NetAndFeatures(), features=64, flipped_labels=labels)
    net = Net().eval()
    for rows, alone in zip(both, scores_of(manifest, protocol), strict=True):
        assert np.array_equal(rows[:, :CLASSES], alone)
        with torch.no_grad():  # row by row the class scores follow from the features
            logits = net.head(torch.from_numpy(rows[:, CLASSES:]))
        flipped = np.arange(len(rows)) % 10 >= 5
        logits[flipped] = logits[flipped][:, manifest.flipped_labels()]
        expected = logits.softmax(1) if average == "probabilities" else logits
        np.testing.assert_allclose(alone, expected, atol=1e-5)


def test_flipped_crops_are_refused_where_the_pairs_are_not_known():
    with pytest.raises(InputError, match=r"crops=10 flips every crop, but made .* use protocol\.crops=5"):
        check_flips(Protocol(1, "uniform", 10, 72, 64), False, "made")
    check_flips(Protocol(1, "uniform", 10, 72, 64), True, "made")
    check_flips(Protocol(1, "uniform", 5, 72, 64), False, "made")

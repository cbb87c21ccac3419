"""A trained model in the user's hands.

from vsn_train import load_model

trained = load_model("runs/mine/checkpoints/best.pt")
trained.top("clip.mp4")                       # [(class name, probability), …]
trained.scores(frames)                        # frames: uint8 (N, H, W, 3), RGB
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vsn_train.analysis.scores import softmax
from vsn_train.config import check_checkpoint
from vsn_train.data.direction import undecided
from vsn_train.data.loader import EvalVideo, read_eval_video, video_of_clips
from vsn_train.data.manifest import flipped_labels
from vsn_train.data.protocol import Protocol
from vsn_train.data.sampling import sample_indices
from vsn_train.data.times import check_windows
from vsn_train.data.transforms import MEAN, STD, crop_windows, normalize, resize_short_side
from vsn_train.data.windows import Window, Windows, open_windows, windows_of_frames
from vsn_train.data.workers import BadVideo
from vsn_train.engine.checkpoint import OpenedCheckpoint, checkpoint_in, open_checkpoint
from vsn_train.engine.checkpoint_fields import load_network
from vsn_train.engine.distributed import Process
from vsn_train.engine.evaluate import Found, Scoring, score_videos
from vsn_train.engine.precision import autocast_for
from vsn_train.engine.prefetch import to_device
from vsn_train.engine.state import Checkpoint
from vsn_train.errors import InputError
from vsn_train.models import Recognizer, create_model
from vsn_train.models.layouts import mixing_of
from vsn_train.models.shift import OnlineShiftedConv2d, Past, one_frame_at_a_time

Source = str | PathLike[str] | np.ndarray | Tensor

CPU_VIEWS = 4  # views per forward pass on a CPU: more take memory and save no time


@dataclass(frozen=True)
class Preprocessing:
    """How a video becomes the network's input, float32 (B, T, 3, crop_size, crop_size).

    short_side: pixels that the shorter side is resized to. crop_size: side of the square crop in pixels. mean, std: per
    colour, for values from 0 to 1. num_frames: T. sampling: "uniform" or "dense", see `sample_indices`.
    """

    short_side: int
    crop_size: int
    num_frames: int
    sampling: str
    colours: str = "RGB"
    mean: tuple[float, ...] = tuple(MEAN)
    std: tuple[float, ...] = tuple(STD)


@dataclass(frozen=True)
class TrainedModel:
    """A trained network with its classes, protocol and preprocessing; made by `load_model`.

    model: in evaluation mode, on `device`; (B, T, C, H, W) -> (B, K). class_names: K. protocol: the views that `scores`
    averages. modality: "rgb" or "flow". flip_pairs: pairs of classes that a horizontal flip exchanges.

    A source is a path as `open_video` accepts it, or the frames: an array or tensor, uint8 (N, H, W, 3), RGB. Each
    method raises VideoError for a video that cannot be read and InputError for frames of another shape or type.
    """

    model: Recognizer
    class_names: list[str]
    protocol: Protocol
    modality: str
    device: torch.device
    precision: str
    views_per_batch: int
    decoder: str
    flip_pairs: list[list[int]]
    checkpoint: OpenedCheckpoint

    @property
    def num_frames(self) -> int:
        """T, the frames of a clip."""
        return self.model.num_frames

    @property
    def preprocessing(self) -> Preprocessing:
        protocol = self.protocol
        return Preprocessing(protocol.short_side, protocol.crop_size, self.num_frames, protocol.placement)

    @property
    def facts(self) -> dict[str, Any]:
        """Metadata for exported files, as plain types: preprocessing, protocol, network, origin of the checkpoint."""
        checkpoint = self.checkpoint.checkpoint
        return {
            "class_names": self.class_names,
            "preprocessing": asdict(self.preprocessing),
            "protocol": asdict(self.protocol),
            "modality": self.modality,
            "num_frames": self.num_frames,
            "sampling": self.protocol.placement,
            "operator": checkpoint.config["backbone"]["operator"],
            "arch": checkpoint.config["backbone"]["arch"],
            "dataset": checkpoint.config["dataset"]["name"],
            "checkpoint": self.checkpoint.hash,
            "averaged": checkpoint.average is not None,
            "epoch": checkpoint.epoch,
            "manifests": list(checkpoint.manifests),
            "version": checkpoint.version,
        }

    def scores(self, source: Source) -> np.ndarray:
        """float32 (K,): the mean over the protocol's views, equal to the scores of vsn-eval."""
        video = self._read(source)
        return np.asarray(self.score_videos([video])[video.index])[0]

    def features(self, source: Source) -> np.ndarray:
        """float32 (D,): the input of the classifier, averaged over the frames and the protocol's views."""
        video, size = self._read(source), self.model.head.in_features
        # Features are no classes: a flip exchanges none of them.
        protocol = replace(self.protocol, average="logits")
        found = self._mean_of_views(_Features(self.model), [video], protocol, np.arange(size))
        return np.asarray(found[video.index])[0]

    def top(self, source: Source, k: int = 5) -> list[tuple[str, float]]:
        """The k most probable classes and their probabilities, best first."""
        shares = self.probabilities(self.scores(source))
        return [(self.class_names[index], float(shares[index])) for index in np.argsort(-shares, kind="stable")[:k]]

    def windows(
        self, source: Source, window: float = 2.0, stride: float = 1.0, fps: float | None = None
    ) -> Iterator[tuple[float, float, np.ndarray]]:
        """Slide a window over a long video; yield (start, end, scores) for each, in order: seconds, float32 (K,).

        window: length in seconds. stride: seconds from the start of a window to the start of the next one. If the
        windows do not reach the end of the video, one more window ends there. Each frame is decoded once. fps: frame
        rate, required for a source of frames. Raises InputError for invalid values and for a video that is too short.
        """
        check_windows(window, stride)
        if isinstance(source, str | PathLike):
            opened = open_windows(Path(source), self.num_frames, self.protocol, window, stride, self.modality)
            return self._in_turn(opened)
        if fps is None or not (math.isfinite(fps) and fps > 0):
            raise InputError(f"fps={fps}: an array of frames has no frame rate; give fps=, in frames per second")
        frames = self._given(source, 4)
        found = windows_of_frames(frames, fps, self.num_frames, self.protocol, window, stride)
        return self._in_turn(nullcontext(found))

    def _in_turn(self, opened: AbstractContextManager[Windows]) -> Iterator[tuple[float, float, np.ndarray]]:
        with opened as windows:
            for each, scores in self.score_windows(windows):
                yield each.start, each.end, scores

    def score_windows(self, windows: Iterable[Window]) -> Iterator[tuple[Window, np.ndarray]]:
        """Yield each window with its scores. Several windows go through the network in one batch."""
        views = self.views_per_batch if self.device.type == "cuda" else min(self.views_per_batch, CPU_VIEWS)
        left = iter(windows)
        while group := list(islice(left, max(1, views // self.protocol.views))):
            found = self.score_videos([each.video for each in group])
            yield from ((each, np.asarray(found[each.video.index])[0]) for each in group)

    def score_videos(self, videos: Sequence[EvalVideo | BadVideo], on_bad_video: str = "error") -> Found:
        """index -> float32 (1, K) of videos scored in one batch. on_bad_video: see `Scoring`."""
        return self._mean_of_views(self.model, videos, self.protocol, self._flipped_labels(), on_bad_video)

    def stream(self) -> Stream:
        """A `Stream` for live video. Raises InputError for a network that uses later frames."""
        return Stream(self)

    def probabilities(self, scores: np.ndarray) -> np.ndarray:
        """Convert scores, float32 (K,), to probabilities; the protocol says whether they are logits."""
        return scores if self.protocol.average == "probabilities" else softmax(scores)

    def _flipped_labels(self) -> np.ndarray:
        return flipped_labels(len(self.class_names), self.flip_pairs)

    def _mean_of_views(
        self,
        network: nn.Module,
        videos: Sequence[EvalVideo | BadVideo],
        protocol: Protocol,
        labels: np.ndarray,
        on_bad_video: str = "error",
    ) -> Found:
        """labels: one per output of the network, see `Scoring`."""
        autocast = autocast_for(self.precision, self.device)
        scoring = Scoring(protocol, labels, self.views_per_batch, autocast, on_bad_video=on_bad_video)
        return score_videos(network, [list(videos)], 1, Process(0, 1, self.device), lambda results: None, scoring)

    def _read(self, source: Source) -> EvalVideo:
        if isinstance(source, str | PathLike):
            return read_eval_video(Path(source), self.num_frames, self.protocol, self.decoder, self.modality)
        frames = self._given(source, 4)
        wanted = sample_indices(len(frames), self.num_frames, self.protocol.clips, self.protocol.placement)
        short_side = self.protocol.short_side
        return video_of_clips(0, wanted, lambda rows: resize_short_side(frames[torch.as_tensor(rows)], short_side))

    def _given(self, frames: np.ndarray | Tensor, axes: int) -> Tensor:
        """uint8 (…, H, W, 3) -> (…, 3, H, W)."""
        found = torch.as_tensor(frames)
        expected = "uint8 (N, H, W, 3)" if axes == 4 else "uint8 (H, W, 3)"
        if self.modality != "rgb":
            raise InputError("this network was trained on optical flow; give it a folder of flow images, not frames")
        if found.dtype != torch.uint8 or found.ndim != axes or found.shape[-1] != 3 or not found.numel():
            raise InputError(f"frames are {str(found.dtype)[6:]} {tuple(found.shape)}; expected {expected}, RGB")
        return found.movedim(-1, -3)


class _Features(nn.Module):
    """(B, T, C, H, W) -> (B, D)."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, video: Tensor) -> Tensor:
        return self.recognizer.features(video)


class Stream:
    """The scores of a live video, updated with every frame; made by `TrainedModel.stream`.

    Each frame goes through the network once: every shift layer caches the channels that move on to the next frame (TSM,
    section 3.3). Frames are resized to the protocol's short side and centre-cropped.
    """

    def __init__(self, trained: TrainedModel) -> None:
        online = any(isinstance(module, OnlineShiftedConv2d) for module in trained.model.modules())
        if mixing_of(trained.model) and not online:
            raise InputError(
                "this network uses later frames and cannot score live video; train one with backbone=tsm_online"
            )
        self._trained, self._past = trained, Past()
        self._logits: deque[Tensor] = deque(maxlen=trained.num_frames)

    @torch.inference_mode()
    def push(self, frame: np.ndarray | Tensor) -> np.ndarray:
        """Add the next frame, uint8 (H, W, 3), RGB. Returns float32 (K,): the mean over the last `num_frames` frames.

        After the first num_frames frames this equals the score of the clip, with a protocol of one centre crop.
        """
        trained, protocol = self._trained, self._trained.protocol
        resized = resize_short_side(trained._given(frame, 3)[None], protocol.short_side)
        ((top, left, _),) = crop_windows(resized.shape[-2], resized.shape[-1], 1, protocol.crop_size)
        window = resized[..., top : top + protocol.crop_size, left : left + protocol.crop_size]
        model = trained.model.eval()
        with one_frame_at_a_time(model, self._past), autocast_for(trained.precision, trained.device):
            features = model.backbone(normalize(to_device(window, trained.device)))
            self._logits.append(model.head(features)[0].float())
        mean = torch.stack(tuple(self._logits)).mean(dim=0)
        if protocol.average == "probabilities":
            mean = mean.softmax(dim=0)
        return mean.cpu().numpy()


def load_model(
    path: str | PathLike[str],
    device: str = "auto",
    protocol: Protocol | None = None,
    operator: Callable[..., None] | None = None,
) -> TrainedModel:
    """Load a checkpoint of vsn-train, the best checkpoint of a run folder, or a folder written by vsn-tools export.

    Runs no code from the file. Uses the averaged weights if the training kept a moving average. device: "auto", "cpu"
    or "cuda". protocol: the views that are averaged; None: the protocol in the checkpoint. operator: your own operator
    function, if the training used one. Raises InputError for any other file.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device={device}: expected auto, cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda, but torch finds no CUDA device; use auto or cpu")
    opened = open_checkpoint(checkpoint_in(Path(path).expanduser()))
    check_checkpoint(opened.checkpoint.config, str(opened.path))
    name = opened.checkpoint.config["backbone"]["operator"]
    if "." in name and operator is None:
        raise InputError(
            f"{opened.path}: its network was built by {name}; import that function and pass it as operator="
        )
    place = torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")
    trained = trained_model(opened, place, opened.checkpoint.config, protocol, operator)
    if trained.protocol.crops == 10 and not flips_allowed(opened.checkpoint):
        raise InputError(
            f"{opened.path}: a protocol of 10 crops flips half of them, but classes of the checkpoint have a direction "
            "and no flip pairs are known; give a protocol= with fewer crops"
        )
    return trained


def trained_model(
    opened: OpenedCheckpoint,
    device: torch.device,
    config: Mapping[str, Any],
    protocol: Protocol | None = None,
    operator: Callable[..., None] | None = None,
) -> TrainedModel:
    """Build the network of a checkpoint, ready to score videos. Every command that scores with a checkpoint uses it.

    config: plain values with the groups data and runtime, from the checkpoint or the command line. protocol: None: the
    checkpoint's. operator: see `load_model`. Raises InputError if the tensors do not fit the network in the
    checkpoint's config.
    """
    checkpoint = opened.checkpoint
    data, runtime = config["data"], config["runtime"]
    modality = data.get("modality", "rgb")
    network = build_network(checkpoint.config["backbone"], len(checkpoint.class_names), modality, operator)
    load_weights_of(checkpoint, network, opened.path)
    # The default on CPUs too: docs/evaluation.md has the times.
    if runtime.get("channels_last") is not False:
        network.to(memory_format=torch.channels_last)
    return TrainedModel(
        network.to(device).eval(), checkpoint.class_names, protocol or Protocol(**checkpoint.config["protocol"]),
        modality, device, runtime.get("precision", "auto"), runtime.get("views_per_batch", 16),
        data.get("decoder", "auto"), checkpoint.flip_pairs, opened,
    )  # fmt: skip


def load_weights_of(checkpoint: Checkpoint, network: Recognizer, path: str | PathLike[str]) -> None:
    """Copy a checkpoint's tensors into its network: the averaged weights where there are any. path: for messages.

    Raises InputError where the tensors are not those of the network that the config describes.
    """
    try:
        load_network(network, checkpoint.average or checkpoint.model, "average" if checkpoint.average else "model")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def build_network(
    backbone: dict[str, Any], num_classes: int, modality: str, operator: Callable[..., None] | None = None
) -> Recognizer:
    """Build a network. backbone: the config group, as plain values. operator: the user's own function, if the group
    names one."""
    arguments = dict(backbone)
    if operator is not None:
        arguments |= arguments.pop("options", {}) | {"operator": operator}
    return create_model(num_classes=num_classes, modality=modality, **arguments)


def flips_allowed(checkpoint: Checkpoint) -> bool:
    """Whether test crops may be flipped. Older versions overlooked directions in custom class names (swipe_left)."""
    dataset = checkpoint.config["dataset"]
    if dataset["name"] != "custom" or "flips" in dataset:
        return checkpoint.flips_allowed
    return checkpoint.flips_allowed and not undecided(checkpoint.class_names, checkpoint.flip_pairs)

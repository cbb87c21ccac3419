"""Score files: the scores of every video, and the metrics computed from them, without model or GPU.

Accuracies are in percent. A video that could not be read has NaN scores: it counts as wrong in every accuracy, and is
left out where a prediction is needed (confusion matrix, calibration, loss).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vsn_train.array_files import check_column, read_arrays, read_facts, write_arrays
from vsn_train.data.manifest import UNLABELLED
from vsn_train.errors import InputError
from vsn_train.typed_values import misfit

BLOCK = 1 << 22  # scores processed at a time: 32 MB as float64


class Interval(NamedTuple):
    """The ends of a confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Scores:
    """The scores of an evaluation.

    ids: (N,) sample ids; labels: (N,) int64, -1 where unknown; scores: (N, K) float32, means over a video's views;
    class_names: (K,); views: (N, V, K) float32, scores of the single views, clip after clip, if they were kept. facts:
    protocol, manifest hash, checkpoint hash, versions; plain types only.
    """

    ids: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    class_names: np.ndarray
    facts: dict[str, Any]
    views: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    # ---- Files -------------------------------------------------------------------------------------------------------

    def save(self, path: Path) -> None:
        """Write an .npz without pickled objects; the same scores give the same bytes."""
        arrays = {"ids": self.ids, "labels": self.labels, "scores": self.scores, "class_names": self.class_names}
        if self.views is not None:
            arrays["views"] = self.views
        write_arrays(path, arrays | {"facts": np.array(json.dumps(self.facts, sort_keys=True))})

    @staticmethod
    def load(path: str | Path) -> Scores:
        """Read a score file. Raises InputError for a file that is missing, damaged or of another kind."""
        names = ("ids", "labels", "scores", "class_names", "facts")
        advice = "vsn-eval writes scores.npz"
        arrays: dict[str, Any] = read_arrays(Path(path), names, "score file", advice, optional=("views",))
        try:
            arrays["facts"] = read_facts(arrays["facts"])
            found = Scores(**arrays)
            found._check()
        except ValueError as error:
            raise InputError(f"{path}: not a score file, or damaged ({error}); {advice}") from error
        return found

    def _check(self) -> None:
        """Raise ValueError for content that `save` does not write."""
        for array, name in ((self.ids, "ids"), (self.class_names, "class_names")):
            check_column(array, name, "U", (None,))
        videos, classes = len(self.ids), len(self.class_names)
        if not videos or not classes:
            raise ValueError(f"{videos} videos and {classes} classes")
        check_column(self.labels, "labels", "iu", (videos,))
        check_column(self.scores, "scores", "f", (videos, classes))
        for title, values in (("scores", self.scores), ("views", self.views)):
            if values is not None and np.isinf(values).any():
                raise ValueError(f"{title} are not finite")
        if self.views is not None:
            check_column(self.views, "views", "f", (videos, None, classes))
            if not self.views.shape[1]:
                raise ValueError("views are none")
        if not UNLABELLED <= self.labels.min() <= self.labels.max() < classes:
            raise ValueError(f"labels are {self.labels.min()} to {self.labels.max()}, for {classes} classes")
        bad = misfit(self.facts.get("bad_videos", []), list[dict[str, str]], "bad_videos")
        bad = bad or misfit(self.facts.get("protocol", {}), dict[str, Any], "protocol")
        if bad:
            raise ValueError(bad)
        if any(not {"id", "cause"} <= each.keys() for each in self.facts.get("bad_videos", [])):
            raise ValueError("bad_videos lacks an id or a cause")
        for key in ("clips", "crops"):
            value = self.facts.get("protocol", {}).get(key, 1)
            if bad := misfit(value, int, f"protocol.{key}"):
                raise ValueError(bad)

    # ---- Accuracy ----------------------------------------------------------------------------------------------------

    @property
    def labelled(self) -> bool:
        return bool((self.labels != UNLABELLED).all())

    @property
    def readable(self) -> np.ndarray:
        """(N,) bool: whether the video could be read."""
        return np.concatenate([~np.isnan(self.scores[rows]).any(axis=1) for rows in _blocks(self.scores)])

    def predictions(self) -> np.ndarray:
        """(N,) int64 best class; -1 for a video that could not be read."""
        return np.where(self.readable, self.scores.argmax(axis=1), -1)

    def right(self, k: int = 1) -> np.ndarray:
        """(N,) bool: whether the label is among the k highest scores. Ties: the lower class index wins."""
        self._check_labelled()
        return right_among(self.scores, self.labels, k)

    def top1(self) -> float:
        """Percent of videos whose label has the highest score."""
        return self.top_k(1)

    def top5(self) -> float:
        return self.top_k(5)

    def top_k(self, k: int) -> float:
        """Percent of videos whose label is among the k highest scores. Ties: the lower class index wins."""
        return 100 * float(self.right(k).mean())

    def per_class(self) -> np.ndarray:
        """(K,) top-1 in percent over each class's own videos; NaN for a class without videos."""
        return _per_class(self.right(), self.labels, len(self.class_names))

    def class_counts(self) -> np.ndarray:
        """(K,) int64: videos of each class."""
        self._check_labelled()
        return np.bincount(self.labels, minlength=len(self.class_names))

    def mean_class(self) -> float:
        """Mean of `per_class` over the classes that have videos."""
        return float(np.nanmean(self.per_class()))

    def confusion(self) -> np.ndarray:
        """(K, K) int64: number of videos of class i (row) predicted as class j (column). 0.8 GB for 10,000 classes;
        `confused` returns the same without the zeros."""
        counts = np.zeros((len(self.class_names),) * 2, dtype=np.int64)
        rows, columns, videos = self.confused()
        counts[rows, columns] = videos
        return counts

    def confused(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """True class, predicted class and number of videos, int64 (C,) each: the cells of `confusion` that are not
        zero, row by row."""
        self._check_labelled()
        classes, readable = len(self.class_names), self.readable
        cells, videos = np.unique(self.labels[readable] * classes + self.predictions()[readable], return_counts=True)
        return cells // classes, cells % classes, videos

    def interval(self, metric: str = "top1", level: float = 95, resamples: int = 1000, seed: int = 0) -> Interval:
        """Confidence interval in percent: Wilson for "top1" and "top5", percentile bootstrap over videos for
        "mean_class". If all or no videos are right, all bootstrap samples are equal: Wilson is then used for all."""
        right, labels, classes = self.right(5 if metric == "top5" else 1), self.labels, len(self.class_names)
        if metric != "mean_class" or right.all() or not right.any():
            return proportion_interval(int(right.sum()), len(right), level)
        generator = np.random.default_rng(seed)
        values = []
        for _ in range(resamples):
            drawn = generator.integers(len(right), size=len(right))
            values.append(float(np.nanmean(_per_class(right[drawn], labels[drawn], classes))))
        return _middle(values, level)

    # ---- Confidence --------------------------------------------------------------------------------------------------

    def probabilities(self) -> np.ndarray:
        """(N, K) float64: the scores if the protocol averages probabilities, else their softmax."""
        return self._shares(slice(None))

    def _shares(self, rows: slice) -> np.ndarray:
        scores = self.scores[rows]
        return scores.astype(np.float64) if self._averages_probabilities() else softmax(scores)

    def confidence(self) -> np.ndarray:
        """(N,) float64: the highest probability of each video; NaN if it could not be read."""
        return np.concatenate([self._shares(rows).max(axis=1) for rows in _blocks(self.scores)])

    def probability_of_label(self) -> np.ndarray:
        """(N,) float64: each video's probability of its own class; NaN if it could not be read."""
        self._check_labelled()
        parts = [np.take_along_axis(self._shares(rows), self.labels[rows, None], 1) for rows in _blocks(self.scores)]
        return np.concatenate(parts)[:, 0]

    def loss(self) -> float:
        """Mean cross entropy over the videos that could be read."""
        own = self.probability_of_label()[self.readable]
        return float(-np.log(np.maximum(own, 1e-300)).mean()) if len(own) else math.nan

    def calibration_error(self, bins: int = 15) -> float:
        """Expected calibration error in percent (Guo et al., 2017, equation 3): |accuracy - confidence| in each of
        `bins` equal ranges (a, b] of the highest probability, weighted by the number of videos."""
        _, counts, confidence, accuracy = self.reliability(bins)
        used = counts > 0
        gaps = np.abs(accuracy[used] - confidence[used])
        return float((gaps * counts[used]).sum() / counts.sum()) if used.any() else math.nan

    def reliability(self, bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Edges (bins + 1,); per bin: number of videos, mean confidence and accuracy in percent (NaN if empty)."""
        right, sure = self.right()[self.readable], self.confidence()[self.readable]
        place = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)
        counts = np.bincount(place, minlength=bins)
        with np.errstate(invalid="ignore"):
            confidence = 100 * np.bincount(place, weights=sure, minlength=bins) / counts
            accuracy = 100 * np.bincount(place, weights=right, minlength=bins) / counts
        return np.linspace(0, 1, bins + 1), counts, confidence, accuracy

    # ---- Number of views ---------------------------------------------------------------------------------------------

    def over_views(self, seed: int = 0) -> list[tuple[int, float, float, float]]:
        """(views, mean, lowest, highest top-1 in percent) for 1, 2, 5, 10, … and all V views of each video.

        The views are put on a circle in random order. For each number n, the mean is over all V sets of n neighbours,
        or 20 of them, evenly spaced. So for V <= 20, n = 1 gives the mean over the single views. Raises InputError if
        the views were not kept.
        """
        views = self.scores[:, None] if self.views is None else self.views
        protocol = self.facts.get("protocol", {})
        if views.shape[1] == 1 and protocol.get("clips", 1) * protocol.get("crops", 1) > 1:
            raise InputError("the score file has no scores of single views; evaluate with keep_views=always")
        self._check_labelled()
        total = views.shape[1]
        circle = np.random.default_rng(seed).permutation(total)
        starts = np.unique(np.linspace(0, total, min(total, 20), endpoint=False).astype(int))
        rows = []
        for number in [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500) if n < total] + [total]:
            accuracies = []
            for start in starts if number < total else [0]:
                chosen = np.sort(circle[(start + np.arange(number)) % total])
                mean = views[:, chosen].mean(axis=1, dtype=np.float64).astype(np.float32)
                accuracies.append(100 * float(right_among(mean, self.labels, 1).mean()))
            rows.append((number, float(np.mean(accuracies)), min(accuracies), max(accuracies)))
        return rows

    def _averages_probabilities(self) -> bool:
        return self.facts.get("protocol", {}).get("average") == "probabilities"

    def _check_labelled(self) -> None:
        if not self.labelled:
            raise InputError(
                f"{int((self.labels == UNLABELLED).sum())} of {len(self)} videos have no label, so there is no "
                "accuracy; expected a labelled split: vsn-eval split=val"
            )


@dataclass(frozen=True)
class Comparison:
    """Two models on the same videos. difference: top-1 of the first minus that of the second, in percent points.

    interval: of the difference, bootstrap over videos. only_first, only_second: videos that only one of them has right.
    p: two-sided exact McNemar test: the probability of a split of these videos at least as uneven if both were equally
    good.
    """

    difference: float
    interval: Interval
    only_first: int
    only_second: int
    p: float


def compare(first: Scores, second: Scores, level: float = 95, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare two models. Raises InputError if videos, labels or classes differ."""
    check_same_test([first, second])
    gain = first.right().astype(int) - second.right().astype(int)
    generator = np.random.default_rng(seed)
    values = [100 * float(gain[generator.integers(len(gain), size=len(gain))].mean()) for _ in range(resamples)]
    only_first, only_second = int((gain > 0).sum()), int((gain < 0).sum())
    return Comparison(
        100 * float(gain.mean()), _middle(values, level), only_first, only_second, mcnemar(only_first, only_second)
    )


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of the hypothesis of an even split."""
    from scipy.stats import binomtest  # here: importing it takes as long as reading a score file

    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


def proportion_interval(right: int, videos: int, level: float = 95) -> Interval:
    """Wilson's (1927) interval of right / videos, in percent; it is also valid if all or no videos are right."""
    from scipy.stats import binomtest

    found = binomtest(right, videos).proportion_ci(level / 100, method="wilson")
    return Interval(100 * float(found.low), 100 * float(found.high))


def fuse(parts: Sequence[Scores], weights: Sequence[float] | None = None) -> Scores:
    """The weighted mean of several models' scores, equal weights unless given (two-stream: RGB and flow).

    Raises InputError where ids, labels, class order or the averaged space differ, or the weights do not fit.
    """
    chosen = [1.0] * len(parts) if weights is None else [float(weight) for weight in weights]
    if len(chosen) != len(parts) or not parts or not sum(chosen) > 0 or min(chosen) < 0:
        raise InputError(
            f"{len(parts)} score files and weights {chosen}: expected one weight of zero or more for each, not all zero"
        )
    check_same_test(parts)
    spaces = {part._averages_probabilities() for part in parts}
    if len(spaces) > 1:
        raise InputError(
            "some of the score files hold logits and some probabilities; evaluate all with the same protocol.average"
        )
    total = sum(weight * part.scores.astype(np.float64) for weight, part in zip(chosen, parts, strict=True))
    facts = {
        "dataset": parts[0].facts.get("dataset"),
        "split": parts[0].facts.get("split"),
        "manifest": parts[0].facts.get("manifest"),
        "protocol": {"name": "fused", "average": "probabilities" if spaces.pop() else "logits"},
        "fused": [{"weight": weight} | part.facts for weight, part in zip(chosen, parts, strict=True)],
    }
    scores = np.asarray(total / sum(chosen), dtype=np.float32)
    return Scores(parts[0].ids, parts[0].labels, scores, parts[0].class_names, facts)


def check_same_test(parts: Sequence[Scores]) -> None:
    """Raise InputError unless all are of the same videos in the same order, with the same labels and classes."""
    for number, other in enumerate(parts[1:], 2):
        for what in ("ids", "labels", "class_names"):
            a, b = getattr(parts[0], what), getattr(other, what)
            if np.array_equal(a, b):
                continue
            same = min(len(a), len(b))
            where = next((i for i in range(same) if a[i] != b[i]), same)
            found = " and ".join(repr(str(each[where])) if where < len(each) else "nothing" for each in (a, b))
            raise InputError(
                f"score files 1 and {number} do not belong together: {what.replace('_', ' ')} differ first at index "
                f"{where}: {found}; expected the same videos, labels and class order"
            )


def right_among(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """(N,) bool: whether the label is among the k highest scores. scores: (N, K), a row with NaN is never right;
    labels: (N,). Ties: the lower class index wins."""
    found = []
    for rows in _blocks(scores):
        some, label = scores[rows], labels[rows, None]
        own = np.take_along_axis(some, label, axis=1)
        ahead = (some > own) | ((some == own) & (np.arange(some.shape[1]) < label))
        found.append((ahead.sum(axis=1) < k) & ~np.isnan(some).any(axis=1))
    return np.concatenate(found)


def _blocks(scores: np.ndarray) -> list[slice]:
    """Slices of rows of (N, K) scores, to keep intermediate arrays small."""
    size = max(1, BLOCK // max(1, scores.shape[1]))
    return [slice(start, start + size) for start in range(0, max(1, len(scores)), size)]


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis, in float64."""
    shifted = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def _per_class(right: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return 100 * np.bincount(labels, weights=right, minlength=classes) / np.bincount(labels, minlength=classes)


def _middle(values: Sequence[float], level: float) -> Interval:
    low, high = np.percentile(values, [50 - level / 2, 50 + level / 2])
    return Interval(float(low), float(high))

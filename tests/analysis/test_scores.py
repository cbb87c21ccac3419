"""Every number by hand, and against scikit-learn and SciPy on random data."""

from __future__ import annotations

import json
import math
import subprocess
import tracemalloc
from fractions import Fraction

import matplotlib
import numpy as np
import pytest

from tests.runs import TOOLS
from vsn_train.analysis.report import write_report
from vsn_train.analysis.scores import Scores, compare, fuse, mcnemar, proportion_interval, softmax
from vsn_train.analysis.submission import write_submission
from vsn_train.engine.figures import confusion_figure
from vsn_train.errors import InputError


def example(**change) -> Scores:
    scores = np.array(
        [[9, 1, 0, 0, 0, 0], [0, 9, 1, 2, 3, 4], [5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 1]], np.float32
    )
    given = {"ids": np.array(list("abcde")), "labels": np.array([0, 1, 5, 0, 0]), "scores": scores}
    return Scores(**(given | {"class_names": np.array(list("uvwxyz")), "facts": {"n": 1}} | change))


def random_scores(videos=400, classes=7, seed=0, skill=1.5, **change) -> Scores:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), generator.integers(classes, size=videos - classes)])
    scores = generator.normal(size=(videos, classes)).astype(np.float32)
    scores[np.arange(videos), labels] += skill
    ids = np.array([f"{index}.mp4" for index in range(videos)])
    names = np.array(list("abcdefg")[:classes])
    return Scores(**({"ids": ids, "labels": labels, "scores": scores, "class_names": names,
                      "facts": {}} | change))  # fmt: skip


def test_accuracies_by_hand():
    scores = example()
    assert scores.top1() == pytest.approx(60)  # a, b, and e where the lower index wins the tie
    assert scores.top5() == pytest.approx(60)  # c has label 5 in place six, d label 0 in place six
    assert scores.per_class()[:2] == pytest.approx([200 / 3, 100])
    assert np.isnan(scores.per_class()[2])
    assert scores.mean_class() == pytest.approx((200 / 3 + 100 + 0) / 3)  # of the classes that have videos
    assert scores.class_counts().tolist() == [3, 1, 0, 0, 0, 1]
    assert scores.confusion()[0].tolist() == [2, 0, 0, 0, 0, 1]
    assert scores.confusion().sum() == 5


def test_an_unreadable_video_counts_as_wrong():
    scores = example()
    broken = scores.scores.copy()
    broken[1] = np.nan
    found = example(scores=broken)
    assert found.top1() == pytest.approx(40)
    assert found.top5() == pytest.approx(40)
    assert found.per_class()[1] == 0
    assert found.confusion().sum() == 4
    assert found.predictions().tolist() == [0, -1, 0, 5, 0]
    assert math.isfinite(found.loss())
    assert math.isfinite(found.calibration_error())


def test_loss_and_calibration_by_hand():
    logits = np.log(np.array([[0.6, 0.4], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]], np.float32))
    scores = Scores(np.array(list("abcd")), np.array([0, 1, 1, 1]), logits, np.array(["x", "y"]), {})
    assert scores.loss() == pytest.approx(-(math.log(0.6) + math.log(0.2) + math.log(0.7) + math.log(0.9)) / 4)
    # Ten bins: 0.6 right, 0.7 right, 0.8 wrong, 0.9 right, each alone in its bin.
    assert scores.calibration_error(bins=10) == pytest.approx(100 * (0.4 + 0.3 + 0.8 + 0.1) / 4, abs=1e-4)
    # Two bins: all four in the upper one, 75 % right and 75 % sure.
    assert scores.calibration_error(bins=2) == pytest.approx(0, abs=1e-4)
    averaged = Scores(scores.ids, scores.labels, np.exp(logits), scores.class_names,
                      {"protocol": {"average": "probabilities"}})  # fmt: skip
    assert averaged.loss() == pytest.approx(scores.loss(), abs=1e-6)
    np.testing.assert_allclose(averaged.probabilities(), scores.probabilities(), atol=1e-6)


def test_agreement_with_scikit_learn_on_random_data():
    metrics = pytest.importorskip("sklearn.metrics")
    scores = random_scores()
    predicted, labels = scores.predictions(), scores.labels
    assert scores.top1() == pytest.approx(100 * metrics.accuracy_score(labels, predicted))
    assert scores.top5() == pytest.approx(100 * metrics.top_k_accuracy_score(labels, scores.scores, k=5))
    assert scores.mean_class() == pytest.approx(100 * metrics.balanced_accuracy_score(labels, predicted))
    assert scores.per_class() == pytest.approx(100 * metrics.recall_score(labels, predicted, average=None))
    assert (scores.confusion() == metrics.confusion_matrix(labels, predicted)).all()
    assert scores.loss() == pytest.approx(metrics.log_loss(labels, softmax(scores.scores)))


def test_calibration_error_agrees_with_a_plain_loop():
    scores = random_scores(seed=3)
    shares = softmax(scores.scores)
    error, sure, right = 0.0, shares.max(axis=1), shares.argmax(axis=1) == scores.labels
    for low in range(15):
        inside = [i for i in range(len(sure)) if low / 15 < sure[i] <= (low + 1) / 15]
        if inside:
            gap = abs(np.mean([right[i] for i in inside]) - np.mean([sure[i] for i in inside]))
            error += len(inside) / len(sure) * gap
    assert scores.calibration_error() == pytest.approx(100 * error)


def test_intervals():
    scores = random_scores(videos=1000)
    low, high = scores.interval("top1")
    p = scores.top1() / 100
    half = 196 * math.sqrt(p * (1 - p) / 1000)  # of the normal approximation
    assert low == pytest.approx(100 * p - half, abs=0.4)
    assert high == pytest.approx(100 * p + half, abs=0.4)
    assert scores.interval("top1") == (low, high)  # the same file gives the same numbers
    assert scores.interval("top1", level=50).low > low
    for metric, value in {"top5": scores.top5(), "mean_class": scores.mean_class()}.items():
        assert scores.interval(metric).low < value < scores.interval(metric).high
    perfect = random_scores(skill=100)
    n, z = len(perfect), 1.959964
    for metric in ("top1", "top5", "mean_class"):
        assert perfect.interval(metric) == pytest.approx((100 * n / (n + z**2), 100))
    assert proportion_interval(15, 15) == pytest.approx((79.61, 100), abs=0.01)
    assert proportion_interval(0, 15) == pytest.approx((0, 20.39), abs=0.01)
    assert proportion_interval(8, 10) == pytest.approx((49.02, 94.33), abs=0.01)  # Wilson, by hand


def test_two_runs_by_hand():
    first, second = example(), example(scores=example().scores[[3, 1, 2, 0, 4]])
    found = compare(first, second)  # the second has a wrong, and d right
    assert found.difference == 0
    assert (found.only_first, found.only_second, found.p) == (1, 1, 1)
    better = compare(random_scores(skill=3), random_scores(skill=1, seed=5, labels=random_scores().labels))
    assert better.difference > 0
    assert better.interval.low > 0
    assert better.p < 1e-6


def test_mcnemar_agrees_with_the_binomial_test():
    assert mcnemar(0, 5) == pytest.approx(2 / 2**5)
    assert mcnemar(2, 8) == pytest.approx(2 * (1 + 10 + 45) / 2**10)
    assert mcnemar(0, 0) == 1

    def tail(k, n):  # twice the binomial tail at 1/2
        return min(1, Fraction(2 * sum(math.comb(n, i) for i in range(k + 1)), 2**n))

    for a, b in ((3, 9), (40, 71), (900, 1000), (7, 7)):
        assert mcnemar(a, b) == pytest.approx(float(tail(min(a, b), a + b)))


def test_accuracy_over_views_by_hand():
    # Video a: views 0 and 1 right, 2 wrong; any two of them right. Video b: only view 2 right, and alone it is weak.
    views = np.array([[[3, 0], [3, 0], [0, 2]], [[2, 0], [2, 0], [0, 1]]], np.float32)
    scores = Scores(np.array(["a", "b"]), np.array([0, 1]), views.mean(axis=1), np.array(["x", "y"]), {}, views)
    rows = {number: rest for number, *rest in scores.over_views()}
    assert sorted(rows) == [1, 2, 3]
    assert rows[1] == pytest.approx([50, 50, 50])  # each view has one of the two right
    assert rows[2] == pytest.approx([50, 50, 50])
    assert rows[3][0] == scores.top1() == 50
    with pytest.raises(InputError, match="has no scores of single views; evaluate with keep_views=always"):
        example(facts={"protocol": {"clips": 10, "crops": 10}}).over_views()


def test_more_views_of_a_noisy_model_are_better():
    generator = np.random.default_rng(0)
    labels = generator.integers(5, size=300)
    views = generator.normal(size=(300, 30, 5)).astype(np.float32)
    views[np.arange(300), :, labels] += 0.7
    scores = Scores(np.arange(300).astype(str), labels, views.mean(axis=1), np.array(list("abcde")), {}, views)
    rows = scores.over_views()
    assert [row[0] for row in rows] == [1, 2, 5, 10, 20, 30]
    assert [row[1] for row in rows] == sorted(row[1] for row in rows)
    assert all(low <= mean <= high for _, mean, low, high in rows)
    assert rows[-1][1] == pytest.approx(scores.top1())


def test_fusion_is_the_weighted_mean():
    a, b = random_scores(seed=1), random_scores(seed=2, labels=random_scores(seed=1).labels)
    fused = fuse([a, b], [1, 3])
    np.testing.assert_allclose(fused.scores, (a.scores + 3 * b.scores) / 4, atol=1e-6)
    assert [part["weight"] for part in fused.facts["fused"]] == [1, 3]
    np.testing.assert_allclose(fuse([a, b]).scores, (a.scores + b.scores) / 2, atol=1e-6)
    assert fuse([a, b], [1, 0]).top1() == a.top1()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.array(list("abxde"))}, "ids differ first at index 2: 'c' and 'x'"),
        ({"labels": np.array([0, 1, 4, 0, 0])}, "labels differ first at index 2: '5' and '4'"),
        ({"class_names": np.array(list("vuwxyz"))}, "class names differ first at index 0: 'u' and 'v'"),
        ({"facts": {"protocol": {"average": "probabilities"}}}, "some of the score files hold logits and some"),
    ],
)
def test_what_does_not_belong_together_is_not_fused_or_compared(change, message):
    with pytest.raises(InputError, match=message):
        fuse([example(), example(**change)])
    if "facts" not in change:
        with pytest.raises(InputError, match=message):
            compare(example(), example(**change))


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [-1, 2], [0, 0]])
def test_weights_that_do_not_fit(weights):
    with pytest.raises(InputError, match="expected one weight of zero or more for each, not all zero"):
        fuse([example(), example()], weights)


def test_a_split_without_labels_has_no_accuracy():
    scores = example(labels=np.full(5, -1))
    assert not scores.labelled
    for number in (scores.top1, scores.per_class, scores.confusion, scores.loss, scores.interval, scores.over_views):
        with pytest.raises(InputError, match="5 of 5 videos have no label, so there is no accuracy"):
            number()


def test_submissions(tmp_path):
    ids = np.array(["100218", "24413", "7", "8", "9"])
    write_submission(example(ids=ids, facts={"dataset": "jester"}), tmp_path / "jester.csv")
    assert (tmp_path / "jester.csv").read_text() == "100218;u\n24413;v\n7;u\n8;z\n9;u\n"
    ids = np.array([f"{each}.webm" for each in ids])
    write_submission(example(ids=ids, facts={"dataset": "something_v2"}), tmp_path / "v2.csv")
    assert (tmp_path / "v2.csv").read_text().splitlines()[:2] == ["100218;0;1;2;3;4", "24413;1;5;4;3;2"]
    broken = example().scores.copy()
    broken[3] = np.nan
    with pytest.raises(InputError, match="1 of 5 videos have no scores, first d; the server expects every video"):
        write_submission(example(scores=broken), tmp_path / "broken.csv")
    assert not (tmp_path / "broken.csv").exists()


def test_file_round_trip_is_bytewise_repeatable(tmp_path):
    views = np.stack([example().scores, example().scores], axis=1)
    example(views=views).save(tmp_path / "one.npz")
    example(views=views).save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    loaded = Scores.load(tmp_path / "one.npz")
    assert loaded.ids.tolist() == list("abcde")
    assert loaded.facts == {"n": 1}
    assert loaded.top1() == example().top1()
    assert (loaded.views == views).all()
    with np.load(tmp_path / "one.npz", allow_pickle=False) as file:  # what numpy reads without pickle
        assert sorted(file.files) == ["class_names", "facts", "ids", "labels", "scores", "views"]


def test_what_is_not_a_score_file(tmp_path):
    path = tmp_path / "scores.npz"
    example().save(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="not a score file, or damaged"):
        Scores.load(path)
    np.savez(path, ids=np.array([object()]))
    with pytest.raises(InputError, match="not a score file"):
        Scores.load(path)
    with pytest.raises(InputError, match="not a score file"):
        Scores.load(tmp_path / "nothing.npz")
    example(labels=np.array([0, 1])).save(path)
    with pytest.raises(InputError, match=r"labels is 2, expected 5"):
        Scores.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.arange(5)}, "ids holds int64, expected text"),
        ({"labels": np.array([0, 1, 2, 3, 6])}, "labels are 0 to 6, for 6 classes"),
        ({"labels": np.array([0, 1, 2, 3, -2])}, "labels are -2 to 3"),
        ({"scores": np.full((5, 6), np.inf, np.float32)}, "scores are not finite"),
        ({"scores": np.zeros((5, 6), np.int64)}, "scores holds int64, expected floating-point numbers"),
        ({"views": np.zeros((5, 3), np.float32)}, "views is 5 x 3, expected 5 x any x 6"),
        ({"views": np.zeros((5, 0, 6), np.float32)}, "views are none"),
        ({"facts": {"bad_videos": [{"id": "a"}]}}, "bad_videos lacks an id or a cause"),
        ({"facts": {"bad_videos": "a"}}, "bad_videos is 'a', expected a list"),
        ({"facts": {"protocol": [1]}}, "protocol is a list of 1, expected a table of keys"),
        ({"facts": {"protocol": {"clips": "x"}}}, "protocol.clips is 'x', expected a whole number"),
        ({"facts": {"loss": math.nan}}, "NaN is not a finite number"),
    ],
)
def test_what_a_score_file_says_is_looked_at(tmp_path, change, message):
    example(**change).save(tmp_path / "scores.npz")
    with pytest.raises(InputError, match=r"scores\.npz: not a score file, or damaged") as refused:
        Scores.load(tmp_path / "scores.npz")
    assert message in str(refused.value)


def test_files_of_arrays_are_held_against_their_checksums_and_never_unfold(tmp_path):
    path = tmp_path / "scores.npz"
    random_scores().save(path)
    whole = path.read_bytes()
    place = whole.find(b"NUMPY", whole.find(b"scores.npy")) + 2000  # inside the numbers
    path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(InputError, match=r"Bad CRC-32"):
        Scores.load(path)
    path.write_bytes(whole.replace(b"(400, 7)", b"(100, 7)"))  # a shape that reads a part of it
    with pytest.raises(InputError, match=r"longer than it says"):
        Scores.load(path)
    path.write_bytes(whole.replace(b"(400, 7), }      ", b"(4000000000, 7), }"[:17]))
    with pytest.raises(InputError, match=r"not a score file"):
        Scores.load(path)
    arrays = {name: np.zeros(3) for name in ("ids", "labels", "scores", "class_names", "facts")}
    np.savez_compressed(path, **arrays)
    with pytest.raises(InputError, match=r"ids\.npy is compressed"):
        Scores.load(path)


def test_ten_thousand_classes_stay_small(tmp_path):
    """What is said of them is as large as the scores: no table of classes by classes, which would be 0.8 GB."""
    classes = 10_000
    generator = np.random.default_rng(0)
    scores = Scores(
        np.array([f"v{index}" for index in range(600)]), generator.integers(classes, size=600),
        generator.normal(size=(600, classes)).astype(np.float32), np.array([f"c{index}" for index in range(classes)]),
        {"protocol": {"name": "x"}},
    )  # fmt: skip
    tracemalloc.start()
    rows, columns, videos = scores.confused()
    picture = confusion_figure(rows, columns, videos, classes)
    write_report(tmp_path / "report.html", scores, lambda index: [], {})
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert picture.shape == (3, 480, 480)
    assert videos.sum() == 600
    assert most < 300e6, f"{most / 1e6:.0f} MB"
    assert (tmp_path / "report.html").stat().st_size < 3e6


def test_the_picture_of_a_confusion():
    shares = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]])
    rows, columns = np.nonzero(shares)
    small = confusion_figure(rows, columns, shares[rows, columns], 3, side=3)
    viridis = matplotlib.colormaps["viridis"]
    assert small[:, 0, 0].tolist() == [int(255 * each) for each in viridis(0.75)[:3]]
    assert small[:, 1, 1].tolist() == [int(255 * each) for each in viridis(0.0)[:3]]
    # Of more classes than pixels, two share one: the mean of their rows.
    even = np.eye(6, dtype=int)
    rows, columns = np.nonzero(even)
    large = confusion_figure(rows, columns, even[rows, columns], 6, side=3)
    assert large.shape == (3, 3, 3)
    assert (large[:, 0, 0] == [int(255 * each) for each in viridis(1.0)[:3]]).all()


def script(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [*TOOLS, "scores", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_the_command(tmp_path):
    random_scores(skill=3).save(tmp_path / "a.npz")
    random_scores(seed=9, labels=random_scores().labels).save(tmp_path / "b.npz")
    a, b = Scores.load(tmp_path / "a.npz"), Scores.load(tmp_path / "b.npz")

    shown = script("show", tmp_path / "a.npz", "--json", tmp_path / "a.json")
    assert shown.returncode == 0, shown.stderr
    assert f"{a.top1():.2f}" in shown.stdout
    (numbers,) = json.loads((tmp_path / "a.json").read_text())
    assert numbers["top1"] == a.top1()
    assert numbers["n"] == 400

    compared = script("compare", tmp_path / "a.npz", tmp_path / "b.npz")
    assert f"difference {a.top1() - b.top1():+.2f} points of top-1" in compared.stdout
    assert "exact McNemar test p = " in compared.stdout

    fused = script("fuse", tmp_path / "a.npz", tmp_path / "b.npz", "--weights", 2, 1, "--output", tmp_path / "f.npz")
    assert fused.returncode == 0, fused.stderr
    assert Scores.load(tmp_path / "f.npz").top1() == fuse([a, b], [2, 1]).top1()

    random_scores(videos=300).save(tmp_path / "c.npz")
    refused = script("fuse", tmp_path / "a.npz", tmp_path / "c.npz")
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "vsn-tools scores: score files 1 and 2 do not belong together: ids differ first at index 300"
    )
    assert "Traceback" not in refused.stderr

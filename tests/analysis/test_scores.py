import numpy as np
import pytest

from vsn_train.analysis.scores import Scores
from vsn_train.errors import InputError


def example() -> Scores:
    scores = np.array(
        [[9, 1, 0, 0, 0, 0], [0, 9, 1, 2, 3, 4], [5, 4, 3, 2, 1, 0], [0, 1, 2, 3, 4, 5], [1, 1, 1, 1, 1, 1]], np.float32
    )
    return Scores(
        np.array(["a", "b", "c", "d", "e"]), np.array([0, 1, 5, 0, 0]), scores, np.array(list("uvwxyz")), {"n": 1}
    )


def test_accuracies_by_hand():
    scores = example()
    assert scores.top1() == pytest.approx(60)  # a, b, and e where the lower index wins the tie
    assert scores.top5() == pytest.approx(60)  # c has label 5 in place six, d label 0 in place six
    assert scores.per_class()[:2] == pytest.approx([200 / 3, 100])
    assert np.isnan(scores.per_class()[2])
    assert scores.confusion()[0].tolist() == [2, 0, 0, 0, 0, 1]
    assert scores.confusion().sum() == 5


def test_file_round_trip_is_bytewise_repeatable(tmp_path):
    example().save(tmp_path / "one.npz")
    example().save(tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    loaded = Scores.load(tmp_path / "one.npz")
    assert loaded.ids.tolist() == list("abcde")
    assert loaded.facts == {"n": 1}
    assert loaded.top1() == example().top1()


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

from pathlib import Path

import pytest

from vsn_train.data.direction import likely_pairs, names_with_direction, undecided
from vsn_train.data.manifest import make_manifest

LABELS = Path(__file__).resolve().parents[3] / "shared" / "data" / "labels"

DIRECTIONS = """
swipe left|swipe_left|SwipeLeft|LEFT_TURN|turnleft|turn-left|leftTurn|swipeLEFT|TURN_RIGHT2|lefthanded|rightwards
clockwise|counter-clockwise|Clock_Wise|antiClockwise|CW|rotate_ccw|links abbiegen|Linksabbiegen|Rechtskurve|linke Hand
gegen den Uhrzeigersinn|tourner à gauche|à droite|girar a la izquierda|derecha|virar à esquerda|svolta a sinistra
a destra|vänster|höger|左转|右折|왼쪽|поворот налево|kiri|sağa dön|SAĞA|बाएं मुड़ें
"""
OTHERS = """
leftover|Leftovers|bright|Brightness|upright row|copyright|cleft|frighten|playwright|forward|lifting|light|blinks
solo|sol|east|turn_l|throw|orchestra|port|sagging|destroying|up|down|righteous
"""


def words(text):
    return [word for line in text.split("\n") for word in line.split("|") if word]


@pytest.mark.parametrize("name", words(DIRECTIONS))
def test_a_direction_is_found_however_it_is_written(name):
    assert names_with_direction([name, "jump"]) == [name]


@pytest.mark.parametrize("name", words(OTHERS))
def test_words_that_only_look_like_one(name):
    assert names_with_direction([name, "jump"]) == []


@pytest.mark.parametrize(
    "pair",
    [("turn_l", "turn_r"), ("east", "west"), ("Hand1L", "Hand1R"), ("rotate cw", "rotate ccw"), ("sol", "sağ"),
     ("SwipeLeft", "SwipeRight"), ("from left to right", "from right to left"), ("左转", "右转")],
)  # fmt: skip
def test_pairs_are_proposed(pair):
    names = [pair[0], "jump", pair[1]]
    assert likely_pairs(names) == [pair]
    assert names_with_direction(names) == list(pair)
    assert undecided(names, [(0, 2)]) == []


@pytest.mark.skipif(not LABELS.is_dir(), reason="the published class lists are not at hand")
def test_published_class_lists():
    names = {name: (LABELS / f"{name}.txt").read_text().splitlines() for name in ("kinetics400", "ucf101", "hmdb51")}
    assert {name: names_with_direction(each) for name, each in names.items()} == {name: [] for name in names}
    assert len(likely_pairs((LABELS / "jester.txt").read_text().splitlines())) == 3
    assert len(likely_pairs((LABELS / "ssv2.txt").read_text().splitlines())) == 3


def test_a_loader_of_ones_own_that_says_nothing(tmp_path):
    def flips(classes, **more):
        return make_manifest("own", "train", tmp_path, ["a", "b"], [0, 1], classes, **more).flips_allowed

    assert not flips(["turnLeft", "turnRight"])
    assert flips(["turnLeft", "turnRight"], flip_pairs=[(0, 1)])
    assert flips(["turnLeft", "turnRight"], flips_allowed=True)
    assert flips(["jump", "run"])
    assert not flips(["jump", "run"], flips_allowed=False)

"""The progress bar at any width: whole parts or nothing, the time left, and no number cut into another one."""

from __future__ import annotations

import io
import re

import pytest

from vsn_train.engine.log import _Bar, duration

PARTS = ["end in 3:07:09", "loss 4.123", "top1 12.3", "lr 5.4e-06", "123.4 clips/s", "data wait 12%"]


def drawn(width: int, title: str = "epoch 12/50") -> str:
    bar = _Bar(total=12345, desc=title, file=io.StringIO(), ncols=width, mininterval=1e9)
    bar.parts = PARTS
    bar.n, bar.start_t = 678, bar.start_t - 100
    text = str(bar)
    bar.close()
    return text


def test_nothing_is_cut():
    for width in (*range(8, 130), 200):
        text = drawn(width)
        assert len(text) <= width
        parts = [part for part in re.sub(r"\|[ #]*\|$", "", text).split("  ") if part.strip()]
        named, shown = parts[:2], [part for part in parts[2:] if not part.endswith(" left")]
        assert named in ([], ["epoch 12/50", "678/12345"])
        assert shown == PARTS[: len(shown)]


def test_eighty_columns():
    text = drawn(80)
    assert re.match(r"epoch 12/50  678/12345  28:4\d left  end in 3:07:09  loss 4.123  top1 12.3", text)
    assert "lr" not in text
    assert "lr 5.4e-06" in drawn(100)
    assert "|" in drawn(130, "{x}")  # a title with braces


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (725, "12:05"), (11229, "3:07:09"), (3 * 86400 + 7200, "3 d 2 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text

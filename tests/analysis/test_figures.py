"""What figures make of names: a $ is a $, and any other text is drawn too."""

from __future__ import annotations

import matplotlib
import matplotlib.image
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from vsn_train.analysis.strip import draw_strip, literal_text, shown_name
from vsn_train.engine.check import save_contact_sheet

# Taken for mathematics, the first cannot be drawn at all, and the second is drawn without its dollars.
NAMES = [r"$\frac{1}{$", "$a$ and $b$", "$100", "\ud800", "a\nb", "x" * 400, "_hidden", "跑步"]


@pytest.mark.parametrize("name", NAMES)
def test_any_class_name_is_drawn(tmp_path, name, recwarn):
    frames = torch.zeros((1, 2, 3, 16, 16), dtype=torch.uint8)
    save_contact_sheet(tmp_path / "check.png", frames, [name])
    draw_strip(tmp_path / "strip.png", frames[0], ["0 s", "1 s"], [(name, 0.7), ("b", 0.3)], name)
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_dollars_are_drawn(tmp_path):
    """With dollars and without, a picture differs; as mathematics it would have an italic a in it instead."""
    assert text_width("$a$") > 2 * text_width("a")
    frames = torch.zeros((1, 1, 3, 16, 16), dtype=torch.uint8)
    for name, file in (("$a$", "dollars.png"), ("a", "plain.png")):
        save_contact_sheet(tmp_path / file, frames, [name])
    dollars, plain = (matplotlib.image.imread(tmp_path / f"{each}.png") for each in ("dollars", "plain"))
    assert (dollars[..., :3] < 0.5).sum() > (plain[..., :3] < 0.5).sum()


def text_width(text: str) -> float:
    with literal_text():
        figure = Figure()
        drawn = figure.text(0, 0, shown_name(text))
        return float(drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer()).width)


def test_attention_figures_draw_names_as_they_are(tmp_path, monkeypatch):
    from vsn_train.analysis import attention_figures

    asked = []

    def figure(runs):
        made = Figure()
        made.text(0, 0, r"$\frac{1}{$")
        asked.append(matplotlib.rcParams["text.parse_math"])
        return made

    monkeypatch.setattr(attention_figures, "layers_figure", figure)
    monkeypatch.setattr(attention_figures, "group", lambda runs: {("a", "rgb", 0.25): []})
    drawn, _ = attention_figures.draw_figures([], tmp_path / "study")
    assert [path.name for path in drawn] == ["study_layers.png"]
    assert asked == [False]
    assert np.asarray(matplotlib.image.imread(drawn[0])).size

"""The drawings of the documents come from the operators and the sampling themselves."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from scripts import draw_operators, draw_protocols


def test_the_kernels_of_a_hybrid_convolution():
    taps = draw_operators.impulse_response(4, "hybrid", 0.25)
    temporal, spatial = taps[0, 0], taps[0, 1]
    assert temporal[:, 1, 1].all()
    assert temporal.sum() == 3
    assert spatial[1].all()
    assert spatial.sum() == 9


def test_a_residual_shift_leaves_the_shortcut_and_in_place_does_not():
    x = draw_operators.labelled(8, 8)
    residual, inplace = (draw_operators.read_in_shifted_block(x, where) for where in ("residual", "inplace"))
    assert torch.equal(residual[""], x)
    assert torch.equal(residual["conv1"], inplace["conv1"])
    assert torch.equal(inplace[""], inplace["conv1"])
    assert residual["conv1"][:, 0].flatten().tolist() == [2, 3, 4, 5, 6, 7, 8, 0]


def test_what_a_slot_depends_on():
    reach = draw_operators.reach_in_bottleneck("vsn_compact", 4)
    alone = np.eye(4, dtype=bool)
    assert np.array_equal(reach["conv1"], np.broadcast_to(alone[:, None], (4, 4, 4)))  # frame by frame
    assert np.array_equal(reach["conv2"], np.broadcast_to(alone[None], (4, 4, 4)))  # group i is of frame i
    assert reach["conv3"].all()
    shifted = draw_operators.reach_in_bottleneck("tsm", 4)["out"].any(1)
    assert np.array_equal(shifted, abs(np.subtract.outer(range(4), range(4))) <= 1)


@pytest.mark.parametrize(
    ("main", "arguments", "names"),
    [
        (draw_operators.main, ["--only", "shuffle"], ["shuffle.png"]),
        (draw_protocols.main, [], ["clips.png", "crops.png"]),
    ],
)
def test_figures_are_written(main, arguments, names, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["draw", "--output", str(tmp_path), *arguments])
    main()
    assert sorted(path.name for path in tmp_path.iterdir()) == names

"""The table that vsn-eval prints: 80 columns, also for long names."""

from __future__ import annotations

import numpy as np
import pytest

from vsn_train.analysis.results import table
from vsn_train.analysis.scores import Scores


def scores_of(protocol: str, labels: list[int]) -> Scores:
    facts = {"dataset": "something_v2", "split": "val", "protocol": {"name": protocol}}
    ids = np.array([f"video{number}" for number in range(len(labels))])
    return Scores(ids, np.array(labels), np.eye(3, dtype=np.float32)[[0, 1, 2, 0]], np.array(["a", "b", "c"]), facts)


@pytest.mark.parametrize("protocol", ["fullres_3crop_2clip", "tencrop_10clip_uniform_crop256_short320_probabilities"])
def test_it_fits_eighty_columns_with_every_number_whole(protocol):
    text = table(scores_of(protocol, [0, 1, 2, 1]))
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith("95 % interval of top-1: 30.06 to 95.44 %; mean class accuracy: 83.33 %")
    words = text.split()
    assert {"something_v2", protocol, "75.00", "100.00", "4"} <= set(words)


def test_without_labels_it_has_no_accuracy():
    text = table(scores_of("center_2clip", [-1] * 4))
    assert "unknown" in text
    assert "%" not in text

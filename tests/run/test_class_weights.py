"""Weights of the classes: from the counts, or from a file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vsn_train.data.manifest import make_manifest
from vsn_train.errors import InputError
from vsn_train.run.class_weights import class_weights

NAMES = ["walk", "run, fast", "défilé", "none"]
MANIFEST = make_manifest("made", "train", Path("data"), list("abcdefgh"), [0] * 5 + [1] * 2 + [2], NAMES)


def test_balanced_weights_make_the_classes_sums_equal():
    weights = class_weights("balanced", MANIFEST)
    assert weights is not None
    np.testing.assert_allclose(weights, [8 / 15, 8 / 6, 8 / 3, 1])
    np.testing.assert_allclose(weights[MANIFEST.labels].mean(), 1)
    assert class_weights(None, MANIFEST) is None


def test_weights_of_a_file(tmp_path):
    path = tmp_path / "weights.csv"
    path.write_text('Class,Weight\nde\u0301file\u0301,4\n"run, fast",2\nnone,1e-3\nwalk,0.5\n', encoding="utf-8")
    weights = class_weights(str(path), MANIFEST)
    np.testing.assert_array_equal(weights, np.float32([0.5, 2, 4, 1e-3]))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("walk,1\n", r"weights.csv: 3 of 4 classes have no line, first 'run, fast'; expected a line class,weight for"),
        ("walk,1\nwalk,2\n", r"line 2: class 'walk' has two lines"),
        ("swim,1\n", r"line 1: class 'swim' is not one of the 4 classes \(walk, run, fast, défilé, …\)"),
        ("walk,0\n", r"line 1: found 'walk,0', expected class,weight with a number above 0"),
        ("walk,nan\n", r"expected class,weight with a number above 0"),
        ("walk\n", r"line 1: found 'walk', expected class,weight"),
    ],
)
def test_what_is_no_file_of_weights(text, message, tmp_path):
    (tmp_path / "weights.csv").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        class_weights(str(tmp_path / "weights.csv"), MANIFEST)
    with pytest.raises(InputError, match=r"none.csv: no such file"):
        class_weights(str(tmp_path / "none.csv"), MANIFEST)

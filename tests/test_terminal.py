"""Odd names and listeners that go away: the work is done and its results are written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vsn_train.analysis.strip import draw_strip
from vsn_train.atomic import json_text
from vsn_train.data.datasets.custom import load_custom
from vsn_train.errors import InputError
from vsn_train.run.predict import file_stem

PROGRAM = """
import sys
from pathlib import Path
from vsn_train.terminal import forgive_output
forgive_output()
for number in range(2000):
    print("跑步 \\udcff █", number)
    print("and here", file=sys.stderr)
sys.stdout.flush()
Path("results").write_text("written")
"""


@pytest.mark.parametrize("redirected", ["| head -1", ">&-", "2>&-", ">&- 2>&-", ">/dev/full", "| cat"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "ascii"])
def test_what_is_said_never_ends_the_work(tmp_path, redirected, encoding):
    done = subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$0" -c "$1" {redirected}', sys.executable, PROGRAM], cwd=tmp_path,
        env={"PYTHONIOENCODING": encoding, "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True, text=True, encoding="latin-1", timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results").read_text() == "written"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["$x_{$.mp4", "a$b$c", "\udcff\udcfe.mp4", "x" * 250, "two\nlines", "跑步"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_names_in_pictures_and_files(tmp_path, name):
    picture = tmp_path / f"{file_stem(3, Path(f'{name}.mp4'))}.png"
    draw_strip(picture, torch.zeros(2, 3, 8, 8, dtype=torch.uint8), ["0 s", "1 s"], [(name, 0.5)], name)
    assert picture.stat().st_size > 1000
    text = json_text({"video": name})
    assert json.loads(text.encode())["video"] == name


def test_a_data_set_with_names_that_are_not_utf8(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    try:
        (folder / "\udcfe.mp4").touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 alone")
    manifest = load_custom(tmp_path, "train", {"train": None, "val": None, "test": None})
    assert manifest.path(0).exists()
    assert manifest.sample_id(0) == "train/a/\udcfe.mp4"
    folder.rename(tmp_path / "train" / "b\udcff")
    with pytest.raises(InputError, match=r"the class name 'b.udcff' is not UTF-8; rename it"):
        load_custom(tmp_path, "train", {"train": None, "val": None, "test": None})

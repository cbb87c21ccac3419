from pathlib import Path

import numpy as np
import pytest

from vsn_train.data.datasets.hmdb51 import load_hmdb51
from vsn_train.errors import InputError

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
OFFICIAL = SHARED / "annotations" / "hmdb51" / "testTrainMulti_7030_splits"


def make(top, lists, files=None):
    root, folder = top / "hmdb51_org", top / "testTrainMulti_7030_splits"
    folder.mkdir(parents=True)
    root.mkdir()
    for name, lines in lists.items():
        (folder / f"{name}_test_split1.txt").write_text("".join(f"{line} \n" for line in lines))
        (root / name).mkdir()
        for line in lines:
            if files is None or line.rpartition(" ")[0] in files:
                (root / name / line.rpartition(" ")[0]).touch()
    return root


ODD = "#20_Rhythm_clap_u_nm_np1_fr_goo_0.avi"
BRACKETS = "(HQ)_[a]&b;!_clap_u_nm_np1_fr_goo_1.avi"


def test_uses_order_and_odd_names(tmp_path):
    root = make(
        tmp_path,
        {
            "kick_ball": ["a_kick_ball_f_cm_np1_ba_med_0.avi 1", "b_kick_ball_f_cm_np1_ba_med_0.avi 0"],
            "kick": ["c_kick_f_cm_np1_ba_med_0.avi 1"],
            "clap": [f"{ODD} 1", f"{BRACKETS} 2"],
        },
    )
    train = load_hmdb51(root, "train")
    assert train.class_names == ("clap", "kick", "kick_ball")  # file names would give clap, kick_ball, kick
    assert train.path(0).name == ODD
    assert train.labels.tolist() == [0, 1, 2]
    val = load_hmdb51(tmp_path, "val")
    assert [val.path(index) for index in range(len(val))] == [root / "clap" / BRACKETS]


@pytest.fixture(scope="module")
def all_videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("hmdb51")
    for listing in OFFICIAL.glob("*_split1.txt"):
        (root / listing.name.partition("_test_split")[0]).mkdir()
        for line in listing.read_text().splitlines():
            (root / listing.name.partition("_test_split")[0] / line.rsplit(maxsplit=1)[0]).touch()
    return root


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason="the official lists are not at hand")
@pytest.mark.parametrize("number", [1, 2, 3])
def test_official_lists(all_videos, number):
    train = load_hmdb51(all_videos, "train", number, OFFICIAL)
    val = load_hmdb51(all_videos, "val", number, OFFICIAL)
    assert (len(train), len(val)) == (3570, 1530)
    assert np.bincount(train.labels).tolist() == [70] * 51
    assert np.bincount(val.labels).tolist() == [30] * 51
    assert train.class_names == tuple((SHARED / "labels" / "hmdb51.txt").read_text().splitlines())
    assert not set(train.ids.tolist()) & set(val.ids.tolist())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["a_clap_u_nm_np1_fr_goo_0.avi 3"], r"clap_test_split1.txt line 1: found .* expected '<video>.avi 0', 1 or 2"),
        (["a_clap_u.avi 1", "a_clap_u.avi"], r"clap_test_split1.txt line 2: found 'a_clap_u.avi', expected"),
        (
            ["a_clap_u.avi 1", "a_kick_u.avi 1"],
            r"line 2: a_kick_u.avi is not a video of class clap",
        ),
        (["a_clap_u.avi 2"], r"\*_test_split1.txt: the list is empty"),
    ],
)
def test_wrong_lists(tmp_path, lines, message):
    with pytest.raises(InputError, match=message):
        load_hmdb51(make(tmp_path, {"clap": lines}), "train")


def test_missing_folders_lists_and_videos(tmp_path):
    with pytest.raises(InputError, match=r"dataset.root=.*nowhere: no such folder; expected the folder of HMDB51"):
        load_hmdb51(tmp_path / "nowhere", "train")
    root = make(tmp_path, {"clap": ["a_clap_u.avi 1", "b_clap_u.avi 1"]}, files=["a_clap_u.avi"])
    with pytest.raises(
        InputError, match=r"found no <class>_test_split2.txt in testTrainMulti_7030_splits in or next to"
    ):
        load_hmdb51(root, "train", 2)
    with pytest.raises(
        InputError, match=r"1 of 2 videos of \*_test_split1.txt are not under .*, first clap/b_clap_u.avi"
    ):
        load_hmdb51(root, "train")
    manifest = load_hmdb51(root, "train", max_missing_share=0.5)
    assert (len(manifest), manifest.missing) == (1, ("clap/b_clap_u.avi",))

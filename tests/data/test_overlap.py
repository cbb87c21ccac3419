"""Videos of two splits that are the same: by path, through links of files and folders, and as copies."""

import os

from vsn_train.data.manifest import make_manifest
from vsn_train.data.overlap import Shared, same_contents, shared_videos


def manifest_of(root, names, split="train"):
    return make_manifest("mine", split, root, names, [0] * len(names), ["a"])


def test_shared_videos(tmp_path):
    for number, name in enumerate(["a/1.mp4", "a/2.mp4", "a/3.mp4", "b/own.mp4"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(1000 + number))
    (tmp_path / "b" / "link.mp4").symlink_to(tmp_path / "a" / "1.mp4")
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    os.link(tmp_path / "a" / "3.mp4", tmp_path / "b" / "hard.mp4")
    (tmp_path / "b" / "copy.mp4").write_bytes(bytes(1002))
    (tmp_path / "b" / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    (tmp_path / "frames").mkdir()
    first = manifest_of(tmp_path, ["a/1.mp4", "a/2.mp4", "a/3.mp4", "frames", "a/missing.mp4"])
    names = ["b/own.mp4", "b/link.mp4", "linked/2.mp4", "b/hard.mp4", "b/copy.mp4", "b/gone.mp4", "b/../frames"]
    assert shared_videos(first, manifest_of(tmp_path, names, "val")) == [
        Shared("a/1.mp4", "b/link.mp4", copy=False),
        Shared("a/2.mp4", "linked/2.mp4", copy=False),
        Shared("a/3.mp4", "b/hard.mp4", copy=True),
        Shared("a/3.mp4", "b/copy.mp4", copy=True),
        Shared("frames", "b/../frames", copy=False),
    ]
    one = manifest_of(tmp_path, ["a/1.mp4", "linked/1.mp4", "a/3.mp4", "b/own.mp4", "b/copy.mp4"])
    assert same_contents(one) == [
        Shared("a/1.mp4", "linked/1.mp4", copy=False),
        Shared("a/3.mp4", "b/copy.mp4", copy=True),
    ]

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vsn_train.data.manifest import UNLABELLED, Manifest, make_manifest, sort_classes
from vsn_train.errors import InputError


def small(**change):
    columns = {"paths": ["a.webm", "b.webm", "é.webm"], "labels": [2, 0, 1], "class_names": ["c", "a", "B"]}
    columns |= {"ids": ["a", "b", "é"], "flip_pairs": [(0, 2)], "num_frames": [7, -1, 3], "missing": ["d"]} | change
    return make_manifest("made", "train", Path("/videos"), **columns)


def test_save_and_load(tmp_path):
    manifest = small()
    manifest.save(tmp_path / "m.npz")
    first = (tmp_path / "m.npz").read_bytes()
    loaded = Manifest.load(tmp_path / "m.npz")
    assert loaded.content_hash() == manifest.content_hash()
    assert loaded.path(2) == Path("/videos/é.webm")
    assert [loaded.known_frames(index) for index in range(3)] == [7, None, 3]
    fields = ("name", "split", "root", "class_names", "flip_pairs", "flips_allowed", "missing")
    assert all(getattr(loaded, name) == getattr(manifest, name) for name in fields)
    loaded.save(tmp_path / "m.npz")
    assert (tmp_path / "m.npz").read_bytes() == first
    small(num_frames=None).save(tmp_path / "m.npz")
    assert Manifest.load(tmp_path / "m.npz").num_frames is None


@pytest.mark.parametrize("content", [b"", b"not a manifest", b"PK\x03\x04"])
def test_load_of_other_files(tmp_path, content):
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"m.npz: not a manifest, or damaged"):
        Manifest.load(tmp_path / "m.npz")
    with pytest.raises(InputError, match=r"nothing.npz: not a manifest"):
        Manifest.load(tmp_path / "nothing.npz")


def test_hash_depends_on_ids_labels_and_classes_alone():
    # The value is in published score files: it must stay.
    assert small().content_hash() == "bdd070a38fd2f9a3"
    same = [{"paths": ["a", "b", "é.mp4"]}, {"num_frames": None}, {"missing": ()}]
    assert {small(**change).content_hash() for change in same} == {small().content_hash()}
    other = [{"ids": ["a", "b", "e"]}, {"labels": [2, 0, 0]}, {"class_names": ["c", "a", "b"]}]
    assert len({small(**change).content_hash() for change in [*other, {}]}) == 4


def test_sorted_classes_move_labels_and_pairs_along():
    ordered = sort_classes(small())
    assert ordered.class_names == ("B", "a", "c")  # by code point
    assert ordered.labels.tolist() == [0, 2, 1]
    assert ordered.flip_pairs == ((2, 0),)
    assert sort_classes(ordered).labels.tolist() == [0, 2, 1]
    unlabelled = make_manifest("made", "test", Path(), ["a"], [UNLABELLED], ["z", "y"])
    assert sort_classes(unlabelled).labels.tolist() == [UNLABELLED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": [2, 3, 0]}, r"label 3 of b is out of range: 3 classes have labels 0 to 2"),
        ({"labels": [UNLABELLED] * 3}, r"label -1 of a is out of range"),
        ({"ids": ["a", "b", "a"]}, r"a is listed more than once"),
        ({"paths": [], "labels": [], "ids": []}, r"found no videos under /videos"),
    ],
)
def test_wrong_columns(change, message):
    with pytest.raises(InputError, match=message):
        small(**change)


MEASURE = """
import os, sys, time
import numpy as np
from vsn_train.data.manifest import Manifest

def private_kilobytes():  # what this process does not share with its parent
    with open("/proc/self/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(("Private_Dirty", "Private_Clean")))

before = private_kilobytes()
manifest = Manifest.load(sys.argv[1])
print(private_kilobytes() - before)
for _ in range(4):
    read, write = os.pipe()
    if not os.fork():
        before = private_kilobytes()
        for index in np.random.default_rng(0).permutation(len(manifest)).tolist():
            manifest.paths[index], manifest.sample_id(index), manifest.labels[index], manifest.known_frames(index)
        os.write(write, str(private_kilobytes() - before).encode())
        os._exit(0)
    os.wait()
    print(os.read(read, 99).decode())
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the kernel does not tell shared from private")
def test_300_000_videos_load_fast_and_are_shared_by_workers(tmp_path):
    stems = [f"{index:011x}_{index % 1000:06d}_{index % 1000 + 10:06d}" for index in range(300_000)]
    manifest = make_manifest(
        "made", "train", tmp_path, [f"train/some class name/{stem}.mp4" for stem in stems],
        (np.arange(300_000) % 400).tolist(), [f"class {label}" for label in range(400)], ids=stems,
        num_frames=[300] * 300_000,
    )  # fmt: skip
    manifest.save(tmp_path / "m.npz")
    started = time.perf_counter()
    loaded = Manifest.load(tmp_path / "m.npz")
    seconds = time.perf_counter() - started
    assert len(loaded) == 300_000
    assert seconds < 1, f"{seconds:.2f} s"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path / "m.npz")], env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    kilobytes = [int(line) for line in done.stdout.split()]
    assert len(kilobytes) == 5
    assert sum(kilobytes) < 100_000, f"parent and four workers, in kB: {kilobytes}"
    print(f"load {seconds:.3f} s; parent and workers {kilobytes} kB")


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"labels": [2, 0.5, 1]}, r"made train: label 0.5 of b; expected a whole number up to"),
        ({"labels": [2, 10**30, 1]}, r"label 1000000000000000000000000000000 of b; expected a whole number"),
        ({"labels": [2, "1", 1]}, r"label '1' of b; expected a whole number"),
        ({"num_frames": [7, -1, 10**11]}, r"num_frames 100000000000 of é; expected a whole number up to 2147483647"),
    ],
)
def test_numbers_that_a_column_cannot_hold(column, message):
    with pytest.raises(InputError, match=message):
        small(**column)

"""Writing files as a whole: what a crash, a kill, a second writer or a link leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vsn_train.atomic import atomic_path, remove_parts, write_atomic


def test_a_failure_while_writing_leaves_the_file_before_and_nothing_else(tmp_path: Path):
    target = tmp_path / "scores.json"
    write_atomic(target, "before")

    def fail_halfway() -> None:
        with atomic_path(target) as part:
            part.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert target.read_text() == "before"
    assert os.listdir(tmp_path) == ["scores.json"]


def test_a_link_is_replaced_and_not_written_through(tmp_path: Path):
    outside = tmp_path / "outside.txt"
    outside.write_text("mine")
    link = tmp_path / "metrics.json"
    link.symlink_to(outside)
    write_atomic(link, "new")
    assert outside.read_text() == "mine"
    assert link.read_text() == "new"
    assert not link.is_symlink()


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path):
    target = tmp_path / "v.avi"
    with atomic_path(target) as first:
        with atomic_path(target) as second:
            assert first != second
            second.write_text("second")
        first.write_text("first")
        assert target.read_text() == "second"
    assert target.read_text() == "first"


@pytest.mark.parametrize("name", ["é" * 125 + ".json", "a" * 255, " ", "跑步$x$.txt"])
def test_any_name_that_the_file_system_takes(tmp_path: Path, name: str):
    write_atomic(tmp_path / name, b"\0")
    assert (tmp_path / name).read_bytes() == b"\0"


def test_parts_of_killed_processes_are_removed_and_no_others(tmp_path: Path):
    code = (
        "import os, pathlib, sys\n"
        "from vsn_train.atomic import atomic_path\n"
        "with atomic_path(pathlib.Path(sys.argv[1])) as part:\n"
        "    part.write_text('half')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "last.pt")], check=False)
    assert len(list(tmp_path.glob(".last.pt.*.part"))) == 1
    (tmp_path / ".a.part").write_text("somebody else's")
    with atomic_path(tmp_path / "best.pt") as mine:
        mine.write_text("whole")
        remove_parts(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".a.part", "best.pt"]

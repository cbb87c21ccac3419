"""vsn-tools scan on videos of one's own: what is there twice, and what both splits share."""

from __future__ import annotations

import shutil
import sys

import pytest

from vsn_train.tools.main import main


def scan(monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["vsn-tools", "scan", "dataset=custom", *map(str, words), "--no-frames"])
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, *capsys.readouterr()


def test_equal_contents_under_other_names(tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    for number, path in enumerate(
        ("train/walk/1.mp4", "train/walk/2.mp4", "train/run/3.mp4", "val/walk/4.mp4", "val/run/5.mp4")
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(bytes([number]) * 20_000)
    code, out, err = scan(monkeypatch, capsys, f"dataset.root={root}")
    assert (code, err) == (0, "")
    assert "under another name" not in out

    shutil.copy(root / "train/walk/1.mp4", root / "train/run/copy.mp4")
    (root / "train/run/link.mp4").symlink_to(root / "train/walk/2.mp4")
    (root / "train/run/notes.txt").touch()
    code, out, _ = scan(monkeypatch, capsys, f"dataset.root={root}")
    assert code == 0
    assert out.splitlines()[1:5] == [
        f"  {root}/train: left out: 1 that are no videos ('run/notes.txt')",
        "  2 videos are there under another name too:",
        "  train/walk/1.mp4: the same content as train/run/copy.mp4",
        "  train/walk/2.mp4: a link to train/run/link.mp4",
    ]

    shutil.copy(root / "train/walk/1.mp4", root / "val/run/6.mp4")
    code, out, _ = scan(monkeypatch, capsys, f"dataset.root={root}")
    assert code == 1
    assert "1 of 3 validation videos are also training videos (as copies), first val/run/6.mp4, which is train/" in out
    code, out, _ = scan(monkeypatch, capsys, f"dataset.root={root}", "dataset.allow_overlap=true")
    assert code == 0
    assert "the validation accuracy overestimates the accuracy on new videos" in out

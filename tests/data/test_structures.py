"""Videos of random structure give what a plain decode gives: every frame alone, random clips, the number of frames."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.data.structures import CODECS, NotWritable, damage, write_structure, wrong_reads

os.environ.setdefault("SVT_LOG", "0")  # the AV1 encoder greets on stderr

CHUNK = 20  # videos a test


def compare(seeds: range, folder: Path, damaged: bool = False, codec: str | None = None) -> int:
    """Frames compared. Fails with the seed and the structure of every video that is read wrongly."""
    compared, wrong = 0, []
    for seed in seeds:
        try:
            path, description = write_structure(seed, folder, codec)
        except NotWritable:
            continue
        draw = random.Random(seed)
        if damaged:
            path.write_bytes(damage(draw, path.read_bytes()))
        found, frames = wrong_reads(path, draw, damaged=damaged)
        compared += frames
        if found:
            wrong.append(f"{description}: {found[:3]}")
        path.unlink()
    assert not wrong, "\n".join(wrong)
    return compared


@pytest.mark.parametrize("first", range(0, 100, CHUNK))
def test_random_structures(first: int, tmp_path: Path) -> None:
    assert compare(range(first, first + CHUNK), tmp_path) > 200


@pytest.mark.parametrize("first", range(0, 60, CHUNK))
def test_damaged_structures(first: int, tmp_path: Path) -> None:
    assert compare(range(first, first + CHUNK), tmp_path, damaged=True) > 100


@pytest.mark.slow
@pytest.mark.parametrize("codec", sorted({*CODECS, "av1"}))
def test_many_random_structures(codec: str, tmp_path: Path) -> None:
    seeds = range(10_000, 10_000 + (20 if codec == "av1" else 200))
    assert compare(seeds, tmp_path, codec=codec) > 10 * len(seeds)


@pytest.mark.slow
@pytest.mark.parametrize("codec", sorted(set(CODECS)))
def test_many_damaged_structures(codec: str, tmp_path: Path) -> None:
    compare(range(20_000, 20_150), tmp_path, damaged=True, codec=codec)

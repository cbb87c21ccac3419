"""scripts/fuzz.py: files that somebody else may have made, through the commands' doors."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scripts.fuzz import schedule
from scripts.fuzzing.cases import KINDS
from scripts.fuzzing.doors import Ran, snapshot, verdict
from tests.conftest import run_command

FUZZ = Path(__file__).resolve().parents[1] / "scripts" / "fuzz.py"


def fuzz(*words: str) -> tuple[int, str]:
    result = run_command(str(FUZZ), *words, timeout=3000)
    return result.code, result.out + result.err


def test_a_few_of_each_kind():
    code, text = fuzz("--seed", "0", "--cases", "30", "--processes", "2")
    assert code == 0, text
    assert all(re.search(rf"^{kind}: \d+ cases, 0 failed$", text, re.MULTILINE) for kind in KINDS)
    assert "30 of 30 cases" in text


@pytest.mark.slow
def test_a_thousand():
    code, text = fuzz("--seed", "1", "--cases", "1000", "--processes", "2")
    assert code == 0, text


def test_every_kind_has_its_share_and_is_among_the_first():
    assert sum(share for _, share in KINDS.values()) == 100
    kinds = [kind for kind, _ in schedule(1000, "")]
    assert set(kinds[:30]) == set(KINDS)
    assert {kind: kinds.count(kind) for kind in KINDS} == {kind: 10 * share for kind, (_, share) in KINDS.items()}


@pytest.mark.parametrize(
    ("ran", "problem"),
    [
        (Ran(0, "done", "", 1.0, 1), ""),
        (Ran(2, "", "vsn-eval: best.pt: damaged\n", 1.0, 1), ""),
        (Ran(2, "", "", 1.0, 1), "exit code 2 with 0 messages"),
        (Ran(2, "", "vsn-eval: a\nvsn-eval: b\n", 1.0, 1), "exit code 2 with 2 messages"),
        (Ran(1, "", "Traceback (most recent call last):\n", 1.0, 1), "a traceback"),
        (Ran(-9, "", "", 1.0, 1), "exit code -9"),
        (Ran(None, "", "", 9.0, 1), "still running after 5 s"),
        (Ran(0, "", "", 1.0, 3 << 30), "took 3.0 GB of memory"),
        (Ran(1, "", "", 1.0, 1), "exit code 1 without a word"),
        (Ran(0, "", "x.py:3: RuntimeWarning: divide by zero", 1.0, 1), "a warning meant for programmers"),
        (Ran(0, "s3cr3t-of-the-environment", "", 1.0, 1), "printed a secret of the environment"),
    ],
)
def test_what_is_wrong_is_seen(ran, problem):
    found = verdict(ran, 5)
    assert found == [] if not problem else problem in found[0]


def test_what_was_written_elsewhere_is_seen(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "victim").write_text("whole")
    (tmp_path / "link").symlink_to("victim")
    before = snapshot(tmp_path, [tmp_path / "target"])
    (tmp_path / "target" / "result").touch()
    assert snapshot(tmp_path, [tmp_path / "target"]) == before
    (tmp_path / "link").write_text("overwritten")
    assert snapshot(tmp_path, [tmp_path / "target"]).keys() == before.keys()
    assert snapshot(tmp_path, [tmp_path / "target"]) != before

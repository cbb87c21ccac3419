"""vsn-tools as a whole: its help, what it refuses, and that it imports one verb only."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from vsn_train.tools import main as command

FOLDER = Path(command.__file__).parent
HELPERS = {"__init__", "main", "compose"}


def call(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["vsn-tools", *words])
    with pytest.raises(SystemExit) as ended:
        command.main()
    return int(str(ended.value.code)), *capsys.readouterr()


def test_help_names_every_verb_and_imports_none():
    program = (
        "import sys; sys.argv = ['vsn-tools', '--help']\n"
        "from vsn_train.tools.main import main\n"
        "try: main()\n"
        "finally: print([name for name in sys.modules if name == 'torch' or name.startswith('vsn_train.tools.')])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *page, imported = done.stdout.splitlines()
    assert imported == "['vsn_train.tools.main']"
    assert len(page) < 20
    assert max(map(len, page)) <= 100
    assert {line.split()[0] for line in page if line.startswith("  ")} == set(command.VERBS)
    assert {path.stem for path in FOLDER.glob("*.py")} == {*command.VERBS, *HELPERS}


@pytest.mark.parametrize("verb", command.VERBS)
def test_every_verb_shows_two_examples_at_least(verb, monkeypatch, capsys):
    code, out, err = call(monkeypatch, capsys, verb, "--help")
    assert (code, err) == (0, "")
    assert len(re.findall(rf"^    vsn-tools {verb} ", out, re.M)) >= 2
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["scans"], "vsn-tools: scans: no such verb; expected one of scan, check"),
        (["scan", "dataset.rot=x"], "vsn-tools scan: unknown key 'dataset.rot', did you mean dataset.root"),
        (["scan", "dataset=jestr"], "vsn-tools scan: dataset=jestr: no such choice; expected one of "),
        (["check", "/nowhere/at/all"], "vsn-tools check: /nowhere/at/all: no such folder"),
        (["prepare", "/nowhere", "/else", "--crff", "3"], "vsn-tools prepare: unrecognized arguments: --crff 3; "),
        (["export", "--output", "x.onnx"], "vsn-tools export: no network given; add checkpoint=… or operator=…"),
        (["scores", "show", "none.npz"], "vsn-tools scores: none.npz"),
        (["bench", "step", "--only", "warp"], "vsn-tools bench: warp: no such switch"),
    ],
)
def test_wrong_input_is_one_message_and_exit_code_2(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = call(monkeypatch, capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith(message)
    assert not list(tmp_path.iterdir())


def test_the_package_lists_the_four_commands():
    done = subprocess.run([sys.executable, "-m", "vsn_train"], capture_output=True, text=True, check=False)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [
        "vsn-train",
        "vsn-eval",
        "vsn-predict",
        "vsn-tools",
    ]

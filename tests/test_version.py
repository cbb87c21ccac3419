"""--version of the four commands, and what a mere import costs."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys

import pytest

import vsn_train

ENTRIES = {
    "vsn-train": "vsn_train.cli:train",
    "vsn-eval": "vsn_train.cli:evaluate",
    "vsn-predict": "vsn_train.cli:predict",
    "vsn-tools": "vsn_train.tools.main:main",
}


def in_a_new_python(program: str) -> list[str]:
    """The lines that it prints."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("name", ENTRIES)
def test_version_tells_ours_and_those_of_what_decides_numbers_without_importing_it(name):
    module, _, function = ENTRIES[name].partition(":")
    version, imported = in_a_new_python(
        f"import sys; sys.argv = [{name!r}, '--version']\n"
        f"from {module} import {function} as command\n"
        "command()\n"
        "print([name for name in ('torch', 'torchvision', 'av') if name in sys.modules])"
    )
    of = importlib.metadata.version
    assert version == (
        f"vsn-train {vsn_train.__version__} (torch {of('torch')}, torchvision {of('torchvision')}, av {of('av')})"
    )
    assert imported == "[]"


def test_importing_vsn_train_imports_no_dependency():
    (imported,) = in_a_new_python(
        "import sys; import vsn_train\n"
        "print([name for name in ('torch', 'torchvision', 'av', 'numpy', 'hydra', 'omegaconf') if name in sys.modules])"
    )
    assert imported == "[]"


def test_a_missing_package_is_named(monkeypatch, capsys):
    def version(name: str) -> str:
        if name == "av":
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.2"

    monkeypatch.setattr(importlib.metadata, "version", version)
    monkeypatch.setattr(sys, "argv", ["vsn-train", "seed=1", "--version"])
    from vsn_train import cli

    cli.train()
    assert capsys.readouterr().out == f"vsn-train {vsn_train.__version__} (torch 1.2, torchvision 1.2, no av)\n"

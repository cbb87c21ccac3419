"""Wheels for a machine without a package index: what is gathered; slow: that it is enough to train."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from scripts import wheelhouse

TOP = Path(__file__).resolve().parents[1]


def test_what_comes_with_torch_is_left_out_unless_asked_for(tmp_path):
    needs = ["torch>=2.5", "numpy", "pillow>=10", "scipy>=1.11", "decord>=0.6; sys_platform == 'linux'", "av>=17"]
    needs += ["tabulate[widechars]>=0.9", "safetensors>=0.4", "onnx>=1.19; extra == 'onnx'"]
    metadata = "".join(f"Requires-Dist: {each}\n" for each in needs)
    with zipfile.ZipFile(tmp_path / "ours.whl", "w") as archive:
        archive.writestr("vsn_train-9.dist-info/METADATA", f"Name: vsn-train\n{metadata}\n# README")
    required = wheelhouse.requires(tmp_path / "ours.whl")
    assert wheelhouse.requirements(required, []) == ["av>=17", "tabulate[widechars]>=0.9", "safetensors>=0.4"]
    assert "decord>=0.6" in wheelhouse.requirements(required, ["decord"])
    assert any(each.startswith("scipy") for each in wheelhouse.requirements(required, ["scipy"]))
    assert wheelhouse.requirements(required, ["pandas"])[-1] == "pandas"


def test_wheels_for_an_older_glibc_are_taken_too():
    tags = wheelhouse.platforms("manylinux_2_28_aarch64")
    assert tags[0] == "manylinux_2_28_aarch64"
    assert {"manylinux_2_17_aarch64", "manylinux2014_aarch64"} <= set(tags)
    assert "manylinux_2_29_aarch64" not in tags
    assert wheelhouse.platforms("macosx_11_0_arm64") == ["macosx_11_0_arm64"]


def test_a_folder_that_is_not_empty_is_refused(tmp_path):
    (tmp_path / "old.whl").touch()
    command = [sys.executable, "scripts/wheelhouse.py", "--output", tmp_path]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"wheelhouse: --output {tmp_path} is not empty; remove it or name another folder\n"
    assert [path.name for path in tmp_path.iterdir()] == ["old.whl"]


@pytest.mark.slow
def test_from_the_wheels_alone_a_machine_with_torch_trains(tmp_path):
    """torch and what comes with it are lent by this environment; all else comes from the folder."""
    own = [sys.executable, "-m", "pip", "--version"]
    if subprocess.run(own, capture_output=True, check=False).returncode:
        pytest.skip("needs pip")
    house = tmp_path / "wheelhouse"
    gather = [sys.executable, "scripts/wheelhouse.py", "--output", house]
    print(subprocess.run(gather, cwd=TOP, check=True, capture_output=True, text=True).stdout)
    wheels = sorted(house.glob("*.whl"))
    assert sum(wheel.stat().st_size for wheel in wheels) < 60e6
    assert any(wheel.name.startswith("safetensors-") for wheel in wheels)
    site = tmp_path / "site"
    install = [*own[:-1], "install", "--quiet", "--no-index", "--no-deps", "--target", site, *wheels]
    subprocess.run(install, check=True)

    lend = (
        "import sys, importlib.machinery as m, importlib.metadata\n"
        f"site = {str(site)!r}\n"
        "lent = [p for p in sys.path if 'site-packages' in p]\n"
        "class Lender:\n"
        "    names = set('torch torchvision torchgen functorch numpy PIL typing_extensions sympy mpmath'.split()\n"
        "                + 'networkx scipy jinja2 markupsafe filelock fsspec setuptools _distutils_hack'.split())\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in self.names:\n"
        "            return m.PathFinder.find_spec(name, path or lent, target)\n"
        "sys.path = [site] + [p for p in sys.path if 'site-packages' not in p]\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '')] + [Lender()]\n"
        "from vsn_train.cli import train\n"
        "import vsn_train; assert vsn_train.__file__.startswith(site), vsn_train.__file__\n"
        "train()\n"
    )
    tiny = [
        "dataset.train_videos=12", "dataset.val_videos=12", "schedule.epochs=1", "data.workers=0",
        f"dataset.root={tmp_path / 'data'}", f"hydra.run.dir={tmp_path / 'run'}",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", lend, *tiny], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "checkpoints" / "last.pt").exists()
    assert list((tmp_path / "run" / "tensorboard").iterdir())

"""What the sdist and the wheel hold, and the installed wheel at work: every command, every verb, away from the source.

It is installed into an environment of its own, where its dependencies are links to those of the Python that runs the
tests: nothing is downloaded, and what pyproject.toml does not name is not there.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from vsn_train import __version__
from vsn_train.tools.main import VERBS

ROOT = Path(__file__).resolve().parents[1]
SMALL = [
    "dataset.root=data", "dataset.train_videos=12", "dataset.val_videos=12", "dataset.num_frames=6",
]  # fmt: skip
TRAINING = [
    *SMALL, "backbone=sth", "backbone.arch=resnet18", "backbone.num_frames=2", "data.short_side=40",
    "data.crop_size=32", "data.workers=1", "runtime.threads=1", "schedule.epochs=1",
]  # fmt: skip
BEST = "run/checkpoints/best.pt"
SCORES = "run/eval/best/center_1clip/scores.npz"
# What each verb is asked to do, what it says then, and the file that it leaves.
WORK = {
    "scan": (["dataset=motion", *SMALL, "--workers", "1"], "val: 12 videos of 12 listed", ""),
    "check": (["data", "--workers", "2", "--report", "check.json"], "24 files: nothing wrong", "check.json"),
    "split": (["all.csv", "--root", "data", "--output", "lists"], "written: lists", "lists/val.csv"),
    "prepare": (["data", "copies", "--workers", "1"], "24", "copies/prepare.json"),
    "flow": (["data", "flow", "--method", "dis", "--workers", "1"], "24 videos done with 120", "flow/flow.json"),
    "scores": (["show", SCORES, "--json", "show.json"], "95 % interval", "show.json"),
    "export": (["--checkpoint", BEST, "--batch", "1", "--output", "model.pt2"], "written: model.pt2", "model.pt2"),
    "complexity": (["--operator", "sth", "--arch", "resnet18"], "total", ""),
    "attention": ([f"checkpoint={BEST}", "data.workers=0"], "temporal share", "attention.md"),
    "bench": (
        ["model", "tsm/tsn", "--mode", "forward", "--arch", "resnet18", "--num-frames", "2", "--size", "32",
         "--channels-last", "on", "--rounds", "1"],
        "written: runs/benchmark/model", "runs/benchmark/model.json",
    ),
}  # fmt: skip
# What asks for an extra that is not installed.
EXTRAS = {
    "flow": ["flow", "data", "other", "--method", "dis"],
    "onnx": ["export", "--checkpoint", BEST, "--output", "model.onnx"],
    "torchcodec": ["check", "data", "--readers", "torchcodec"],
}
# vsn-tools for one list of words after the other: importing torch for each anew would take a minute more.
IN_ONE_PROCESS = """
import contextlib, io, json, sys, traceback
from vsn_train.tools.main import main

found = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["vsn-tools", *words]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        except Exception:
            code = traceback.format_exc()
    found.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Environment:
    folder: Path  # of the virtual environment
    work: Path  # an empty folder outside the repository, where the commands are run

    @property
    def site(self) -> Path:
        (found,) = self.folder.glob("lib/python*/site-packages")
        return found

    def run(self, command: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        without = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}  # of the tests' own Python
        return subprocess.run(
            [str(self.folder / "bin" / command), *arguments], cwd=self.work, capture_output=True, text=True,
            timeout=300, check=False,
            env={key: value for key, value in os.environ.items() if key not in without} | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def tools(self, calls: dict[str, list[str]]) -> dict[str, tuple[int | str, str, str]]:
        """Exit code or traceback, stdout and stderr of vsn-tools for each of these calls."""
        done = self.run("python", "-c", IN_ONE_PROCESS, json.dumps(list(calls.values())))
        assert done.returncode == 0, done.stderr
        return dict(zip(calls, map(tuple, json.loads(done.stdout.splitlines()[-1])), strict=True))

    def link(self, requirements: set[str]) -> None:
        """Make the distributions that these need importable, and nothing else."""
        for name in requirements:
            distribution = importlib.metadata.distribution(name)
            for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
                if not top.endswith(".pth") and not (self.site / top).exists():
                    (self.site / top).symlink_to(str(distribution.locate_file(top)))


def needed(requires: list[str], extra: str = "") -> set[str]:
    """Names of the installed distributions that these requirements lead to."""
    found: set[tuple[str, str]] = set()
    to_do = [(line, extra) for line in requires]
    while to_do:
        line, extra = to_do.pop()
        requirement = Requirement(line)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        for each in ("", *requirement.extras):
            if (requirement.name, each) not in found:
                found.add((requirement.name, each))
                to_do += [(line, each) for line in importlib.metadata.requires(requirement.name) or ()]
    return {name for name, _ in found}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was made from it."""
    folder = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("venv"), tmp_path_factory.mktemp("work"))
    assert ROOT not in environment.work.parents
    venv.create(environment.folder, with_pip=False, symlinks=True)
    (wheel,) = built.glob("*.whl")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(environment.folder / "bin" / "python"), "install", "--quiet",
         "--no-deps", "--no-index", str(wheel)],
        check=True, capture_output=True, timeout=300,
    )  # fmt: skip
    environment.link(needed(requires_of(environment)))
    return environment


def requires_of(environment: Environment) -> list[str]:
    (ours,) = importlib.metadata.distributions(name="vsn-train", path=[str(environment.site)])
    return ours.requires or []


@pytest.fixture(scope="module")
def trained(installed: Environment) -> Environment:
    """With one epoch in run/, and its evaluation."""
    for command, values in [("vsn-train", [*TRAINING, "hydra.run.dir=run"]), ("vsn-eval", [f"checkpoint={BEST}"])]:
        done = installed.run(command, *values)
        assert done.returncode == 0, done.stderr
    return installed


def test_the_sdist_holds_what_the_build_and_the_tests_need(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    files = {"pyproject.toml", "README.md", "LICENSE", "Makefile", "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md"}
    assert files <= names
    for folder in ("configs", "constraints", "docs", "scripts", "tests", "vsn_train"):
        there = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / folder).rglob("*")
            if path.is_file() and path.suffix != ".pyc"
        }
        assert there
        assert there == {name for name in names if name.startswith(f"{folder}/")}


def test_the_wheel_holds_the_package_and_its_configs(built):
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [*ROOT.glob("vsn_train/**/*"), *ROOT.glob("configs/**/*")]
    expected = {path.relative_to(ROOT).as_posix() for path in files if path.is_file() and path.suffix != ".pyc"}
    expected = {name if name.startswith("vsn_train/") else f"vsn_train/{name}" for name in expected}
    assert {name for name in names if ".dist-info/" not in name} == expected


def test_the_metadata_say_who_what_and_where(installed):
    (ours,) = importlib.metadata.distributions(name="vsn-train", path=[str(installed.site)])
    metadata = ours.metadata
    assert metadata["Author"] == "vsn-train contributors"  # as in CITATION.cff
    assert metadata["License-Expression"] == "MIT"
    assert "temporal shift" in metadata["Keywords"]
    assert len(metadata.get_all("Classifier")) > 5
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {metadata['Version']}\n" in citation
    page = metadata.get_payload()  # the README without links and images that the package index could not follow
    assert page.startswith("# vsn-train\n")
    assert "| compare operators | `vsn-train --multirun" in page
    targets = re.findall(r"\]\(([^)]+)\)", page)
    assert [target for target in targets if not target.startswith(("https://", "#"))] == []
    for line in metadata.get_all("Project-URL"):
        assert f"url: {line.partition(', ')[2]}\n" in citation


def test_the_oldest_versions_are_tested(installed):
    """constraints/ has the lower bound of everything that `make test-oldest` and `make test-oldest-onnx` install."""
    pinned_in = {}
    for name in ("oldest.txt", "oldest-onnx.txt"):
        lines = (ROOT / "constraints" / name).read_text(encoding="utf-8").splitlines()
        pinned_in[name] = {
            each.name: each for each in (Requirement(line) for line in lines if not line.startswith("#"))
        }
    requirements = [Requirement(line) for line in requires_of(installed)]
    # The extra onnx has bounds of its own, of torch too. The extra test repeats them.
    of_onnx = {(each.name, each.specifier) for each in requirements if 'extra == "onnx"' in str(each.marker)}
    assert {name for name, _ in of_onnx} == {"torch", "onnx", "onnxscript", "onnxruntime"}
    wrong = []
    for requirement in requirements:
        ours, optional = requirement.name == "vsn-train", re.search("slurm|torchcodec|docs", str(requirement.marker))
        exact = any(each.operator == "==" for each in requirement.specifier)
        if ours or optional or exact:
            continue
        lowest = next(Version(each.version) for each in requirement.specifier if each.operator == ">=")
        file = "oldest-onnx.txt" if (requirement.name, requirement.specifier) in of_onnx else "oldest.txt"
        found = pinned_in[file].get(requirement.name)
        release = Version(next(iter(found.specifier)).version).release if found else ()
        if release[: len(lowest.release)] != lowest.release or any(release[len(lowest.release) : 3]):
            wrong.append(f"{requirement}: constraints/{file} has {found}")
    assert not wrong, "\n".join(wrong)


def test_nothing_of_the_source_tree_is_used(installed):
    program = "import sys, vsn_train, vsn_train.config as c; print(vsn_train.__file__, c.config_folder(), *sys.path)"
    done = installed.run("python", "-c", program)
    assert done.returncode == 0, done.stderr
    file, configs, *path = done.stdout.split()
    assert Path(file) == installed.site / "vsn_train" / "__init__.py"
    assert Path(configs) == installed.site / "vsn_train" / "configs"
    assert not any(Path(each).resolve() == ROOT or ROOT in Path(each).resolve().parents for each in path)


@pytest.mark.parametrize("command", ["vsn-train", "vsn-eval", "vsn-predict", "vsn-tools"])
def test_the_four_commands_are_installed_and_tell_their_version(installed, command):
    done = installed.run(command, "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"vsn-train {__version__} (torch {importlib.metadata.version('torch')}, torchvision ")
    listed = installed.run("python", "-m", "vsn_train").stdout
    assert f"\n{command} " in f"\n{listed}"


def test_it_trains_evaluates_and_predicts(trained):
    folder = trained.work / "run" / "eval" / "best" / "center_1clip"
    assert json.loads((folder / "metrics.json").read_text())["n"] == 12
    assert (folder / "report.html").stat().st_size > 10_000
    video = next(trained.work.glob("data/**/*.mp4"))
    done = trained.run("vsn-predict", f"checkpoint={BEST}", f"video={video}", "hydra.run.dir=predicted")
    assert done.returncode == 0, done.stderr
    assert "%" in done.stdout
    assert (trained.work / "predicted" / "prediction.json").is_file()


@pytest.fixture(scope="module")
def without_extras(trained: Environment) -> dict[str, tuple[int | str, str, str]]:
    return trained.tools(EXTRAS)


@pytest.mark.parametrize("extra", EXTRAS)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(without_extras, extra):
    code, out, err = without_extras[extra]
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert f"pip install 'vsn-train[{extra}]'" in err


@pytest.fixture(scope="module")
def worked(trained: Environment, without_extras: object) -> dict[str, tuple[int | str, str, str]]:
    trained.link(needed(requires_of(trained), "flow"))
    videos = sorted((trained.work / "data").glob("**/*.mp4"))
    lines = [f"{video.relative_to(trained.work / 'data')},{'ab'[i % 2]}\n" for i, video in enumerate(videos)]
    (trained.work / "all.csv").write_text("path,class\n" + "".join(lines))
    return trained.tools({verb: [verb, *arguments] for verb, (arguments, _, _) in WORK.items()})


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_works(trained, worked, verb):
    _, said, written = WORK[verb]
    code, out, err = worked[verb]
    assert code == 0, err
    assert said in out
    assert not written or (trained.work / written).is_file()

"""Collect the wheels that a machine without a package index needs in addition to torch. Writes them to OUTPUT.

    python scripts/wheelhouse.py --python 3.12 --platform manylinux_2_28_x86_64
    python scripts/wheelhouse.py --python 3.11 --also decord scipy

On that machine, which has torch, torchvision, numpy and scipy:

    pip install --no-index --no-deps wheelhouse/*.whl

Not included: torch, torchvision and their dependencies; scipy, which is large and usually installed; decord, because
PyAV reads every video; and packages that TensorBoard needs only to show its pages. Add any of them with --also.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import zipfile
from email import message_from_bytes
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from vsn_train.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
WITH_TORCH = {"torch", "torchvision", "numpy", "scipy", "pillow", "setuptools", "typing-extensions"}
NOT_NEEDED = {"decord", "grpcio", "markdown", "markupsafe", "tensorboard-data-server", "tzdata", "werkzeug"}
PURE = ["fonttools"]  # of matplotlib; the compiled wheel is five times as large and no faster for matplotlib
SOURCE_ONLY = ["antlr4-python3-runtime==4.9.*"]  # of omegaconf; pure Python, the index has no wheel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--python",
        default=f"{sys.version_info[0]}.{sys.version_info[1]}",
        help="Python version of that machine; default: this one",
    )
    parser.add_argument(
        "--platform", default="manylinux_2_28_x86_64", help="platform tag of that machine; default %(default)s"
    )
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME", help="further packages to include")
    parser.add_argument("--output", type=Path, default=Path("wheelhouse"), help="folder; default wheelhouse")
    arguments = parser.parse_args()
    try:
        wheels = gather(arguments.python, arguments.platform, arguments.also, arguments.output)
    except InputError as error:
        print(f"wheelhouse: {error}", file=sys.stderr)
        sys.exit(2)
    size = sum(path.stat().st_size for path in wheels)
    print(f"{len(wheels)} wheels, {size / 1e6:.1f} MB, for Python {arguments.python} on {arguments.platform}")
    print(f"there: pip install --no-index --no-deps {arguments.output}/*.whl")


def gather(python: str, platform: str, also: list[str], output: Path) -> list[Path]:
    """Write the wheels, including ours, to `output`. Raises InputError if it is not empty or pip fails."""
    if output.exists() and any(output.iterdir()):
        raise InputError(f"--output {output} is not empty; remove it or name another folder")
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        run_pip("wheel", "--no-deps", "--wheel-dir", folder, *SOURCE_ONLY, str(ROOT))
        (ours,) = Path(folder).glob("vsn_train-*.whl")
        wanted = requirements(requires(ours), also)
        run_pip(
            "download", "--only-binary=:all:", "--find-links", folder, "--dest", folder,
            "--python-version", python, "--implementation", "cp",
            *(word for each in platforms(platform) for word in ("--platform", each)), *wanted,
        )  # fmt: skip
        run_pip(
            "download", "--only-binary=:all:", "--no-deps", "--dest", folder, "--python-version", python,
            "--implementation", "py", "--abi", "none", "--platform", "any", *PURE,
        )  # fmt: skip
        left_out = (WITH_TORCH | NOT_NEEDED) - {canonicalize_name(name) for name in also}
        for path in sorted(Path(folder).glob("*.whl")):
            name, _, _, tags = parse_wheel_filename(path.name)
            if name not in left_out and not (name in PURE and all(tag.platform != "any" for tag in tags)):
                (output / path.name).write_bytes(path.read_bytes())
    return sorted(output.glob("*.whl"))


def requires(wheel: Path) -> list[str]:
    """The requirements in a wheel's metadata. The metadata of an editable install may be older than pyproject.toml."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".dist-info/METADATA"))
        return message_from_bytes(archive.read(name)).get_all("Requires-Dist") or []


def requirements(required: list[str], also: list[str]) -> list[str]:
    """The requirements without extras, without those left out, and without markers, which describe this machine."""
    needed = [Requirement(text) for text in required if "extra ==" not in text]
    taken = {canonicalize_name(name) for name in also}
    kept = [each for each in needed if each.name in taken or each.name not in WITH_TORCH | NOT_NEEDED]
    named = {each.name for each in kept}
    return [str(each).partition(";")[0] for each in kept] + [name for name in also if name not in named]


def platforms(platform: str) -> list[str]:
    """The platform tag; for a manylinux tag also those of older glibc, whose wheels run there too."""
    match = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", platform)
    if match is None:
        return [platform]
    older = [f"manylinux_2_{number}_{match[2]}" for number in range(int(match[1]), 4, -1)]
    return [*older, f"manylinux2014_{match[2]}", f"manylinux2010_{match[2]}", f"manylinux1_{match[2]}"]


def run_pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputError(f"pip {words[0]}: {done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    main()

"""The commands in processes of their own, installed or not.

    python tests/cuda/command.py vsn-train dataset=motion …

VSN_TEST_DETERMINISTIC=1 has torch take deterministic kernels, and warn of each kernel that has no such form.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]


class Command:
    """A command that runs, with what tests/runs.py uses of it. It writes to a file: a full pipe would stop it."""

    def __init__(self, name: str, *arguments: str, output: Path, **environment: str) -> None:
        self.path = output
        paths = [str(TOP), *filter(None, [os.environ.get("PYTHONPATH")])]
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, __file__, name, *arguments],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment,
                cwd=output.parent, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self.pid = self.process.pid

    def poll(self) -> int | None:
        return self.process.poll()

    def output(self) -> str:
        return self.path.read_text(encoding="utf-8")

    def finish(self, timeout: float = 150) -> tuple[int, str]:
        """Exit code, and what it has written."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise TimeoutError(f"still running after {timeout} s:\n{self.output()}") from None
        return code, self.output()


def run(name: str, *arguments: str, folder: Path, **environment: str) -> str:
    """Run it to its end in `folder` and return what it has written; it has to succeed."""
    command = Command(name, *arguments, output=folder / f"output-{time.monotonic_ns()}.txt", **environment)
    code, text = command.finish()
    assert code == 0, text
    return text


def main() -> None:
    name, *words = sys.argv[1:]
    if os.environ.get("VSN_TEST_DETERMINISTIC"):
        import torch

        torch.use_deterministic_algorithms(True, warn_only=True)
    sys.argv = [name, *words]
    if name == "vsn-tools":
        from vsn_train.tools.main import main as tools

        sys.exit(tools())
    from vsn_train import cli

    {"vsn-train": cli.train, "vsn-eval": cli.evaluate}[name]()


if __name__ == "__main__":
    main()

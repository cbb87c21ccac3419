"""Installed commands that start in a process which has imported torch and all of vsn-train already.

A training of a test is over in a second or two, and starting Python on all that takes five. Nothing else is left out:
the console script itself is run, in a process of its own, with its own arguments, folder, environment and signals.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

SCRIPTS = Path(sys.executable).parent
# Elsewhere than on Linux it is not safe to fork what has imported as much; VSN_TRAIN_COLD=1 does without it too.
_warm = sys.platform == "linux" and not os.environ.get("VSN_TRAIN_COLD")
_context: Any = multiprocessing.get_context("forkserver" if _warm else "spawn")
if _warm:
    _context.set_forkserver_preload(["vsn_train.launch"])


class Command:
    """A started command, with what tests use of subprocess.Popen. own_session: for os.killpg to reach all of it."""

    def __init__(self, name: str, arguments: list[str], cwd: Path, own_session: bool = False, **environment: str):
        self._folder = tempfile.TemporaryDirectory(prefix="command")
        self._out, self._err = (Path(self._folder.name, each) for each in ("out", "err"))
        self._process = _context.Process(
            target=_run,
            args=([str(SCRIPTS / name), *arguments], str(cwd), os.environ | environment, own_session,
                  str(self._out), str(self._err)),
        )  # fmt: skip
        self._process.start()
        self.pid = int(self._process.pid or 0)
        atexit.register(self._abandon)  # a failed test may leave it running; multiprocessing would wait for its end

    def poll(self) -> int | None:
        """Exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            self._process.kill()
            raise TimeoutError(f"still running after {timeout} s:\n{self.output()}")
        atexit.unregister(self._abandon)
        return code

    def output(self) -> str:
        """What it has written to stdout and stderr so far, in this order."""
        return self.out() + self.err()

    def out(self) -> str:
        return self._out.read_text(encoding="utf-8") if self._out.exists() else ""

    def err(self) -> str:
        return self._err.read_text(encoding="utf-8") if self._err.exists() else ""

    def _abandon(self) -> None:
        if self.poll() is None:
            self._process.kill()


def _run(argv: list[str], cwd: str, environment: dict[str, str], own_session: bool, out: str, err: str) -> None:
    if own_session:
        os.setsid()
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    if "PYTHONWARNINGS" in environment:
        warnings.simplefilter(environment["PYTHONWARNINGS"])  # the interpreter's own name of an action
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    finally:
        atexit._run_exitfuncs()  # a process of multiprocessing leaves them out

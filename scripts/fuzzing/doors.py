"""A command as a user starts it, in a process of its own that has imported everything already; and what it did."""

from __future__ import annotations

import atexit
import os
import re
import resource
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.fuzzing.damage import SECRET

COMMANDS = Path(sys.executable).parent  # the installed ones lie beside the interpreter
MEMORY = 2 << 30  # bytes that a command may take
SECRET_TEXT = "s3cr3t-of-the-environment"


@dataclass(frozen=True)
class Door:
    """command: an installed one, or "load_model"; words: what follows it on the command line."""

    command: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join([self.command, *map(repr, self.words)])


@dataclass(frozen=True)
class Ran:
    """code: exit code, negative for a signal, None where it took too long. memory: most of it in bytes, of the process
    or one that it started."""

    code: int | None
    out: str
    err: str
    seconds: float
    memory: int


def run_door(door: Door, place: Path, limit: float, installed: bool = False) -> Ran:
    """place: the case's folder, see `Case`. installed: start the installed command itself, seconds slower."""
    out, err = place / "tmp" / ".out", place / "tmp" / ".err"
    started = time.monotonic()
    with out.open("wb") as output, err.open("wb") as errors:
        if installed and door.command != "load_model":
            process = subprocess.Popen(
                [str(COMMANDS / door.command), *door.words], cwd=place / "work", env=_environment(place),
                stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True, preexec_fn=_limit,
            )  # fmt: skip
            pid, process.returncode = process.pid, 0  # it is waited for below, for what it took
        else:
            pid = os.fork()
            if pid == 0:
                _child(door, place, output.fileno(), errors.fileno())
    code, memory = _wait(pid, started + limit)
    found = Ran(code, _text(out), _text(err), time.monotonic() - started, memory)
    out.unlink()
    err.unlink()
    return found


def _wait(pid: int, deadline: float) -> tuple[int | None, int]:
    code: int | None = None
    memory = 0
    while True:
        done, status, used = os.wait4(pid, os.WNOHANG)
        if done:
            code, memory = os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024
            break
        if time.monotonic() > deadline:
            _end(pid)
            used = os.wait4(pid, 0)[2]
            memory = used.ru_maxrss * 1024
            break
        time.sleep(0.005)
    _end(pid)  # whatever it left behind
    return code, memory


def _end(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _environment(place: Path) -> dict[str, str]:
    own = {"HOME": str(place / "home"), "TMPDIR": str(place / "tmp"), SECRET: SECRET_TEXT, "OMP_NUM_THREADS": "1"}
    own["MPLCONFIGDIR"] = str(place / "tmp")  # where matplotlib keeps its list of fonts
    return {**os.environ, **own}


def _limit() -> None:
    """So that a case ends itself and not the machine: the verdict is made by what it took."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 30, 1 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _child(door: Door, place: Path, out: int, err: int) -> None:
    code: Any = 0
    try:
        os.setsid()
        os.dup2(out, 1)
        os.dup2(err, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.chdir(place / "work")
        os.environ.update(_environment(place))
        _limit()
        import tempfile

        tempfile.tempdir = None
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
        sys.argv = [str(COMMANDS / door.command), *door.words]
        atexit._clear()  # of the fuzzer itself
        try:
            code = entry(door.command)()
        except SystemExit as error:
            code = error.code
            if isinstance(code, str):
                print(code, file=sys.stderr)
                code = 1
        except BaseException:
            traceback.print_exc()
            code = 1
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
        code = 70
    finally:
        os._exit(code if isinstance(code, int) else 0)


def entry(command: str) -> Callable[[], Any]:
    from vsn_train import cli
    from vsn_train.tools import main

    if command == "load_model":
        return load
    return {"vsn-train": cli.train, "vsn-eval": cli.evaluate, "vsn-predict": cli.predict, "vsn-tools": main.main}[
        command
    ]


def load() -> int:
    """The door from Python: vsn_train.load_model."""
    from vsn_train import load_model
    from vsn_train.errors import InputError

    try:
        trained = load_model(sys.argv[1], device="cpu")
        print(trained.top(sys.argv[2]))
    except InputError as error:
        print(f"vsn-python: {error}", file=sys.stderr)
        return 2
    return 0


def _text(path: Path) -> str:
    return path.read_bytes().decode("utf-8", "backslashreplace")


# ---- What it did -----------------------------------------------------------------------------------------------------


def snapshot(place: Path, targets: Sequence[Path]) -> dict[str, tuple[Any, ...]]:
    """Every file below the folder that lies in none of the targets: relative path -> what it is."""
    found: dict[str, tuple[Any, ...]] = {}
    kept = {os.fspath(each) for each in targets}
    for folder, names, files in os.walk(os.fsencode(place)):
        names[:] = [name for name in names if os.fsdecode(os.path.join(folder, name)) not in kept]
        for name in [*files, *names]:
            path = os.path.join(folder, name)
            if os.fsdecode(path) in kept:
                continue
            status = os.lstat(path)
            if stat.S_ISDIR(status.st_mode):
                what: tuple[Any, ...] = ("folder",)
            elif stat.S_ISLNK(status.st_mode):
                what = ("link", os.readlink(path))
            else:
                what = ("file", status.st_size, status.st_mtime_ns)
            found[os.fsdecode(os.path.relpath(path, os.fsencode(place)))] = what
    return found


def leaked(place: Path) -> list[str]:
    """Files that hold the secret of the environment."""
    found = []
    for folder, _, files in os.walk(place):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) > 4 << 20:
                continue
            with open(path, "rb") as file:
                if SECRET_TEXT.encode() in file.read():
                    found.append(path)
    return found


def verdict(ran: Ran, limit: float) -> list[str]:
    """What is wrong with how a command ended, by what it said."""
    problems = []
    if ran.code is None:
        problems.append(f"still running after {limit:.0f} s")
    elif ran.code not in (0, 1, 2):
        problems.append(f"exit code {ran.code}")
    if re.search(r"Traceback \(most recent call last\)|Fatal Python error", ran.out + ran.err):
        problems.append("a traceback")
    if ran.memory > MEMORY:
        problems.append(f"took {ran.memory / 2**30:.1f} GB of memory")
    messages = re.findall(r"^vsn-[a-z]+(?: [a-z]+)?: .*$", ran.err, re.MULTILINE)
    if ran.code == 2 and len(messages) != 1:
        problems.append(f"exit code 2 with {len(messages)} messages")
    if ran.code == 1 and not (ran.err.strip() or ran.out.strip()):
        problems.append("exit code 1 without a word")
    if any(len(message) > 3000 for message in messages):
        problems.append(f"a message of {max(map(len, messages))} characters")
    if warned := re.search(r"^.*(?<!Deprecation)Warning: .*$", ran.err, re.MULTILINE):
        problems.append(f"a warning meant for programmers: {warned[0][:200]}")
    if SECRET_TEXT in ran.out + ran.err:
        problems.append("printed a secret of the environment")
    return problems

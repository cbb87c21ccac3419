"""The commands vsn-train, vsn-eval and vsn-predict: Hydra starts and ends here.

torch and everything built on it is imported only after the config has been checked, so that `--help` and a misspelt
key answer at once. Exit codes: 0 done, 2 wrong input (one message, no traceback), 1 a failure during the work.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import difflib
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import MISSING, DictConfig, OmegaConf, flag_override
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from vsn_train import config as schema
from vsn_train import config_keys
from vsn_train.errors import InputError, StoppedError, refusal
from vsn_train.folder_lock import folder_lock, new_folder, numbered_folder, refuse_links
from vsn_train.terminal import forgive_output
from vsn_train.typed_paths import SWEEP_FLAGS, hydra_words, quoted
from vsn_train.versions import version_line

if TYPE_CHECKING:
    from vsn_train.engine.checkpoint import OpenedCheckpoint

WRONG_INPUT = 2
FAILED = 1
FAILED_JOBS = "failed.txt"  # in the folder of a sweep: one line per failed job, its name and exit code
SWEEP_LOCK = ".sweep.lock"  # not that of a training: vsn-eval sweeps in the run folder, also while it is trained


# The keys of the positional arguments: vsn-eval best.pt, vsn-predict best.pt clip.mp4.
POSITIONAL = {"train": (), "eval": ("checkpoint",), "predict": ("checkpoint", "video")}


def train() -> None:
    """Entry point of vsn-train."""

    def work(config: schema.Train, run_folder: Path) -> None:
        schema.check_train(config)
        from vsn_train.launch import launch_train

        launch_train(config, run_folder)

    _run_command("train", work)


def evaluate() -> None:
    """Entry point of vsn-eval."""

    def work(config: schema.Eval, run_folder: Path) -> None:
        schema.check_eval(config)
        from vsn_train.launch import launch_evaluate

        launch_evaluate(config, _opened(config.checkpoint), run_folder)

    _run_command("eval", work)


def predict() -> None:
    """Entry point of vsn-predict."""

    def work(config: schema.Predict, run_folder: Path) -> None:
        schema.check_predict(config)
        from vsn_train.run.predict import predict

        predict(config, _opened(config.checkpoint), run_folder)

    _run_command("predict", work)


def _run_command(name: str, work: Callable[[Any, Path], None]) -> None:
    forgive_output()
    if "--version" in sys.argv[1:]:  # Hydra's own flag prints Hydra's version
        print(version_line())
        return
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra raises what it would print: the messages below are ours
    # By default OpenMP's threads busy-wait and take the cores from the loader's workers. On a machine with other load
    # that made training up to ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if name != "train":
        # torch then requests huge pages for large tensors; docs/speed.md has the measured gain.
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
    OmegaConf.register_new_resolver("checkpoint_folder", _checkpoint_folder, replace=True)
    OmegaConf.register_new_resolver("new_folder", _new_folder, replace=True)

    OmegaConf.register_new_resolver("overview", _overview, replace=True)

    _OPENED.clear()
    program, words = sys.argv[0], sys.argv[1:]
    command = os.getpid()

    def job(config: DictConfig) -> None:
        run_folder = Path(HydraConfig.get().runtime.output_dir)
        code = 0
        try:
            work(OmegaConf.to_object(config), run_folder)
        except (InputError, OmegaConfBaseException) as error:
            code = _explain(name, error)
        except StoppedError as error:
            print(f"vsn-{name}: {error}", file=sys.stderr)
            code = error.code
        except OSError as error:
            code = _explain_refusal(name, error, run_folder)
        except SystemExit as error:  # of a launch of several processes, which has printed the reason
            code = error.code if isinstance(error.code, int) else FAILED
        finally:
            _remove_if_empty(run_folder)
        sweeps = HydraConfig.get().mode == RunMode.MULTIRUN
        if code and sweeps and (code in (FAILED, WRONG_INPUT) or os.getpid() != command):
            _note_failed_job(code)  # a sweep continues with the next job; a signal to the sweep itself ends it
        elif code:
            sys.exit(code)

    codes: list[int] = []
    try:
        schema.register_schemas()
        if group := _group_to_describe(words):
            print(_help_of(name, group, [word for word in words if word != group]))
            return
        words = hydra_words(words, schema.PATHS, schema.PATH_LISTS, POSITIONAL[name])
        _refuse_new_keys(words)
        for given in [words] if name == "train" else _for_each_checkpoint(words):
            sys.argv = [program, *given]
            if name != "train":
                _start_from_checkpoint(name)
            hydra_main = hydra.main(version_base="1.3", config_path=str(schema.config_folder()), config_name=name)(job)
            if "query=bash" in words:
                print(_completions(hydra_main))
                return
            try:
                hydra_main()
            except SystemExit as error:
                if given is words:
                    raise
                codes.append(error.code if isinstance(error.code, int) else FAILED)  # continue with the next checkpoint
    except (InputError, HydraException, OmegaConfBaseException) as error:
        sys.exit(_explain(name, error))  # before OSError, which some of Hydra's errors are too
    except ValueError as error:
        if not str(error).startswith(("Only one of --", "The --resolve flag")):  # Hydra's, for flags at odds
            raise
        sys.exit(_explain(name, InputError(str(error))))
    except OSError as error:  # Hydra makes the run folder
        sys.exit(_explain_refusal(name, error, Path(error.filename or ".")))
    except KeyboardInterrupt:
        sys.exit(f"vsn-{name}: interrupted")
    if any(codes):
        sys.exit(max(codes))


def _explain_refusal(command: str, error: OSError, run_folder: Path) -> int:
    """Print why the system refused to write and return the exit code; raise any other OSError again."""
    message = refusal(error, run_folder)
    if message is None:
        raise error
    print(f"vsn-{command}: {message}", file=sys.stderr)
    return FAILED


def _note_failed_job(code: int) -> None:
    """Record a failed job for `Sweep`, in a file: it may run in another process or on another machine."""
    config = HydraConfig.get()
    with open(Path(config.sweep.dir) / FAILED_JOBS, "a", encoding="utf-8") as file:
        file.write(f"{config.sweep.subdir} {code}\n")


_HELD = contextlib.ExitStack()  # the lock of a sweep; not in the callback, which goes to jobs in other processes


class Sweep(Callback):
    """Callback of Hydra: locks the folder of a sweep, prints the failed jobs, and exits with the highest of their exit
    codes.

    new_folder: whether a sweep without hydra.sweep.dir gets a new folder, even if two start in the same second.
    """

    def __init__(self, new_folder: bool) -> None:
        self.new_folder = new_folder

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        command = config.hydra.help.app_name.removeprefix("vsn-")
        try:
            words = config.hydra.overrides.hydra
            if self.new_folder and not any(word.startswith("hydra.sweep.dir=") for word in words):
                _set_sweep_folder(config, numbered_folder(Path(config.hydra.sweep.dir)))
            folder = Path(config.hydra.sweep.dir)
            _HELD.enter_context(
                folder_lock(folder, "wait for that sweep, or choose another hydra.sweep.dir", SWEEP_LOCK)
            )
            atexit.register(_HELD.close)  # where a job ends the sweep
            refuse_links(folder, "multirun.yaml", FAILED_JOBS, "sweep.md", "sweep.csv")
            (folder / FAILED_JOBS).unlink(missing_ok=True)  # of an earlier one there
        except InputError as error:  # Hydra turns an exception of a callback into a warning
            sys.exit(_explain(command, error))
        except OSError as error:
            sys.exit(_explain_refusal(command, error, Path(error.filename or ".")))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        with _HELD:
            if not (folder / FAILED_JOBS).exists():
                return
            lines = (folder / FAILED_JOBS).read_text(encoding="utf-8").splitlines()
        failed = dict(line.rsplit(" ", 1) for line in lines)
        logs = f"; their messages: {folder}/.submitit/*/*.err" if (folder / ".submitit").is_dir() else ""
        print(f"failed: {', '.join(f'{name} (exit code {code})' for name, code in failed.items())}{logs}")
        sys.exit(max(map(int, failed.values())))


def _set_sweep_folder(config: DictConfig, folder: Path) -> None:
    """For the sweep, and for its jobs, whose configs are composed anew, perhaps in other processes."""
    with flag_override(config.hydra, ["readonly", "struct"], [False, False]):
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={quoted(str(folder))}")


class ComparisonTable(Callback):
    """Callback of Hydra: after a sweep, print and save the table of its jobs, wherever they ran."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        from vsn_train.analysis.compare import compare_runs, save_sweep, sweep_text

        folder = Path(config.hydra.sweep.dir)
        jobs = sorted(
            (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")),  # .submitit
            key=lambda path: (len(path.name), path.name),
        )
        sweep = compare_runs(jobs)
        save_sweep(folder, sweep)
        print(f"\n{sweep_text(sweep)}\n\nrun folders: {folder}, with sweep.md and sweep.csv")


def _refuse_new_keys(words: Sequence[str]) -> None:
    """Raise InputError for Hydra's +key=value, whose key nothing would read, and ~key, which removes a required key."""
    for word in words:
        if re.match(r"~\w+[\w.]*(=|$)", word):
            raise InputError(f"{word}: keys cannot be removed; leave it out")
        if word.partition("=")[0] in ("hydra.run.dir", "hydra.sweep.dir") and word.partition("=")[2] in (
            "",
            "null",
            "''",
        ):
            raise InputError(f"{word}: expected a folder to write to")
        if word.startswith("+"):
            key = word.lstrip("+").partition("=")[0]
            raise InputError(f"unknown key {word!r}: keys cannot be added; to change one write {key}=…")


def _for_each_checkpoint(words: list[str]) -> list[list[str]]:
    """Split a sweep over checkpoints into one command line per checkpoint; return any other command line alone.

    Hydra composes on top of the checkpoint's own config, which differs between checkpoints.
    """
    choices = _given(words, "checkpoint")
    if not isinstance(choices, list) or len(choices) < 2:
        return [words]
    others = [word for word in words if not word.startswith("checkpoint=")]
    return [[*others, f"checkpoint={quoted(choice)}"] for choice in choices]


def _given(words: Sequence[str], key: str) -> str | list[str] | None:
    """The value of a key on the command line; a list where it is swept over; None where it is not given."""
    parsed = OverridesParser.create().parse_overrides(_overrides(words))
    found = next((each for each in parsed if each.key_or_group == key), None)
    if found is None:
        return None
    choices = list(found.sweep_iterator()) if found.is_sweep_override() else [found.value()]
    # As OmegaConf will read them: the parser leaves escaped interpolations escaped.
    texts = [str(OmegaConf.create([getattr(choice, "text", choice)])[0]) for choice in choices if choice is not None]
    if found.is_sweep_override():
        return texts
    return texts[0] if texts else None


def _overrides(words: Sequence[str]) -> list[str]:
    """The words that change the config, without Hydra's flags."""
    return [word for word in words if not word.startswith("-") and "=" in word]


_OPENED: dict[str, OpenedCheckpoint] = {}  # path as typed -> the checkpoint that this process has read


def _opened(path: str) -> OpenedCheckpoint:
    """The checkpoint of a command. It is read once: a training may replace the file before the work begins."""
    from vsn_train.engine.checkpoint import checkpoint_in, open_checkpoint

    if path not in _OPENED:
        _OPENED.clear()
        opened = open_checkpoint(checkpoint_in(Path(path)))
        schema.check_checkpoint(opened.checkpoint.config, str(opened.path))
        _OPENED[path] = opened
    return _OPENED[path]


def _start_from_checkpoint(name: str) -> None:
    """Let Hydra compose on top of the checkpoint's own config, which has to be read first."""
    schema.register_checkpoint(None)
    _, words = _config_dir()
    if {"--help", "-h", "--hydra-help", "--version"} & set(words):
        return  # help shows the keys of all checkpoints
    path = _given(words, "checkpoint")
    if not isinstance(path, str):
        return  # the job says that it is missing
    overrides = _overrides(words)
    sweeps = bool(set(SWEEP_FLAGS) & set(words))
    if not sweeps:
        _compose(name, overrides)  # reports a misspelt key before torch is imported
    config = _opened(path).checkpoint.config
    schema.register_checkpoint(config)
    if (functions := schema.own_functions(config)) and not sweeps:
        composed = _compose(name, overrides)
        for (group, key), function in functions.items():
            if OmegaConf.is_missing(composed.get(group, {}), key):
                raise InputError(
                    f"{path} was trained with {function}, your own function; loading a checkpoint runs no code, so "
                    f"name the function again to have it imported: add {group}.{key}={function}"
                )


def _config_dir() -> tuple[str | None, list[str]]:
    """The folder that Hydra's --config-dir names, and the command line without it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config-dir", "-cd")
    known, others = parser.parse_known_args(sys.argv[1:])
    return known.config_dir, others


def _compose(name: str, overrides: list[str]) -> DictConfig:
    folder, _ = _config_dir()
    if folder:
        place = os.path.abspath(folder).replace("\\", "\\\\").replace("'", "\\'")
        overrides = [*overrides, f"hydra.searchpath=['file://{place}']"]
    with hydra.initialize_config_dir(str(schema.config_folder()), version_base="1.3"):
        return hydra.compose(name, overrides)


@cache
def _run_folder(name: str, resume: Any) -> str:
    """A new folder for a new run; to resume, the newest folder of that name with a checkpoint."""
    resume = schema.resume_choice(resume)
    if max(int(os.environ.get(key, 1)) for key in ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")) > 1:
        # Every process composes the config itself and would choose a folder of its own.
        from vsn_train.launch import agree_on_run_folder

        return agree_on_run_folder(name, lambda: _choose_run_folder(name, resume))
    return _choose_run_folder(name, resume)


@cache
def _new_folder(parent: str) -> str:
    return str(new_folder(Path(parent)))


def _choose_run_folder(name: str, resume: bool | str) -> str:
    found = sorted(Path("runs", name).glob("*/checkpoints/last.pt"), key=lambda path: path.stat().st_mtime)
    if not resume or (resume == "auto" and not found):
        return str(new_folder(Path("runs", name)))
    if not found:
        raise InputError(
            f"resume=true, but no run under runs/{name} holds a checkpoint; name the run with "
            "hydra.run.dir=FOLDER, or start it without resume=true"
        )
    return str(found[-1].parent.parent)


def _checkpoint_folder(checkpoint: str) -> str:
    """The run folder of a checkpoint; a file outside a run folder gets one named after its hash."""
    opened = _opened(checkpoint)
    folder = opened.path.parent
    return str(folder.parent) if folder.name == "checkpoints" else f"runs/eval/{opened.path.stem}_{opened.hash[:8]}"


def _group_to_describe(words: Sequence[str]) -> str | None:
    """`data` of `vsn-train --help data`; None for any other command line."""
    if not {"--help", "-h"} & set(words):
        return None
    _, words = _config_dir()
    return next((word for word in words if not word.startswith("-") and "=" not in word), None)


def _help_of(name: str, group: str, words: Sequence[str]) -> str:
    """The keys of a group with the values that they have under the other words of the command line."""
    known = [*config_keys.groups_of(name), *(["experiment"] if name == "train" else [])]
    if group not in known:
        raise InputError(f"--help {group}: no such group; expected one of {', '.join(known)}")
    if group == "experiment":
        return _experiments()
    if name != "train":
        schema.register_checkpoint(None)
    config = _compose(name, _overrides(words))
    values = {}
    for key in config[group]:
        try:
            values[str(key)] = MISSING if OmegaConf.is_missing(config[group], key) else config[group][key]
        except InterpolationToMissingValueError:
            values[str(key)] = MISSING
    return config_keys.help_of_group(group, values, _files(group))


def _completions(hydra_main: Callable[[], None]) -> str:
    """Hydra's tab completions, without the names of schemas and of Hydra's own settings, and with all recipes."""
    with contextlib.redirect_stdout(io.StringIO()) as output:
        hydra_main()
    found = [
        word
        for word in output.getvalue().split()
        if not re.search(r"_schema$|=from_checkpoint$|^(experiment|hydra)/", word)
    ]
    found = ["experiment=" if word == "experiment" else word for word in found if word not in ("hydra", "hydra.")]
    if any(word.startswith("experiment=") and word != "experiment=" for word in found) or not found:
        folder = schema.config_folder() / "experiment"
        asked = os.environ.get("COMP_LINE", "").split(" ")[-1]
        recipes = [f"experiment={path.parent.name}/{path.stem}" for path in sorted(folder.glob("*/*.yaml"))]
        found += [word for word in recipes if word.startswith(asked)]
    return " ".join(found)


def _overview(name: str) -> str:
    """For --help: the groups and the choices of each. Hydra's own list would include the schemas."""
    files = {group: _files(group) for group in config_keys.groups_of(name)}
    if name == "train":
        files["experiment"] = [path.stem for path in (schema.config_folder() / "experiment").glob("*/*.yaml")]
    return config_keys.overview(name, files).replace("$", "$$")  # Hydra fills in a template


def _files(group: str) -> list[str]:
    return sorted(path.stem for path in (schema.config_folder() / group).glob("*.yaml"))


def _experiments() -> str:
    """For --help experiment: the choices of experiment=, by data set."""
    lines = [
        "experiment: all settings of a training; keys on the command line override them", "",
        *config_keys.wrapped("  ", ", ".join(_files("experiment"))),
    ]  # fmt: skip
    for below in sorted(path for path in (schema.config_folder() / "experiment").iterdir() if path.is_dir()):
        lines += config_keys.wrapped(f"  {below.name}/ ", ", ".join(_files(f"experiment/{below.name}")))
    return "\n".join(lines)


def _remove_if_empty(folder: Path) -> None:
    """Remove a run folder that stayed empty, and empty folders above it: Hydra creates it before our checks."""
    if not folder.is_dir():
        return
    here = Path.cwd()
    above = [parent for parent in folder.parents if here in parent.parents]
    for each in (folder, *above):
        if each == here or any(each.iterdir()):
            return
        each.rmdir()


def _explain(command: str, error: Exception) -> int:
    """Print one message (found, expected, what to do); return the exit code."""
    print(f"vsn-{command}: {described(error, command, sys.argv[1:])}", file=sys.stderr)
    return WRONG_INPUT


def described(error: Exception, name: str, words: Sequence[str]) -> str:
    """The message for an error in composing or checking configs/<name>.yaml. words: the arguments of the command."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    key = cause.full_key if isinstance(cause, OmegaConfBaseException) and cause.full_key else ""
    text = str(cause).splitlines()[0] if key else str(error)
    given = [argument.partition("=") for argument in words]
    if match := re.search(r"Could not override '([^']+)'|Key '([^']+)' (?:is )?not in", text):
        # OmegaConf names only the part of the key that failed; the message names the whole key.
        unknown = match[1] or next((key for key, _, _ in given if match[2] in key.split(".")), match[2])
        text = f"unknown key {unknown!r}{_near(name, unknown, words)}; vsn-{name} --help lists all keys"
    elif match := re.search(
        r"Value '(.*)' (?:of type '\w+' could not be converted to|is not a valid) (\w+)", str(cause)
    ):
        expected = {"Integer": "a whole number", "Float": "a number", "bool": "true or false"}.get(match[2], match[2])
        key = next((each for each, _, value in given if value == match[1]), key)
        text = f"{key}={match[1]}: expected {expected}"
    elif re.search(r"is not Optional|Non optional field cannot be assigned None", str(cause)):
        key = next((each for each, _, value in given if value == "null"), key)
        text = f"{key}=null: expected a value; leave {key} out for its default"
    elif match := re.search(r"[Mm]issing mandatory value: (\S+)", text):
        text = f"{match[1]} is not given; add {match[1]}=… to the command line"
    elif match := re.search(r"Could not find '([^']+)'.*?Available options in '[^']*':\n(.*?)\nConfig", text, re.S):
        options = [option for option in match[2].split() if not option.endswith(("_schema", "from_checkpoint"))]
        group, _, choice = match[1].rpartition("/")
        if group.startswith("experiment/"):  # Hydra then lists the content of the parent folder
            group, _, below = group.partition("/")
            names = sorted(path.stem for path in (schema.config_folder() / group / below).glob("*.yaml"))
            choice, options = f"{below}/{choice}", [f"{below}/{name}" for name in names] or options
        text = f"{group}={choice}: no such choice; expected one of {', '.join(options)}"
    elif isinstance(error, OverrideParseException):
        text = f"{error.override}: not of the form key=value ({text.splitlines()[0]})"
    # Hydra's resolvers wrap our own messages.
    return re.sub(r"^InputError raised while resolving interpolation: ", "", text)


def _near(name: str, key: str, words: Sequence[str]) -> str:
    """', did you mean …' with the known keys and groups that look like `key`."""
    known: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        for name, value in node.items():
            known.append(prefix + str(name))
            if isinstance(value, dict):
                walk(value, f"{prefix}{name}.")

    chosen = [each for each in words if re.fullmatch(r"\w+=\w+", each) and f"{key}=" not in each]
    try:
        walk(OmegaConf.to_container(_compose(name, chosen)), "")
    except (HydraException, OmegaConfBaseException):
        return ""
    # The last part may be right and the group wrong, so a key of another group with the same last part counts too.
    last = key.rsplit(".", 1)[-1]
    known = [each for each in known if not key.startswith(f"{each}.")]  # never suggest the key's own group
    close = difflib.get_close_matches(key, known, n=3, cutoff=0.75)
    close += [each for each in known if each.rsplit(".", 1)[-1] == last and each not in close]
    close = [each for each in close if not key.startswith(f"{each}.")]  # the group is right, its key is not
    if groups := [each for each in close if "." not in each]:
        close = groups if "." not in key else close  # datset=custom means the data set, not one of its keys
    return f", did you mean {' or '.join(close[:3])}?" if close else ""

"""The command vsn-tools: `vsn-tools VERB …`. Each verb is a file beside this one with two functions.

`add_arguments(parser)` says what it takes, `run(arguments)` does it and returns the exit code; the file's docstring is
its help. Only the requested verb is imported, so that `vsn-tools --help` answers at once. Exit codes: 0 done,
1 the work found something wrong, 2 wrong input (one message, no traceback).
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vsn_train.errors import InputError
from vsn_train.terminal import forgive_output
from vsn_train.versions import version_line

WRONG_INPUT = 2
VERBS = {
    "scan": "is a copy of a data set complete? Counts its videos, classes and frames",
    "check": "find the videos that cannot be read, hang, or hold another number of frames",
    "prepare": "make copies of a data set that are read several times faster",
    "flow": "compute the optical flow of a data set",
    "scores": "read, compare, break down and fuse the score files of vsn-eval; mean of splits",
    "export": "write a network as ONNX or torch.export, and check the file",
    "complexity": "parameters and multiplications of the networks, beside the papers'",
    "attention": "how much of an STH network's attention is temporal, layer by layer",
    "bench": "measure speed and memory here: model, step, loader, eval, table",
}
# They take values of vsn-train between their options, which argparse does for parsers without commands only.
WITH_VALUES = {"scan": "train", "attention": "eval"}  # and the config whose keys these are


def main() -> None:
    """Entry point of vsn-tools."""
    forgive_output()
    words = sys.argv[1:]
    if not words or words[0] in ("-h", "--help"):
        print(help_text())
        sys.exit(0 if words else WRONG_INPUT)
    if words[0] == "--version":
        print(version_line())
        return
    verb = words[0]
    if verb not in VERBS:
        print(f"vsn-tools: {verb}: no such verb; expected one of {', '.join(VERBS)}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    try:
        module = importlib.import_module(f"vsn_train.tools.{verb}")
        sys.exit(module.run(parse(verb, module, words[1:])))
    except KeyboardInterrupt:
        sys.exit(f"vsn-tools {verb}: interrupted")
    except InputError as error:
        refuse(verb, str(error))
    except (HydraException, OmegaConfBaseException) as error:
        from vsn_train.cli import described

        refuse(verb, described(error, WITH_VALUES[verb], words[1:]))


def parse(verb: str, module: Any, words: list[str]) -> argparse.Namespace:
    """The arguments of a verb. Ends the program for --help; raises InputError for what the verb does not take."""
    parser = Parser(
        prog=f"vsn-tools {verb}", description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    return parser.parse_intermixed_args(words) if verb in WITH_VALUES else parser.parse_args(words)


class Parser(argparse.ArgumentParser):
    """Refuses like everything else here: one message instead of the usage and a message."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; {self.prog} --help says what it takes")


def refuse(verb: str, message: str) -> None:
    print(f"vsn-tools {verb}: {message}", file=sys.stderr)
    sys.exit(WRONG_INPUT)


def help_text() -> str:
    lines = ["vsn-tools VERB …: what is done around a training. vsn-tools VERB --help says more, with examples.", ""]
    lines += [f"  {verb:<11} {about}" for verb, about in VERBS.items()]
    lines += ["", "vsn-tools --version prints the versions of vsn-train, torch, torchvision and av."]
    lines += ["Exit codes: 0 done, 1 something is wrong with what was looked at, 2 wrong input."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

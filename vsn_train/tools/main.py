"""The command vsn-tools: `vsn-tools VERB …`. Each verb is a file in this folder with two functions.

`add_arguments(parser)` declares the arguments, `run(arguments)` does the work and returns the exit code; the file's
docstring is the verb's help. Only the requested verb is imported, so `vsn-tools --help` answers at once. Exit codes:
0 done, 1 a problem was found, 2 wrong input (one message, no traceback).
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
import textwrap
from typing import Any, NoReturn

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from vsn_train.errors import InputError, refusal
from vsn_train.terminal import forgive_output
from vsn_train.versions import version_line

WRONG_INPUT = 2
FAILED = 1
VERBS = {
    "scan": "check that a data set is complete; count videos, classes, frames",
    "check": "find videos that are unreadable, hang, or have a wrong frame count",
    "split": "divide videos into a training and a validation list",
    "prepare": "make copies of a data set that load several times faster",
    "flow": "compute the optical flow of a data set",
    "scores": "read, compare, analyse and fuse score files; mean of splits",
    "export": "write a network as ONNX or torch.export, and check the file",
    "complexity": "parameters and multiply-adds of networks, compared with the papers",
    "attention": "how temporal the attention of an STH network is, layer by layer",
    "bench": "measure speed and memory: model, step, loader, eval, table",
}
# Verbs that take keys of a config (named here) between their options. argparse does not support that with subcommands.
WITH_VALUES = {"scan": "train", "attention": "eval"}

WITH_KEYS = {"export"}  # verbs whose options can also be written as key=value, as for vsn-train


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
    except (HydraException, OmegaConfBaseException) as error:  # before OSError, which some of Hydra's are too
        from vsn_train.cli import described

        refuse(verb, described(error, WITH_VALUES[verb], words[1:]))
    except OSError as error:
        message = refusal(error, None)
        if message is None:
            raise
        print(f"vsn-tools {verb}: {message}", file=sys.stderr)
        sys.exit(FAILED)


def parse(verb: str, module: Any, words: list[str]) -> argparse.Namespace:
    """Parse the arguments of a verb. Exits for --help; raises InputError for an argument that the verb lacks."""
    parser = Parser(
        prog=f"vsn-tools {verb}",
        description=_fitted(module.__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    if verb in WITH_KEYS:
        words = as_options(words)
    return parser.parse_intermixed_args(words) if verb in WITH_VALUES else parser.parse_args(words)


def as_options(words: list[str]) -> list[str]:
    """Rewrite key=value as --key=value, except for the value of the option before it."""
    return [
        re.sub(r"^[a-z_]+(?==)", lambda match: f"--{match[0].replace('_', '-')}", word)
        if not before.startswith("--") or "=" in before
        else word
        for before, word in zip(["", *words], words, strict=False)
    ]


def _fitted(text: str) -> str:
    """A docstring fitted to 80 columns: paragraphs are wrapped, indented examples are kept."""
    paragraphs = text.strip().split("\n\n")
    return "\n\n".join(
        each
        if any(line.startswith(" ") for line in each.splitlines())
        else textwrap.fill(each, 80, break_on_hyphens=False)
        for each in paragraphs
    )


class Parser(argparse.ArgumentParser):
    """Reports wrong arguments as one message of InputError, instead of argparse's usage text and message."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def refuse(verb: str, message: str) -> None:
    print(f"vsn-tools {verb}: {message}", file=sys.stderr)
    sys.exit(WRONG_INPUT)


def help_text() -> str:
    lines = ["vsn-tools VERB: data sets, scores, export, benchmarks; see vsn-tools VERB --help", ""]
    lines += [f"  {verb:<11} {about}" for verb, about in VERBS.items()]
    lines += ["", "vsn-tools --version prints the versions of vsn-train, torch, torchvision and av."]
    lines += ["Exit codes: 0 done, 1 a problem was found, 2 wrong input."]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
